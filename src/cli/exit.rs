//! The exit code is the outcome, and what a person is told when a command fails.

use std::process::ExitCode;

use crate::client::reconnect::Ending;
use crate::client::{ApiError, LiveError};
use crate::config::ConfigError;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything succeeded.
    Succeeded,
    /// 1: some items failed, the task was cancelled, or the command itself failed.
    Failed,
    /// 2: the command line, the configuration or the request is wrong.
    Usage,
    /// 3: the server cannot be reached, or cannot work right now.
    Unreachable,
    /// 4: the plan that was demanded is another one by now; nothing was submitted.
    Changed,
    /// 130: the person pressed Ctrl-C; the task goes on.
    Detached,
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Changed => 4,
            Self::Detached => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The command line is wrong in a way that only the command itself can see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Tells the person what went wrong and what may help, and gives the exit code that fits.
pub fn report(error: &anyhow::Error) -> Exit {
    super::output::say(format_args!("error: {}", super::output::causes(error)));
    if let Some(hint) = hint(error) {
        super::output::say(format_args!("hint: {hint}"));
    }
    exit_of(error)
}

fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if cause.is::<UsageError>() || cause.is::<ConfigError>() || cause.is::<super::names::NamesError>() {
            return Exit::Usage;
        }
        if let Some(error) = cause.downcast_ref::<ApiError>() {
            return match error {
                ApiError::Refused { problem, .. } if problem.plan.is_some() => Exit::Changed,
                ApiError::Refused { problem, .. } if problem.status < 500 => Exit::Usage,
                _ => Exit::Unreachable,
            };
        }
        if let Some(error) = cause.downcast_ref::<LiveError>() {
            return if refused_status(error).is_some_and(|s| s < 500) {
                Exit::Usage
            } else {
                Exit::Unreachable
            };
        }
    }
    Exit::Failed
}

fn refused_status(error: &LiveError) -> Option<u16> {
    match error {
        LiveError::Refused { ending: Ending::Answered { status, .. }, .. } => Some(*status),
        _ => None,
    }
}

fn hint(error: &anyhow::Error) -> Option<&'static str> {
    let status = error.chain().find_map(|cause| {
        let api = cause.downcast_ref::<ApiError>().and_then(ApiError::status);
        api.or_else(|| cause.downcast_ref::<LiveError>().and_then(refused_status))
    });
    match status {
        Some(401) => {
            return Some(
                "pass a token with --token or MILEPOST_TOKEN; `milepost serve` prints one in development",
            );
        }
        // What is missing on one cluster, and who can give it, is in the answer.
        Some(403) if error.chain().any(|cause| cause.to_string().contains("auth.grants")) => return None,
        Some(403) => return Some("ask for a token with a role that may do this: viewer < operator < admin"),
        _ => {}
    }
    if answers(error) {
        return None;
    }
    match exit_of(error) {
        Exit::Unreachable => Some("start a server with `milepost serve`, or name one with --server"),
        _ => None,
    }
}

/// Whether a server was reached and said what is wrong: then another one need not be started.
fn answers(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(ApiError::Refused { .. }))
            || matches!(cause.downcast_ref(), Some(LiveError::Refused { .. }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{PlanChange, Problem};

    fn refused(status: u16) -> anyhow::Error {
        let problem = Problem { status, title: "t".into(), ..Problem::default() };
        anyhow::Error::from(ApiError::Refused { problem, retry_after: None }).context("submit")
    }

    #[test]
    fn errors_become_the_documented_exit_codes() {
        assert_eq!(exit_of(&refused(422)), Exit::Usage);
        assert_eq!(exit_of(&refused(503)), Exit::Unreachable);
        let gone = ApiError::Unreachable { server: "http://x".into(), source: "refused".into() };
        assert_eq!(exit_of(&gone.into()), Exit::Unreachable);
        let plan = PlanChange { hash: "0".repeat(64).parse().unwrap(), differences: None };
        let problem = Problem { status: 409, plan: Some(plan), ..Problem::default() };
        assert_eq!(exit_of(&ApiError::Refused { problem, retry_after: None }.into()), Exit::Changed);
        assert_eq!(exit_of(&UsageError("no".into()).into()), Exit::Usage);
        assert_eq!(exit_of(&anyhow::anyhow!("disk full")), Exit::Failed);
        assert_eq!([Exit::Succeeded, Exit::Detached].map(Exit::code), [0, 130]);
    }

    #[test]
    fn a_refused_token_says_where_to_get_one() {
        assert!(hint(&refused(401)).unwrap().contains("--token"));
        assert!(hint(&refused(403)).unwrap().contains("role"));
        let detail = "ada needs the capability force on the cluster prod; whoever runs Milepost (auth.grants) can give it";
        let problem = Problem { status: 403, detail: Some(detail.into()), ..Problem::default() };
        let error = anyhow::Error::from(ApiError::Refused { problem, retry_after: None }).context("submit");
        assert!(format!("{error:#}").contains(detail), "{error:#}");
        assert_eq!(hint(&error), None);
        assert_eq!(hint(&refused(422)), None);
    }

    #[test]
    fn a_server_is_to_be_started_only_where_none_answers() {
        let gone = ApiError::Unreachable { server: "http://x".into(), source: "refused".into() };
        assert!(hint(&gone.into()).unwrap().contains("milepost serve"));
        assert_eq!(hint(&refused(503)), None, "it is there, and said why it cannot work");
        let ending = Ending::Closed { code: 4504, reason: "too many live connections of this user".into() };
        let full = LiveError::Refused { server: "http://x".into(), ending };
        assert_eq!((exit_of(&full.into()), hint(&anyhow::anyhow!("disk full"))), (Exit::Unreachable, None));
    }
}
