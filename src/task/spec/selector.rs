//! Label selectors with the grammar of Kubernetes: read, and applied to labels. Pure.

use std::collections::BTreeMap;

use super::action::{is_label_key, is_label_text};

/// Longest selector, in bytes.
const LEN_MAX: usize = 1_000;

/// A label selector, such as `app=web,tier!=gold,zone in (a,b),!old`: labels must meet all of its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    Exists,
    Missing,
    In(Vec<String>),
    /// A label that is not there has none of the values.
    NotIn(Vec<String>),
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence that begins with the field.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("must not be empty: leave it out to select all".to_owned());
        }
        if text.len() > LEN_MAX {
            return Err(format!("must have at most {LEN_MAX} bytes"));
        }
        let read = |part: &str| {
            Requirement::parse(part.trim()).ok_or_else(|| {
                format!(
                    "must be a label selector such as app=web,tier!=gold,zone in (a,b),!old; not understood: {part:?}"
                )
            })
        };
        parts(text).map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether labels meet every part.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

/// Makes an operator of the values behind it.
type OfValues = fn(Vec<String>) -> Operator;

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        let made = |key: &str, operator| {
            is_label_key(key.trim()).then(|| Self { key: key.trim().to_owned(), operator })
        };
        if let Some(key) = text.strip_prefix('!') {
            return made(key, Operator::Missing);
        }
        let kinds: [(&str, OfValues); 3] =
            [("!=", Operator::NotIn), ("==", Operator::In), ("=", Operator::In)];
        for (sign, kind) in kinds {
            if let Some((key, value)) = text.split_once(sign) {
                return made(key, kind(values(value)?));
            }
        }
        let Some((key, rest)) = text.split_once(char::is_whitespace) else {
            return made(text, Operator::Exists);
        };
        let rest = rest.trim();
        let (kind, set): (OfValues, _) = match rest.strip_prefix("notin") {
            Some(set) => (Operator::NotIn, set),
            None => (Operator::In, rest.strip_prefix("in")?),
        };
        made(key, kind(values(set.trim().strip_prefix('(')?.strip_suffix(')')?)?))
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::Exists => value.is_some(),
            Operator::Missing => value.is_none(),
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
        }
    }
}

/// The values of a list; a single value is a list of one.
fn values(text: &str) -> Option<Vec<String>> {
    let value = |value: &str| is_label_text(value.trim()).then(|| value.trim().to_owned());
    text.split(',').map(value).collect()
}

/// Checks a selector.
///
/// # Errors
/// As [`Selector::parse`].
pub(super) fn check(selector: &str) -> Result<(), String> {
    Selector::parse(selector).map(drop)
}

/// Splits at commas outside of parentheses.
fn parts(selector: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    selector.split(move |c| {
        inside = (inside || c == '(') && c != ')';
        c == ',' && !inside
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_understands_is_accepted() {
        for selector in [
            "app=web",
            "app == web",
            "app!=web",
            "app=",
            "app",
            "!app",
            "example.com/tier in (gold, silver),zone notin (a),!old,app",
            "app in (a)",
        ] {
            assert_eq!(check(selector), Ok(()), "{selector}");
        }
    }

    #[test]
    fn what_it_does_not_is_refused() {
        for selector in
            ["", " ", ",", "app=web,", "=web", "app=we b", "app in a", "app in (a", "app of (a)", "-a=b"]
        {
            assert!(check(selector).is_err(), "{selector}");
        }
        assert!(check(&"a".repeat(2_000)).is_err());
    }

    #[test]
    fn labels_must_meet_every_part() {
        let labels = [("app", "web"), ("zone", "a"), ("empty", "")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        for selector in [
            "app=web",
            "app==web,zone=a",
            "app!=db,tier!=gold",
            "app,!old",
            "empty=",
            "empty in (,x)",
            "zone in (a, b)",
            "zone notin (b),tier notin (gold)",
        ] {
            assert!(Selector::parse(selector).unwrap().matches(&labels), "{selector}");
        }
        for selector in
            ["app=db", "app=web,zone=b", "app!=web", "tier", "!app", "zone in (b)", "zone notin (a)"]
        {
            assert!(!Selector::parse(selector).unwrap().matches(&labels), "{selector}");
        }
    }
}
