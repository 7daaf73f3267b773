//! `milepost token`: a bearer token signed with the configured shared secret.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::exit::{Exit, UsageError};
use super::output::Output;
use super::settings::SettingsArgs;
use crate::clock::{Clock, SystemClock};
use crate::config::duration;
use crate::gateway::auth::{Role, dev};
use crate::task::UserId;

/// Flags of `milepost token`.
#[derive(Debug, Clone, clap::Args)]
pub struct TokenArgs {
    /// Who the token is for: the owner of the tasks submitted with it.
    #[arg(long, default_value = "developer", value_name = "NAME")]
    user: UserId,

    /// What they may do.
    #[arg(long, default_value = "operator", value_name = "ROLE")]
    role: RoleArg,

    /// How long it is good for.
    #[arg(long, default_value = "12h", value_name = "TIME", value_parser = duration::parse)]
    ttl: Duration,
}

/// A role, as the command line names it.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RoleArg {
    /// Read their own tasks, and clusters.
    Viewer,
    /// Submit tasks and control their own.
    Operator,
    /// See and control everyone's tasks.
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// Prints a token, and nothing else, so that it can go into a variable.
///
/// # Errors
/// When no shared secret is configured.
pub fn run(settings: &SettingsArgs, args: &TokenArgs, out: Output) -> Result<Exit> {
    let config = settings.load(Vec::new())?.config;
    if config.auth.hs256_secret.is_none() {
        return Err(UsageError(why_not(config.auth.has_key()).into()).into());
    }
    let expires = SystemClock.now().checked_add(args.ttl).context("--ttl is too long")?;
    let token = dev::sign(&config.auth, &args.user, args.role.into(), expires).context("sign the token")?;
    if out.json {
        out.object(&json!({ "type": "token", "token": token, "expires": expires }));
    } else {
        out.line(token);
    }
    Ok(Exit::Succeeded)
}

fn why_not(has_public_key: bool) -> &'static str {
    if has_public_key {
        "only public keys are configured: whoever holds the private key must sign tokens"
    } else {
        "no secret is configured: set auth.hs256_secret (MILEPOST_AUTH__HS256_SECRET) to that of the gateways; in \
         development, without keys, `milepost serve` prints a token at its start"
    }
}
