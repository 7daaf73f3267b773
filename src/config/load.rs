//! Puts the layers together: defaults < YAML file < environment < flags.
//!
//! Every value of every layer is a leaf that knows where it came from. Each leaf is tried alone against the defaults,
//! so that all faults are found in one go and each names its source. Nothing here reads the process environment but
//! [`Sources::of_process`]; tests hand in a map. Not here: rules between settings ([`super::check`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::keys::{self, Keys};
use super::{Config, ConfigError, ConfigFault, check};

/// The file that is read when it exists and no other is named.
pub const DEFAULT_FILE: &str = "milepost.yaml";

/// Variables that begin like settings and belong to something else: the path of the file, and what the client
/// commands take.
const OTHER_VARIABLES: [&str; 3] = ["MILEPOST_CONFIG", "MILEPOST_SERVER_URL", "MILEPOST_TOKEN"];

/// Where settings may come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A file that must exist.
    pub file: Option<PathBuf>,
    /// A file that is read if it exists, when no other is named by `file` or `MILEPOST_CONFIG`.
    pub default_file: Option<PathBuf>,
    /// The environment; only names that begin with `MILEPOST_` matter.
    pub env: BTreeMap<String, String>,
    /// Settings from flags, `key` and text.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The environment of this process, [`DEFAULT_FILE`] in its folder, and what the flags say.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("MILEPOST_"))
            .collect();
        Self { file, default_file: Some(DEFAULT_FILE.into()), env, flags }
    }

    fn file_to_read(&self) -> Option<PathBuf> {
        let named = self.file.clone().or_else(|| self.env.get("MILEPOST_CONFIG").map(PathBuf::from));
        named.or_else(|| self.default_file.clone().filter(|file| file.exists()))
    }
}

/// A configuration that is whole and checked.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// Reads all layers and checks the result.
///
/// # Errors
/// Every fault of every layer. Rules between settings are checked only when each value alone is sound.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut reader = Reader { keys: Keys::new(), leaves: Vec::new(), faults: Vec::new() };
    let file = sources.file_to_read();
    if let Some(file) = &file {
        reader.read_file(file);
    }
    for (name, text) in &sources.env {
        reader.read_variable(name, text);
    }
    for (key, text) in &sources.flags {
        reader.read_flag(key, text);
    }
    reader.finish().map(|config| Loaded { config, file })
}

/// One value from one source.
struct Leaf {
    key: String,
    value: Value,
    source: String,
}

impl Provider for &Leaf {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        Ok(Profile::Default.collect(nested.into_dict().unwrap_or_default()))
    }
}

struct Reader {
    keys: Keys,
    leaves: Vec<Leaf>,
    faults: Vec<ConfigFault>,
}

impl Reader {
    fn fault(&mut self, key: &str, source: &str, problem: impl Into<String>, fix: impl Into<String>) {
        self.faults.push(ConfigFault {
            key: key.to_owned(),
            source: source.to_owned(),
            problem: problem.into(),
            fix: fix.into(),
        });
    }

