//! From the command line to a failure budget. Pure.

use super::exit::UsageError;
use crate::task::{FailureBudget, Then};

/// Flags that set a failure budget.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct BudgetArgs {
    /// Most items that may fail, such as 5 or 10%; one more stops the task. Give both to have both.
    #[arg(long = "max-failed", value_name = "N|P%", value_delimiter = ',')]
    max_failed: Vec<String>,

    /// Most items that may fail one right after the other.
    #[arg(long, value_name = "N")]
    max_consecutive: Option<u32>,

    /// What then becomes of the task: pause (the default), or abort, which cancels the rest and fails.
    #[arg(long, value_name = "WHAT", value_parser = then)]
    on_failure: Option<Then>,
}

fn then(text: &str) -> Result<Then, String> {
    match text {
        "pause" => Ok(Then::Pause),
        "abort" => Ok(Then::Abort),
        _ => Err("must be pause or abort".to_owned()),
    }
}

impl BudgetArgs {
    /// The budget, if any flag sets one. Its limits are checked with the rest of the request.
    ///
    /// # Errors
    /// A limit that cannot be read or is given twice, or `--on-failure` without a limit.
    pub fn budget(&self) -> Result<Option<FailureBudget>, UsageError> {
        let then = self.on_failure.unwrap_or_default();
        let mut budget =
            FailureBudget { consecutive: self.max_consecutive, then, ..FailureBudget::default() };
        for text in &self.max_failed {
            let bad = || UsageError(format!("--max-failed {text:?} is neither a number nor a percentage"));
            let twice = match text.strip_suffix('%') {
                Some(percent) => budget.percent.replace(percent.parse().map_err(|_| bad())?).is_some(),
                None => budget.failed.replace(text.parse().map_err(|_| bad())?).is_some(),
            };
            if twice {
                return Err(UsageError(format!(
                    "--max-failed {text} is given after another one of its kind"
                )));
            }
        }
        if (budget.failed, budget.percent, budget.consecutive) != (None, None, None) {
            return Ok(Some(budget));
        }
        match self.on_failure {
            Some(_) => Err(UsageError("--on-failure needs --max-failed or --max-consecutive".to_owned())),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(max_failed: &[&str], max_consecutive: Option<u32>, on_failure: Option<Then>) -> BudgetArgs {
        let max_failed = max_failed.iter().map(|text| (*text).to_owned()).collect();
        BudgetArgs { max_failed, max_consecutive, on_failure }
    }

    #[test]
    fn flags_become_a_budget() {
        assert_eq!(args(&[], None, None).budget().unwrap(), None);
        let five = args(&["5"], None, None).budget().unwrap().unwrap();
        assert_eq!(five, FailureBudget { failed: Some(5), ..FailureBudget::default() });
        let all = args(&["10%", "0"], Some(3), Some(Then::Abort)).budget().unwrap().unwrap();
        let expected =
            FailureBudget { failed: Some(0), percent: Some(10), consecutive: Some(3), then: Then::Abort };
        assert_eq!(all, expected);
    }

    #[test]
    fn what_is_no_budget_is_refused_with_a_reason() {
        for (args, why) in [
            (args(&["many"], None, None), "neither a number nor a percentage"),
            (args(&["300%"], None, None), "neither a number nor a percentage"),
            (args(&["-1"], None, None), "neither a number nor a percentage"),
            (args(&["5", "6"], None, None), "after another one"),
            (args(&[], None, Some(Then::Pause)), "needs --max-failed"),
        ] {
            let error = args.budget().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
