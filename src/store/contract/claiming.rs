//! Promises to the worker about who gets which task, and for how long.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;

use super::AnyStore;
use super::kit::{
    LAPSING, LONG, RULES, SHORT, by, claim, claim_and_lapse, draft, fence, find, is_refused, submit,
    succeed_all, succeeded, terminal, until, user, worker,
};
use crate::store::{ClaimRules, Control, Fence, Renewal};
use crate::task::{Attempt, Draft, Status, TaskId};

pub(super) async fn an_empty_store_has_nothing_to_claim(store: AnyStore) {
    assert!(store.claim(&worker(0), &RULES).await.unwrap().is_none());
    assert_eq!(store.renew(&[], LONG).await.unwrap(), []);
}

pub(super) async fn a_claim_holds_the_task_under_a_new_attempt(store: AnyStore) {
    let task = submit(&store, "ann", draft(3)).await;
    let claim = claim(&store).await;
    assert_eq!(claim.task.id, task.id);
    assert_eq!((claim.task.state.status, claim.task.state.attempt), (Status::Running, Attempt(1)));
    assert_eq!(claim.task.state.tries, 1);
    assert_eq!(claim.task.worker, Some(worker(0)));
    assert!(claim.task.started_at.is_some_and(|at| at >= task.created_at));
    let pending: Vec<_> = claim.pending.iter().map(|(index, name)| (*index, name.as_str())).collect();
    assert_eq!(pending, [(0, "node-0"), (1, "node-1"), (2, "node-2")]);
    assert_eq!(find(&store, task.id).await, claim.task);
    assert!(store.claim(&worker(1), &RULES).await.unwrap().is_none(), "it is held");
}

pub(super) async fn the_owner_with_the_fewest_held_tasks_goes_first(store: AnyStore) {
    for _ in 0..4 {
        submit(&store, "many", draft(1)).await;
    }
    claim(&store).await;
    claim(&store).await;
    submit(&store, "few", draft(1)).await;
    submit(&store, "few", draft(1)).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(claim(&store).await.task.owner);
    }
    // "few" catches up to two held tasks; then "many" was served longer ago.
    assert_eq!(order, ["few", "few", "many", "many"].map(user));
}

pub(super) async fn the_owner_served_longest_ago_goes_first(store: AnyStore) {
    let mut order = Vec::new();
    for owner in ["ann", "bob", "cid"] {
        for _ in 0..3 {
            submit(&store, owner, draft(1)).await;
        }
    }
    for _ in 0..9 {
        let claim = claim(&store).await;
        order.push(claim.task.owner.to_string());
        let task = succeed_all(&store, &claim).await;
        store.finish(fence(&claim), &terminal(&task)).await.unwrap();
    }
    let (first, rest) = order.split_at(3);
    assert_eq!(first, ["ann", "bob", "cid"], "nobody was served yet, so age decides");
    assert_eq!(rest, [first, first].concat());
}

pub(super) async fn priority_then_age_decide_among_tasks_of_an_owner(store: AnyStore) {
    let mut made = Vec::new();
    for priority in [None, Some(5), Some(-5), Some(5)] {
        made.push(submit(&store, "ann", Draft { priority, ..draft(1) }).await.id);
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(claim(&store).await.task.id);
    }
    assert_eq!(order, [made[1], made[3], made[0], made[2]]);
}

pub(super) async fn a_full_cluster_holds_up_nobody_else(store: AnyStore) {
    let one = ClaimRules { per_cluster_max: 1, ..RULES };
    for _ in 0..3 {
        submit(&store, "ann", Draft { priority: Some(9), ..draft(1) }).await;
    }
    let other = submit(&store, "ann", Draft { cluster: "dev".into(), ..draft(1) }).await;
    let first = store.claim(&worker(0), &one).await.unwrap().unwrap();
    assert_eq!(first.task.cluster.as_str(), "prod");
    let second = store.claim(&worker(0), &one).await.unwrap().unwrap();
    assert_eq!(second.task.id, other.id);
    assert!(store.claim(&worker(0), &one).await.unwrap().is_none(), "both clusters are full");
    let task = succeed_all(&store, &first).await;
    store.finish(fence(&first), &terminal(&task)).await.unwrap();
    let third = store.claim(&worker(0), &one).await.unwrap().unwrap();
    assert_eq!(third.task.cluster.as_str(), "prod");
}

pub(super) async fn a_cluster_limit_holds_under_parallel_claims(store: AnyStore) {
    for n in 0..16 {
        submit(&store, &format!("user-{n}"), draft(1)).await;
    }
    let rules = ClaimRules { per_cluster_max: 3, ..RULES };
    let claims: Vec<_> = (0..8).map(worker).collect();
    let claims = join_all(claims.iter().map(|worker| store.claim(worker, &rules))).await;
    let got = claims.into_iter().filter(|claim| claim.as_ref().unwrap().is_some()).count();
    assert!((1..=3).contains(&got), "{got} held with a limit of 3");
    let mut held = got;
    while store.claim(&worker(0), &rules).await.unwrap().is_some() {
        held += 1;
    }
    assert_eq!((held, store.backlog().await.unwrap().held), (3, 3));
}

