//! `milepost doctor`, the real binary against real servers: what it finds, in time, and the exit code.

use std::process::Command;
use std::time::Duration;

use milepost_harness::{Postgres, Redis};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::Instant;

/// A password that must not be told.
const PASSWORD: &str = "planted-password";

/// What one run said.
#[derive(Debug)]
struct Visit {
    code: i32,
    findings: Vec<Value>,
    took: Duration,
}

fn milepost(args: &[&str], env: &[(&str, String)]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_milepost"))
        .args(args)
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(env.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap()
}

fn visit(env: &[(&str, String)]) -> Visit {
    let began = Instant::now();
    let output = milepost(&["doctor", "--json"], env);
    let took = began.elapsed();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(PASSWORD), "{text}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains(PASSWORD));
    let findings = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["finding"].take());
    Visit { code: output.status.code().unwrap(), findings: findings.collect(), took }
}

impl Visit {
    /// Severity, detail and fix of the finding on a subject.
    fn on(&self, subject: &str) -> (&str, &str, &str) {
        let found = self.findings.iter().find(|finding| finding["subject"] == subject);
        let found = found.unwrap_or_else(|| panic!("nothing on {subject} in {self:?}"));
        let text = |field: &str| found[field].as_str().unwrap();
        (text("severity"), text("detail"), text("fix"))
    }

    fn fatal(&self) -> Vec<&str> {
        let fatal = self.findings.iter().filter(|finding| finding["severity"] == "fatal");
        fatal.map(|finding| finding["subject"].as_str().unwrap()).collect()
    }
}

/// The settings of Redis mode on these servers.
fn settings(database: &str, redis: &str) -> Vec<(&'static str, String)> {
    vec![
        ("MILEPOST_DATABASE__URL", database.replace("milepost@", &format!("milepost:{PASSWORD}@"))),
        ("MILEPOST_REDIS__URL", redis.to_owned()),
    ]
}

#[test]
fn an_old_schema_is_found_and_gone_after_migrate() {
    let (postgres, redis) = (Postgres::start().unwrap(), Redis::start().unwrap());
    let env = settings(&postgres.database().unwrap(), &redis.url());
    let sick = visit(&env);
    assert_eq!((sick.code, sick.fatal()), (1, vec!["Postgres schema"]), "{sick:?}");
    let (_, detail, fix) = sick.on("Postgres schema");
    assert!(detail.contains("older than this release") && fix.contains("milepost migrate"), "{detail} {fix}");
    assert_eq!(sick.on("Redis function library").0, "warning", "{sick:?}");

    assert_eq!(milepost(&["migrate"], &env).status.code(), Some(0));
    let well = visit(&env);
    assert_eq!((well.code, well.fatal()), (0, Vec::new()), "{well:?}");
    assert_eq!(
        (well.on("Postgres schema").0, well.on("Redis function library").0),
        ("good", "good"),
        "{well:?}"
    );
}

#[test]
fn a_redis_that_is_not_there_is_found_and_the_rest_is_looked_at_all_the_same() {
    let postgres = Postgres::start().unwrap();
    let gone = format!("redis://:{PASSWORD}@127.0.0.1:{}/", milepost_harness::ports::free().unwrap());
    let env = settings(&postgres.database().unwrap(), &gone);
    assert_eq!(milepost(&["migrate"], &env[..1]).status.code(), Some(0));
    let visit = visit(&env);
    assert_eq!((visit.code, visit.fatal()), (1, vec!["Redis"]), "{visit:?}");
    assert!(visit.on("Redis").2.contains("check redis.url"), "{visit:?}");
    assert_eq!((visit.on("Postgres").0, visit.on("Postgres schema").0), ("good", "good"));
}

#[test]
fn a_redis_that_may_forget_is_a_warning_and_not_a_failure() {
    let postgres = Postgres::start().unwrap();
    let redis = Redis::with_args(&["--save", "", "--maxmemory-policy", "allkeys-lru"]).unwrap();
    let env = settings(&postgres.database().unwrap(), &redis.url());
    assert_eq!(milepost(&["migrate"], &env).status.code(), Some(0));
    let visit = visit(&env);
    assert_eq!(visit.code, 0, "{visit:?}");
    let (severity, _, fix) = visit.on("Redis maxmemory-policy");
    assert_eq!((severity, fix), ("warning", "CONFIG SET maxmemory-policy noeviction"));
}

/// A server that takes connections and says nothing is the case in which a look could last for ever.
#[test]
fn servers_that_stand_still_are_given_up_in_good_time() {
    let (postgres, redis) = (Postgres::start().unwrap(), Redis::start().unwrap());
    let env = settings(&postgres.database().unwrap(), &redis.url());
    postgres.process().signal(Signal::SIGSTOP).unwrap();
    redis.process().signal(Signal::SIGSTOP).unwrap();
    let visit = visit(&env);
    assert_eq!((visit.code, visit.fatal()), (1, vec!["Postgres", "Redis"]), "{visit:?}");
    assert!(visit.took < Duration::from_secs(30), "{:?}", visit.took);
}

#[test]
fn a_configuration_with_faults_is_told_before_any_server_is_asked() {
    let env = [("MILEPOST_REDIS__URL", "redis://127.0.0.1:1".to_owned())];
    let output = milepost(&["doctor"], &env);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{error}");
    assert!(error.contains("redis.url") && error.contains("database.url"), "{error}");
}
