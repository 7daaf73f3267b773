//! `milepost serve`, `gateway`, `worker` and `maintenance`: the roles, until they are told to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::Exit;
use super::output::Output;
use super::settings::SettingsArgs;
use super::wiring::{self, Roles, Running};
use crate::action::Registry;
use crate::config::{Config, Mode};
use crate::gateway::auth::Role;
use crate::lifecycle::Lifecycle;
use crate::task::UserId;

/// The user of the development token.
const DEVELOPER: &str = "developer";

/// Flags of the commands that serve.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// Address of the API, the live endpoints and the dashboard.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Address of probes and metrics.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

/// Flags of `milepost worker`.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// Do maintenance too; among all replicas that may, one does.
    #[arg(long)]
    pub with_maintenance: bool,

    /// Address of probes and metrics.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

impl From<&WorkerArgs> for ServeArgs {
    fn from(args: &WorkerArgs) -> Self {
        Self { listen: None, admin_listen: args.admin_listen }
    }
}

/// Runs the roles until a signal.
///
/// # Errors
/// When the configuration is wrong, a backend cannot be reached, or a port cannot be had.
pub async fn run(settings: &SettingsArgs, args: &ServeArgs, roles: Roles, out: Output) -> Result<Exit> {
    let mut flags = Vec::new();
    flags.extend(args.listen.map(|address| ("server.listen".to_owned(), address.to_string())));
    flags.extend(args.admin_listen.map(|address| ("server.admin_listen".to_owned(), address.to_string())));
    let config = settings.load(flags)?.config;
    SettingsArgs::log_of_roles(&config.telemetry)?;
    crate::planted::warn();
    let life = Lifecycle::new();
    let running = wiring::start(&config, roles, &life).await?;
    announce(&running, roles, &config, out)?;
    reload_on_hangup(settings.clone(), Arc::clone(&running.registry), &life);
    let clean = life.run(config.server.grace).await;
    running.close().await;
    Ok(if clean { Exit::Succeeded } else { Exit::Failed })
}

/// Reads the section `clusters` again on SIGHUP. A configuration with a fault changes nothing.
fn reload_on_hangup(settings: SettingsArgs, registry: Arc<Registry>, life: &Lifecycle) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    let soft = life.soft().clone();
    life.spawn("reload", async move {
        while let Some(Some(())) = soft.run_until_cancelled(hangups.recv()).await {
            match settings.load(Vec::new()).and_then(|loaded| Ok(registry.reload(&loaded.config.clusters)?)) {
                Ok(changed) if changed.is_empty() => tracing::info!("SIGHUP: no cluster has changed"),
                Ok(changed) => {
                    let names: Vec<_> = changed.iter().map(ToString::to_string).collect();
                    tracing::info!(clusters = names.join(", "), "SIGHUP: clusters reloaded");
                }
                Err(error) => tracing::error!("SIGHUP: the clusters stay as they are: {error:#}"),
            }
        }
    });
}

/// Says what runs where and, in development, how to get in.
fn announce(running: &Running, roles: Roles, config: &Config, out: Output) -> Result<()> {
    let api = running.gateway.as_ref().map(|gateway| format!("http://{}", gateway.address()));
    let token = development_token(running)?;
    if out.json {
        out.object(&json!({ "type": "serving", "mode": running.mode, "roles": roles.to_string(), "api": api,
            "admin": running.admin, "development_token": token }));
        return Ok(());
    }
    out.line(format_args!("milepost {}: {roles}", env!("CARGO_PKG_VERSION")));
    out.line(format_args!("  mode     {}", mode_words(running.mode)));
    if let Some(api) = &api {
        out.line(format_args!("  api      {api}/api/v1, dashboard {api}/"));
    }
    out.line(format_args!("  probes   http://{0}/readyz, metrics http://{0}/metrics", running.admin));
    let clusters: Vec<&str> = config.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    if !clusters.is_empty() {
        out.line(format_args!("  clusters {}", clusters.join(", ")));
    }
    if let (Some(api), Some(token)) = (api, token) {
        out.line("\nNo keys are configured, so only this machine may connect, with this token (good for 12 hours):");
        out.line(format_args!("  export MILEPOST_SERVER_URL={api} MILEPOST_TOKEN={token}"));
        out.line(format_args!("  {}", dashboard(&api, &token)));
    }
    Ok(())
}

fn mode_words(mode: Mode) -> &'static str {
    match mode {
        Mode::Memory => "memory: everything is held by this process and gone with it",
        Mode::Postgres => "postgres: records, wake-ups and progress in Postgres",
        Mode::Redis => "redis: records in Postgres, wake-ups and progress in Redis",
    }
}

/// A token for the person at this machine, when no keys are configured.
///
/// # Errors
/// Never in practice: a gateway without keys makes its own.
pub fn development_token(running: &Running) -> Result<Option<String>> {
    let Some(gateway) = running.gateway.as_ref().filter(|gateway| gateway.is_development()) else {
        return Ok(None);
    };
    let user = UserId::new(DEVELOPER).context("the developer has a name")?;
    Ok(gateway.development_token(&user, Role::Admin))
}

/// The dashboard's address with a token in the part that browsers do not send.
#[must_use]
pub fn dashboard(api: &str, token: &str) -> String {
    format!("{api}/#token={token}")
}
