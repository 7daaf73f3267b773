//! Templates: labels, taints or annotations that people set again and again, under a name, some with a value that is picked
//! when they are applied.
//!
//! A template becomes the parameters of an ordinary action before anything is recorded, so whoever runs the task knows nothing
//! of templates, and a template that changes later changes no task. Pure. Not here: where templates are kept
//! ([`crate::templates`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::spec::{Draft, Fault, PARAMETERS_MAX, TaintEffect, TaskSpec};

/// Longest name, in characters.
const NAME_LEN_MAX: usize = 63;
/// Longest description, in characters.
const DESCRIPTION_LEN_MAX: usize = 500;
/// Most values to pick from.
const VALUES_MAX: usize = 32;
/// Faults that are told at once.
const FAULTS_MAX: usize = 20;

/// The name of a template: small letters, digits and dashes, so that it can stand in an address and on a command line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(String);

impl TemplateName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TemplateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = (1..=NAME_LEN_MAX).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "must have 1 to {NAME_LEN_MAX} small letters, digits and dashes, with a letter or digit at both ends"
            )),
        }
    }
}

impl TryFrom<String> for TemplateName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<TemplateName> for String {
    fn from(name: TemplateName) -> Self {
        name.0
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a template sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateAction {
    /// Labels.
    Label,
    /// Taints.
    Taint,
    /// Annotations.
    Annotate,
}

impl TemplateAction {
    /// The action of the tasks that it makes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Taint => "taint",
            Self::Annotate => "annotate",
        }
    }
}

/// One label, taint or annotation of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateEntry {
    /// Its key.
    pub key: String,
    /// Its value; of several one is picked when the template is applied.
    pub values: Vec<String>,
    /// For a taint: what it does to pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// What a template says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateSpec {
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// What it sets.
    pub action: TemplateAction,
    /// Labels, taints or annotations, 1 to 32.
    pub entries: Vec<TemplateEntry>,
}

impl TemplateSpec {
    /// Checks every rule, those of what it sets among them: a template that was kept can be applied.
    ///
    /// # Errors
    /// Every fault, at most 20.
    pub fn check(&self) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        if self.description.chars().count() > DESCRIPTION_LEN_MAX {
            faults.push(Fault::new(
                "description",
                format!("must have at most {DESCRIPTION_LEN_MAX} characters"),
            ));
        }
        if !(1..=PARAMETERS_MAX).contains(&self.entries.len()) {
            let words = format!("must hold 1 to {PARAMETERS_MAX} entries, holds {}", self.entries.len());
            faults.push(Fault::new("entries", words));
        }
        let mut there = BTreeSet::new();
        for (place, entry) in self.entries.iter().take(PARAMETERS_MAX).enumerate() {
            if !there.insert((entry.key.as_str(), entry.effect.map(TaintEffect::as_str))) {
                faults.push(Fault::new(format!("entries[{place}]"), "repeats an entry before it"));
            }
            self.check_entry(place, entry, &mut faults);
        }
        faults.truncate(FAULTS_MAX);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn check_entry(&self, place: usize, entry: &TemplateEntry, faults: &mut Vec<Fault>) {
        let mut add =
            |field: &str, words: String| faults.push(Fault::new(format!("entries[{place}]{field}"), words));
        match (self.action, entry.effect) {
            (TemplateAction::Taint, None) => {
                return add(
                    ".effect",
                    "must be NoSchedule, PreferNoSchedule or NoExecute for a taint".into(),
                );
            }
            (TemplateAction::Label | TemplateAction::Annotate, Some(_)) => {
                return add(".effect", "is for taints alone: leave it out".into());
            }
            _ => {}
        }
        let values: BTreeSet<&String> = entry.values.iter().collect();
        if !(1..=VALUES_MAX).contains(&values.len()) || values.len() < entry.values.len() {
            return add(".values", format!("must hold 1 to {VALUES_MAX} different values"));
        }
        // The rules of what is set are those of the action, so they are asked of it.
        for value in &entry.values {
            let draft = Draft {
                action: self.action.as_str().to_owned(),
                cluster: "any".to_owned(),
                items: vec!["any".to_owned()],
                parameters: self.parameters([(entry, value)], false),
                ..Draft::default()
            };
            if let Some(fault) = TaskSpec::new(draft).err().and_then(|error| error.faults.into_iter().next())
            {
                return add("", format!("with the value {value:?}: {} {}", fault.field, fault.words()));
            }
        }
    }

