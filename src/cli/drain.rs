//! From the command line to the parameters of a drain: the flags of `kubectl drain`. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::exit::UsageError;
use crate::config::duration;

/// Flags for drain alone.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "For drain")]
pub struct DrainArgs {
    /// Seconds for each pod to end by itself; -1 for the pod's own.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub grace_period: Option<i64>,

    /// How long one node may take from its first eviction, such as 10m; 30m by default.
    #[arg(long = "timeout", value_name = "TIME", value_parser = duration::parse)]
    pub drain_timeout: Option<Duration>,

    /// Leave pods of `DaemonSets` where they are, instead of refusing the node.
    #[arg(long)]
    pub ignore_daemonsets: bool,

    /// Evict pods with emptyDir volumes too: their data is lost.
    #[arg(long)]
    pub delete_emptydir_data: bool,

    /// Evict pods too that nothing makes anew; takes the capability force.
    #[arg(long)]
    pub force: bool,

    /// Delete pods instead of evicting them, so that no disruption budget is asked; takes the capability bypass-pdb.
    #[arg(long, alias = "disable-eviction")]
    pub bypass_pdb: bool,

    /// Only pods with these labels.
    #[arg(long, value_name = "SELECTOR")]
    pub pod_selector: Option<String>,

    /// Do not wait for pods that have been terminating for longer than this.
    #[arg(long, value_name = "SECONDS")]
    pub skip_wait_for_delete_timeout: Option<u32>,
}

impl DrainArgs {
    /// The flags, each with whether it is given.
    pub(super) fn given(&self) -> [(&'static str, bool); 8] {
        [
            ("--grace-period", self.grace_period.is_some()),
            ("--timeout", self.drain_timeout.is_some()),
            ("--ignore-daemonsets", self.ignore_daemonsets),
            ("--delete-emptydir-data", self.delete_emptydir_data),
            ("--force", self.force),
            ("--bypass-pdb", self.bypass_pdb),
            ("--pod-selector", self.pod_selector.is_some()),
            ("--skip-wait-for-delete-timeout", self.skip_wait_for_delete_timeout.is_some()),
        ]
    }

    /// The parameters. What they may be is checked with the rest of the request.
    ///
    /// # Errors
    /// A time-out that is no whole number of seconds.
    pub(super) fn parameters(&self) -> Result<Value, UsageError> {
        let mut parameters = json!({
            "ignore_daemonsets": self.ignore_daemonsets,
            "delete_emptydir_data": self.delete_emptydir_data,
            "force": self.force,
        });
        let given = [
            ("grace_period_seconds", self.grace_period.map(Value::from)),
            ("timeout_seconds", self.drain_timeout.map(seconds).transpose()?.map(Value::from)),
            ("bypass_pdb", self.bypass_pdb.then_some(Value::from(true))),
            ("pod_selector", self.pod_selector.clone().map(Value::from)),
            ("skip_wait_for_delete_timeout_seconds", self.skip_wait_for_delete_timeout.map(Value::from)),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                parameters[name] = value;
            }
        }
        Ok(parameters)
    }
}

fn seconds(time: Duration) -> Result<u64, UsageError> {
    match time.subsec_nanos() {
        0 => Ok(time.as_secs()),
        _ => Err(UsageError(format!("--timeout {time:?} is no whole number of seconds"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_parameters_and_what_is_left_out_is_left_out() {
        let none = json!({"ignore_daemonsets": false, "delete_emptydir_data": false, "force": false});
        assert_eq!(DrainArgs::default().parameters().unwrap(), none);
        let all = DrainArgs {
            grace_period: Some(-1),
            drain_timeout: Some(Duration::from_secs(90)),
            ignore_daemonsets: true,
            delete_emptydir_data: true,
            force: true,
            bypass_pdb: true,
            pod_selector: Some("app=web".into()),
            skip_wait_for_delete_timeout: Some(5),
        };
        let expected = json!({"ignore_daemonsets": true, "delete_emptydir_data": true, "force": true, "bypass_pdb": true,
            "grace_period_seconds": -1, "timeout_seconds": 90, "pod_selector": "app=web",
            "skip_wait_for_delete_timeout_seconds": 5});
        assert_eq!(all.parameters().unwrap(), expected);
        assert!(all.given().iter().all(|(_, given)| *given));
        let odd = DrainArgs { drain_timeout: Some(Duration::from_millis(1_500)), ..DrainArgs::default() };
        assert!(odd.parameters().unwrap_err().to_string().contains("whole number of seconds"));
    }
}
