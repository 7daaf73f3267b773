//! Promises to the gateway: submits, lists, pages and snapshots.

use std::collections::BTreeSet;

use serde_json::json;

use super::AnyStore;
use super::kit::{
    by, claim, complete_next, draft, fence, find, keyed, new_task, result, submit, succeed_all, succeeded,
    terminal, user,
};
use crate::store::{Control, Created, ItemQuery, NewTask, StoreError, Task, TaskQuery};
use crate::task::{ClusterName, Draft, ItemOutcome, ItemState, Status, TaskId, TaskSpec};

pub(super) async fn a_task_comes_back_as_it_was_submitted(store: AnyStore) {
    let full = Draft {
        action: "taint".into(),
        parameters: json!({"taints": [{"key": "a", "value": "b", "effect": "NoExecute"}], "overwrite": true}),
        reason: Some("kernel \u{1F427} \"update\"".into()),
        priority: Some(-7),
        concurrency: Some(1_000),
        item_timeout_ms: Some(86_400_000),
        max_attempts: Some(10),
        ..draft(3)
    };
    let new = new_task("ann", full.clone());
    let spec = TaskSpec::new(full).unwrap();
    let Created::New(task) = store.create(new.clone()).await.unwrap() else { panic!("it is new") };
    let expected = Task::accepted(new.id, new.owner, &spec, task.created_at);
    assert_eq!(task, expected);
    assert_eq!(find(&store, task.id).await, expected);
    let items = store.items(task.id, &ItemQuery { limit: 10, ..ItemQuery::default() }).await.unwrap();
    let names: Vec<_> = items.iter().map(|item| item.name.clone()).collect();
    assert_eq!(names, spec.items);
    assert!(items.iter().all(|item| item.state() == ItemState::Pending));
}

pub(super) async fn a_key_returns_the_task_that_it_made(store: AnyStore) {
    let Created::New(first) = store.create(keyed("ann", draft(2), "k", 1)).await.unwrap() else {
        panic!("the first is new")
    };
    let Created::Existing(again) = store.create(keyed("ann", draft(2), "k", 1)).await.unwrap() else {
        panic!("the second is the first")
    };
    assert_eq!(again, first);
    let key = |fingerprint| keyed("ann", draft(2), "k", fingerprint).key.unwrap();
    assert_eq!(store.of_key(&user("ann"), &key(1)).await.unwrap(), Some(first.clone()));
    assert_eq!(store.of_key(&user("bob"), &key(1)).await.unwrap(), None);
    store.control(first.id, Control::Cancel, &by("ann")).await.unwrap();
    let Created::Existing(over) = store.create(keyed("ann", draft(2), "k", 1)).await.unwrap() else {
        panic!("also when it is over")
    };
    assert_eq!((over.id, over.state.status), (first.id, Status::Cancelled));
    assert_eq!(store.list(&all(10)).await.unwrap().len(), 1);
}

pub(super) async fn a_key_with_another_body_is_refused(store: AnyStore) {
    let Created::New(first) = store.create(keyed("ann", draft(2), "k", 1)).await.unwrap() else {
        panic!("the first is new")
    };
    let error = store.create(keyed("ann", draft(3), "k", 2)).await.unwrap_err();
    assert!(matches!(error, StoreError::KeyConflict { task } if task == first.id), "{error}");
    let key = keyed("ann", draft(3), "k", 2).key.unwrap();
    let error = store.of_key(&user("ann"), &key).await.unwrap_err();
    assert!(matches!(error, StoreError::KeyConflict { task } if task == first.id), "{error}");
    assert_eq!(store.list(&all(10)).await.unwrap().len(), 1);
}

pub(super) async fn a_key_belongs_to_its_user(store: AnyStore) {
    for owner in ["ann", "bob"] {
        let made = store.create(keyed(owner, draft(1), "k", 1)).await.unwrap();
        assert!(matches!(made, Created::New(task) if task.owner == user(owner)));
    }
}

pub(super) async fn racing_submits_with_one_key_make_one_task(store: AnyStore) {
    let races = (0..50).map(|_| store.create(keyed("ann", draft(20), "k", 1)));
    let made = futures_util::future::join_all(races).await;
    let mut ids = BTreeSet::new();
    let mut new = 0;
    for created in made {
        let (Created::New(task) | Created::Existing(task)) = created.as_ref().unwrap();
        new += usize::from(matches!(created, Ok(Created::New(_))));
        ids.insert(task.id);
    }
    assert_eq!((ids.len(), new), (1, 1));
    assert_eq!(store.list(&all(10)).await.unwrap().len(), 1);
}

