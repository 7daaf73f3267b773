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
const OTHER_VARIABLES: [&str; 4] =
    ["MILEPOST_CONFIG", "MILEPOST_HISTORY", "MILEPOST_SERVER_URL", "MILEPOST_TOKEN"];

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
            // A value that is not text is kept, with the sign for what cannot be read in it, to be refused by name.
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
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
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return self.fault(&key, name, "is not UTF-8 text", "set it anew");
        }
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
#[path = "load_tests.rs"]
mod tests;
