//! Which server a client command talks to, and as whom.

use std::path::PathBuf;

use anyhow::{Context, Result};
use secrecy::SecretString;

use super::exit::UsageError;
use super::history;
use crate::client::types::TaskInfo;
use crate::client::{Api, Live, LiveSettings, http::TaskFilter};
use crate::task::TaskId;

/// Recent tasks among which the end of an id is looked up.
const RECENT: usize = 500;
/// The shortest end of an id that is looked up, in characters.
const ID_END_LEN_MIN: usize = 4;

/// Flags of every command that talks to a server.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    /// Address of a gateway; give several to survive the loss of one.
    #[arg(
        long = "server",
        env = "MILEPOST_SERVER_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        value_delimiter = ','
    )]
    pub servers: Vec<String>,

    /// Bearer token.
    #[arg(long, env = "MILEPOST_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = secret)]
    pub token: Option<SecretString>,

    /// Note what is asked and received into this file, for `milepost verify`.
    #[arg(long, env = "MILEPOST_HISTORY", value_name = "FILE")]
    pub history: Option<PathBuf>,
}

#[expect(clippy::unnecessary_wraps, reason = "clap asks for a result")]
fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text.trim().to_owned()))
}

impl ServerArgs {
    /// A client of these servers.
    ///
    /// # Errors
    /// When an address is none.
    pub fn api(&self) -> Result<Api> {
        let api = Api::new(&self.servers, self.token.clone())
            .map_err(|error| UsageError(error.to_string()))
            .context("--server")?;
        match &self.history {
            Some(file) => Ok(api.noting(history::of_user(file, self.token.as_ref())?)),
            None => Ok(api),
        }
    }
}

/// A live connection beside a client, to the same servers and as the same user, to the tasks of `owner`; one's own for
/// `None`.
#[must_use]
pub fn live(api: &Api, owner: Option<&str>) -> Live {
    let settings = LiveSettings::new(api.servers().to_vec(), api.token().cloned());
    let live = Live::new(LiveSettings { owner: owner.map(str::to_owned), ..settings });
    match api.history() {
        Some(history) => live.noting(history.socket(&uuid::Uuid::new_v4().to_string(), false)),
        None => live,
    }
}

/// The task that a person means: its id, or the end of the id of a recent task of theirs.
///
/// # Errors
/// When no recent task, or more than one, has an id that ends so.
pub async fn resolve(api: &Api, text: &str) -> Result<TaskId> {
    resolve_of(api, text, None).await
}

/// As [`resolve`], among the tasks of `owner`.
///
/// # Errors
/// As of [`resolve`], and when the tasks of that owner are not for the caller to see.
pub async fn resolve_of(api: &Api, text: &str, owner: Option<&str>) -> Result<TaskId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let end = text.trim_start_matches('…').to_lowercase();
    let hex = end.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if !hex || end.len() < ID_END_LEN_MIN {
        return Err(UsageError(format!("{text:?} is neither a task id nor the end of one")).into());
    }
    let recent = api
        .tasks(&TaskFilter { owner: owner.map(str::to_owned), limit: RECENT, ..TaskFilter::default() })
        .await?;
    let mut ids =
        recent.iter().map(|info: &TaskInfo| info.view.task_id).filter(|id| id.to_string().ends_with(&end));
    match (ids.next(), ids.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(UsageError(format!("no recent task has an id that ends with {end}")).into()),
        (Some(_), Some(_)) => {
            Err(UsageError(format!("several tasks have an id that ends with {end}: give more of it")).into())
        }
    }
}

/// The end of an id, enough to tell recent tasks apart: ids begin with the time, so their beginnings are alike.
#[must_use]
pub fn short(id: TaskId) -> String {
    let text = id.to_string();
    format!("…{}", &text[text.len() - 6..])
}
