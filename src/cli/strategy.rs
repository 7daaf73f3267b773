//! From the command line to a strategy, and back to words. Pure.

use std::convert::Infallible;
use std::time::Duration;

use crate::config::duration;
use crate::task::StrategyDraft;
use crate::task::strategy::{AmountDraft, Gate, OrderRule};

/// Flags that set a strategy.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StrategyArgs {
    /// Nodes in the first wave.
    #[arg(long, value_name = "N")]
    canary: Option<u32>,

    /// Nodes in each wave, such as 10 or 10%; or several sizes, such as 1,5,10%, of which the last one repeats.
    #[arg(long, value_name = "N|P%", value_delimiter = ',', value_parser = amount)]
    waves: Vec<AmountDraft>,

    /// Which nodes go first: zones (round robin), control-plane-last, own-node-last. Separate several with commas.
    #[arg(long, value_name = "RULES", value_delimiter = ',', value_parser = rule)]
    order: Vec<OrderRule>,

    /// Pause between two waves, such as 30s.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    soak: Option<Duration>,

    /// Pause after each wave, or after the first one, until somebody resumes the task.
    #[arg(long, value_name = "each|first", num_args = 0..=1, require_equals = true, default_missing_value = "each",
        value_parser = gate)]
    gate: Option<Gate>,

    /// Most nodes of the cluster that may be cordoned, not ready or in work at once, such as 5 or 10%.
    #[arg(long, value_name = "N|P%", value_parser = amount)]
    max_unavailable: Option<AmountDraft>,

    /// When nodes may be started, such as "Mon-Fri 22:00-04:00 Europe/Berlin". Repeat for several.
    #[arg(long = "window", value_name = "WINDOW")]
    windows: Vec<String>,
}

fn amount(text: &str) -> Result<AmountDraft, Infallible> {
    text.parse()
}

fn rule(text: &str) -> Result<OrderRule, String> {
    let word = text.replace('-', "_");
    let rule = OrderRule::ALL.into_iter().find(|rule| rule.as_str() == word);
    rule.ok_or_else(|| "must be zones, control-plane-last or own-node-last".to_owned())
}

fn gate(text: &str) -> Result<Gate, String> {
    match text {
        "each" => Ok(Gate::Each),
        "first" => Ok(Gate::First),
        _ => Err("must be each or first".to_owned()),
    }
}

impl StrategyArgs {
    /// The strategy, if any flag sets one. It is checked with the rest of the request.
    #[must_use]
    pub fn draft(&self) -> Option<StrategyDraft> {
        let draft = StrategyDraft {
            canary: self.canary,
            waves: self.waves.clone(),
            order: self.order.clone(),
            soak_ms: self.soak.map(duration::millis),
            gate: self.gate,
            max_unavailable: self.max_unavailable.clone(),
            windows: self.windows.clone(),
        };
        Some(draft).filter(|draft| *draft != StrategyDraft::default())
    }
}

/// A strategy in a line.
#[must_use]
pub fn words(draft: &StrategyDraft) -> String {
    let amount = |amount: &AmountDraft| match amount {
        AmountDraft::Count(n) => n.to_string(),
        AmountDraft::Text(text) => text.clone(),
    };
    let mut parts = Vec::new();
    parts.extend(draft.canary.map(|n| format!("canary of {n}")));
    if !draft.waves.is_empty() {
        parts.push(format!("waves of {}", draft.waves.iter().map(amount).collect::<Vec<_>>().join(", ")));
    }
    parts.extend(draft.order.iter().map(|rule| rule.as_str().replace('_', " ")));
    parts.extend(draft.soak_ms.map(|ms| format!("{:?} between waves", Duration::from_millis(ms))));
    parts.extend(draft.gate.and_then(|gate| match gate {
        Gate::None => None,
        Gate::First => Some("resumed by hand after the first wave".to_owned()),
        Gate::Each => Some("resumed by hand after each wave".to_owned()),
    }));
    parts.extend(draft.max_unavailable.as_ref().map(|most| format!("at most {} unavailable", amount(most))));
    parts.extend(draft.windows.iter().cloned());
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        strategy: StrategyArgs,
        names: Vec<String>,
    }

    fn draft(line: &[&str]) -> Result<Option<StrategyDraft>, String> {
        let line = Line::try_parse_from(["test"].iter().chain(line)).map_err(|error| error.to_string())?;
        Ok(line.strategy.draft())
    }

    #[test]
    fn flags_become_a_strategy() {
        assert_eq!(draft(&["node-1"]), Ok(None));
        let all = draft(&[
            "--waves",
            "10%",
            "--canary",
            "1",
            "--soak",
            "30s",
            "--gate",
            "--order",
            "zones,own-node-last",
            "--max-unavailable",
            "5",
            "--window",
            "Mon-Fri 22:00-04:00 Europe/Berlin",
            "--window",
            "12:00-13:00",
            "node-1",
        ]);
        let expected = StrategyDraft {
            canary: Some(1),
            waves: vec![AmountDraft::Text("10%".into())],
            order: vec![OrderRule::Zones, OrderRule::OwnNodeLast],
            soak_ms: Some(30_000),
            gate: Some(Gate::Each),
            max_unavailable: Some(AmountDraft::Count(5)),
            windows: vec!["Mon-Fri 22:00-04:00 Europe/Berlin".into(), "12:00-13:00".into()],
        };
        assert_eq!(all, Ok(Some(expected.clone())));
        assert_eq!(
            words(&expected),
            "canary of 1; waves of 10%; zones; own node last; 30s between waves; resumed by hand after each wave; \
             at most 5 unavailable; Mon-Fri 22:00-04:00 Europe/Berlin; 12:00-13:00"
        );
        let sizes = draft(&["--waves", "1,5,10%", "--gate=first"]).unwrap().unwrap();
        assert_eq!((sizes.waves.len(), sizes.gate), (3, Some(Gate::First)));
    }

    #[test]
    fn what_is_no_strategy_is_refused_with_a_reason() {
        for (line, why) in [
            (&["--order", "size"][..], "must be zones"),
            (&["--gate=last"], "must be each or first"),
            (&["--soak", "soon"], "soak"),
        ] {
            let error = draft(line).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
