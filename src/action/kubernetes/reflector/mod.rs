//! The nodes of one cluster, kept current by one list and one watch per process, whoever and however many ask for them.
//!
//! It begins when somebody asks for the first time, and ends when it is dropped: with the process, or when the cluster is
//! configured no more. Reading order: [`known`] (what is known, pure but for its clock) · [`run`] (where it comes from).

mod known;
mod run;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::annotations::Annotations;
use super::cluster::Cluster;
use crate::BoxError;
use crate::action::{Freshness, NodeChanges, NodeDetail, Nodes};

use known::{Known, Phase};
use run::Run;

/// Longest wait of somebody who could read the node instead.
const SIGHT_WAIT: Duration = Duration::from_secs(1);

/// The nodes of one cluster.
pub(super) struct Reflector {
    cluster: Arc<Cluster>,
    annotations: Annotations,
    known: Arc<Known>,
    /// How long the first list is waited for.
    patience: Duration,
    running: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl Reflector {
    /// One that has not begun.
    pub(super) fn new(cluster: Arc<Cluster>, annotations: Annotations, patience: Duration) -> Self {
        let stop = CancellationToken::new();
        Self {
            cluster,
            annotations,
            known: Arc::new(Known::new()),
            patience,
            running: Mutex::default(),
            _stops: stop.clone().drop_guard(),
            stop,
        }
    }

    /// The nodes as they are known.
    pub(super) async fn nodes(&self) -> Result<Nodes, BoxError> {
        self.ready().await?;
        Ok(self.known.nodes())
    }

    /// One of them.
    pub(super) async fn node(&self, name: &str) -> Result<Option<NodeDetail>, BoxError> {
        self.ready().await?;
        Ok(self.known.node(name))
    }

    /// One of them as it is, for somebody who could read it instead: `None` unless what is known is current.
    pub(super) async fn sight(&self, name: &str) -> Option<NodeDetail> {
        let seen = timeout(SIGHT_WAIT, self.node(name)).await.ok()?.ok()??;
        Some(seen).filter(|seen| !seen.freshness.stale)
    }

    /// Waits until they are known, as far as the watch has come.
    ///
    /// # Errors
    /// Why they are not, or not any more.
    pub(super) async fn current(&self) -> Result<(), BoxError> {
        self.ready().await?;
        match self.known.freshness() {
            Some(Freshness { stale: true, cause, .. }) => Err(lost(cause)),
            _ => Ok(()),
        }
    }

    /// Every change from here on.
    pub(super) fn changes(&self) -> NodeChanges {
        self.known.changes()
    }

    /// All of them, and every change from there on.
    pub(super) async fn follow(&self) -> Result<(Nodes, NodeChanges), BoxError> {
        self.ready().await?;
        Ok(self.known.follow())
    }

    /// How current they are; `None` while there are none.
    pub(super) fn freshness(&self) -> Option<Freshness> {
        self.known.freshness()
    }

    /// Waits for the first list.
    async fn ready(&self) -> Result<(), BoxError> {
        self.run();
        let mut phase = self.known.phase();
        let decided = phase.wait_for(|phase| !matches!(phase, Phase::Starting));
        let Ok(decided) = timeout(self.patience, decided).await else {
            return Err(format!("its nodes were not listed within {:?}", self.patience).into());
        };
        match &*decided? {
            Phase::Failed(why) => Err(why.to_string().into()),
            Phase::Starting | Phase::Synced => Ok(()),
        }
    }

    /// Begins, unless it runs. One that crashed begins anew.
    fn run(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let run = Run {
            cluster: Arc::clone(&self.cluster),
            known: Arc::clone(&self.known),
            annotations: self.annotations.clone(),
        };
        let stop = self.stop.clone();
        *running = Some(tokio::spawn(async move {
            stop.run_until_cancelled_owned(run.run()).await;
        }));
    }
}

/// Why nodes are not current.
pub(super) fn lost(cause: Option<String>) -> BoxError {
    let why = cause.unwrap_or_else(|| "its watch fell silent".to_owned());
    format!("they are not watched right now: {why}").into()
}
