//! The maintenance with real processes: who does it when its leader is killed or stopped, and what it sees.
//!
//! What a lost leader has to do is made by hand in the record: an end that nobody was told, and a task that used up its
//! tries. That it gets done shows that the duties have moved, and not only the lock.

use std::time::Duration;

use milepost_harness::{Hub, HubMode, HubSpec, Replica};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Api, Watcher, assert_orderly, eventually, is_terminal, names, until, wait_batch};

/// What the guarantee says.
const MOVES_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn the_duties_of_a_lost_leader_move_within_ten_seconds_in_postgres_mode() {
    the_duties_move(HubMode::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_duties_of_a_lost_leader_move_within_ten_seconds_in_redis_mode() {
    the_duties_move(HubMode::Redis).await;
}

async fn the_duties_move(mode: HubMode) {
    let spec = HubSpec { gateways: 1, workers: 2, ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode) };
    let mut hub = tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap();
    let api = Api::new(&hub.gateways[0].url(), &hub.token("ann", "operator").unwrap());
    let over = api.submit(&wait_batch(&names("d", 1), 1, 0)).await;
    api.finished(&over).await;
    until("its end is told", async || published(&hub, &over)).await;

    let killed = leader(&hub, &[0, 1]).await;
    hub.workers[killed].kill().unwrap();
    did_all_in_time(&hub, &over, "killed").await;
    hub.workers[killed].run().unwrap();

    let stopped = leader(&hub, &[0, 1]).await;
    assert_ne!(stopped, killed, "the lead stays where it is when a replica comes back");
    hub.workers[stopped].process().signal(Signal::SIGSTOP).unwrap();
    did_all_in_time(&hub, &over, "stopped").await;
    let next = leader(&hub, &[killed]).await;
    hub.workers[stopped].process().signal(Signal::SIGCONT).unwrap();
    until("who was stopped knows that it leads no more", async || !leads(&hub.workers[stopped])).await;
    assert!(leads(&hub.workers[next]), "and who took over goes on");
    assert_eq!(holders(&hub), "1");
}

fn leads(replica: &Replica) -> bool {
    replica.metric("milepost_maintenance_leader ").unwrap() > 0.0
}

/// Which of these leads.
async fn leader(hub: &Hub, of: &[usize]) -> usize {
    eventually("one leads", async || of.iter().copied().find(|&n| leads(&hub.workers[n]))).await
}

fn holders(hub: &Hub) -> String {
    hub.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 20261 AND granted")
        .unwrap()
}

fn published(hub: &Hub, task: &str) -> bool {
    hub.sql(&format!("SELECT published_at IS NOT NULL FROM outbox WHERE task_id = '{task}'")).unwrap() == "t"
}

/// Makes something to do for the relay and the rescuer, and waits until it is done.
async fn did_all_in_time(hub: &Hub, over: &str, how: &str) {
    let began = Instant::now();
    let untold = "UPDATE outbox SET published_at = NULL, created_at = now() - interval '1 minute'";
    hub.sql(&format!("{untold} WHERE task_id = '{over}'")).unwrap();
    let poison = hub.sql(POISON).unwrap();
    until("the relay works again", async || published(hub, over)).await;
    let ended = format!("SELECT status FROM tasks WHERE id = '{poison}'");
    until("the rescuer works again", async || hub.sql(&ended).unwrap() == "failed").await;
    let took = began.elapsed();
    assert!(took <= MOVES_WITHIN, "the duties of a leader that was {how} moved after {took:?}");
}

/// A task that has killed its worker as often as it may.
const POISON: &str = "
    WITH task AS (
        INSERT INTO tasks (id, owner, action, parameters, cluster, priority, max_attempts, status, attempt, tries,
            worker, lease_until, total)
        SELECT gen_random_uuid(), owner, action, parameters, cluster, priority, 1, 'running', 1, 1, 'gone', now(), 1
        FROM tasks WHERE finished_at IS NOT NULL LIMIT 1
        RETURNING id
    ), members AS (
        INSERT INTO task_members (task_id, names) SELECT id, ARRAY['node-1'] FROM task
    )
    SELECT id FROM task";

/// The worker tells its watchers, late ones too, and the record shows it to operators; both end with the next result.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_does_not_get_on_shows_to_watchers_and_operators() {
    let spec =
        HubSpec { gateways: 1, workers: 1, ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Redis) }
            .set("MILEPOST_WORKER__STALL_AFTER", "1s");
    let hub = tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap();
    let (base, token) = (hub.gateways[0].url(), hub.token("ann", "operator").unwrap());
    let mut socket = Watcher::connect(&base, &token, None).await;
    let mut batch = wait_batch(&names("s", 2), 12_000, 0);
    batch["concurrency"] = json!(1);
    let task = Api::new(&base, &token).submit(&batch).await;
    let mut events = socket.events_until(&task, |event| event["type"] == "stalled").await;
    let stalled = events.last().unwrap();
    assert_eq!((&stalled["status"], &stalled["items"][0]["name"]), (&json!("running"), &json!("s-000")));
    assert_eq!(stalled["message"], "no item finished for 1 s; in work: s-000");
    let late = Watcher::connect(&base, &token, None).await.snapshot.unwrap();
    assert_eq!(late["tasks"][0]["stalled_since"], stalled["stalled_since"]);
    let gauge = async |n: f64| hub.workers[0].metric("milepost_tasks_stalled ").unwrap() == n;
    until("operators see it", async || gauge(1.0).await).await;
    events.extend(socket.events_until(&task, |event| event["current"] == 1).await);
    assert!(events.last().unwrap()["stalled_since"].is_null(), "{}", events.last().unwrap());
    events.extend(socket.events_until(&task, is_terminal).await);
    assert_orderly(&events);
    assert_eq!(events.iter().filter(|event| event["type"] == "stalled").count(), 2, "once for each item");
    until("operators see that it is over", async || gauge(0.0).await).await;
}

