//! Promises about strategies: a task that is held back, the order that is kept, and nodes that one task acts on at a time.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use super::AnyStore;
use super::kit::{
    RULES, by, claim, claim_and_lapse, draft, fence, find, is_fenced, submit, succeed_all, succeeded,
    terminal, until, worker,
};
use crate::store::{Claim, Control, Fence, HoldBack, NodeHeld, StoreError};
use crate::task::{Attempt, Draft, ItemName, Status, Strategy, StrategyDraft, TaskId};

const WHY: &str = "wave 1 of 2 is done";
/// Longer than a promise takes.
const HOUR: Duration = Duration::from_secs(3600);

fn in_waves(items: usize) -> Draft {
    let strategy = json!({"canary": 1, "waves": ["10%"], "order": ["zones"], "soak_ms": 1, "gate": "first",
        "max_unavailable": 3, "windows": ["Mon-Fri 22:00-04:00 Europe/Berlin"]});
    Draft { strategy: Some(serde_json::from_value(strategy).unwrap()), ..draft(items) }
}

fn hold(opens: Option<u32>, rest: Duration, pause: bool) -> HoldBack {
    HoldBack { opens, rest, pause, message: WHY.into() }
}

fn nodes(names: &[&str]) -> Vec<(u32, ItemName)> {
    names.iter().zip(0..).map(|(name, index)| (index, ItemName::new(*name).unwrap())).collect()
}

async fn take(store: &AnyStore, claim: &Claim, names: &[&str]) -> Vec<NodeHeld> {
    store.take_nodes(fence(claim), &nodes(names)).await.unwrap()
}

fn names(held: &[NodeHeld]) -> HashSet<&str> {
    held.iter().map(|held| held.name.as_str()).collect()
}

pub(super) async fn a_strategy_comes_back_as_it_was_submitted(store: AnyStore) {
    let draft = in_waves(30);
    let strategy = Strategy::parse(draft.strategy.as_ref().unwrap()).unwrap();
    let task = submit(&store, "ann", draft).await;
    assert_eq!((&task.strategy, task.opened, task.rests_until), (&strategy, 0, None));
    assert_eq!(find(&store, task.id).await, task);
    assert_eq!(task.view().wave.map(|wave| (wave.number, wave.of)), Some((1, 11)));
    let held = claim(&store).await;
    assert_eq!((&held.task.strategy, &held.order), (&strategy, &None));
    assert_eq!(held.task.action, task.action);
    store.record(fence(&held), &[succeeded(7)]).await.unwrap();
    assert_eq!(find(&store, task.id).await.view().wave.map(|wave| wave.number), Some(2));
}

pub(super) async fn the_order_of_items_is_kept_once(store: AnyStore) {
    let task = submit(&store, "ann", in_waves(3)).await;
    let first = claim_and_lapse(&store).await;
    assert_eq!(store.keep_order(fence(&first), &[2, 0, 1]).await.unwrap(), [2, 0, 1]);
    assert_eq!(store.keep_order(fence(&first), &[0, 1, 2]).await.unwrap(), [2, 0, 1]);
    let second = claim(&store).await;
    assert_eq!((second.task.id, second.order.as_deref()), (task.id, Some(&[2, 0, 1][..])));
    assert!(is_fenced(&store.keep_order(fence(&first), &[0, 1, 2]).await));
}

pub(super) async fn a_task_rests_until_its_time_and_no_longer(store: AnyStore) {
    let task = submit(&store, "ann", in_waves(3)).await;
    let held = claim(&store).await;
    let state = store.hold_back(fence(&held), &hold(Some(2), HOUR, false)).await.unwrap();
    assert_eq!(state, held.task.state, "it is still held");
    let resting = find(&store, task.id).await;
    assert!(resting.opened == 2 && resting.rests_until.is_some_and(|until| until > resting.updated_at));
    let again = store.hold_back(fence(&held), &hold(Some(2), Duration::ZERO, true)).await.unwrap();
    assert_eq!((again, find(&store, task.id).await), (state, resting), "the wave is open");
    assert_eq!(store.hand_over(fence(&held)).await.unwrap(), Status::Queued);
    let queued = find(&store, task.id).await;
    assert_eq!((queued.waits_for().as_deref(), queued.view().message), (Some(WHY), None));
    assert!(store.claim(&worker(1), &RULES).await.unwrap().is_none());
    assert!(store.claimable(10).await.unwrap().is_empty());
    let backlog = store.backlog().await.unwrap();
    assert_eq!((backlog.queued, backlog.oldest_queued), (0, Duration::ZERO));
    let left = store.next_lapse().await.unwrap().unwrap();
    assert!(left > HOUR / 2 && left <= HOUR, "{left:?}");

    let soon = submit(&store, "ann", in_waves(3)).await;
    let held = claim(&store).await;
    store.hold_back(fence(&held), &hold(None, Duration::from_millis(200), false)).await.unwrap();
    store.hand_over(fence(&held)).await.unwrap();
    until("it has rested", async || !store.claimable(10).await.unwrap().is_empty()).await;
    let next = claim(&store).await;
    assert_eq!((next.task.id, next.task.rests_until, next.task.state.tries), (soon.id, None, 1));
    assert_eq!((next.task.opened, &next.task.message), (0, &None));
}