pub(super) async fn parallel_claims_never_share_a_task(store: AnyStore) {
    const TASKS: usize = 60;
    for n in 0..TASKS {
        submit(&store, &format!("user-{}", n % 3), draft(1)).await;
    }
    let mut workers = Vec::new();
    for n in 0..8 {
        let store = store.clone();
        workers.push(tokio::spawn(async move {
            let mut got = Vec::new();
            while let Some(claim) = store.claim(&worker(n), &RULES).await.unwrap() {
                assert_eq!((claim.task.state.attempt, claim.task.worker), (Attempt(1), Some(worker(n))));
                got.push(claim.task.id);
            }
            got
        }));
    }
    let mut times: HashMap<TaskId, usize> = HashMap::new();
    for worker in workers {
        for id in worker.await.unwrap() {
            *times.entry(id).or_default() += 1;
        }
    }
    assert_eq!(times.len(), TASKS, "every task was claimed");
    assert!(times.values().all(|&n| n == 1), "and none twice");
}

pub(super) async fn a_lapsed_lease_is_taken_over_with_what_is_pending(store: AnyStore) {
    let task = submit(&store, "ann", draft(3)).await;
    let first = store.claim(&worker(0), &LAPSING).await.unwrap().unwrap();
    store.record(fence(&first), &[succeeded(1)]).await.unwrap();
    let left = store.next_lapse().await.unwrap().unwrap();
    assert!(left <= SHORT, "{left:?}");
    until("the lease lapses", async || store.backlog().await.unwrap().lapsed == 1).await;
    assert_eq!(store.next_lapse().await.unwrap(), Some(Duration::ZERO));
    let second = store.claim(&worker(1), &RULES).await.unwrap().unwrap();
    assert!(store.next_lapse().await.unwrap().unwrap() > SHORT);
    assert_eq!(second.task.id, task.id);
    assert_eq!((second.task.state.attempt, second.task.state.tries), (Attempt(2), 2));
    assert_eq!((second.task.worker, second.task.counts.succeeded), (Some(worker(1)), 1));
    assert_eq!(second.pending.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(second.task.started_at, first.task.started_at);
    assert_eq!(store.renew(&[fence(&first)], LONG).await.unwrap(), [Renewal::Lost]);
}

pub(super) async fn a_lapsed_task_does_not_block_its_own_full_cluster(store: AnyStore) {
    let lapsed = submit(&store, "ann", draft(1)).await.id;
    claim_and_lapse(&store).await;
    submit(&store, "ann", draft(1)).await;
    let one = ClaimRules { per_cluster_max: 1, ..RULES };
    assert_eq!(store.claim(&worker(1), &one).await.unwrap().unwrap().task.id, lapsed);
    assert!(store.claim(&worker(1), &one).await.unwrap().is_none(), "the cluster is full");
}

fn still(status: Status) -> Renewal {
    Renewal::Held { status, concurrency: None }
}

pub(super) async fn a_renewed_lease_is_not_taken_over(store: AnyStore) {
    submit(&store, "ann", draft(1)).await;
    assert_eq!(store.next_lapse().await.unwrap(), None, "nothing is held");
    let held = store.claim(&worker(0), &LAPSING).await.unwrap().unwrap();
    assert_eq!(store.renew(&[fence(&held)], LONG).await.unwrap(), [still(Status::Running)]);
    // Twice the first lease: without the renewal it would be claimable by now.
    tokio::time::sleep(SHORT * 2).await;
    assert!(store.claim(&worker(1), &RULES).await.unwrap().is_none());
    assert_eq!(store.backlog().await.unwrap().lapsed, 0);
    assert_eq!(store.renew(&[fence(&held)], Duration::ZERO).await.unwrap().len(), 1);
    until("the lease lapses", async || store.backlog().await.unwrap().lapsed == 1).await;
    assert_eq!(store.renew(&[fence(&held)], LONG).await.unwrap(), [still(Status::Running)]);
}

pub(super) async fn a_renewal_tells_of_each_task_in_order(store: AnyStore) {
    let mut held = Vec::new();
    for _ in 0..5 {
        submit(&store, "ann", draft(1)).await;
        held.push(claim(&store).await);
    }
    let fences: Vec<Fence> = held.iter().map(fence).collect();
    store.control(held[1].task.id, Control::Cancel, &by("ann")).await.unwrap();
    store.control(held[2].task.id, Control::Pause, &by("ann")).await.unwrap();
    let done = succeed_all(&store, &held[3]).await;
    store.finish(fences[3], &terminal(&done)).await.unwrap();
    store.control(held[4].task.id, Control::Pause, &by("ann")).await.unwrap();
    store.control(held[4].task.id, Control::Resume, &by("ann")).await.unwrap();
    let unknown = Fence { task: TaskId::generate(), attempt: Attempt(1) };
    let asked = [fences[4], fences[3], unknown, fences[2], fences[1], fences[0]];
    let expected = [
        Renewal::Lost,
        Renewal::Lost,
        Renewal::Lost,
        still(Status::Paused),
        still(Status::Cancelling),
        still(Status::Running),
    ];
    assert_eq!(store.renew(&asked, LONG).await.unwrap(), expected);
}

pub(super) async fn a_hand_over_uses_up_no_try(store: AnyStore) {
    let task = submit(&store, "ann", Draft { max_attempts: Some(1), ..draft(2) }).await;
    let first = claim(&store).await;
    store.record(fence(&first), &[succeeded(0)]).await.unwrap();
    assert_eq!(store.hand_over(fence(&first)).await.unwrap(), Status::Queued);
    assert_eq!(store.hand_over(fence(&first)).await.unwrap(), Status::Queued);
    let given_back = find(&store, task.id).await;
    assert_eq!(
        (given_back.state.status, given_back.state.tries, given_back.worker),
        (Status::Queued, 0, None)
    );
    let second = claim(&store).await;
    assert_eq!((second.task.state.attempt, second.pending.len()), (Attempt(2), 1));
    store.control(task.id, Control::Cancel, &by("ann")).await.unwrap();
    assert!(is_refused(&store.hand_over(fence(&second)).await), "a cancel is not handed over");
}