/// Ended tasks by the thousand, three of them large, all but one older than the seven days for which they are kept.
const BACKLOG: &str = "
    WITH task AS (
        INSERT INTO tasks (id, owner, action, parameters, cluster, priority, max_attempts, status, attempt, tries, total,
            succeeded, created_at, finished_at)
        SELECT gen_random_uuid(), 'bob', 'wait', '{}', 'local', 0, 3, 'completed', 1, 1, total, total, at, at
        FROM generate_series(1, 5000) AS n
        CROSS JOIN LATERAL (SELECT CASE WHEN n <= 3 THEN 30000 ELSE 5 END AS total,
            now() - CASE WHEN n = 5000 THEN interval '6 days 23 hours' ELSE interval '7 days 1 minute' END AS at) AS old
        RETURNING id, total
    ), members AS (
        INSERT INTO task_members (task_id, names)
        SELECT id, ARRAY(SELECT 'node-' || i FROM generate_series(1, total) AS i) FROM task
    ), outbox AS (
        INSERT INTO outbox (task_id, owner, event, published_at) SELECT id, 'bob', '{}', now() FROM task
    )
    INSERT INTO items (task_id, idx, state, effect, tries, finished_at)
    SELECT id, i - 1, 'succeeded', 'changed', 1, now() FROM task CROSS JOIN LATERAL generate_series(1, total) AS i";

/// The same in the audit: half as many tasks, and the one that is not old enough.
const AUDITED: &str = "
    WITH told AS (
        INSERT INTO audit (kind, actor, owner, cluster, action, task_id, items, outcome, at)
        SELECT 'submit', owner, owner, cluster, action, id, total, 'accepted', created_at FROM tasks
        WHERE owner = 'bob' AND (total > 5 OR id::text < '8' OR finished_at > now() - interval '7 days')
    )
    INSERT INTO audit (kind, actor, owner, outcome, at)
    SELECT 'refused', 'vic', 'vic', 'refused', now() - interval '8 days' FROM generate_series(1, 2000)";

/// A backlog goes in small transactions, with default settings but for the pause, and nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_old_tasks_are_pruned_without_a_long_transaction() {
    let spec = HubSpec {
        gateways: 1,
        workers: 1,
        ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Postgres)
    }
    .set("MILEPOST_MAINTENANCE__PRUNE_INTERVAL", "1s")
    .set("MILEPOST_AUDIT__RETENTION", "7d");
    let hub = tokio::task::spawn_blocking(|| Hub::start(spec)).await.unwrap().unwrap();
    let api = Api::new(&hub.gateways[0].url(), &hub.token("ann", "operator").unwrap());
    hub.sql(&format!("BEGIN; {BACKLOG}; {AUDITED}; COMMIT")).unwrap();
    let mut longest = Duration::ZERO;
    until("the backlog is gone", async || {
        let age = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity
            WHERE application_name = 'milepost'";
        longest = longest.max(Duration::from_secs_f64(hub.sql(age).unwrap().parse().unwrap()));
        let began = Instant::now();
        api.finished(&api.submit(&wait_batch(&names("p", 1), 0, 0)).await).await;
        assert!(began.elapsed() < MOVES_WITHIN, "a task took {:?} beside the pruner", began.elapsed());
        let left = "SELECT (SELECT count(*) FROM tasks WHERE owner = 'bob'),
            (SELECT count(*) FROM audit WHERE owner IN ('bob', 'vic')), (SELECT count(*) FROM audit_ends)";
        hub.sql(left).unwrap() == "1|1|0"
    })
    .await;
    assert!(longest < Duration::from_secs(2), "a transaction took {longest:?}");
    let pruned = hub.workers[0].metric("milepost_upkeep_actions_total{kind=\"pruner\"}").unwrap();
    assert_eq!(pruned, 4_999.0);
    for (table, rows) in [("task_members", "0|1"), ("outbox", "0|1"), ("items", "0|5")] {
        let left = format!(
            "SELECT count(*) FILTER (WHERE tasks.id IS NULL), count(*) FILTER (WHERE tasks.owner = 'bob')
            FROM {table} LEFT JOIN tasks ON tasks.id = {table}.task_id"
        );
        assert_eq!(hub.sql(&left).unwrap(), rows, "{table}");
    }
}