pub(super) async fn a_user_has_so_many_open_tasks_and_no_more(store: AnyStore) {
    let two = |new: NewTask| NewTask { open_max: 2, ..new };
    let Created::New(first) = store.create(two(keyed("ann", draft(1), "first", 1))).await.unwrap() else {
        panic!("it is new")
    };
    let second = two(new_task("ann", draft(1)));
    store.create(second.clone()).await.unwrap();
    store.control(second.id, Control::Pause, &by("ann")).await.unwrap();
    for refused in [new_task("ann", draft(1)), keyed("ann", draft(1), "second", 2)] {
        let error = store.create(two(refused)).await.unwrap_err();
        assert!(matches!(error, StoreError::TooManyOpen { max: 2, .. }), "{error}");
    }
    let again = store.create(two(keyed("ann", draft(1), "first", 1))).await.unwrap();
    assert!(matches!(again, Created::Existing(task) if task.id == first.id), "a repeat is no further task");
    store.create(two(new_task("bob", draft(1)))).await.expect("another user has a limit of their own");
    assert_eq!(store.snapshot(&user("ann"), 10).await.unwrap().len(), 2);
    store.control(first.id, Control::Cancel, &by("ann")).await.unwrap();
    let made = store.create(two(keyed("ann", draft(1), "second", 2))).await.unwrap();
    assert!(matches!(made, Created::New(_)), "there is room again, and the key was not used up");
}

pub(super) async fn racing_submits_pass_the_limit_by_no_more_than_they_are(store: AnyStore) {
    const RACERS: usize = 8;
    for _ in 0..10 {
        let races = (0..RACERS).map(|_| store.create(NewTask { open_max: 5, ..new_task("ann", draft(1)) }));
        for made in futures_util::future::join_all(races).await {
            assert!(matches!(made, Ok(Created::New(_)) | Err(StoreError::TooManyOpen { .. })), "{made:?}");
        }
    }
    let open = store.snapshot(&user("ann"), 0).await.unwrap().len();
    assert!((5..5 + RACERS).contains(&open), "{open} are open with a limit of 5");
}

pub(super) async fn an_unknown_task_is_nothing(store: AnyStore) {
    let id = TaskId::generate();
    assert_eq!(store.find(id).await.unwrap(), None);
    assert_eq!(store.items(id, &ItemQuery { limit: 10, ..ItemQuery::default() }).await.unwrap(), []);
    assert_eq!(store.control(id, Control::Cancel, &by("ann")).await.unwrap(), None);
    assert_eq!(store.snapshot(&user("nobody"), 10).await.unwrap(), []);
    store.ping().await.unwrap();
}

pub(super) async fn lists_are_newest_first_and_keep_to_their_filters(store: AnyStore) {
    let one = submit(&store, "ann", draft(1)).await.id;
    let two = submit(&store, "bob", Draft { cluster: "dev".into(), ..draft(1) }).await.id;
    let three = submit(&store, "ann", Draft { cluster: "dev".into(), ..draft(1) }).await.id;
    store.control(one, Control::Cancel, &by("ann")).await.unwrap();
    store.control(two, Control::Pause, &by("ann")).await.unwrap();
    let list = async |query: TaskQuery| ids(&store.list(&query).await.unwrap());
    let owner = Some(user("ann"));
    let cluster = Some(ClusterName::new("dev").unwrap());
    assert_eq!(list(all(10)).await, [three, two, one]);
    assert_eq!(list(all(2)).await, [three, two]);
    assert_eq!(list(TaskQuery { owner: owner.clone(), ..all(10) }).await, [three, one]);
    assert_eq!(list(TaskQuery { cluster: cluster.clone(), ..all(10) }).await, [three, two]);
    assert_eq!(list(TaskQuery { owner: owner.clone(), cluster, ..all(10) }).await, [three]);
    let with = |statuses: &[Status]| TaskQuery { statuses: statuses.to_vec(), ..all(10) };
    assert_eq!(list(with(&[Status::Cancelled])).await, [one]);
    assert_eq!(list(with(&[Status::Queued, Status::Paused])).await, [three, two]);
    assert_eq!(list(TaskQuery { owner: owner.clone(), ..with(&[Status::Queued]) }).await, [three]);
    assert_eq!(list(TaskQuery { owner, ..with(&[Status::Paused]) }).await, []);
    assert_eq!(list(TaskQuery { owner: Some(user("eve")), ..all(10) }).await, []);
}

pub(super) async fn pages_of_tasks_are_stable_while_tasks_arrive(store: AnyStore) {
    let mut expected = Vec::new();
    for _ in 0..7 {
        expected.insert(0, submit(&store, "ann", draft(1)).await.id);
    }
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = store.list(&TaskQuery { before, ..all(3) }).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen.extend(ids(&page));
        submit(&store, "ann", draft(1)).await;
    }
    assert_eq!(seen, expected);
}

