//! Promises about the audit: every deed is told once with who, what, why and from where, and every node with what came of it.

use std::time::Duration;

use super::AnyStore;
use super::kit::{
    RULES, by, claim, claim_and_lapse, complete_next, draft, fence, keyed, new_task, result, submit,
    succeed_all, succeeded, terminal, user, worker,
};
use crate::store::audit::Asked;
use crate::store::{
    AuditEntry, AuditKind, AuditQuery, AuditRow, AuditedNode, Control, Created, ItemQuery, NewRetry, NewTask,
};
use crate::task::{
    Attempt, By, Counts, Draft, ItemOutcome, ItemState, Origin, Retry, RetryDraft, Status, TaskId,
};

/// From where, with all that can be told.
fn origin() -> Origin {
    Origin {
        role: Some("operator".into()),
        address: Some("2001:db8::7".parse().unwrap()),
        agent: Some("milepost/1".into()),
        request: Some("request-1".into()),
    }
}

async fn all(store: &AnyStore, query: AuditQuery) -> Vec<AuditRow> {
    store.audited(&AuditQuery { limit: 100, ..query }).await.unwrap()
}

async fn of_task(store: &AnyStore, task: TaskId) -> Vec<AuditRow> {
    all(store, AuditQuery { task: Some(task), ..AuditQuery::default() }).await
}

fn kinds(rows: &[AuditRow]) -> Vec<AuditKind> {
    rows.iter().map(|row| row.entry.kind).collect()
}

/// What came of a node, in words: state, attempt and worker.
fn told(node: &AuditedNode) -> (ItemState, Option<u32>, Option<String>) {
    let worker = node.worker.as_ref().map(ToString::to_string);
    (node.item.state(), node.attempt.map(|attempt| attempt.0), worker)
}

pub(super) async fn a_submit_is_told_with_who_what_why_and_from_where(store: AnyStore) {
    let wanted = Draft { reason: Some("new kernel".into()), concurrency: Some(3), ..draft(2) };
    let new = NewTask { origin: origin(), ..new_task("ann", wanted) };
    let Created::New(task) = store.create(new).await.unwrap() else { panic!("it is new") };
    let rows = all(&store, AuditQuery::default()).await;
    let [AuditRow { entry, task: Some(now), node: None, .. }] = &rows[..] else { panic!("{rows:?}") };
    let AuditEntry { kind, by: Some(who), owner, cluster, action, items, reason, outcome, detail, .. } =
        entry
    else {
        panic!("{entry:?}")
    };
    assert_eq!((*kind, who), (AuditKind::Submit, &By { user: user("ann"), origin: origin() }));
    assert_eq!((owner, cluster.as_ref(), entry.task), (&user("ann"), Some(&task.cluster), Some(task.id)));
    assert_eq!((action.as_deref(), *items, reason.as_deref()), (Some("wait"), Some(2), Some("new kernel")));
    assert_eq!((outcome.as_str(), &detail["concurrency"]), ("accepted", &3.into()));
    assert_eq!(detail["parameters"]["duration_ms"], 1);
    assert_eq!((now.status, now.counts, now.finished_at), (Status::Queued, Counts::new(2), None));
}

pub(super) async fn a_repeated_submit_is_told_once(store: AnyStore) {
    store.create(keyed("ann", draft(1), "k", 1)).await.unwrap();
    store.create(keyed("ann", draft(1), "k", 1)).await.unwrap();
    store.create(keyed("ann", draft(1), "k", 2)).await.unwrap_err();
    assert_eq!(kinds(&all(&store, AuditQuery::default()).await), [AuditKind::Submit]);
}