    fn parameters<'a>(
        &self,
        picked: impl IntoIterator<Item = (&'a TemplateEntry, &'a String)>,
        overwrite: bool,
    ) -> Value {
        let picked = picked.into_iter();
        match self.action {
            TemplateAction::Taint => {
                let taints: Vec<Value> = picked
                    .map(|(entry, value)| json!({"key": entry.key, "value": value, "effect": entry.effect}))
                    .collect();
                json!({"taints": taints, "overwrite": overwrite})
            }
            action => {
                let pairs: Map<String, Value> =
                    picked.map(|(entry, value)| (entry.key.clone(), value.clone().into())).collect();
                let field = if action == TemplateAction::Label { "labels" } else { "annotations" };
                json!({field: pairs, "overwrite": overwrite})
            }
        }
    }

    /// The parameters of its action, with the values that were picked by key.
    ///
    /// # Errors
    /// A key with several values of which none was picked, a value that is not among them, and a key that is not there; all
    /// of them, under the name `set`.
    pub fn resolve(&self, set: &BTreeMap<String, String>, overwrite: bool) -> Result<Value, Vec<Fault>> {
        let mut faults = Vec::new();
        for key in set.keys().filter(|key| !self.entries.iter().any(|entry| entry.key == **key)) {
            let keys: BTreeSet<&str> = self.entries.iter().map(|entry| entry.key.as_str()).collect();
            let keys: Vec<&str> = keys.into_iter().collect();
            faults.push(Fault::new(
                format!("set.{key}"),
                format!("is not in the template: it has {}", keys.join(", ")),
            ));
        }
        let mut picked = Vec::new();
        for entry in &self.entries {
            match (set.get(&entry.key), entry.values.as_slice()) {
                (None, [only]) => picked.push((entry, only)),
                (Some(value), values) if values.contains(value) => picked.push((entry, value)),
                (_, values) => {
                    let words = format!("must be picked: one of {}", values.join(", "));
                    faults.push(Fault::new(format!("set.{}", entry.key), words));
                }
            }
        }
        faults.truncate(FAULTS_MAX);
        if faults.is_empty() { Ok(self.parameters(picked, overwrite)) } else { Err(faults) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, values: &[&str], effect: Option<TaintEffect>) -> TemplateEntry {
        TemplateEntry { key: key.into(), values: values.iter().map(ToString::to_string).collect(), effect }
    }

    fn template(action: TemplateAction, entries: Vec<TemplateEntry>) -> TemplateSpec {
        TemplateSpec { description: "d".into(), action, entries }
    }

    fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn told(faults: Vec<Fault>) -> Vec<String> {
        faults.into_iter().map(|fault| format!("{} {}", fault.field, fault.reason)).collect()
    }

    #[test]
    fn a_template_becomes_the_parameters_of_its_action() {
        let labels = template(
            TemplateAction::Label,
            vec![entry("team", &["web"], None), entry("tier", &["gold", "silver"], None)],
        );
        labels.check().unwrap();
        let resolved = labels.resolve(&set(&[("tier", "silver")]), true).unwrap();
        assert_eq!(resolved, json!({"labels": {"team": "web", "tier": "silver"}, "overwrite": true}));
        let effects = [TaintEffect::NoSchedule, TaintEffect::NoExecute];
        let taints = effects.map(|effect| entry("gpu", &["a", "b"], Some(effect))).into();
        let taints = template(TemplateAction::Taint, taints);
        taints.check().unwrap();
        let resolved = taints.resolve(&set(&[("gpu", "a")]), false).unwrap();
        assert_eq!(resolved["taints"][1], json!({"key": "gpu", "value": "a", "effect": "NoExecute"}));
        let notes = template(TemplateAction::Annotate, vec![entry("a.b/owner", &["ada, for now"], None)]);
        notes.check().unwrap();
        assert_eq!(notes.resolve(&set(&[]), false).unwrap()["annotations"]["a.b/owner"], "ada, for now");
    }

    #[test]
    fn nothing_is_picked_by_itself_and_nothing_silently_dropped() {
        let labels = template(
            TemplateAction::Label,
            vec![entry("team", &["web"], None), entry("tier", &["gold", "silver"], None)],
        );
        let faults = labels.resolve(&set(&[("team", "db"), ("zone", "a")]), false).unwrap_err();
        let expected = [
            "set.zone is not in the template: it has team, tier",
            "set.team must be picked: one of web",
            "set.tier must be picked: one of gold, silver",
        ];
        assert_eq!(told(faults), expected);
    }

    #[test]
    fn what_could_not_be_applied_is_not_kept() {
        let bad = template(
            TemplateAction::Label,
            vec![
                entry("team", &["we b"], None),
                entry("team", &["x"], None),
                entry("tier", &[], None),
                entry("zone", &["a", "a"], None),
                entry("gpu", &["a"], Some(TaintEffect::NoExecute)),
                entry("-", &["a"], None),
            ],
        );
        let faults = told(bad.check().unwrap_err());
        assert!(faults[0].starts_with("entries[0] with the value \"we b\": parameters.labels"), "{faults:?}");
        assert_eq!(faults[1], "entries[1] repeats an entry before it");
        assert_eq!(faults[2], "entries[2].values must hold 1 to 32 different values");
        assert_eq!(faults[3], "entries[3].values must hold 1 to 32 different values");
        assert_eq!(faults[4], "entries[4].effect is for taints alone: leave it out");
        assert!(faults[5].starts_with("entries[5] with the value \"a\": "), "{faults:?}");
        let taint = template(TemplateAction::Taint, vec![entry("gpu", &["a"], None)]);
        assert!(told(taint.check().unwrap_err())[0].starts_with("entries[0].effect must be NoSchedule"));
        assert!(template(TemplateAction::Label, Vec::new()).check().is_err());
    }

    #[test]
    fn names_can_stand_in_an_address() {
        for name in ["a", "gold-tier", "x1"] {
            assert_eq!(name.parse::<TemplateName>().unwrap().as_str(), name);
        }
        for name in ["", "-a", "a-", "A", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(name.parse::<TemplateName>().is_err(), "{name}");
        }
    }
}
