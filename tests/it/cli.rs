//! The command line as people and scripts meet it: the real binary, its output, its exit codes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use milepost_harness::process::wait_for;

const BINARY: &str = env!("CARGO_BIN_EXE_milepost");
const SECRET: &str = "planted-secret-of-the-tests-0123456789";

/// The binary, in a folder without a configuration and with an environment that says nothing.
fn milepost(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    finish(&milepost(folder.path(), args).output().unwrap())
}

fn finish(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// `milepost serve` in memory mode on free ports, with what it said of itself.
struct Server {
    child: Child,
    url: String,
    token: String,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let args = ["--json", "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let mut command = milepost(folder.path(), &args);
        command.args(["--set", "actions.wait=true"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| said[name].as_str().unwrap().to_owned();
        Self { child, url: text("api"), token: text("development_token"), folder }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = milepost(self.folder.path(), args);
        command.env("MILEPOST_SERVER_URL", &self.url).env("MILEPOST_TOKEN", &self.token);
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        finish(&self.command(args).output().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_submit_that_is_watched_ends_with_its_outcome_in_plain_lines() {
    let server = Server::start();
    let (code, out, err) = server.run(&["submit", "wait", "--cluster", "local", "n-[01-20]", "--watch"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.lines().last().unwrap().contains("completed, 20 succeeded"), "{out}");
    assert!(!out.contains('\x1b') && !out.contains('\r'), "{out:?}");

    let (code, out, _) =
        server.run(&["submit", "wait", "-c", "local", "n-[1-9]", "--fail-every", "4", "--watch"]);
    assert_eq!(code, 1, "{out}");
    for name in ["n-4", "n-8"] {
        let line = format!(" {name} failed: ");
        assert_eq!(out.matches(&line).count(), 1, "each failure is told once:\n{out}");
    }
    assert!(out.lines().last().unwrap().contains("completed with errors, 7 succeeded"), "{out}");
}

#[test]
fn a_server_without_keys_says_so_and_how_to_get_in() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let mut command = milepost(folder.path(), &args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
        said.push(line);
        if said.last().unwrap().contains("/#token=") {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let said = said.join("\n");
    for part in [
        "No keys are configured, so only this machine may connect",
        "export MILEPOST_SERVER_URL=http://127.0.0.1:",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(said.contains("memory: everything is held by this process"), "{said}");
}

#[test]
fn names_come_from_standard_input_and_a_repeat_with_the_same_key_is_the_same_task() {
    let server = Server::start();
    let args = ["submit", "wait", "-c", "local", "--file", "-", "--idempotency-key", "k1", "--json"];
    let submit = || {
        let mut child = server.command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let names = b"# a rack\nnode-[1-3]\n\nother # spare\n";
        child.stdin.take().unwrap().write_all(names).unwrap();
        let (code, out, err) = finish(&child.wait_with_output().unwrap());
        assert_eq!(code, 0, "{err}");
        lines(&out)[0]["task"].clone()
    };
    let (first, second) = (submit(), submit());
    assert_eq!((&first["total"], &first["task_id"]), (&4.into(), &second["task_id"]));

    let id = first["task_id"].as_str().unwrap();
    let (code, _, err) = server.run(&["watch", id]);
    assert_eq!(code, 0, "{err}");
    let end = &id[id.len() - 6..];
    let (code, out, err) = server.run(&["tasks", "show", end]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(id) && out.contains("node-3") && out.contains("other"), "{out}");
    let (code, out, _) = server.run(&["tasks"]);
    assert!(code == 0 && out.contains(id) && out.contains("4/4"), "{out}");
}

#[test]
fn json_lines_tell_the_whole_story() {
    let server = Server::start();
    let (code, out, _) =
        server.run(&["submit", "wait", "-c", "local", "n-[1-5]", "--fail-every", "5", "--watch", "--json"]);
    assert_eq!(code, 1);
    let objects = lines(&out);
    let summary = objects.last().unwrap();
    assert_eq!((&summary["type"], &summary["task"]["failed"]), (&"summary".into(), &1.into()), "{out}");
    assert_eq!(summary["failures"][0]["name"], "n-5");
    assert!(objects.iter().all(|object| object["type"].is_string()), "{out}");
}

#[test]
fn a_task_is_paused_resumed_and_cancelled() {
    let server = Server::start();
    let (_, out, _) = server.run(&[
        "submit",
        "wait",
        "-c",
        "local",
        "n-[1-50]",
        "--duration",
        "1s",
        "--concurrency",
        "1",
        "--json",
    ]);
    let id = lines(&out)[0]["task"]["task_id"].as_str().unwrap().to_owned();
    let until = |status: &str| {
        wait_for(Duration::from_secs(30), status, || {
            let (_, out, _) = server.run(&["tasks", "show", &id, "--limit", "1", "--json"]);
            Ok(lines(&out)[0]["task"]["status"] == status)
        })
        .unwrap();
    };
    until("running");
    assert_eq!(server.run(&["pause", &id]).0, 0);
    until("paused");
    assert_eq!(server.run(&["resume", &id]).0, 0);
    until("running");
    assert_eq!(server.run(&["cancel", &id]).0, 0);
    let (code, out, _) = server.run(&["watch", &id]);
    assert!(code == 1 && out.contains("cancelled"), "{code} {out}");
    let (code, _, err) = server.run(&["resume", &id]);
    assert!(code == 2 && err.contains("cancelled"), "{code} {err}");
}

#[test]
fn a_server_that_is_gone_is_exit_code_3_with_a_hint() {
    let gone = format!("http://127.0.0.1:{}", milepost_harness::ports::free().unwrap());
    for args in [&["tasks"][..], &["submit", "cordon", "-c", "prod", "a"], &["watch"]] {
        let args = [args, &["--server", &gone]].concat();
        let (code, out, err) = run(&args);
        assert_eq!((code, out.as_str()), (3, ""), "{args:?}: {err}");
        assert!(err.contains("milepost serve") && err.contains(&gone), "{args:?}: {err}");
    }
}

#[test]
fn a_bad_token_is_refused_with_what_to_do() {
    let server = Server::start();
    for args in [&["tasks"][..], &["watch"]] {
        let output = server.command(args).env("MILEPOST_TOKEN", "nonsense").output().unwrap();
        let (code, _, err) = finish(&output);
        assert!(code == 2 && err.contains("--token") && !err.contains("nonsense"), "{args:?}: {code} {err}");
    }
}

#[test]
fn mistakes_on_the_command_line_are_exit_code_2_before_any_call() {
    for (args, why) in [
        (&["submit", "cordon", "-c", "prod", "n-[3-1]"][..], "write 1-3"),
        (&["submit", "cordon", "-c", "prod"], "no names"),
        (&["submit", "dance", "-c", "prod", "a"], "cordon, uncordon"),
        (&["submit", "cordon", "-c", "prod", "--label", "a=b", "n"], "--label is for label"),
        (&["submit", "cordon", "-c", "prod", "--file", "/nowhere"], "/nowhere"),
        (&["tasks", "--server", "localhost:1"], "http://"),
        (&["worker"], "milepost serve"),
        (&["migrate"], "database.url"),
        (&["serve", "--listen", "0.0.0.0:0"], "no key protects it"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let (code, _, err) = run(args);
        assert!(code == 2 && err.contains(why), "{args:?}: {code} {err}");
    }
}

#[test]
fn every_fault_of_a_configuration_is_told_before_a_port_opens() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("milepost.yaml"), "worker: {leese: 5s}\nserver: {grace: soon}\n")
        .unwrap();
    let output = milepost(folder.path(), &["serve"]).env("MILEPOST_BUS__NOTIFI", "poll").output().unwrap();
    let (code, out, err) = finish(&output);
    assert_eq!((code, out.as_str()), (2, ""));
    for part in ["3 faults", "worker.lease?", "server.grace", "milepost.yaml", "MILEPOST_BUS__NOTIFY?"] {
        assert!(err.contains(part), "{part} is not in {err}");
    }
}

/// Left out, it would be another configuration than the one that was meant: memory mode in place of a database.
#[test]
fn a_variable_that_is_not_text_is_refused_and_not_passed_over() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let url = std::ffi::OsStr::from_bytes(b"postgres://u:planted\xff@db/m");
    let output = milepost(folder.path(), &["config"]).env("MILEPOST_DATABASE__URL", url).output().unwrap();
    let (code, _, err) = finish(&output);
    assert!(code == 2 && err.contains("MILEPOST_DATABASE__URL") && err.contains("UTF-8"), "{code} {err}");
    assert!(!err.contains("planted"), "{err}");
}

#[test]
fn the_effective_configuration_hides_secrets() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["config"][..], &["config", "--json"]] {
        let output = milepost(folder.path(), args)
            .env("MILEPOST_AUTH__HS256_SECRET", SECRET)
            .env("MILEPOST_DATABASE__URL", format!("postgres://u:{SECRET}@db/m"))
            .output()
            .unwrap();
        let (code, out, err) = finish(&output);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("***") && !out.contains("planted"), "{out}");
    }
}

#[test]
fn a_token_is_minted_with_the_secret_or_the_reason_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["token", "--user", "alice", "--role", "viewer", "--ttl", "5m"];
    let output = milepost(folder.path(), &args).env("MILEPOST_AUTH__HS256_SECRET", SECRET).output().unwrap();
    let (code, out, err) = finish(&output);
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.trim().split('.').count(), 3, "{out}");
    let (code, _, err) = run(&args);
    assert!(code == 2 && err.contains("auth.hs256_secret"), "{err}");
}

#[test]
fn the_doctor_says_what_is_wrong_and_how_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let gone = milepost_harness::ports::free().unwrap();
    let output = milepost(folder.path(), &["doctor"])
        .env("MILEPOST_DATABASE__URL", format!("postgres://u@127.0.0.1:{gone}/m"))
        .output()
        .unwrap();
    let (code, out, err) = finish(&output);
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("FAIL  Postgres") && out.contains("-> check database.url"), "{out}");
    let (code, out, _) = run(&["doctor"]);
    assert!(code == 0 && out.contains("memory mode"), "{out}");
}