pub(super) async fn a_retry_is_told_with_what_it_retries(store: AnyStore) {
    let parent = submit(&store, "ann", draft(2)).await.id;
    let held = claim(&store).await;
    let results = [succeeded(0), result(1, ItemOutcome::failed("no"))];
    store.record(fence(&held), &results).await.unwrap();
    let task = store.find(parent).await.unwrap().unwrap();
    store.finish(fence(&held), &terminal(&task)).await.unwrap();
    let retry = Retry::new(RetryDraft::default()).unwrap();
    let (id, owner, origin) = (TaskId::generate(), user("ann"), origin());
    let new = NewRetry { id, parent, owner, retry, key: None, open_max: 10, origin: origin.clone() };
    store.retry(new).await.unwrap();
    let rows = of_task(&store, id).await;
    assert_eq!(kinds(&rows), [AuditKind::Retry]);
    let entry = &rows[0].entry;
    assert_eq!((entry.items, entry.by.as_ref().map(|by| &by.origin)), (Some(1), Some(&origin)));
    assert_eq!(entry.detail["retry_of"], parent.to_string());
}

pub(super) async fn orders_are_told_once_with_what_became_of_the_task(store: AnyStore) {
    let id = submit(&store, "ann", draft(2)).await.id;
    let boss = By { user: user("boss"), origin: origin() };
    for order in [
        Control::Pause,
        Control::Pause,
        Control::Resume,
        Control::Concurrency(Some(7)),
        Control::Cancel,
        Control::Cancel,
    ] {
        // Asking again changes nothing, or is refused once the task is over.
        let _ = store.control(id, order, &boss).await;
    }
    let rows = of_task(&store, id).await;
    let told: Vec<(AuditKind, &str)> =
        rows.iter().map(|row| (row.entry.kind, row.entry.outcome.as_str())).collect();
    let wanted = [
        (AuditKind::Cancel, "cancelled"),
        (AuditKind::Concurrency, "queued"),
        (AuditKind::Resume, "queued"),
        (AuditKind::Pause, "paused"),
        (AuditKind::Submit, "accepted"),
    ];
    assert_eq!(told, wanted, "newest first");
    assert_eq!(rows[1].entry.detail["concurrency"], 7);
    assert!(rows[..4].iter().all(|row| row.entry.by.as_ref() == Some(&boss)), "{rows:?}");
    assert!(rows.iter().all(|row| row.entry.owner == user("ann")), "it is ann's task: {rows:?}");
    let now = rows[4].task.as_ref().unwrap();
    assert_eq!((now.status, now.counts.cancelled), (Status::Cancelled, 2));
    assert_eq!(store.control(TaskId::generate(), Control::Cancel, &boss).await.unwrap(), None);
    assert_eq!(all(&store, AuditQuery::default()).await.len(), 5, "what is not there is not told");
}

pub(super) async fn each_node_has_one_outcome_under_its_attempt_and_worker(store: AnyStore) {
    let id = submit(&store, "ann", draft(4)).await.id;
    let first = claim_and_lapse(&store).await;
    store.record(fence(&first), &[succeeded(0)]).await.unwrap();
    let second = store.claim(&worker(1), &RULES).await.unwrap().unwrap();
    store.record(fence(&first), &[succeeded(1)]).await.unwrap_err();
    let failed = result(1, ItemOutcome::failed("no route"));
    store.record(fence(&second), &[failed, succeeded(0)]).await.unwrap();
    store.record(fence(&second), &[succeeded(1), succeeded(3)]).await.unwrap();
    let nodes = store.audited_nodes(id, None, 100).await.unwrap();
    let (one, two) = (Some(worker(0).to_string()), Some(worker(1).to_string()));
    let (succeeded, failed) = (ItemState::Succeeded, ItemState::Failed);
    let wanted = [
        (succeeded, Some(1), one),
        (failed, Some(2), two.clone()),
        (ItemState::Pending, None, None),
        (succeeded, Some(2), two),
    ];
    assert_eq!(nodes.iter().map(told).collect::<Vec<_>>(), wanted);
    let items = store.items(id, &ItemQuery { limit: 9, ..ItemQuery::default() }).await.unwrap();
    assert!(nodes.iter().map(|node| &node.item).eq(&items), "as the items of the task tell it");
    let rows = of_task(&store, id).await;
    assert_eq!(kinds(&rows), [AuditKind::Claim, AuditKind::Claim, AuditKind::Submit]);
    assert_eq!(rows[0].entry.claim, Some((Attempt(2), worker(1))));
    assert_eq!(kinds(&all(&store, AuditQuery::default()).await), [AuditKind::Submit], "deeds of people");
    let page = store.audited_nodes(id, Some(1), 2).await.unwrap();
    assert_eq!(page, nodes[2..4]);
    assert_eq!(store.audited_nodes(TaskId::generate(), None, 9).await.unwrap(), []);
}

