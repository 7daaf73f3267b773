//! `milepost watch`: follows tasks live to their end. The exit code is their outcome.
//!
//! Reading order: [`board`] (what was seen; pure) · [`view`] and [`bars`] (how it is shown) · [`summary`] (the end).
//! Not here: the connection ([`crate::client::live`]).

mod bars;
mod board;
mod steps;
mod summary;
mod view;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep_until};

use super::connection::{self, ServerArgs, resolve_of};
use super::exit::Exit;
use super::output::{Output, say};
use crate::client::{Api, Live, Update};

pub use board::{Board, Wanted};
use view::View;

/// Between looks at the record for tasks of which nothing live is heard.
const RECORD_INTERVAL: Duration = Duration::from_secs(1);

/// Flags of `milepost watch`.
#[derive(Debug, Clone, clap::Args)]
pub struct WatchArgs {
    /// Ids of tasks, or the ends of them; all that are not over when left out.
    #[arg(value_name = "TASK")]
    tasks: Vec<String>,

    /// Watch the tasks of this user, as an admin of every cluster.
    #[arg(long, value_name = "USER")]
    owner: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

/// Watches.
///
/// # Errors
/// When there is no such task, or no server can be reached.
pub async fn run(args: &WatchArgs, out: Output) -> Result<Exit> {
    let api = args.server.api()?;
    let mut ids = Vec::new();
    for text in &args.tasks {
        ids.push(resolve_of(&api, text, args.owner.as_deref()).await?);
    }
    let wanted = if ids.is_empty() { Wanted::Mine } else { Wanted::Tasks(ids) };
    follow_of(&api, args.owner.as_deref(), wanted, out).await
}

/// Follows tasks to their end and prints a summary. Ctrl-C detaches; the tasks go on, and how to come back is told.
///
/// # Errors
/// When there is no such task, or no server can be reached.
pub async fn follow(api: &Api, wanted: Wanted, out: Output) -> Result<Exit> {
    follow_of(api, None, wanted, out).await
}

async fn follow_of(api: &Api, owner: Option<&str>, wanted: Wanted, out: Output) -> Result<Exit> {
    let live = connection::live(api, owner);
    let (exit, board) = until_detached(api, live, wanted, out).await?;
    if exit == Exit::Detached {
        say(detach_note(owner, &board));
    }
    Ok(exit)
}

/// As [`follow`], but after Ctrl-C the caller says what becomes of the tasks.
///
/// # Errors
/// When there is no such task, or no server can be reached.
pub async fn follow_until_detached(api: &Api, wanted: Wanted, out: Output) -> Result<(Exit, Board)> {
    until_detached(api, connection::live(api, None), wanted, out).await
}

async fn until_detached(api: &Api, live: Live, wanted: Wanted, out: Output) -> Result<(Exit, Board)> {
    let view: Box<dyn View> = match (out.is_terminal(), out.json) {
        (true, _) => Box::new(bars::Bars::new()),
        (_, true) => Box::new(view::Json::new(out)),
        _ => Box::new(view::Lines::new(out)),
    };
    let board = Board::new(&wanted);
    let mut watcher = Watcher { api, live, board, view, greeted: false };
    let detached = tokio::select! {
        over = watcher.watch() => { over?; false }
        signal = tokio::signal::ctrl_c() => { signal.context("wait for Ctrl-C")?; true }
    };
    watcher.view.end();
    if detached {
        return Ok((Exit::Detached, watcher.board));
    }
    if watcher.board.tasks().next().is_none() {
        say("no task is running");
    }
    summary::print(api, &mut watcher.board, out).await.context("read the outcome")?;
    Ok((summary::outcome(&watcher.board), watcher.board))
}

fn detach_note(owner: Option<&str>, board: &Board) -> String {
    let ids = board
        .tasks()
        .filter(|task| !task.view.status.is_terminal())
        .map(|task| task.view.task_id.to_string());
    let ids: Vec<String> = ids.collect();
    let whose = owner.map(|owner| format!("--owner {owner} ")).unwrap_or_default();
    format!("detached; the work goes on. Come back with: milepost watch {whose}{}", ids.join(" "))
}

struct Watcher<'a> {
    api: &'a Api,
    live: Live,
    board: Board,
    view: Box<dyn View>,
    greeted: bool,
}

impl Watcher<'_> {
    async fn watch(&mut self) -> Result<()> {
        let mut look_at = Instant::now();
        loop {
            let unheard = self.greeted && !self.board.unheard(self.live.snapshot()).is_empty();
            tokio::select! {
                update = self.live.next() => self.take(update.context("watch")?),
                () = sleep_until(look_at), if unheard => {
                    self.look_at_the_record().await?;
                    look_at = Instant::now() + RECORD_INTERVAL;
                }
            }
            if self.greeted && self.board.is_over() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Connected { recovered, .. } => self.greeted |= recovered,
            Update::Snapshot => {
                self.greeted = true;
                self.view.resynced();
                for id in self.board.take_snapshot(self.live.snapshot()) {
                    self.show(id);
                }
            }
            Update::Event(received) => {
                let event = received.event;
                let Some(view) = self.live.snapshot().get(event.task_id) else { return };
                let Some(failures) = self.board.take_event(&event, view) else { return };
                // What failed comes before what follows from it.
                failures.iter().for_each(|item| self.view.failure(view, item));
                self.view.event(&event);
                self.show(event.task_id);
            }
            Update::Disconnected { reason, retry_in } => {
                self.view.note(&format!("{reason}; trying again in {retry_in:.1?}"));
            }
        }
    }

    fn show(&mut self, id: crate::task::TaskId) {
        if let Some(task) = self.board.get(id) {
            self.view.task(&task.view);
        }
    }

    /// Tasks of other users, which an administrator may see, and tasks that ended long ago are not in the live state.
    async fn look_at_the_record(&mut self) -> Result<()> {
        for id in self.board.unheard(self.live.snapshot()) {
            let info = self.api.task(id).await.with_context(|| format!("task {id}"))?;
            if self.board.take_view(&info.view) {
                self.show(id);
            }
        }
        Ok(())
    }
}
