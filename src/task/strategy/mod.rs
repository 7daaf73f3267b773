//! How a task goes through its items: in which waves, in which order, at which times, and past what it waits.
//!
//! Pure. [`wave`] cuts an order into waves and says which one is open, [`order`] makes the order of facts that are
//! passed in, [`window`] says when items may start, [`room`] how many nodes may be out of service. All of it can be
//! asked for again at any time and answers the same. Not here: where facts come from and who waits (worker).

mod amount;
mod order;
mod room;
mod wave;
mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use amount::{Amount, AmountDraft};
pub use order::{Facts, OrderRule, in_order};
pub use room::{NodeState, Room};
pub use wave::{WaveMark, Waves};
pub use window::{Opening, Window, opening};

use super::spec::ITEMS_MAX;

/// Most entries in a list of wave sizes.
pub const WAVE_SIZES_MAX: usize = 100;
/// Most maintenance windows of one task.
pub const WINDOWS_MAX: usize = 20;
/// Longest pause between two waves.
pub const SOAK_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// After which waves a task waits until somebody resumes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// After none.
    #[default]
    None,
    /// After the first.
    First,
    /// After each but the last.
    Each,
}

/// A strategy as it came in: shapes are right, rules are not checked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StrategyDraft {
    /// Items of the first wave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<u32>,
    /// Items of each wave after that; the last size holds for all further waves. One wave of all when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<AmountDraft>,
    /// What decides which items go first; as they were given when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<OrderRule>,
    /// Pause between two waves, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak_ms: Option<u64>,
    /// After which waves it waits until somebody resumes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Most nodes of the cluster that may be cordoned, not ready or in work at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<AmountDraft>,
    /// When items may start, such as `Mon-Fri 22:00-04:00 Europe/Berlin`; at any time when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<String>,
}

/// A strategy in which every rule holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strategy {
    /// Items of the first wave, if that is set apart.
    pub canary: Option<u32>,
    /// Items of each wave after that; the last size holds for all further ones.
    pub waves: Vec<Amount>,
    /// What decides which items go first.
    pub order: Vec<OrderRule>,
    /// Pause between two waves.
    pub soak: Duration,
    /// After which waves it waits until somebody resumes it.
    pub gate: Gate,
    /// Most nodes of the cluster that may be out of service at once.
    pub max_unavailable: Option<Amount>,
    /// When items may start.
    pub windows: Vec<Window>,
}

