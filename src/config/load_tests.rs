//! Layers, unknown keys, faults and secrets, with the environment handed in as a map.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::config::Mode;

const EXAMPLE: &str = include_str!("../../docs/milepost.example.yaml");
const SECRET: &str = "correct-horse-battery-staple-0123456789";

fn sources(env: &[(&str, &str)]) -> Sources {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { env, ..Sources::default() }
}

fn with_file(text: &str, env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.yaml");
    std::fs::write(&file, text).unwrap();
    load(&Sources { file: Some(file), ..sources(env) })
}

fn faults(result: Result<Loaded, ConfigError>) -> Vec<(String, String)> {
    result.unwrap_err().faults.into_iter().map(|fault| (fault.key.clone(), fault.to_string())).collect()
}

#[test]
fn the_defaults_are_sound_and_mean_memory_mode() {
    let loaded = load(&Sources::default()).unwrap();
    assert_eq!(loaded.config.mode(), Mode::Memory);
    assert_eq!(loaded.file, None);
}

#[test]
fn the_example_file_holds_every_key_and_parses_to_the_defaults() {
    let loaded = with_file(EXAMPLE, &[]).unwrap();
    assert_eq!(loaded.config.to_yaml(), Config::default().to_yaml());
    let example: serde_norway::Value = serde_norway::from_str(EXAMPLE).unwrap();
    let defaults = serde_norway::to_value(Config::default()).unwrap();
    assert_same_keys("", &example, &defaults);
}

fn assert_same_keys(path: &str, example: &serde_norway::Value, defaults: &serde_norway::Value) {
    let (Some(example), Some(defaults)) = (example.as_mapping(), defaults.as_mapping()) else { return };
    for (name, value) in defaults {
        let here = format!("{path}.{}", name.as_str().unwrap());
        let shown = example.get(name).unwrap_or_else(|| panic!("{here} is not in the example"));
        assert_same_keys(&here, shown, value);
    }
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = "server: {listen: '127.0.0.1:1', admin_listen: '127.0.0.1:2', grace: 7s, connections_max: 9}";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.yaml");
    std::fs::write(&path, file).unwrap();
    let env = [("MILEPOST_SERVER__LISTEN", "127.0.0.1:3"), ("MILEPOST_SERVER__GRACE", "8s")];
    let flags = vec![("server.grace".to_owned(), "9s".to_owned())];
    let loaded = load(&Sources { file: Some(path.clone()), flags, ..sources(&env) }).unwrap();
    assert_eq!(loaded.file, Some(path));
    let server = loaded.config.server;
    assert_eq!((server.listen.port(), server.admin_listen.port()), (3, 2));
    assert_eq!((server.grace, server.connections_max), (Duration::from_secs(9), 9));
    assert_eq!(server.request_timeout, Duration::from_secs(15));
}

#[test]
fn the_file_may_be_named_by_the_environment_and_a_missing_one_is_a_fault() {
    let found = faults(load(&sources(&[("MILEPOST_CONFIG", "/nowhere/milepost.yaml")])));
    assert!(found[0].1.contains("/nowhere/milepost.yaml"), "{found:?}");
    let absent = Sources { default_file: Some("/nowhere/milepost.yaml".into()), ..Sources::default() };
    assert!(load(&absent).is_ok());
}

#[test]
fn all_faults_are_listed_at_once_each_with_key_source_and_fix() {
    let file = "
servr: {}
server: {lisen: 1}
worker: {lease: 5, lanes: many}
live: 3
clusters: [{name: a, kubecfg: x}]
";
    let found =
        faults(with_file(file, &[("MILEPOST_WORKER_LEASE", "1s"), ("MILEPOST_BUS__NOTIFY", "shout")]));
    let expected = [
        ("clusters[0].kubecfg", "test.yaml", "did you mean kubeconfig?"),
        ("live", "test.yaml", "put its settings below"),
        ("server.lisen", "test.yaml", "did you mean server.listen?"),
        ("servr", "test.yaml", "did you mean server?"),
        ("worker.lanes", "test.yaml", "is string \"many\" instead of"),
        ("worker.lease", "test.yaml", "write a unit"),
        ("bus.notify", "MILEPOST_BUS__NOTIFY", "is \"shout\", not one of listen, poll"),
        ("worker_lease", "MILEPOST_WORKER_LEASE", "did you mean MILEPOST_WORKER__LEASE?"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((key, text), (expected_key, source, fix)) in found.iter().zip(expected) {
        assert_eq!(key, expected_key, "{text}");
        assert!(text.contains(source) && text.contains(fix), "{text}");
    }
}

#[test]
fn rules_between_settings_are_all_checked_and_name_the_source_that_decided() {
    let file = "
mode: memory
server: {listen: '0.0.0.0:8080', grace: 0s}
live: {ping_interval: 40s}
auth: {hs256_secret: short}
redis: {url: 'redis://localhost'}
worker: {renew_interval: 2s}
clusters:
  - {name: a, kubeconfig: /k, in_cluster: true}
  - {name: a, in_cluster: true}
  - {name: b}
";
    let found = faults(with_file(file, &[("MILEPOST_WORKER__RENEW_INTERVAL", "3s")]));
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "server.grace",
            "redis.url",
            "mode",
            "auth.hs256_secret",
            "live.idle_timeout",
            "worker.renew_interval",
            "clusters",
            "clusters",
            "clusters",
        ],
        "{found:#?}"
    );
    assert!(found[1].1.contains("the record of tasks needs Postgres"), "{found:#?}");
    assert!(found[4].1.contains("the defaults"), "{found:#?}");
    assert!(found[5].1.contains("MILEPOST_WORKER__RENEW_INTERVAL"), "{found:#?}");
}

