//! Rules between settings, and bounds that types cannot hold. Pure: a configuration in, broken rules out.

use std::collections::HashSet;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::keys::join;
use super::network::Network;
use super::redis_url::Fault;
use super::{Config, Mode, RedisUrl};
use crate::task::ClusterName;

/// Fields that may be zero, because that means "none" or "at once".
const MAY_BE_ZERO: [&str; 5] = [
    "server.close_spread",
    "live.snapshot_recent",
    "live.coalesce_bytes",
    "worker.grace",
    "worker.stall_after",
];

/// Most results the store takes at once.
const RECORD_BATCH_MAX: usize = 5_000;

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The key to change.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub fix: String,
}

/// Checks every rule. Never shows a secret.
#[must_use]
pub fn check(config: &Config) -> Vec<Broken> {
    let mut broken = Rules::default();
    broken.zeros(config);
    broken.mode(config);
    broken.urls(config);
    broken.auth(config);
    broken.server(config);
    broken.worker(config);
    broken.clusters(config);
    broken.texts(config);
    broken.0
}

#[derive(Default)]
struct Rules(Vec<Broken>);

impl Rules {
    fn holds(&mut self, ok: bool, key: &str, problem: impl Into<String>, fix: impl Into<String>) {
        if !ok {
            self.0.push(Broken { key: key.to_owned(), problem: problem.into(), fix: fix.into() });
        }
    }

    /// Reads every number and length of time off the serialized form, so that no new field is forgotten.
    fn zeros(&mut self, config: &Config) {
        let value = serde_json::to_value(config).expect("sections are plain data");
        self.zeros_in("", &value);
    }