impl Strategy {
    /// Checks a draft. One that asks for nothing is no strategy.
    ///
    /// # Errors
    /// What is wrong with it: fields below the strategy's own, such as `.waves[1]`, and why.
    pub fn parse(draft: &StrategyDraft) -> Result<Option<Self>, Vec<(String, String)>> {
        let mut faults = Vec::new();
        check_numbers(draft, &mut faults);
        let waves = amounts(&draft.waves, &mut faults);
        let max_unavailable = draft.max_unavailable.as_ref().and_then(|draft| {
            draft.parse().map_err(|why| faults.push((".max_unavailable".to_owned(), why))).ok()
        });
        let windows = windows(&draft.windows, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut order = draft.order.clone();
        order.sort_unstable();
        let strategy = Self {
            canary: draft.canary,
            waves,
            order,
            soak: Duration::from_millis(draft.soak_ms.unwrap_or(0)),
            gate: draft.gate.unwrap_or_default(),
            max_unavailable,
            windows,
        };
        Ok(Some(strategy).filter(|strategy| *strategy != Self::default()))
    }

    /// The same as it would come in, for storage, comparison and answers.
    #[must_use]
    pub fn draft(&self) -> StrategyDraft {
        StrategyDraft {
            canary: self.canary,
            waves: self.waves.iter().map(|amount| AmountDraft::from(*amount)).collect(),
            order: self.order.clone(),
            soak_ms: Some(u64::try_from(self.soak.as_millis()).unwrap_or(u64::MAX)).filter(|ms| *ms > 0),
            gate: Some(self.gate).filter(|gate| *gate != Gate::None),
            max_unavailable: self.max_unavailable.map(AmountDraft::from),
            windows: self.windows.iter().map(ToString::to_string).collect(),
        }
    }

    /// How it cuts so many items into waves.
    #[must_use]
    pub fn cut(&self, total: u32) -> Waves {
        Waves::new(self.canary, &self.waves, total)
    }

    /// Whether the wave with this number, from 1, is followed by a pause until somebody resumes the task.
    #[must_use]
    pub fn gates(&self, wave: u32) -> bool {
        match self.gate {
            Gate::None => false,
            Gate::First => wave == 1,
            Gate::Each => true,
        }
    }
}

fn check_numbers(draft: &StrategyDraft, faults: &mut Vec<(String, String)>) {
    let mut add = |field: &str, why: String| faults.push((field.to_owned(), why));
    let soak_max = u64::try_from(SOAK_MAX.as_millis()).unwrap_or(u64::MAX);
    if draft.canary.is_some_and(|n| !(1..=ITEMS_MAX).contains(&(n as usize))) {
        add(".canary", format!("must be from 1 to {ITEMS_MAX}"));
    }
    if draft.waves.len() > WAVE_SIZES_MAX {
        add(".waves", format!("must hold at most {WAVE_SIZES_MAX} sizes, holds {}", draft.waves.len()));
    }
    if draft.soak_ms.is_some_and(|ms| ms > soak_max) {
        add(".soak_ms", format!("must be at most {soak_max}"));
    }
    let in_waves = draft.canary.is_some() || !draft.waves.is_empty();
    if draft.soak_ms.is_some_and(|ms| ms > 0) && !in_waves {
        add(".soak_ms", "is for tasks in waves: set canary or waves".to_owned());
    }
    if draft.gate.is_some_and(|gate| gate != Gate::None) && !in_waves {
        add(".gate", "is for tasks in waves: set canary or waves".to_owned());
    }
    for (i, rule) in draft.order.iter().enumerate() {
        if draft.order[..i].contains(rule) {
            add(&format!(".order[{i}]"), format!("repeats {}", rule.as_str()));
        }
    }
    if draft.windows.len() > WINDOWS_MAX {
        add(".windows", format!("must hold at most {WINDOWS_MAX}, holds {}", draft.windows.len()));
    }
}

fn amounts(drafts: &[AmountDraft], faults: &mut Vec<(String, String)>) -> Vec<Amount> {
    let read = |(i, draft): (usize, &AmountDraft)| {
        draft.parse().map_err(|why| faults.push((format!(".waves[{i}]"), why))).ok()
    };
    drafts.iter().enumerate().take(WAVE_SIZES_MAX).filter_map(read).collect()
}

fn windows(texts: &[String], faults: &mut Vec<(String, String)>) -> Vec<Window> {
    let read = |(i, text): (usize, &String)| {
        text.parse().map_err(|why| faults.push((format!(".windows[{i}]"), why))).ok()
    };
    texts.iter().enumerate().take(WINDOWS_MAX).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(draft: Value) -> Result<Option<Strategy>, Vec<String>> {
        let draft: StrategyDraft = serde_json::from_value(draft).unwrap();
        Strategy::parse(&draft).map_err(|faults| faults.into_iter().map(|(field, _)| field).collect())
    }

    #[test]
    fn what_asks_for_nothing_is_no_strategy() {
        assert_eq!(parse(json!({})), Ok(None));
        assert_eq!(parse(json!({"waves": [], "gate": "none", "soak_ms": 0})), Ok(None));
    }

    #[test]
    fn a_strategy_survives_storage() {
        let draft = json!({
            "canary": 1, "waves": [5, "10%"], "order": ["zones", "control_plane_last"], "soak_ms": 30_000,
            "gate": "each", "max_unavailable": "10%", "windows": ["Mon-Fri 22:00-04:00 Europe/Berlin"],
        });
        let strategy = parse(draft.clone()).unwrap().unwrap();
        assert_eq!(serde_json::to_value(strategy.draft()).unwrap(), draft);
        assert_eq!(Strategy::parse(&strategy.draft()), Ok(Some(strategy)));
    }

    #[test]
    fn the_order_of_rules_makes_no_difference() {
        let one = parse(json!({"order": ["own_node_last", "zones"]}));
        assert_eq!(one, parse(json!({"order": ["zones", "own_node_last"]})));
    }

    #[test]
    fn every_fault_is_named() {
        let bad = json!({
            "canary": 0, "waves": [0, "101%", "x", 5], "order": ["zones", "zones"], "soak_ms": 604_800_001_u64,
            "max_unavailable": "0%", "windows": ["Mon-Fri 22:00-04:00 Nowhere/At-All", "Mon 1:00-2:00 UTC"],
        });
        let expected = [
            ".canary",
            ".soak_ms",
            ".order[1]",
            ".waves[0]",
            ".waves[1]",
            ".waves[2]",
            ".max_unavailable",
            ".windows[0]",
        ];
        assert_eq!(parse(bad).unwrap_err(), expected);
        assert_eq!(parse(json!({"soak_ms": 1, "gate": "first"})).unwrap_err(), [".soak_ms", ".gate"]);
        let many = json!({"waves": vec![1; 101], "windows": vec!["UTC"; 21]});
        assert_eq!(&parse(many).unwrap_err()[..3], [".waves", ".windows", ".windows[0]"]);
    }

    #[test]
    fn a_gate_is_after_the_waves_that_were_asked_for() {
        let with = |gate| Strategy { gate, ..Strategy::default() };
        assert!(!with(Gate::None).gates(1));
        assert_eq!([1, 2].map(|n| with(Gate::First).gates(n)), [true, false]);
        assert_eq!([1, 2].map(|n| with(Gate::Each).gates(n)), [true, true]);
    }
}
