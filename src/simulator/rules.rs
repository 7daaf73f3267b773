//! Faults on order: what goes wrong for which requests, and how often.
//!
//! Chance is a function of the seed, the rule, the request and how often it was made, never of the order in which
//! different requests arrive: two runs with the same seed meet the same faults, however their tasks interleave.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Different requests whose repeats are counted; past that the counts begin anew.
const COUNTED_MAX: usize = 100_000;

/// A fault, and the requests that meet it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Kubernetes verb (`get`, `list`, `watch`, `patch`, ...); every verb when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<String>,
    /// Path of the request, in which `*` stands for any text.
    #[serde(default = "any_path")]
    pub path: String,
    /// The share of matching requests that meets the fault, from 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// How many requests meet it before it ends; no end when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// What goes wrong.
    pub fault: Fault,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The answer comes later, by a time between the two.
    Latency {
        /// The least delay.
        #[serde(with = "crate::config::duration")]
        from: Duration,
        /// The most.
        #[serde(with = "crate::config::duration")]
        to: Duration,
    },
    /// Refused with this HTTP code and a `Status` object; nothing is done.
    Status(u16),
    /// Refused by priority and fairness: 429, plain text, `Retry-After` in whole seconds.
    Throttle {
        /// Seconds to wait.
        retry_after_secs: u32,
    },
    /// The connection is reset without an answer; nothing is done.
    Reset,
    /// The connection is reset without an answer, but what was asked is done.
    ResetAfter,
    /// What was asked is done, and the connection ends in the middle of the answer.
    BreakOff,
    /// The connection ends a time after the answer began, which a watch notices and a short answer does not.
    Cut {
        /// How long it lasts.
        #[serde(with = "crate::config::duration")]
        after: Duration,
    },
    /// Another writer changes the object just before: a request that names its version is refused with a 409.
    Contend,
}

fn any_path() -> String {
    "*".into()
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// A rule that every request with this verb meets, every time.
    #[must_use]
    pub fn on(verb: impl Into<String>, fault: Fault) -> Self {
        Self { verb: Some(verb.into()), path: any_path(), probability: always(), times: None, fault }
    }

    /// The same, for paths like this one only.
    #[must_use]
    pub fn path(self, path: impl Into<String>) -> Self {
        Self { path: path.into(), ..self }
    }

    /// The same, for a share of the requests.
    #[must_use]
    pub fn probability(self, probability: f64) -> Self {
        Self { probability, ..self }
    }

    /// The same, ending after so many requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    fn matches(&self, verb: &str, path: &str) -> bool {
        self.verb.as_deref().is_none_or(|v| v == verb) && glob(&self.path, path)
    }
}

/// Whether `text` fits a pattern in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(tail)
}

/// What one request meets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) delay: Duration,
    pub(super) fault: Option<Fault>,
}

#[derive(Debug)]
pub(super) struct Rules {
    seed: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<(Rule, u32)>,
    asked: HashMap<u64, u32>,
}

impl Rules {
    pub(super) fn new(seed: u64, rules: Vec<Rule>) -> Self {
        let this = Self { seed, inner: Mutex::default() };
        this.replace(rules);
        this
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other rules in force.
    pub(super) fn replace(&self, rules: Vec<Rule>) {
        self.lock().rules = rules.into_iter().map(|rule| (rule, 0)).collect();
    }

    /// What a request meets: all delays, and the first fault that ends it.
    pub(super) fn meet(&self, verb: &str, path: &str) -> Verdict {
        let mut inner = self.lock();
        let request = hash(&(self.seed, verb, path));
        let repeat = inner.count(request);
        let mut verdict = Verdict::default();
        for (i, (rule, hits)) in inner.rules.iter_mut().enumerate() {
            let spent = rule.times.is_some_and(|times| *hits >= times);
            let decided = verdict.fault.is_some() && !matches!(rule.fault, Fault::Latency { .. });
            let chance = unit(hash(&(request, i, repeat)));
            if spent || decided || !rule.matches(verb, path) || chance >= rule.probability {
                continue;
            }
            *hits += 1;
            match &rule.fault {
                Fault::Latency { from, to } => {
                    let share = unit(hash(&(request, i, repeat, "latency")));
                    verdict.delay += *from + to.saturating_sub(*from).mul_f64(share);
                }
                fault => verdict.fault = Some(fault.clone()),
            }
        }
        verdict
    }
}

impl Inner {
    fn count(&mut self, request: u64) -> u32 {
        if self.asked.len() >= COUNTED_MAX {
            self.asked.clear();
        }
        let repeats = self.asked.entry(request).or_default();
        *repeats = repeats.wrapping_add(1);
        *repeats
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A number from 0 up to, not including, 1.
fn unit(bits: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a float exactly")]
    let fraction = (bits >> 11) as f64 / (1_u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text) in
            [("*", "/x"), ("/a/*", "/a/b"), ("/a/*/c", "/a/b/c"), ("*b*c", "/a/b/c"), ("/a", "/a")]
        {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("/a", "/ab"), ("/a/*", "/b/a/"), ("*c", "/c/d"), ("/a/*/c", "/a/c")] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn rules_are_read_as_people_write_them() {
        let read = |text| serde_json::from_str::<Rule>(text).unwrap();
        let slow =
            r#"{"verb": "get", "probability": 0.5, "fault": {"latency": {"from": "10ms", "to": "1s"}}}"#;
        let (from, to) = (Duration::from_millis(10), Duration::from_secs(1));
        assert_eq!(read(slow), Rule::on("get", Fault::Latency { from, to }).probability(0.5));
        let cut = Rule { verb: None, ..Rule::on("", Fault::Reset).path("/api/*").times(3) };
        assert_eq!(read(r#"{"path": "/api/*", "times": 3, "fault": "reset"}"#), cut);
        assert!(serde_json::from_str::<Rule>(r#"{"fault": "reset", "tmies": 3}"#).is_err());
    }

    #[test]
    fn chance_does_not_depend_on_the_order_of_other_requests() {
        let rules = || Rules::new(7, vec![Rule::on("get", Fault::Status(500)).probability(0.5)]);
        let met = |rules: &Rules, path: &str| rules.meet("get", path).fault.is_some();
        let (one, two) = (rules(), rules());
        let forward: Vec<_> = (0..100).map(|i| met(&one, &format!("/{i}"))).collect();
        let mut backward: Vec<_> = (0..100).rev().map(|i| met(&two, &format!("/{i}"))).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        let hits = forward.iter().filter(|hit| **hit).count();
        assert!((30..70).contains(&hits), "{hits} of 100");
    }

    #[test]
    fn delays_add_up_and_the_first_fault_wins_until_it_is_spent() {
        let ms = Duration::from_millis;
        let latency = Fault::Latency { from: ms(10), to: ms(10) };
        let rules = Rules::new(
            1,
            vec![
                Rule::on("get", Fault::Status(503)).times(1),
                Rule::on("get", Fault::Reset).path("/x"),
                Rule::on("get", latency.clone()),
                Rule::on("get", latency),
            ],
        );
        assert_eq!(rules.meet("get", "/x"), Verdict { delay: ms(20), fault: Some(Fault::Status(503)) });
        assert_eq!(rules.meet("get", "/x").fault, Some(Fault::Reset));
        assert_eq!(rules.meet("get", "/y").fault, None);
        assert_eq!(rules.meet("patch", "/x"), Verdict::default());
    }
}
