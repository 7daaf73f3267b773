//! From an error of a call to an error of an item: whether trying again may help, and a sentence for the user.

use std::error::Error;
use std::time::Duration;

use kube::core::Status;

use super::breaker::Broken;
use super::busy::{Busy, RETRY_AFTER_MAX};
use crate::action::ActionError;
use crate::task::ClusterName;

/// The wait before a cluster is asked again that is away or has too much to do, and did not say when. How often it is asked is
/// the matter of its pace and its breaker.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The client or the server says so.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// No answer in time. What was asked may have been done.
    #[error("no answer within {}", text(.0))]
    TimedOut(Duration),
    /// So many calls want their turn that this one was not sent; holds how long its turn would have taken.
    #[error("more is asked of this cluster than its rate allows")]
    Crowded(Duration),
    /// The cluster does not answer, so this call was not sent.
    #[error("no answer for {}", text(&Duration::from_secs(.0.since.as_secs())))]
    Broken(Broken),
}

impl From<Broken> for CallError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// What the outcome of a call says about the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is there, whatever it said.
    Answered,
    /// It is there and has too much to do.
    Overloaded,
    /// It, or the way to it, is away.
    Unanswered,
}

impl Meaning {
    /// As metrics call it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Overloaded => "overloaded",
            Self::Unanswered => "unanswered",
        }
    }
}

/// A duration as people write it.
fn text(duration: &Duration) -> String {
    format!("{duration:?}")
}

/// What was called, for sentences.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) node: &'a str,
    /// The Kubernetes verb.
    pub(super) verb: &'static str,
}

impl CallError {
    /// The code of the API's answer, if it was one.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Whether another writer was faster.
    pub(super) fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// What it says about the cluster.
    pub(super) fn meaning(&self) -> Meaning {
        match self {
            Self::Kube(kube::Error::Api(status)) => match status.code {
                // A budget of pods that refuses an eviction says nothing about the server.
                429 if cause(status, "DisruptionBudget").is_some() => Meaning::Answered,
                429 | 503 => Meaning::Overloaded,
                _ => Meaning::Answered,
            },
            Self::Kube(kube::Error::Service(source)) => match source.downcast_ref::<Busy>() {
                Some(busy) if matches!(busy.code, 429 | 503) => Meaning::Overloaded,
                _ => Meaning::Unanswered,
            },
            Self::Kube(error) if is_answer(error) => Meaning::Answered,
            Self::Kube(_) | Self::TimedOut(_) => Meaning::Unanswered,
            Self::Crowded(_) | Self::Broken(_) => Meaning::Answered,
        }
    }

    pub(super) fn into_action(self, call: Call<'_>) -> ActionError {
        match self {
            Self::Kube(kube::Error::Api(status)) => refused(&status, call),
            Self::Kube(kube::Error::Service(source)) => match source.downcast_ref::<Busy>() {
                Some(busy) => later(busy_text(busy.code, call), busy.retry_after),
                None => unreachable(source.as_ref(), call),
            },
            Self::Kube(error) if is_answer(&error) => ActionError::permanent(format!(
                "cluster {} gave an answer that cannot be read: {error}",
                call.cluster
            )),
            Self::Kube(error) => unreachable(&error, call),
            Self::TimedOut(_) => later(format!("cluster {}: {self}", call.cluster), None),
            Self::Crowded(retry_after) | Self::Broken(Broken { retry_after, .. }) => {
                later(format!("cluster {}: {self}", call.cluster), Some(retry_after))
            }
        }
    }
}

/// What the cluster says of a cause of its refusal, if that is one: `DisruptionBudget` and others.
pub(super) fn cause<'a>(status: &'a Status, reason: &str) -> Option<&'a str> {
    let causes = &status.details.as_ref()?.causes;
    causes.iter().find(|cause| cause.reason == reason).map(|cause| cause.message.as_str())
}

/// After which time the cluster wants to be asked again, within reason.
pub(super) fn retry_after(status: &Status) -> Option<Duration> {
    let secs = status.details.as_ref()?.retry_after_seconds;
    (secs > 0).then(|| Duration::from_secs(secs.into()).min(RETRY_AFTER_MAX))
}

fn transient(message: String, retry_after: Option<Duration>) -> ActionError {
    ActionError::Transient { message, retry_after }
}

/// For what says nothing about the node: it costs no try, and ends with the time of the item.
fn later(message: String, retry_after: Option<Duration>) -> ActionError {
    ActionError::Later { message, retry_after: retry_after.unwrap_or(AGAIN) }
}

/// Whether the server answered, with something that makes no sense.
fn is_answer(error: &kube::Error) -> bool {
    matches!(error, kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) | kube::Error::BuildRequest(_))
}

