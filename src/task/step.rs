//! What an item in work is at, for those who watch: never a result, and never recorded.
//!
//! Bounded in size, so that any number of items in work fits into events. The newest step of an item is the only one that
//! counts. Not here: who makes steps ([`crate::action`]) and how often they are told ([`crate::worker`]).

use std::fmt::Write;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest text in a step, in characters; the rest is cut.
pub const STEP_TEXT_MAX: usize = 200;
/// Most obstacles that a step names.
pub const OBSTACLES_MAX: usize = 5;

/// What an item in work is at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// In a few words: `evicting pods`.
    pub doing: String,
    /// Where the pods of the node are, for an action that moves pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodCounts>,
    /// What keeps pods from going, the longest standing first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub obstacles: Vec<Obstacle>,
}

/// Where the pods of a node are. They add up to `total`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCounts {
    /// Pods that are to go.
    pub total: u32,
    /// Nobody has asked for their eviction yet.
    pub waiting: u32,
    /// Their eviction is being asked for, or was granted and they are on their way.
    pub evicting: u32,
    /// Their eviction was refused for now.
    pub blocked: u32,
    /// They will not go.
    pub failed: u32,
    /// They are gone.
    pub gone: u32,
}

/// What keeps pods from going for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// What it is: `budget web`.
    pub by: String,
    /// How many pods it keeps.
    pub pods: u32,
    /// One of them, as `namespace/name`.
    pub pod: String,
    /// Since when it has kept one of them, by the worker's clock.
    pub since: Timestamp,
    /// What the cluster says of it, such as how many healthy pods are needed and there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Step {
    /// A step in words alone.
    #[must_use]
    pub fn doing(text: impl Into<String>) -> Self {
        Self { doing: text.into(), ..Self::default() }.bounded()
    }

    /// The step with every text and list cut to its bound.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        cut(&mut self.doing);
        self.obstacles.truncate(OBSTACLES_MAX);
        for obstacle in &mut self.obstacles {
            [&mut obstacle.by, &mut obstacle.pod, &mut obstacle.why].into_iter().for_each(cut);
        }
        self
    }

    /// For a line of text: `evicting 3, blocked by budget web since 12 s, gone 14 of 20`.
    #[must_use]
    pub fn sentence(&self, now: Timestamp) -> String {
        let Some(pods) = self.pods else { return self.doing.clone() };
        let mut parts = Vec::new();
        if pods.evicting > 0 {
            parts.push(format!("evicting {}", pods.evicting));
        }
        parts.extend(self.obstacles.iter().map(|obstacle| obstacle.sentence(now)));
        if pods.failed > 0 {
            parts.push(format!("failed {}", pods.failed));
        }
        if pods.waiting > 0 {
            parts.push(format!("waiting {}", pods.waiting));
        }
        parts.push(format!("gone {} of {}", pods.gone, pods.total));
        parts.join(", ")
    }
}

impl Obstacle {
    fn sentence(&self, now: Timestamp) -> String {
        let secs = now.duration_since(self.since).as_secs().max(0);
        let mut text = if self.pods > 1 { format!("{} ", self.pods) } else { String::new() };
        let _ = write!(text, "blocked by {} since {secs} s", self.by);
        text
    }
}

fn cut(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(STEP_TEXT_MAX) {
        text.truncate(at);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(by: &str, pods: u32, since: i64) -> Obstacle {
        let since = Timestamp::from_second(since).unwrap();
        Obstacle { by: by.into(), pods, pod: "default/web-1".into(), since, why: String::new() }
    }

    #[test]
    fn a_step_is_one_line_of_text() {
        let now = Timestamp::from_second(100).unwrap();
        let pods = PodCounts { total: 18, evicting: 3, blocked: 1, gone: 14, ..PodCounts::default() };
        let mut step =
            Step { pods: Some(pods), obstacles: vec![obstacle("budget web", 1, 88)], ..Step::doing("x") };
        assert_eq!(step.sentence(now), "evicting 3, blocked by budget web since 12 s, gone 14 of 18");
        step.obstacles = vec![obstacle("budget web", 2, 88), obstacle("the cluster", 1, 101)];
        let said =
            "evicting 3, 2 blocked by budget web since 12 s, blocked by the cluster since 0 s, gone 14 of 18";
        assert_eq!(step.sentence(now), said);
        assert_eq!(Step::doing("cordoning").sentence(now), "cordoning");
    }

    #[test]
    fn whatever_it_is_made_of_it_stays_small() {
        let long = "é".repeat(10_000);
        let obstacles = vec![Obstacle { why: long.clone(), pod: long.clone(), ..obstacle(&long, 1, 0) }; 50];
        let step = Step { obstacles, pods: Some(PodCounts::default()), ..Step::doing(&long) }.bounded();
        assert_eq!(step.obstacles.len(), OBSTACLES_MAX);
        assert!(serde_json::to_string(&step).unwrap().len() < 8_000);
    }
}
