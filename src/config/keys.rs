//! The keys that exist, read off the defaults, and the nearest one to a key that does not.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{ClusterConfig, Config};

/// Least likeness at which a name is worth suggesting, from 0 to 1.
const LIKENESS_MIN: f64 = 0.75;

/// Keys whose value must never be shown.
const SECRETS: [&str; 3] = ["auth.hs256_secret", "database.url", "redis.url"];

/// Every key, dotted: sections, fields, and `clusters[].name` for the fields of list entries.
pub(super) struct Keys {
    fields: BTreeSet<String>,
    sections: BTreeSet<String>,
}

impl Keys {
    /// Reads the keys off the defaults, so that this list cannot be forgotten when a field is added.
    pub(super) fn new() -> Self {
        let mut keys = Self { fields: BTreeSet::new(), sections: BTreeSet::new() };
        let defaults = serde_json::to_value(Config::default()).expect("sections are plain data");
        keys.add("", &defaults);
        keys
    }

    fn add(&mut self, prefix: &str, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let key = join(prefix, name);
            if value.is_object() {
                self.add(&key, value);
                self.sections.insert(key);
            } else {
                self.fields.insert(key);
            }
        }
    }

    /// Whether this is a field that can be set.
    pub(super) fn is_field(&self, key: &str) -> bool {
        self.fields.contains(key)
    }

    /// Whether this is a group of fields.
    pub(super) fn is_section(&self, key: &str) -> bool {
        self.sections.contains(key)
    }

    /// The existing key that looks most like this one. A field of the same name in another section counts as like.
    pub(super) fn nearest(&self, key: &str) -> Option<&str> {
        let all = self.fields.iter().chain(&self.sections).map(String::as_str);
        best(key, all, |a, b| {
            let same_name = strsim::jaro_winkler(last(a), last(b)) - 0.05;
            strsim::jaro_winkler(a, b).max(same_name)
        })
    }

    /// The existing variable that looks most like this one.
    pub(super) fn nearest_variable(&self, name: &str) -> Option<String> {
        let names: Vec<String> = self.fields.iter().map(|key| variable(key)).collect();
        best(name, names.iter().map(String::as_str), strsim::jaro_winkler).map(str::to_owned)
    }
}

/// The fields of an entry of `clusters`.
pub(super) fn cluster_fields() -> Vec<String> {
    let full = ClusterConfig {
        name: String::new(),
        kubeconfig: Some("".into()),
        context: Some(String::new()),
        in_cluster: false,
        allow_exec: false,
        safety: Some(Default::default()),
    };
    let full = serde_json::to_value(full).expect("an entry is plain data");
    full.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// The entry of `names` that looks most like `name`.
pub(super) fn nearest_of<'a>(name: &str, names: &'a [String]) -> Option<&'a str> {
    best(name, names.iter().map(String::as_str), strsim::jaro_winkler)
}

/// Whether the value of a key must never be shown.
pub(super) fn is_secret(key: &str) -> bool {
    SECRETS.contains(&key)
}

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("MILEPOST_{}", key.replace('.', "__").to_uppercase())
}

/// A key inside a section; the top has the empty name.
pub(super) fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn best<'a>(
    name: &str,
    all: impl Iterator<Item = &'a str>,
    likeness: impl Fn(&str, &str) -> f64,
) -> Option<&'a str> {
    all.map(|known| (likeness(name, known), known))
        .filter(|(like, _)| *like >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_keys_that_exist() {
        let keys = Keys::new();
        for key in SECRETS {
            assert!(keys.is_field(key), "{key}");
        }
    }

    #[test]
    fn slips_of_the_keyboard_and_wrong_sections_find_their_key() {
        let keys = Keys::new();
        for (slip, meant) in [
            ("worker.leese", "worker.lease"),
            ("wrker.lease", "worker.lease"),
            ("listen", "server.listen"),
            ("databse", "database"),
            ("worker.ping_interval", "live.ping_interval"),
        ] {
            assert_eq!(keys.nearest(slip), Some(meant), "{slip}");
        }
        assert_eq!(keys.nearest("zzz.qqq"), None);
        assert_eq!(
            keys.nearest_variable("MILEPOST_SERVER_LISTEN").as_deref(),
            Some("MILEPOST_SERVER__LISTEN")
        );
    }
}