    fn read_file(&mut self, file: &Path) {
        let source = file.display().to_string();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                return self.fault("the file", &source, format!("cannot be read: {error}"), "check the path");
            }
        };
        match parse_yaml(&text) {
            Ok(Value::Dict(_, dict)) => self.read_section("", &dict, &source),
            Ok(Value::Empty(..)) => {}
            Ok(_) => self.fault("the file", &source, "is not a map of sections", "begin with `server:`"),
            Err(error) => {
                self.fault("the file", &source, format!("is not YAML: {error}"), "mend the line it names");
            }
        }
    }

    fn read_section(&mut self, section: &str, dict: &Dict, source: &str) {
        for (name, value) in dict {
            let key = keys::join(section, name);
            match value {
                // An empty section, or a field without a value, says nothing.
                Value::Empty(..) if self.keys.is_field(&key) || self.keys.is_section(&key) => {}
                Value::Dict(_, inner) if self.keys.is_section(&key) => self.read_section(&key, inner, source),
                _ if self.keys.is_section(&key) => {
                    let fix = format!("put its settings below `{name}:`");
                    self.fault(&key, source, "is a section and takes no value", fix);
                }
                _ if self.keys.is_field(&key) => {
                    self.take(&key, vec![value.clone()], source);
                }
                _ => {
                    let fix =
                        self.keys.nearest(&key).map_or_else(look_up, |near| format!("did you mean {near}?"));
                    self.fault(&key, source, "does not exist", fix);
                }
            }
        }
    }

    fn read_variable(&mut self, name: &str, text: &str) {
        let Some(rest) = name.strip_prefix("MILEPOST_") else { return };
        if OTHER_VARIABLES.contains(&name) || is_service_link(rest) {
            return;
        }
        let key = rest.to_lowercase().replace("__", ".");
        if self.keys.is_field(&key) {
            self.take(&key, readings(text), name);
        } else {
            let near = self.keys.nearest_variable(name);
            let fix = near.map_or_else(look_up, |near| format!("did you mean {near}?"));
            self.fault(&key, name, "does not exist", fix);
        }
    }

    fn read_flag(&mut self, key: &str, text: &str) {
        let source = format!("flag {key}");
        if self.keys.is_field(key) {
            self.take(key, readings(text), &source);
        } else {
            let fix = self.keys.nearest(key).map_or_else(look_up, |near| format!("did you mean {near}?"));
            self.fault(key, &source, "does not exist", fix);
        }
    }

    /// Keeps the first reading of a value that the key's type accepts, or says why the last one does not fit.
    fn take(&mut self, key: &str, readings: Vec<Value>, source: &str) {
        let mut refused = None;
        for value in readings {
            let leaf = Leaf { key: key.to_owned(), value, source: source.to_owned() };
            match layered(&[&leaf]).extract::<Config>() {
                Ok(_) => return self.leaves.push(leaf),
                Err(error) => refused = Some((leaf.value, error)),
            }
        }
        if let Some((value, error)) = refused {
            self.refuse(key, &value, &error, source);
        }
    }

    fn refuse(&mut self, key: &str, value: &Value, error: &figment::Error, source: &str) {
        if keys::is_secret(key) {
            return self.fault(key, source, "is not text", "put the value in quotes");
        }
        if key == "clusters" && self.refuse_clusters(value, source) {
            return;
        }
        let fix = match value {
            Value::Num(..) if is_duration(key) => "write a unit, such as 250ms, 5s or 7d",
            _ if is_duration(key) => "write a length of time, such as 250ms, 5s or 7d",
            _ => "see milepost.example.yaml for its form",
        };
        self.fault(key, source, why(&error.kind), fix);
    }

    /// Names the unknown fields of cluster entries. Returns whether there were any.
    fn refuse_clusters(&mut self, value: &Value, source: &str) -> bool {
        let fields = keys::cluster_fields();
        let before = self.faults.len();
        for (i, entry) in value.as_array().unwrap_or_default().iter().enumerate() {
            let unknown =
                entry.as_dict().into_iter().flat_map(Dict::keys).filter(|name| !fields.contains(name));
            for name in unknown {
                let near = keys::nearest_of(name, &fields);
                let fix = near.map_or_else(look_up, |near| format!("did you mean {near}?"));
                self.fault(&format!("clusters[{i}].{name}"), source, "does not exist", fix);
            }
        }
        self.faults.len() > before
    }

    /// The layer that decided a key.
    fn source_of(&self, key: &str) -> String {
        let decided = self.leaves.iter().rfind(|leaf| leaf.key == key);
        decided.map_or_else(|| "the defaults".into(), |leaf| leaf.source.clone())
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        if !self.faults.is_empty() {
            return Err(ConfigError { faults: self.faults });
        }
        let leaves: Vec<&Leaf> = self.leaves.iter().collect();
        let config: Config = match layered(&leaves).extract() {
            Ok(config) => config,
            Err(error) => {
                self.fault("the layers", "all sources", format!("do not fit: {}", error.kind), look_up());
                return Err(ConfigError { faults: self.faults });
            }
        };
        for broken in check::check(&config) {
            let source = self.source_of(&broken.key);
            self.fault(&broken.key, &source, broken.problem, broken.fix);
        }
        if self.faults.is_empty() { Ok(config) } else { Err(ConfigError { faults: self.faults }) }
    }
}

/// What a value is instead of what it should be.
fn why(kind: &figment::error::Kind) -> String {
    use figment::error::Kind;
    match kind {
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("is {found} instead of {expected}")
        }
        Kind::UnknownVariant(found, known) => format!("is {found:?}, not one of {}", known.join(", ")),
        other => format!("cannot be read: {other}"),
    }
}

/// The defaults with these leaves on top, later ones above earlier ones.
fn layered(leaves: &[&Leaf]) -> Figment {
    let defaults = Figment::from(Serialized::defaults(Config::default()));
    leaves.iter().fold(defaults, |figment, leaf| figment.merge(*leaf))
}

fn look_up() -> String {
    "see milepost.example.yaml for every key".into()
}

/// Whether a key's default is written as a length of time.
fn is_duration(key: &str) -> bool {
    let value = Figment::from(Serialized::defaults(Config::default())).find_value(key).ok();
    value.and_then(figment::value::Value::into_string).is_some_and(|text| {
        text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_alphabetic())
    })
}

/// What a text from the environment may mean: itself, the YAML in it, or a list with commas.
fn readings(text: &str) -> Vec<Value> {
    let list: Vec<Value> =
        text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(Value::from).collect();
    // The YAML reading comes last: it gives the best message when none fits.
    [Value::from(text), Value::from(list)].into_iter().chain(parse_yaml(text).ok()).collect()
}

fn parse_yaml(text: &str) -> Result<Value, serde_norway::Error> {
    // By way of the YAML value, because that refuses a key that is given twice.
    let value: serde_norway::Value = serde_norway::from_str(text)?;
    serde_norway::from_value(value)
}

/// Whether a variable is one that Kubernetes makes for a Service whose name begins with `milepost`.
fn is_service_link(rest: &str) -> bool {
    let port =
        rest == "PORT" || rest.starts_with("PORT_") || rest.contains("_PORT_") || rest.ends_with("_PORT");
    !rest.contains("__") && (port || rest.ends_with("SERVICE_HOST"))
}

#[cfg(test)]
mod tests {
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
        let file =
            "server: {listen: '127.0.0.1:1', admin_listen: '127.0.0.1:2', grace: 7s, connections_max: 9}";
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
}