fn unreachable(error: &(dyn Error + 'static), call: Call<'_>) -> ActionError {
    later(format!("cluster {} cannot be reached: {}", call.cluster, root_cause(error)), None)
}

/// The last of a chain of errors: the ones before it only say that something failed.
pub(super) fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    const DEPTH_MAX: usize = 16;
    let next = |error: &&'a (dyn Error + 'static)| {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    };
    std::iter::successors(Some(error), next).take(DEPTH_MAX).last().unwrap_or(error)
}

fn busy_text(code: u16, call: Call<'_>) -> String {
    match code {
        429 => format!("cluster {} is busy and asks to come back later", call.cluster),
        code => format!("cluster {} is not available ({code})", call.cluster),
    }
}

/// What a refusal by the API means. 5xx are all worth another try, because every run observes first.
fn refused(status: &Status, call: Call<'_>) -> ActionError {
    let Call { cluster, node, verb } = call;
    let after = retry_after(status);
    match status.code {
        404 => ActionError::permanent(format!("node {node} does not exist in cluster {cluster}")),
        401 => {
            ActionError::permanent(format!("cluster {cluster} does not accept the credentials it was given"))
        }
        403 => ActionError::permanent(format!("forbidden: needs {verb} on nodes in cluster {cluster}")),
        409 => transient(format!("node {node} kept changing while it was being changed"), after),
        408 => transient(format!("cluster {cluster} did not finish in time"), after),
        429 => later(busy_text(429, call), after),
        503 => later(format!("{}: {}", busy_text(503, call), status.message), after),
        code @ 500.. => transient(format!("{}: {}", busy_text(code, call), status.message), after),
        _ => ActionError::permanent(format!("cluster {cluster} refused the change: {}", status.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(error: CallError) -> ActionError {
        let cluster = ClusterName::new("prod").unwrap();
        error.into_action(Call { cluster: &cluster, node: "n1", verb: "patch" })
    }

    fn api(code: u16) -> ActionError {
        action(kube::Error::Api(Status::failure("why", "Reason").with_code(code).boxed()).into())
    }

    #[test]
    fn what_trying_again_does_not_mend_is_permanent() {
        let sentences = [
            (400, "cluster prod refused the change: why"),
            (401, "cluster prod does not accept the credentials it was given"),
            (403, "forbidden: needs patch on nodes in cluster prod"),
            (404, "node n1 does not exist in cluster prod"),
            (422, "cluster prod refused the change: why"),
        ];
        for (code, sentence) in sentences {
            assert_eq!(api(code), ActionError::permanent(sentence), "{code}");
        }
    }

    #[test]
    fn what_an_error_says_about_the_cluster() {
        let api = |code, details: serde_json::Value| {
            let status = serde_json::json!({"code": code, "status": "Failure", "message": "", "reason": "", "details": details});
            CallError::from(kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))).meaning()
        };
        let budget =
            serde_json::json!({"causes": [{"reason": "DisruptionBudget", "message": "", "field": ""}]});
        assert_eq!(api(429, budget), Meaning::Answered);
        assert_eq!([429, 503].map(|code| api(code, serde_json::json!({}))), [Meaning::Overloaded; 2]);
        assert_eq!([403, 404, 409, 500].map(|code| api(code, serde_json::json!({}))), [Meaning::Answered; 4]);
        let busy =
            |code| CallError::from(kube::Error::Service(Busy { code, retry_after: None }.into())).meaning();
        assert_eq!([429, 503].map(busy), [Meaning::Overloaded; 2]);
        assert_eq!([502, 504].map(busy), [Meaning::Unanswered; 2]);
        assert_eq!(CallError::TimedOut(Duration::ZERO).meaning(), Meaning::Unanswered);
    }

    #[test]
    fn what_says_nothing_about_the_node_costs_no_try() {
        let later = |message: &str, retry_after| ActionError::Later { message: message.into(), retry_after };
        let retry_after = Duration::from_secs(3);
        let broken = Broken { since: Duration::from_millis(12_345), retry_after };
        assert_eq!(action(broken.into()), later("cluster prod: no answer for 12s", retry_after));
        let late = CallError::TimedOut(Duration::from_secs(10));
        assert_eq!(action(late), later("cluster prod: no answer within 10s", AGAIN));
        let busy = Busy { code: 429, retry_after: Some(retry_after) };
        let expected = later("cluster prod is busy and asks to come back later", retry_after);
        assert_eq!(action(kube::Error::Service(busy.into()).into()), expected);
        assert_eq!(api(429), later("cluster prod is busy and asks to come back later", AGAIN));
        assert_eq!(api(503), later("cluster prod is not available (503): why", AGAIN));
        let gone = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let expected = later("cluster prod cannot be reached: connection refused", AGAIN);
        assert_eq!(action(kube::Error::Service(gone.into()).into()), expected);
    }

    #[test]
    fn what_may_pass_is_transient() {
        for code in [408, 409, 500, 502, 504] {
            assert!(matches!(api(code), ActionError::Transient { .. }), "{code}");
        }
    }
}