#[test]
fn an_open_door_without_a_key_is_refused() {
    let open = ("MILEPOST_SERVER__LISTEN", "0.0.0.0:8080");
    assert_eq!(faults(load(&sources(&[open])))[0].0, "server.listen");
    assert!(load(&sources(&[open, ("MILEPOST_AUTH__HS256_SECRET", SECRET)])).is_ok());
    assert!(load(&sources(&[("MILEPOST_SERVER__LISTEN", "[::1]:8080")])).is_ok());
}

#[test]
fn text_from_the_environment_becomes_what_the_key_needs() {
    let digits = "12345678901234567890123456789012";
    let config = load(&sources(&[
        ("MILEPOST_AUTH__HS256_SECRET", digits),
        ("MILEPOST_ACTIONS__WAIT", "true"),
        ("MILEPOST_WORKER__LANES", "40"),
        ("MILEPOST_SERVER__ALLOWED_ORIGINS", "https://a.example, https://b.example:8443"),
        ("MILEPOST_CLUSTERS", "[{name: prod, kubeconfig: /etc/kube}]"),
        ("MILEPOST_REPLICA", "7"),
    ]))
    .unwrap()
    .config;
    assert_eq!(config.auth.hs256_secret.unwrap().expose_secret(), digits);
    assert!(config.actions.wait);
    assert_eq!(config.worker.lanes, 40);
    assert_eq!(config.server.allowed_origins, ["https://a.example", "https://b.example:8443"]);
    assert_eq!(config.clusters[0].name, "prod");
    assert_eq!(config.replica.as_deref(), Some("7"));
}

#[test]
fn variables_that_kubernetes_makes_for_services_and_the_clients_own_are_left_alone() {
    let env = [
        ("MILEPOST_PORT", "tcp://10.0.0.1:80"),
        ("MILEPOST_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("MILEPOST_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("MILEPOST_GATEWAY_SERVICE_PORT_HTTP", "80"),
        ("MILEPOST_GATEWAY_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("MILEPOST_TOKEN", "t"),
        ("MILEPOST_HISTORY", "run.jsonl"),
        ("MILEPOST_SERVER_URL", "http://localhost"),
    ];
    assert!(load(&sources(&env)).is_ok());
}

#[test]
fn secrets_are_shown_neither_in_the_effective_configuration_nor_in_faults() {
    let database = format!("postgres://milepost:{SECRET}@db/milepost");
    let redis = format!("redis://:{SECRET}@cache");
    let env = [
        ("MILEPOST_AUTH__HS256_SECRET", SECRET),
        ("MILEPOST_DATABASE__URL", database.as_str()),
        ("MILEPOST_REDIS__URL", redis.as_str()),
    ];
    let config = load(&sources(&env)).unwrap().config;
    assert_eq!(config.mode(), Mode::Redis);
    let yaml = config.to_yaml();
    assert!(!yaml.contains("battery") && yaml.matches("'***'").count() == 3, "{yaml}");
    assert!(!format!("{config:?}").contains("battery"));
    let odd = format!("auth: {{hs256_secret: [{SECRET}]}}\ndatabase: {{url: {{a: {SECRET}}}}}");
    let error = with_file(&odd, &[("MILEPOST_REDIS__URL", SECRET)]).unwrap_err().to_string();
    assert!(error.contains("is not text") && !error.contains("battery"), "{error}");
    let error = load(&sources(&[("MILEPOST_REDIS__URL", SECRET)])).unwrap_err().to_string();
    assert!(error.contains("known scheme") && !error.contains("battery"), "{error}");
}

#[test]
fn a_key_given_twice_and_a_file_that_is_no_map_are_faults() {
    assert!(faults(with_file("worker: {lanes: 1, lanes: 2}", &[]))[0].1.contains("is not YAML"));
    assert!(faults(with_file("- a", &[]))[0].1.contains("is not a map"));
    assert!(with_file("", &[]).is_ok());
    assert!(with_file("server:\nworker:\n  lease:\n", &[]).is_ok());
}
