//! What a user may ask of a drain: the options of `kubectl drain` with its defaults, all unsafe ones off.
//!
//! There is no drain without an end. Not here: what becomes of each pod ([`crate::action::kubernetes`]), and who may ask
//! for what ([`crate::task::access`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::Faults;
use super::selector;

/// How long one node may take when the user does not say.
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// The longest that one node may take, and the longest grace period: a day.
const SECONDS_MAX: u32 = 24 * 3600;
/// Time of an item past the time-out of its drain, for what comes before the first eviction and after the last.
const AROUND: Duration = Duration::from_secs(60);

/// Parameters of `drain`. Times are in seconds, as Kubernetes counts grace periods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainParameters {
    /// Time for each pod to end by itself. Left out or negative: the pod's own. 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// How long one node may take, from its first eviction; 30 minutes when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Leave pods of `DaemonSets` where they are, instead of refusing the node.
    #[serde(default)]
    pub ignore_daemonsets: bool,
    /// Evict pods with `emptyDir` volumes, whose data is lost, instead of refusing the node.
    #[serde(default)]
    pub delete_emptydir_data: bool,
    /// Evict pods that nothing will make anew, instead of refusing the node.
    #[serde(default)]
    pub force: bool,
    /// Delete pods instead of asking for their eviction, so that no disruption budget is asked: kubectl's
    /// `--disable-eviction`. Not stored when it is off, so that older workers can read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bypass_pdb: bool,
    /// Only pods with these labels; a Kubernetes label selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<String>,
    /// Do not wait for pods that have been terminating for longer than this. 0 or left out: wait for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_wait_for_delete_timeout_seconds: Option<u32>,
}

impl DrainParameters {
    /// How long one node may take from its first eviction.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout_seconds.map_or(DRAIN_TIMEOUT_DEFAULT, |secs| Duration::from_secs(secs.into()))
    }

    /// The time-out of a whole item, which the drain's own always comes before.
    #[must_use]
    pub fn item_timeout(&self) -> Duration {
        self.timeout() + AROUND
    }

    /// How long after its end a pod that is still terminating is not waited for any more, if ever.
    #[must_use]
    pub fn skip_wait(&self) -> Option<Duration> {
        let secs = self.skip_wait_for_delete_timeout_seconds.filter(|secs| *secs > 0)?;
        Some(Duration::from_secs(secs.into()))
    }

    /// The grace period to ask for, if it is not each pod's own.
    #[must_use]
    pub fn grace_period(&self) -> Option<i64> {
        self.grace_period_seconds.filter(|secs| *secs >= 0)
    }
}

pub(super) fn check(parameters: &DrainParameters, faults: &mut Faults) {
    let max = i64::from(SECONDS_MAX);
    if parameters.grace_period_seconds.is_some_and(|secs| !(-1..=max).contains(&secs)) {
        faults.add(
            "parameters.grace_period_seconds",
            format!("must be -1 (each pod's own) or from 0 to {max}"),
        );
    }
    if parameters.timeout_seconds.is_some_and(|secs| !(1..=SECONDS_MAX).contains(&secs)) {
        faults.add(
            "parameters.timeout_seconds",
            format!("must be from 1 to {max}: there is no drain without an end"),
        );
    }
    if parameters.skip_wait_for_delete_timeout_seconds.is_some_and(|secs| secs > SECONDS_MAX) {
        faults.add("parameters.skip_wait_for_delete_timeout_seconds", format!("must be from 0 to {max}"));
    }
    if let Some(Err(why)) = parameters.pod_selector.as_deref().map(selector::check) {
        faults.add("parameters.pod_selector", why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ActionSpec;
    use super::*;

    fn parse(parameters: &Value) -> Result<DrainParameters, String> {
        match ActionSpec::parse("drain", parameters) {
            Ok(ActionSpec::Drain(parameters)) => Ok(parameters),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_defaults_are_those_of_kubectl_but_for_the_end() {
        let drain = parse(&json!({})).unwrap();
        assert_eq!(drain, DrainParameters::default());
        assert!(!drain.ignore_daemonsets && !drain.delete_emptydir_data && !drain.force);
        assert_eq!((drain.grace_period(), drain.timeout()), (None, DRAIN_TIMEOUT_DEFAULT));
        assert_eq!(parse(&json!({"grace_period_seconds": -1})).unwrap().grace_period(), None);
        assert_eq!(parse(&json!({"grace_period_seconds": 0})).unwrap().grace_period(), Some(0));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        for (parameters, why) in [
            (json!({"grace_period_seconds": -2}), "parameters.grace_period_seconds must be -1"),
            (json!({"timeout_seconds": 0}), "parameters.timeout_seconds must be from 1 to 86400"),
            (json!({"timeout_seconds": 86_401}), "parameters.timeout_seconds"),
            (json!({"skip_wait_for_delete_timeout_seconds": 86_401}), "parameters.skip_wait"),
            (json!({"pod_selector": "app in (a"}), "parameters.pod_selector"),
            (json!({"disable_eviction": true}), "unknown field `disable_eviction`"),
        ] {
            let error = parse(&parameters).unwrap_err();
            assert!(error.contains(why), "{parameters}: {error}");
        }
    }

    #[test]
    fn a_drain_survives_storage_and_outlives_its_own_time_out() {
        let parameters = json!({"timeout_seconds": 90, "force": true, "pod_selector": "app=web,!old"});
        let action = ActionSpec::parse("drain", &parameters).unwrap();
        assert_eq!(ActionSpec::parse("drain", &action.parameters()), Ok(action.clone()));
        assert!(action.item_timeout().unwrap() > Duration::from_secs(90));
        assert_eq!(ActionSpec::Cordon.item_timeout(), None);
    }
}