pub(super) async fn pages_of_items_meet_every_item_once(store: AnyStore) {
    let task = submit(&store, "ann", draft(25)).await;
    let claim = claim(&store).await;
    let odd: Vec<_> = (0..25).filter(|index| index % 2 == 1).map(succeeded).collect();
    store.record(fence(&claim), &odd).await.unwrap();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.items(task.id, &ItemQuery { state: None, after, limit: 10 }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.index);
        seen.extend(page);
    }
    assert_eq!(seen.iter().map(|item| item.index).collect::<Vec<_>>(), (0..25).collect::<Vec<_>>());
    for item in seen {
        assert_eq!(item.name.as_str(), format!("node-{}", item.index));
        let expected = (item.index % 2 == 1).then(|| succeeded(item.index));
        assert_eq!(item.result, expected);
    }
}

pub(super) async fn items_are_found_by_state(store: AnyStore) {
    let task = submit(&store, "ann", draft(6)).await;
    let claim = claim(&store).await;
    let results = [
        succeeded(0),
        result(1, ItemOutcome::failed("it \u{1F4A5} broke")),
        result(2, ItemOutcome::skipped("not here")),
        result(3, ItemOutcome::Cancelled),
    ];
    store.record(fence(&claim), &results).await.unwrap();
    let found = async |state, after, limit| {
        let query = ItemQuery { state: Some(state), after, limit };
        store.items(task.id, &query).await.unwrap().into_iter().map(|item| item.index).collect::<Vec<_>>()
    };
    assert_eq!(found(ItemState::Pending, None, 10).await, [4, 5]);
    assert_eq!(found(ItemState::Pending, Some(4), 10).await, [5]);
    assert_eq!(found(ItemState::Pending, None, 1).await, [4]);
    assert_eq!(found(ItemState::Running, None, 10).await, [0_u32; 0]);
    assert_eq!(found(ItemState::Succeeded, None, 10).await, [0]);
    assert_eq!(found(ItemState::Failed, None, 10).await, [1]);
    assert_eq!(found(ItemState::Skipped, Some(1), 10).await, [2]);
    assert_eq!(found(ItemState::Cancelled, Some(3), 10).await, [0_u32; 0]);
    let query = ItemQuery { state: Some(ItemState::Failed), after: None, limit: 1 };
    assert_eq!(store.items(task.id, &query).await.unwrap()[0].result, Some(results[1].clone()));
}

pub(super) async fn a_snapshot_has_all_that_is_open_and_the_newest_that_is_over(store: AnyStore) {
    let mut over = Vec::new();
    for _ in 0..4 {
        submit(&store, "ann", draft(1)).await;
        over.push(complete_next(&store).await.0.id);
    }
    submit(&store, "bob", draft(1)).await;
    let running = claim(&store).await;
    assert_eq!(running.task.owner, user("bob"));
    let queued = submit(&store, "ann", draft(1)).await.id;
    let paused = submit(&store, "ann", draft(1)).await.id;
    store.control(paused, Control::Pause, &by("ann")).await.unwrap();
    let snapshot = async |owner, recent| ids(&store.snapshot(&user(owner), recent).await.unwrap());
    assert_eq!(snapshot("ann", 2).await, [paused, queued, over[3], over[2]]);
    assert_eq!(snapshot("ann", 0).await, [paused, queued]);
    assert_eq!(snapshot("bob", 10).await, [running.task.id]);
    let task = succeed_all(&store, &running).await;
    store.finish(fence(&running), &terminal(&task)).await.unwrap();
    assert_eq!(snapshot("bob", 10).await, [task.id]);
    assert_eq!(snapshot("bob", 0).await, []);
}

pub(super) async fn the_largest_task_is_kept_whole(store: AnyStore) {
    let task = submit(&store, "ann", draft(crate::task::spec::ITEMS_MAX)).await;
    assert_eq!(task.counts.total, 100_000);
    let claim = claim(&store).await;
    assert_eq!(claim.pending.len(), 100_000);
    assert_eq!(claim.pending[99_999].1.as_str(), "node-99999");
    let query = ItemQuery { state: Some(ItemState::Pending), after: Some(99_997), limit: 10 };
    assert_eq!(store.items(task.id, &query).await.unwrap().len(), 2);
    let ended = store.control(task.id, Control::Pause, &by("ann")).await.unwrap().unwrap();
    assert_eq!(ended.task.state.status, Status::Paused);
    let ended = store.control(task.id, Control::Cancel, &by("ann")).await.unwrap().unwrap();
    assert_eq!(ended.task.counts.cancelled, 100_000);
    assert_eq!(store.items(task.id, &query).await.unwrap(), []);
    let query = ItemQuery { state: Some(ItemState::Cancelled), ..query };
    let last = store.items(task.id, &query).await.unwrap();
    assert_eq!(last.iter().map(|item| item.index).collect::<Vec<_>>(), [99_998, 99_999]);
    assert_eq!(last[1].name.as_str(), "node-99999");
}

fn all(limit: u32) -> TaskQuery {
    TaskQuery { limit, ..TaskQuery::default() }
}

fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}