#[test]
fn the_demo_runs_to_its_end_and_goes_as_ordered() {
    let (code, out, err) = run(&["demo"]);
    assert_eq!(code, 0, "{out}\n{err}");
    for part in ["/#token=", "node-042 failed", "96 succeeded", "1 skipped", "so all is well"] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    assert!(!out.contains('\x1b'), "{out:?}");
}

#[test]
fn ctrl_c_detaches_and_says_how_to_come_back() {
    let server = Server::start();
    let args =
        ["submit", "wait", "-c", "local", "n-[1-50]", "--duration", "1s", "--concurrency", "1", "--watch"];
    let mut child = server.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let (code, _, err) = finish(&child.wait_with_output().unwrap());
    assert!(code == 130 && err.contains("Come back with: milepost watch"), "{code} {err}");
    let id = err.trim().rsplit(' ').next().unwrap();
    let (_, out, _) = server.run(&["tasks", "show", id, "--limit", "1", "--json"]);
    assert_eq!(lines(&out)[0]["task"]["status"], "running", "the task goes on");
    assert_eq!(server.run(&["cancel", id]).0, 0);
}

#[test]
fn what_failed_is_retried_and_added_up() {
    let server = Server::start();
    let args = ["submit", "wait", "-c", "local", "n-[1-9]", "--fail-every", "4", "--json", "--watch"];
    let (code, out, _) = server.run(&args);
    assert_eq!(code, 1, "{out}");
    let summary = lines(&out).pop().unwrap();
    let id = summary["task"]["task_id"].as_str().unwrap();
    let (code, out, err) = server.run(&["retry", id, "--reason", "once more", "--watch"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("completed, 2 succeeded"), "{out}");
    let end = format!("…{} with its retries: 9 succeeded", &id[id.len() - 6..]);
    assert_eq!(out.lines().last(), Some(end.as_str()), "{out}");
    let (_, out, _) = server.run(&["tasks", "show", id]);
    assert!(out.contains("retried by") && out.contains("in all     9 succeeded"), "{out}");

    let (code, _, err) = server.run(&["retry", id]);
    assert!(code == 2 && err.contains("none of its items are left to retry"), "{code} {err}");
    let (code, _, err) = server.run(&["retry", id, "--include", "succeeded"]);
    assert!(code == 2 && err.contains("include[0] must be failed, skipped or cancelled"), "{code} {err}");
    let unknown = "0190a000-0000-7000-8000-000000000001";
    let (code, _, err) = server.run(&["retry", unknown]);
    assert!(code == 2 && err.contains("no such task"), "{code} {err}");
}

#[test]
fn a_failure_budget_of_the_command_line_stops_the_task() {
    let server = Server::start();
    let wait = ["submit", "wait", "-c", "local", "n-[1-40]", "--fail-every", "2", "--concurrency", "1"];
    let submit = |more: &[&str]| server.run(&[&wait[..], more].concat());
    let (code, out, _) = submit(&["--max-failed", "5%", "--on-failure", "abort", "--watch"]);
    assert_eq!(code, 1, "{out}");
    let why = "the failure budget is used up: 3 of 40 failed, and 5 % may";
    let last = out.lines().last().unwrap();
    assert!(last.contains(why) && last.contains("34 cancelled"), "{out}");

    let (code, out, _) = submit(&["--max-failed", "1,90%", "--max-consecutive", "3", "--json"]);
    assert_eq!(code, 0, "{out}");
    let id = lines(&out)[0]["task"]["task_id"].as_str().unwrap().to_owned();
    let show = || server.run(&["tasks", "show", &id, "--limit", "1"]).1;
    wait_for(Duration::from_secs(30), "the pause", || Ok(show().contains("paused"))).unwrap();
    let shown = show();
    for part in ["at most 1 or 90 % or 3 in a row may fail, then pause", "2 failed, and 1 may"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let (code, out, _) = server.run(&["concurrency", &id, "7"]);
    assert!(code == 0 && out.contains("is paused, at most 7 items at once"), "{code} {out}");
    let (code, out, _) = server.run(&["concurrency", &id, "default"]);
    assert!(code == 0 && out.contains("as many items at once as its worker allows"), "{code} {out}");
    assert_eq!(server.run(&["cancel", &id]).0, 0);
    let (code, _, err) = server.run(&["concurrency", &id, "7"]);
    assert!(code == 2 && err.contains("the task is cancelled"), "{code} {err}");
    let (code, _, err) = server.run(&["concurrency", &id, "0"]);
    assert!(code == 2 && err.contains("1 to 1000"), "{code} {err}");
    let (code, _, err) = submit(&["--on-failure", "abort"]);
    assert!(code == 2 && err.contains("--max-failed"), "{code} {err}");
    let (code, _, err) = submit(&["--max-failed", "100%"]);
    assert!(code == 2 && err.contains("failure_budget.percent must be from 0 to 99"), "{code} {err}");
}

#[test]
fn a_plan_is_printed_and_can_be_demanded() {
    let server = Server::start();
    let wait = ["submit", "wait", "-c", "local", "n-[01-12]", "--duration", "10ms", "--canary", "2"];
    let with = |more: &[&str]| server.run(&[&wait[..], more].concat());
    let (code, out, err) = with(&["--plan"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with("wait on local: 12 nodes: 12 to change\norder: as given, in 2 waves of 2, 10"),
        "{out}"
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80 || line.starts_with("order")), "{out}");
    let hash = out.lines().find_map(|line| line.strip_prefix("plan ")).unwrap().to_owned();
    assert!(err.contains(&format!("--canary 2 --plan-hash {hash}")), "{err}");
    assert_eq!(server.run(&["tasks", "--json"]).1, "", "nothing was submitted");
    let (code, out, _) = with(&["--plan", "--json"]);
    let plan = lines(&out).remove(0);
    assert_eq!((code, plan["hash"].as_str()), (0, Some(hash.as_str())));
    assert_eq!(plan["nodes"].as_array().unwrap().len(), 12);
    let (code, out, err) = with(&["--plan-hash", &hash, "--watch"]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, err) = with(&["--reason", "other", "--plan-hash", &hash]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.contains("this is another request than the one that was planned"), "{out}{err}");
    let (code, _, err) = with(&["--plan-hash", "x"]);
    assert!(code == 2 && err.contains("64 hexadecimal digits"), "{err}");
    let (code, out, _) = with(&["--fail-every", "3", "--plan"]);
    assert!(code == 1 && out.contains("4 would fail"), "{out}");
}