pub(super) async fn the_history_of_a_node_is_its_tasks_newest_first(store: AnyStore) {
    let done = submit(&store, "ann", draft(3)).await.id;
    complete_next(&store).await;
    let other = submit(&store, "bob", draft(2)).await.id;
    store.control(other, Control::Cancel, &by("bob")).await.unwrap();
    let open = submit(&store, "ann", draft(3)).await.id;
    let history = async |node: &str, owner| {
        let node = Some(node.parse().unwrap());
        all(&store, AuditQuery { node, owner, ..AuditQuery::default() }).await
    };
    let rows = history("node-1", None).await;
    assert_eq!(
        rows.iter().map(|row| row.entry.task).collect::<Vec<_>>(),
        [Some(open), Some(other), Some(done)]
    );
    let nodes: Vec<_> = rows.iter().map(|row| told(row.node.as_ref().unwrap())).collect();
    assert_eq!(nodes[0], (ItemState::Pending, None, None));
    assert_eq!(nodes[1], (ItemState::Cancelled, None, None), "with the rest of its task");
    assert_eq!(nodes[2], (ItemState::Succeeded, Some(1), Some(worker(0).to_string())));
    let item = &rows[2].node.as_ref().unwrap().item;
    assert_eq!((item.index, item.name.as_str()), (1, "node-1"));
    let of_ann = history("node-1", Some(user("ann"))).await;
    assert_eq!(of_ann, [rows[0].clone(), rows[2].clone()]);
    assert_eq!(history("node-2", None).await.len(), 2, "bob's task has no such node");
    assert_eq!(history("node-9", None).await, []);
}

pub(super) async fn a_refusal_is_told(store: AnyStore) {
    let asked = Asked::submit(&Draft { reason: Some("because".into()), ..draft(3) });
    let vic = By { user: user("vic"), origin: origin() };
    store.note_refusal(&asked, "only read", &vic).await.unwrap();
    let rows = all(&store, AuditQuery::default()).await;
    let [AuditRow { entry, task: None, node: None, .. }] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((entry.kind, &entry.owner, entry.by.as_ref()), (AuditKind::Refused, &user("vic"), Some(&vic)));
    assert_eq!((entry.outcome.as_str(), entry.message.as_deref()), ("refused", Some("only read")));
    assert_eq!((entry.action.as_deref(), entry.items), (Some("wait"), Some(3)));
    assert_eq!((entry.reason.as_deref(), &entry.detail["asked"]), (Some("because"), &"submit".into()));
}