    fn zeros_in(&mut self, section: &str, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let key = join(section, name);
            let zero = match value {
                Value::Number(number) => number.as_u64() == Some(0),
                Value::String(text) => text == "0s",
                _ => false,
            };
            let allowed = !zero || MAY_BE_ZERO.contains(&key.as_str());
            self.holds(
                allowed,
                &key,
                "is zero",
                "give it a value above zero, or leave it out for the default",
            );
            self.zeros_in(&key, value);
        }
    }

    fn mode(&mut self, config: &Config) {
        self.holds(
            config.redis.url.is_none() || config.database.url.is_some(),
            "redis.url",
            "is set without database.url: Redis carries progress and may forget, so the record of tasks needs Postgres",
            "set database.url as well, or remove redis.url",
        );
        let (implied, pinned) = (config.mode(), config.mode.unwrap_or(config.mode()));
        let fix = match pinned {
            Mode::Memory => "remove database.url and redis.url, or the pin",
            Mode::Postgres => "set database.url and remove redis.url, or change the pin",
            Mode::Redis => "set both database.url and redis.url, or change the pin",
        };
        self.holds(
            pinned == implied,
            "mode",
            format!("is pinned to {pinned}, but the URLs say {implied}"),
            fix,
        );
    }

    fn urls(&mut self, config: &Config) {
        let database = ["postgres://", "postgresql://"];
        self.scheme("database.url", config.database.url.as_ref(), &database);
        let redis = config.redis.url.as_ref().map(|url| RedisUrl::parse(url.expose_secret()));
        for Fault(problem, fix) in redis.and_then(Result::err).into_iter().flatten() {
            self.holds(false, "redis.url", problem, fix);
        }
    }

    fn scheme(&mut self, key: &str, url: Option<&SecretString>, schemes: &[&str]) {
        let known =
            url.is_none_or(|url| schemes.iter().any(|scheme| url.expose_secret().starts_with(scheme)));
        self.holds(known, key, "does not begin with a known scheme", format!("begin with {}", schemes[0]));
    }

    fn auth(&mut self, config: &Config) {
        let auth = &config.auth;
        let len = auth.hs256_secret.as_ref().map_or(usize::MAX, |secret| secret.expose_secret().len());
        self.holds(
            len >= 32,
            "auth.hs256_secret",
            format!("has {len} bytes, which can be guessed"),
            "use at least 32 bytes, such as from `openssl rand -hex 32`",
        );
        let has_key = auth.has_key();
        self.holds(
            has_key || config.server.listen.ip().is_loopback(),
            "server.listen",
            format!("is {}, which others can reach, and no key protects it", config.server.listen),
            "set auth.hs256_secret, auth.rs256_public_key or auth.es256_public_key, or listen on 127.0.0.1",
        );
    }

    fn server(&mut self, config: &Config) {
        let (server, live) = (&config.server, &config.live);
        self.holds(
            server.listen.port() == 0 || server.listen != server.admin_listen,
            "server.admin_listen",
            "is the same address as server.listen",
            "give probes and metrics a port of their own",
        );
        for proxy in &server.trusted_proxies {
            self.holds(
                Network::parse(proxy).is_some(),
                "server.trusted_proxies",
                format!("holds {proxy:?}, which is no address and no network"),
                "write addresses such as 10.1.2.3, or networks such as 10.0.0.0/8",
            );
        }
        for origin in &server.allowed_origins {
            self.holds(
                is_origin(origin),
                "server.allowed_origins",
                format!("holds {origin:?}, which is not an origin"),
                "write scheme and host without a path, such as https://ops.example.com",
            );
        }
        self.holds(
            live.idle_timeout >= live.ping_interval * 2,
            "live.idle_timeout",
            format!("is {:?}, less than two pings of {:?}", live.idle_timeout, live.ping_interval),
            "make it at least twice live.ping_interval",
        );
        self.holds(
            live.coalesce_bytes <= live.queue_bytes_max,
            "live.coalesce_bytes",
            "is more than live.queue_bytes_max, so nothing would ever be merged",
            "make it smaller than live.queue_bytes_max",
        );
    }

    fn worker(&mut self, config: &Config) {
        let worker = &config.worker;
        self.holds(
            worker.renew_interval <= worker.lease / 3,
            "worker.renew_interval",
            format!("is {:?}, more than a third of the lease of {:?}", worker.renew_interval, worker.lease),
            "make it at most a third of worker.lease, so that two renewals may fail",
        );
        self.holds(
            worker.lanes_per_task <= worker.lanes,
            "worker.lanes_per_task",
            format!("is {}, more than the {} lanes of the worker", worker.lanes_per_task, worker.lanes),
            "make it at most worker.lanes",
        );
        self.holds(
            worker.retry_base <= worker.retry_max,
            "worker.retry_base",
            "is more than worker.retry_max",
            "make it at most worker.retry_max",
        );
        self.holds(
            worker.record_batch <= RECORD_BATCH_MAX,
            "worker.record_batch",
            format!("is {}, more than the store takes at once", worker.record_batch),
            format!("make it at most {RECORD_BATCH_MAX}"),
        );
        self.holds(
            worker.lease >= Duration::from_secs(1),
            "worker.lease",
            "is less than a second, so that a short stall would lose tasks",
            "make it 1s or more",
        );
    }

    fn clusters(&mut self, config: &Config) {
        let mut seen = HashSet::new();
        for (i, cluster) in config.clusters.iter().enumerate() {
            let name = ClusterName::new(&cluster.name);
            let why = name.as_ref().err().map_or(String::new(), ToString::to_string);
            let field = |problem: &str| format!("entry {i} ({}) {problem}", cluster.name);
            self.holds(name.is_ok(), "clusters", field(&format!("has a name that {why}")), "rename it");
            let fresh = seen.insert(&cluster.name);
            self.holds(fresh, "clusters", field("repeats a name"), "give each cluster its own name");
            let both = cluster.in_cluster && (cluster.kubeconfig.is_some() || cluster.context.is_some());
            let problem = field("has both in_cluster and a kubeconfig or context");
            self.holds(!both, "clusters", problem, "keep one of them");
            let none = !cluster.in_cluster && cluster.kubeconfig.is_none();
            let problem = field("says neither kubeconfig nor in_cluster");
            self.holds(!none, "clusters", problem, "set kubeconfig to a file, or in_cluster to true");
        }
    }

    fn texts(&mut self, config: &Config) {
        let log = tracing_subscriber::EnvFilter::try_new(&config.telemetry.log);
        let why = log.as_ref().err().map_or(String::new(), ToString::to_string);
        let problem = format!("cannot be read: {why}");
        self.holds(
            log.is_ok(),
            "telemetry.log",
            problem,
            "write a level such as info, or milepost=debug,info",
        );
        let prefix = &config.redis.key_prefix;
        let plain = prefix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        self.holds(
            plain && (1..=64).contains(&prefix.len()),
            "redis.key_prefix",
            "is not 1 to 64 letters, digits, '-', '_' or '.'",
            "use a short word such as mp; braces would change the hash slot",
        );
    }
}

/// Whether a text is scheme, host and maybe a port, as browsers write an origin.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '*', '?', '#', '@']))
}
