//! What the cluster's answer to an eviction means for its pod. Pure.

use std::time::Duration;

use kube::core::Status;

use super::super::busy::Busy;
use super::super::errors::{CallError, cause, retry_after, root_cause};

/// How an eviction was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is on its way.
    Granted,
    /// There is no such pod any more.
    Gone,
    /// The name may belong to another pod by now.
    Conflict,
    /// A disruption budget does not allow it now.
    Budget { budget: String, why: String, retry_after: Option<Duration> },
    /// The cluster did not look at it, or nobody knows whether it did. It may be asked again: the pod is named by its UID.
    Busy { why: String, retry_after: Option<Duration> },
    /// Its namespace is being deleted, and the pod with it.
    Closing { why: String },
    /// Something broke that may pass.
    Broken { why: String },
    /// It will not be done.
    Refused { why: String },
    /// We were told to stop before it was sent.
    NotSent,
}

impl From<Result<(), CallError>> for Answer {
    fn from(result: Result<(), CallError>) -> Self {
        match result {
            Ok(()) => Self::Granted,
            Err(CallError::Kube(kube::Error::Api(status))) => of_status(&status),
            Err(CallError::Kube(kube::Error::Service(source))) => match source.downcast_ref::<Busy>() {
                Some(busy) => {
                    Self::Busy { why: "it asks to come back later".into(), retry_after: busy.retry_after }
                }
                None => unreachable(root_cause(source.as_ref())),
            },
            Err(CallError::Kube(error)) => unreachable(root_cause(&error)),
            Err(error @ CallError::Crowded(wait)) => {
                Self::Busy { why: error.to_string(), retry_after: Some(wait) }
            }
            Err(CallError::Broken(broken)) => {
                let retry_after = Some(broken.retry_after);
                Self::Busy { why: CallError::Broken(broken).to_string(), retry_after }
            }
            Err(error) => Self::Busy { why: error.to_string(), retry_after: None },
        }
    }
}

fn unreachable(cause: &dyn std::fmt::Display) -> Answer {
    Answer::Busy { why: format!("it cannot be reached: {cause}"), retry_after: None }
}

fn of_status(status: &Status) -> Answer {
    let why = status.message.clone();
    let retry_after = retry_after(status);
    match status.code {
        404 => Answer::Gone,
        409 => Answer::Conflict,
        429 => match cause(status, "DisruptionBudget") {
            Some(said) => Answer::Budget { budget: budget(said), why: said.to_owned(), retry_after },
            None => Answer::Busy { why, retry_after },
        },
        403 if cause(status, "NamespaceTerminating").is_some() => Answer::Closing { why },
        408 | 502 | 503 | 504 => Answer::Busy { why, retry_after },
        500 if why.contains("more than one PodDisruptionBudget") => Answer::Refused { why },
        500.. => Answer::Broken { why },
        _ => Answer::Refused { why },
    }
}

/// The name of the budget in the cluster's sentence "The disruption budget NAME needs ...".
fn budget(said: &str) -> String {
    let name = said.strip_prefix("The disruption budget ").and_then(|rest| rest.split_whitespace().next());
    name.map_or_else(|| "a budget".to_owned(), |name| format!("budget {name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answered(status: &Value) -> Answer {
        let status: Status = serde_json::from_value(status.clone()).unwrap();
        Answer::from(Err(CallError::Kube(kube::Error::Api(Box::new(status)))))
    }

    fn plain(code: u16) -> Answer {
        answered(&json!({"status": "Failure", "code": code, "message": "why", "reason": "Some"}))
    }

    #[test]
    fn a_budget_is_named_with_what_it_needs_and_has() {
        let said = "The disruption budget web needs 2 healthy pods and has 2 currently";
        let cause = json!({"reason": "DisruptionBudget", "message": said});
        let mut status = json!({
            "status": "Failure", "code": 429, "reason": "TooManyRequests",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "details": {"causes": [cause]},
        });
        let (budget, why) = ("budget web".to_owned(), said.to_owned());
        let expected = Answer::Budget { budget: budget.clone(), why: why.clone(), retry_after: None };
        assert_eq!(answered(&status), expected);
        status["details"]["retryAfterSeconds"] = 10.into();
        let retry_after = Some(Duration::from_secs(10));
        assert_eq!(answered(&status), Answer::Budget { budget, why, retry_after });
        assert_eq!(budget_of("Something else"), "a budget");
    }

    fn budget_of(said: &str) -> String {
        budget(said)
    }

    #[test]
    fn a_429_without_a_budget_is_a_busy_cluster() {
        let expected = Answer::Busy { why: "why".into(), retry_after: None };
        assert_eq!(plain(429), expected);
        let busy = Busy { code: 429, retry_after: Some(Duration::from_secs(3)) };
        let answer = Answer::from(Err(CallError::Kube(kube::Error::Service(busy.into()))));
        assert!(matches!(answer, Answer::Busy { retry_after: Some(wait), .. } if wait.as_secs() == 3));
    }

    #[test]
    fn each_code_has_its_reaction() {
        let why = || "why".to_owned();
        assert_eq!(Answer::from(Ok(())), Answer::Granted);
        assert_eq!((plain(404), plain(409)), (Answer::Gone, Answer::Conflict));
        for code in [400, 401, 403, 422] {
            assert_eq!(plain(code), Answer::Refused { why: why() }, "{code}");
        }
        for code in [408, 502, 503, 504] {
            assert_eq!(plain(code), Answer::Busy { why: why(), retry_after: None }, "{code}");
        }
        assert_eq!(plain(500), Answer::Broken { why: why() });
        let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        let two = json!({"status": "Failure", "code": 500, "message": two, "reason": "InternalError"});
        assert!(matches!(answered(&two), Answer::Refused { .. }));
        let closing = json!({"status": "Failure", "code": 403, "message": "why", "reason": "Forbidden",
            "details": {"causes": [{"reason": "NamespaceTerminating", "message": "namespace is terminating"}]}});
        assert_eq!(answered(&closing), Answer::Closing { why: why() });
    }

    #[test]
    fn what_may_have_been_done_may_be_asked_again() {
        let late = Answer::from(Err(CallError::TimedOut(Duration::from_secs(20))));
        assert_eq!(late, Answer::Busy { why: "no answer within 20s".into(), retry_after: None });
        let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let cut = Answer::from(Err(CallError::Kube(kube::Error::Service(cut.into()))));
        assert!(matches!(cut, Answer::Busy { .. }), "{cut:?}");
    }
}