pub(super) async fn filters_are_kept_and_pages_meet_every_row_once(store: AnyStore) {
    let mut tasks = Vec::new();
    for n in 0..6 {
        let cluster = if n % 2 == 0 { "prod" } else { "lab" };
        let owner = if n < 4 { "ann" } else { "bob" };
        tasks.push(submit(&store, owner, Draft { cluster: cluster.into(), ..draft(1) }).await.id);
    }
    store.control(tasks[5], Control::Pause, &by("ann")).await.unwrap();
    let count = async |query| all(&store, query).await.len();
    let any = AuditQuery::default;
    assert_eq!(count(any()).await, 7);
    assert_eq!(count(AuditQuery { owner: Some(user("bob")), ..any() }).await, 3, "also what ann did to it");
    assert_eq!(count(AuditQuery { user: Some(user("ann")), ..any() }).await, 5);
    let both = AuditQuery { owner: Some(user("bob")), user: Some(user("ann")), ..any() };
    assert_eq!(kinds(&all(&store, both).await), [AuditKind::Pause]);
    assert_eq!(count(AuditQuery { cluster: Some("lab".parse().unwrap()), ..any() }).await, 4);
    assert_eq!(count(AuditQuery { action: Some("wait".into()), ..any() }).await, 7);
    assert_eq!(count(AuditQuery { action: Some("cordon".into()), ..any() }).await, 0);
    assert_eq!(count(AuditQuery { kind: Some(AuditKind::Submit), ..any() }).await, 6);
    let rows = all(&store, any()).await;
    let (third, fifth) = (rows[4].place.at, rows[2].place.at);
    let between = all(&store, AuditQuery { since: Some(third), until: Some(fifth), ..any() }).await;
    assert!(between.iter().all(|row| row.place.at >= third && row.place.at < fifth), "{between:?}");
    assert_eq!(between.len(), rows.iter().filter(|row| (third..fifth).contains(&row.place.at)).count());
    let mut seen = Vec::new();
    while let [.., last] = &store
        .audited(&AuditQuery { before: seen.last().map(|row: &AuditRow| row.place), limit: 2, ..any() })
        .await
        .unwrap()[..]
    {
        let page = AuditQuery { before: seen.last().map(|row: &AuditRow| row.place), limit: 2, ..any() };
        let last = last.place;
        seen.extend(store.audited(&page).await.unwrap());
        assert_eq!(seen.last().unwrap().place, last);
    }
    assert_eq!(seen, rows);
}

pub(super) async fn what_is_pruned_is_told_until_its_own_time_is_over(store: AnyStore) {
    let kept = submit(&store, "ann", draft(3)).await.id;
    let held = claim(&store).await;
    store.record(fence(&held), &[succeeded(1)]).await.unwrap();
    store.control(kept, Control::Cancel, &by("ann")).await.unwrap();
    let cancelled = |index| result(index, ItemOutcome::Cancelled);
    store.record(fence(&held), &[cancelled(0), cancelled(2)]).await.unwrap();
    let task = store.find(kept).await.unwrap().unwrap();
    store.finish(fence(&held), &terminal(&task)).await.unwrap();
    let rest = submit(&store, "ann", draft(2)).await.id;
    store.control(rest, Control::Cancel, &by("ann")).await.unwrap();
    let open = submit(&store, "ann", draft(1)).await.id;
    store.note_refusal(&Asked::of("template x"), "no", &by("vic")).await.unwrap();
    let told = async || {
        let node = AuditQuery { node: Some("node-1".parse().unwrap()), ..AuditQuery::default() };
        let nodes = [kept, rest].map(|task| store.audited_nodes(task, None, 9));
        let [one, two] = nodes;
        let nodes = [one.await.unwrap(), two.await.unwrap()];
        (
            all(&store, AuditQuery::default()).await,
            all(&store, node).await,
            of_task(&store, kept).await,
            nodes,
        )
    };
    let before = told().await;
    assert_eq!((before.0.len(), before.1.len(), before.2.len()), (6, 2, 3));
    assert_eq!(store.prune_audit(Duration::from_secs(3_600), 10).await.unwrap(), 0);
    assert_eq!(store.prune(Duration::ZERO, 10).await.unwrap(), 2);
    assert_eq!(store.find(kept).await.unwrap(), None);
    assert_eq!(told().await, before, "nothing of it changes when the task goes");
    assert_eq!(store.prune_audit(Duration::from_secs(3_600), 10).await.unwrap(), 0, "it is not old enough");
    let mut gone = 0;
    loop {
        match store.prune_audit(Duration::ZERO, 1).await.unwrap() {
            0 => break,
            n => gone += n,
        }
    }
    assert_eq!(gone, 3, "two tasks and a refusal");
    let left = all(&store, AuditQuery::default()).await;
    assert_eq!(left.iter().map(|row| row.entry.task).collect::<Vec<_>>(), [Some(open)]);
    assert_eq!(told().await.3, [Vec::new(), Vec::new()]);
    assert_eq!(store.items(open, &ItemQuery { limit: 9, ..ItemQuery::default() }).await.unwrap().len(), 1);
    let claim = claim(&store).await;
    assert_eq!(succeed_all(&store, &claim).await.id, open, "what is not over is not touched");
}
