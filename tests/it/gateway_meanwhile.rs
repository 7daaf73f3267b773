//! What happens in the middle of something that a gateway does: between two calls of bringing a client up to date, and
//! between a user's change and the worker that learns of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use milepost::bus::{BusError, Feed, Following, Health, Inbox, MemoryBus, Published, Publisher, Replay};
use milepost::config::BusConfig;
use milepost::store::{ClaimRules, ClaimStore};
use milepost::task::{Event, Position, ReplicaId, TaskId, UserId};
use serde_json::json;

use crate::gateway_rig::{Rig, progress, user_id};

type Happening = Box<dyn FnOnce(&MemoryBus) + Send>;

/// A feed in which something happens just before a call, the first time that it is made.
struct Meanwhile {
    bus: MemoryBus,
    happenings: Mutex<HashMap<&'static str, Happening>>,
}

impl Meanwhile {
    fn new(call: &'static str, happening: impl FnOnce(&MemoryBus) + Send + 'static) -> Arc<Self> {
        let happening: Happening = Box::new(happening);
        let happenings = Mutex::new(HashMap::from([(call, happening)]));
        Arc::new(Self { bus: MemoryBus::new(&BusConfig::default()), happenings })
    }

    fn before(&self, call: &str) {
        let happening = self.happenings.lock().unwrap().remove(call);
        if let Some(happening) = happening {
            happening(&self.bus);
        }
    }

    /// A gateway on this feed.
    async fn rig(self: &Arc<Self>) -> Rig {
        Rig::with(|parts| {
            parts.feed = Arc::clone(self) as Arc<dyn Feed>;
            parts.publisher = Arc::new(self.bus.clone());
        })
        .await
    }
}

#[async_trait]
impl Feed for Meanwhile {
    async fn follow(&self, user: &UserId, inbox: Arc<dyn Inbox>) -> Result<Following, BusError> {
        self.before("follow");
        self.bus.follow(user, inbox).await
    }

    async fn head(&self, user: &UserId) -> Result<Position, BusError> {
        self.before("head");
        self.bus.head(user).await
    }

    async fn replay(&self, user: &UserId, after: &Position, limit: usize) -> Result<Replay, BusError> {
        self.before("replay");
        self.bus.replay(user, after, limit).await
    }

    async fn live(&self, user: &UserId, tasks: &[TaskId]) -> Result<Vec<Event>, BusError> {
        self.before("live");
        self.bus.live(user, tasks).await
    }

    fn health(&self) -> Health {
        self.bus.health()
    }
}

/// Publishes at once: the memory bus never waits.
fn publish(bus: &MemoryBus, event: &Event) -> Published {
    bus.publish(&user_id("ada"), event).now_or_never().expect("memory answers at once").unwrap()
}

/// A position of a life of the stream that nobody knows.
const LONG_GONE: &str = "gone.7-0";

#[tokio::test]
async fn whatever_is_published_while_a_client_is_brought_up_to_date_reaches_it() {
    let task = TaskId::generate();
    for call in ["follow", "head", "live", "replay"] {
        let meanwhile = Meanwhile::new(call, move |bus| drop(publish(bus, &progress(task, 1, 10))));
        let rig = meanwhile.rig().await;
        // An open task, so that live progress is asked for.
        rig.post(
            "/api/v1/nodes/batch/cordon",
            "ada",
            &json!({"cluster_name": "prod", "node_names": ["node-1"]}),
        )
        .await;
        let mut live = rig.live("ada", None).await;
        live.snapshot().await;
        publish(&meanwhile.bus, &progress(task, 2, 20));
        let mut seqs = Vec::new();
        while seqs.last() != Some(&2) {
            seqs.extend(live.frame().await["seq"].as_u64());
        }
        // Published before the head was taken it is older than the snapshot, whose record knows no such task.
        let expected: &[u64] = if matches!(call, "follow" | "head") { &[2] } else { &[1, 2] };
        assert_eq!(seqs, expected, "published before {call}");
        rig.stop().await;
    }
}

/// Found by the model: entries that waited since before a fresh start were written after its snapshot.
#[tokio::test]
async fn what_waited_from_before_a_fresh_start_is_not_shown_after_it() {
    let task = TaskId::generate();
    let meanwhile = Meanwhile::new("replay", move |bus| {
        publish(bus, &progress(task, 1, 10));
        bus.wipe(&user_id("ada"));
    });
    let rig = meanwhile.rig().await;
    let mut live = rig.live("ada", Some(LONG_GONE)).await;
    live.snapshot().await;
    // The news of the loss waited behind the entry.
    live.snapshot().await;
    publish(&meanwhile.bus, &progress(task, 2, 20));
    assert_eq!(live.frame().await["seq"], 2);
    rig.stop().await;
}

/// Found by the model: a resume was told under the number of the worker's next event, which was then lost as a repeat.
#[tokio::test]
async fn a_pause_that_is_over_before_the_worker_hears_of_it_is_told_by_the_worker() {
    let rig = Rig::start().await;
    let draft = json!({"cluster_name": "prod", "node_names": ["node-1"]});
    let made = rig.post("/api/v1/nodes/batch/cordon", "ada", &draft).await;
    let task: TaskId = made.text("task_id").parse().unwrap();
    let rules = ClaimRules { lease: Duration::from_secs(600), per_cluster_max: 1 };
    rig.store.claim(&ReplicaId::generate("worker"), &rules).await.unwrap().expect("it is queued");
    assert!(matches!(publish(&rig.bus, &progress(task, 1, 10)), Published::Appended(_)));
    for change in ["pause", "resume"] {
        let path = format!("/api/v1/tasks/{task}/{change}");
        assert_eq!(rig.post(&path, "ada", &json!({})).await.status, 200);
    }
    let next = publish(&rig.bus, &progress(task, 2, 20));
    assert!(matches!(next, Published::Appended(_)), "somebody took the worker's number: {next:?}");
    rig.stop().await;
}