pub(super) async fn a_resting_task_is_cancelled_at_once_and_a_lapsed_one_taken_over(store: AnyStore) {
    let task = submit(&store, "ann", in_waves(3)).await;
    let held = claim_and_lapse(&store).await;
    let state = store.hold_back(fence(&held), &hold(Some(2), HOUR, false)).await.unwrap();
    assert_eq!(state.status, Status::Running);
    let second = claim(&store).await;
    assert_eq!((second.task.id, second.task.opened), (task.id, 2), "its next worker sees that it rests");
    assert!(second.task.rests_until.is_some());
    assert!(is_fenced(&store.hold_back(fence(&held), &hold(Some(3), HOUR, true)).await));
    store.hand_over(fence(&second)).await.unwrap();
    store.control(task.id, Control::Cancel, &by("ann")).await.unwrap();
    assert_eq!(find(&store, task.id).await.state.status, Status::Cancelled);
}

pub(super) async fn a_gate_pauses_a_task_and_opens_the_wave_behind_it(store: AnyStore) {
    let task = submit(&store, "ann", in_waves(3)).await;
    let held = claim(&store).await;
    let gate = hold(Some(2), Duration::ZERO, true);
    for _ in 0..2 {
        assert_eq!(store.hold_back(fence(&held), &gate).await.unwrap().status, Status::Paused);
    }
    assert_eq!(store.hand_over(fence(&held)).await.unwrap(), Status::Paused);
    let paused = find(&store, task.id).await;
    assert_eq!((paused.opened, paused.message.as_deref(), paused.state.tries), (2, Some(WHY), 0));
    assert!(store.claim(&worker(0), &RULES).await.unwrap().is_none());
    store.control(task.id, Control::Resume, &by("ann")).await.unwrap();
    let next = claim(&store).await;
    assert_eq!((next.task.opened, &next.task.message), (2, &None));
    store.control(task.id, Control::Cancel, &by("ann")).await.unwrap();
    let state = store.hold_back(fence(&next), &hold(Some(3), HOUR, true)).await.unwrap();
    let after = find(&store, task.id).await;
    assert_eq!((state.status, after.opened), (Status::Cancelling, 2), "what a user did first stays");
}

pub(super) async fn a_node_is_held_by_one_task_at_a_time(store: AnyStore) {
    let one = submit(&store, "ann", draft(3)).await;
    let first = claim(&store).await;
    submit(&store, "bob", in_waves(3)).await;
    let second = claim(&store).await;
    assert!(take(&store, &first, &["a", "b"]).await.is_empty());
    assert!(take(&store, &first, &["a", "b"]).await.is_empty(), "what one holds one may take");
    let held = take(&store, &second, &["b", "c", "a"]).await;
    assert_eq!(names(&held), HashSet::from(["a", "b"]));
    let by = held[0].by.as_ref().unwrap();
    assert_eq!((by.task, by.owner.as_str(), by.action.as_str()), (one.id, "ann", "wait"));
    let held = take(&store, &first, &["c"]).await;
    assert_eq!(held[0].by.as_ref().map(|by| by.action.as_str()), Some("wait"));

    let elsewhere = Draft { cluster: "other".into(), ..draft(3) };
    submit(&store, "cleo", elsewhere).await;
    let other = claim(&store).await;
    assert!(take(&store, &other, &["a", "b", "c"]).await.is_empty(), "another cluster has other nodes");
}

pub(super) async fn a_node_is_free_with_the_result_of_its_item(store: AnyStore) {
    submit(&store, "ann", draft(3)).await;
    let first = claim(&store).await;
    submit(&store, "bob", draft(3)).await;
    let second = claim(&store).await;
    let all = ["node-0", "node-1", "node-2"];
    assert!(take(&store, &first, &all).await.is_empty());
    assert_eq!(take(&store, &second, &all).await.len(), 3);
    store.record(fence(&first), &[succeeded(1)]).await.unwrap();
    assert_eq!(names(&take(&store, &second, &all).await), HashSet::from(["node-0", "node-2"]));
    store.record(fence(&first), &[succeeded(1)]).await.unwrap();
    assert_eq!(
        names(&take(&store, &first, &["node-1"]).await),
        HashSet::from(["node-1"]),
        "a repeat frees nothing"
    );
    let task = succeed_all(&store, &first).await;
    store.finish(fence(&first), &terminal(&task)).await.unwrap();
    assert!(take(&store, &second, &all).await.is_empty());
}

