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
use crate::task::access::{Claim, ClusterClaim};
use crate::task::{Capability, UserId};

/// Flags of `milepost token`.
#[derive(Debug, Clone, clap::Args)]
pub struct TokenArgs {
    /// Who the token is for: the owner of the tasks submitted with it.
    #[arg(long, default_value = "developer", value_name = "NAME")]
    user: UserId,

    /// What they may do.
    #[arg(long, default_value = "operator", value_name = "ROLE")]
    role: RoleArg,

    /// Capabilities that it gives, with commas: force, bypass-pdb, control-plane.
    #[arg(long, value_delimiter = ',', value_name = "CAPABILITIES")]
    may: Vec<Capability>,

    /// The clusters on which it gives them, by a pattern in which * stands for any text.
    #[arg(long, default_value = "*", requires = "may", value_name = "PATTERN")]
    clusters: String,

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
    let may = ClusterClaim { role: None, may: args.may.clone() };
    let claim = if args.may.is_empty() { Claim::new() } else { Claim::from([(args.clusters.clone(), may)]) };
    let token = dev::sign_for(&config.auth, &args.user, args.role.into(), claim, expires);
    let token = token.context("sign the token")?;
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