pub(super) async fn a_task_that_leaves_its_worker_holds_no_node(store: AnyStore) {
    let one = submit(&store, "ann", draft(3)).await;
    let first = claim(&store).await;
    submit(&store, "bob", draft(3)).await;
    let second = claim(&store).await;
    take(&store, &first, &["a", "b"]).await;
    store.control(one.id, Control::Pause, &by("ann")).await.unwrap();
    assert_eq!(take(&store, &second, &["a"]).await.len(), 1, "what is in flight is not over");
    store.hand_over(fence(&first)).await.unwrap();
    assert!(take(&store, &second, &["a"]).await.is_empty());
    assert!(is_fenced(&store.take_nodes(fence(&first), &nodes(&["b"])).await));
    store.control(one.id, Control::Resume, &by("ann")).await.unwrap();
    let first = claim(&store).await;
    assert_eq!(names(&take(&store, &first, &["a", "b"]).await), HashSet::from(["a"]));
}

pub(super) async fn a_node_is_free_when_the_lease_of_its_holder_is_over(store: AnyStore) {
    submit(&store, "ann", draft(3)).await;
    let dead = claim(&store).await;
    take(&store, &dead, &["a", "b"]).await;
    store.renew(&[fence(&dead)], Duration::from_millis(50)).await.unwrap();
    until("its lease lapses", async || store.backlog().await.unwrap().lapsed > 0).await;
    assert!(is_fenced(&store.take_nodes(fence(&dead), &nodes(&["c"])).await));
    submit(&store, "bob", draft(3)).await;
    let next = [claim(&store).await, claim(&store).await];
    let bob = next.iter().find(|claim| claim.task.owner.as_str() == "bob").unwrap();
    let ann = next.iter().find(|claim| claim.task.owner.as_str() == "ann").unwrap();
    assert!(take(&store, bob, &["a"]).await.is_empty(), "another attempt has to take it anew");
    assert_eq!(names(&take(&store, ann, &["a", "b"]).await), HashSet::from(["a"]));
    let unknown = Fence { task: TaskId::generate(), attempt: Attempt(1) };
    assert!(is_fenced(&store.take_nodes(unknown, &nodes(&["z"])).await));
}

pub(super) async fn racing_tasks_share_no_node(store: AnyStore) {
    const TASKS: usize = 6;
    let all: Vec<String> = (0..40).map(|n| format!("node-{n}")).collect();
    let mut claims = Vec::new();
    for n in 0..TASKS {
        submit(&store, &format!("user-{n}"), draft(40)).await;
        claims.push(claim(&store).await);
    }
    let racers = claims.iter().enumerate().map(|(n, claim)| {
        let (store, fence) = (store.clone(), fence(claim));
        // Each in another order, so that locks taken in the order of asking would wait in a circle.
        let mut wanted: Vec<(u32, ItemName)> =
            (0..).zip(&all).map(|(index, name)| (index, ItemName::new(name.as_str()).unwrap())).collect();
        wanted.rotate_left(n * 7);
        tokio::spawn(async move { race(&store, fence, &wanted).await })
    });
    let mut holders = HashSet::new();
    for racer in racers.collect::<Vec<_>>() {
        for name in racer.await.unwrap().unwrap() {
            assert!(holders.insert(name.clone()), "{name} is held twice");
        }
    }
    assert_eq!(holders.len(), all.len(), "and each by somebody");
}

/// Takes all nodes, gives back half of them, and takes all again; returns those it has in the end.
async fn race(
    store: &AnyStore,
    fence: Fence,
    wanted: &[(u32, ItemName)],
) -> Result<Vec<ItemName>, StoreError> {
    for round in 0..4 {
        store.take_nodes(fence, wanted).await?;
        let results: Vec<_> = (round * 5..round * 5 + 5).map(succeeded).collect();
        store.record(fence, &results).await?;
    }
    let held = store.take_nodes(fence, wanted).await?;
    let held: HashSet<&ItemName> = held.iter().map(|held| &held.name).collect();
    Ok(wanted.iter().map(|(_, name)| name).filter(|name| !held.contains(name)).cloned().collect())
}

/// An empty strategy is none.
pub(super) async fn a_task_without_a_strategy_has_none(store: AnyStore) {
    let task = submit(&store, "ann", Draft { strategy: Some(StrategyDraft::default()), ..draft(2) }).await;
    assert_eq!((task.strategy.clone(), task.view().wave), (None, None));
    assert_eq!(claim(&store).await.task.strategy, None);
}
