//! The Postgres store: the promises of every store, and what only a database promises.

use std::sync::Arc;
use std::time::Duration;

use milepost::faulty::{Faulty, fixtures};
use milepost::postgres::Database;
use milepost::store::contract::{self, AnyStore};
use milepost::store::postgres::statements;
use milepost::store::{
    Claim, ClaimRules, ClaimStore, Created, Fence, IdempotencyKey, Leadership, NewTask, PostgresStore, Store,
    StoreError, Task, TaskStore, UpkeepStore,
};
use milepost::task::{
    Draft, Effect, Event, EventKind, ItemName, ItemOutcome, ItemResult, Origin, ReplicaId, Seq, TaskId,
    TaskSpec, UserId,
};
use milepost::telemetry::Metrics;
use milepost::telemetry::metrics::Op;
use milepost_harness::Postgres;
use sqlx::{AssertSqlSafe, Executor, Row, SqlSafeStr};

use crate::database::{config, migrated};
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn the_postgres_store_keeps_every_promise() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let fresh = async || {
        sqlx::query("TRUNCATE tasks, task_members, items, owners, node_locks, audit, audit_ends CASCADE")
            .execute(database.pool())
            .await
            .unwrap();
        Arc::new(PostgresStore::new(database.clone())) as AnyStore
    };
    contract::holds(fresh).await;
}

/// Fail before, fail after: what a caller may repeat it may repeat here too, where a reply is lost for real.
#[tokio::test(flavor = "multi_thread")]
async fn the_postgres_store_keeps_every_promise_to_callers_that_ask_again() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    for (plan, _) in fixtures::plans() {
        let fresh = async || {
            sqlx::query("TRUNCATE tasks, task_members, items, owners, node_locks, audit, audit_ends CASCADE")
                .execute(database.pool())
                .await
                .unwrap();
            let store: Arc<dyn Store> = Arc::new(PostgresStore::new(database.clone()));
            Arc::new(Faulty::new(store, &plan)) as AnyStore
        };
        contract::holds(fresh).await;
        assert!(plan.met("store.record") > 0 && plan.met("store.finish") > 0, "no fault bit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_is_understood_by_a_real_server() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    for (name, sql) in statements::ALL.iter().chain(statements::audit::ALL) {
        let prepared = database.pool().prepare(sql.into_sql_str()).await;
        assert!(prepared.is_ok(), "{name}: {:?}", prepared.err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_leads_until_it_steps_down_or_dies() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let [one, two] = [(); 2].map(|()| PostgresStore::new(database.clone()));
    assert!(one.lead().await.unwrap());
    assert!(!two.lead().await.unwrap());
    one.step_down().await;
    until("the lead is free", async || two.lead().await.unwrap()).await;
    assert!(!one.lead().await.unwrap());
    let holder = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted";
    sqlx::query(holder).execute(database.pool()).await.unwrap();
    two.lead().await.expect_err("the session is gone, and the lead with it");
    until("the lead is free", async || one.lead().await.unwrap()).await;
    assert!(!two.lead().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_task_leaves_nothing_behind() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let store = PostgresStore::new(database.clone());
    let key = IdempotencyKey { key: "k".into(), fingerprint: [7; 32] };
    store.create(NewTask { key: Some(key), ..new_task(10) }).await.unwrap();
    run_next(&store, 4).await;
    assert_eq!(store.prune(Duration::ZERO, 10).await.unwrap(), 1);
    assert_eq!(store.prune_audit(Duration::ZERO, 10).await.unwrap(), 1);
    let rows = "SELECT (SELECT count(*) FROM tasks) + (SELECT count(*) FROM audit) + (SELECT count(*) FROM audit_ends) + (SELECT count(*) FROM task_members) + (SELECT count(*) FROM items)
        + (SELECT count(*) FROM outbox) + (SELECT count(*) FROM idempotency_keys) + (SELECT count(*) FROM owners)";
    let left: i64 = sqlx::query_scalar(rows).fetch_one(database.pool()).await.unwrap();
    assert_eq!(left, 0);
}

/// The cost of a claim must follow what waits, not what was ever done: every plan uses the partial indexes.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_often_never_scans_what_is_over() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let store = PostgresStore::new(database.clone());
    let many = "INSERT INTO tasks (id, owner, action, parameters, cluster, priority, max_attempts, status, total, succeeded,
            created_at, finished_at)
        SELECT gen_random_uuid(), 'user-' || n % 100, 'wait', '{}', 'prod', 0, 3, 'completed', 1, 1, now(), now()
        FROM generate_series(1, 30000) AS n";
    sqlx::query(many).execute(database.pool()).await.unwrap();
    let told =
        "INSERT INTO outbox (task_id, owner, event, published_at) SELECT id, owner, '{}', now() FROM tasks";
    sqlx::query(told).execute(database.pool()).await.unwrap();
    let results = "INSERT INTO items (task_id, idx, state, effect, tries, finished_at)
        SELECT id, 0, 'succeeded', 'changed', 1, now() FROM tasks";
    sqlx::query(results).execute(database.pool()).await.unwrap();
    let told = "INSERT INTO audit (kind, actor, owner, cluster, action, task_id, items, outcome, detail)
        SELECT 'submit', owner, owner, cluster, action, id, 1, 'accepted', '{}' FROM tasks";
    sqlx::query(told).execute(database.pool()).await.unwrap();
    let claimed = "INSERT INTO audit (kind, owner, cluster, action, task_id, outcome, attempt, worker)
        SELECT 'claim', owner, cluster, action, id, 'claimed', 1, 'worker' FROM tasks";
    sqlx::query(claimed).execute(database.pool()).await.unwrap();
    let members = "INSERT INTO task_members (task_id, names) SELECT id, ARRAY['node-' || substr(id::text, 1, 2)] FROM tasks";
    sqlx::query(members).execute(database.pool()).await.unwrap();
    sqlx::query("DELETE FROM tasks WHERE owner < 'user-3'").execute(database.pool()).await.unwrap();
    for _ in 0..20 {
        store.create(new_task(2)).await.unwrap();
    }
    for _ in 0..5 {
        store.claim(&worker(), &RULES).await.unwrap().unwrap();
    }
    sqlx::query("ANALYZE").execute(database.pool()).await.unwrap();
    let prepared = [
        ("SHORTLIST", statements::SHORTLIST, "10, 32, ARRAY['wait']"),
        ("HELD_ON_CLUSTER", statements::HELD_ON_CLUSTER, "'prod', gen_random_uuid()"),
        ("CLAIMABLE", statements::CLAIMABLE, "100"),
        ("USED_UP", statements::USED_UP, "100"),
        ("BACKLOG", statements::BACKLOG, ""),
        ("UNPUBLISHED", statements::UNPUBLISHED, "0, 100"),
        ("PRUNE", statements::PRUNE, "86400000, 100, 100000"),
        ("SNAPSHOT", statements::SNAPSHOT, "'ann', 20"),
        ("COUNT_OPEN", statements::COUNT_OPEN, "'ann', 1000"),
        ("FIND_BY_KEY", statements::FIND_BY_KEY, "'ann', 'key'"),
        ("FIND_EVENT", statements::FIND_EVENT, "gen_random_uuid()"),
        ("PUBLISHED", statements::PUBLISHED, "ARRAY[1, 2]"),
        ("RENEW", statements::RENEW, "ARRAY[gen_random_uuid()], ARRAY[1], 5000"),
        ("PENDING", statements::PENDING, "gen_random_uuid()"),
        ("ITEMS", statements::ITEMS, "gen_random_uuid(), 0, 100"),
        ("ITEMS_IN_STATE", statements::ITEMS_IN_STATE, "gen_random_uuid(), 0, 100, 'failed'"),
        ("LIST", statements::LIST, "gen_random_uuid(), ARRAY['failed'], NULL, 50"),
        ("LIST_COMMON", statements::LIST, "gen_random_uuid(), ARRAY['completed'], NULL, 50"),
        ("LIST_ALL", statements::LIST, "gen_random_uuid(), ARRAY[]::text[], NULL, 50"),
        (
            "LIST_OF_OWNER",
            statements::LIST_OF_OWNER,
            "gen_random_uuid(), ARRAY['failed'], 'prod', 50, 'user-7'",
        ),
        ("LIST_OPEN", statements::LIST_OPEN, "gen_random_uuid(), ARRAY['queued'], NULL, 50"),
    ];
    let audit = |last: &str| {
        format!("now(), 0, '2000-01-01', '9000-01-01', NULL, NULL, NULL, NULL, NULL, NULL, 11{last}")
    };
    let of_task = ", '00000000-0000-4000-8000-000000000000'";
    let audited = [
        ("AUDIT", statements::audit::AUDIT, audit("")),
        ("AUDIT_OF_OWNER", statements::audit::AUDIT_OF_OWNER, audit(", 'user-7'")),
        ("AUDIT_OF_ACTOR", statements::audit::AUDIT_OF_ACTOR, audit(", 'user-7'")),
        ("AUDIT_OF_TASK", statements::audit::AUDIT_OF_TASK, audit(of_task)),
        ("AUDIT_OF_NODE", statements::audit::AUDIT_OF_NODE, audit(", 'node-7f'")),
        ("AUDITED_NODES", statements::audit::AUDITED_NODES, "gen_random_uuid(), 0, 100".to_owned()),
        ("PRUNE_AUDIT", statements::audit::PRUNE_AUDIT, "86400000, 100, 20000".to_owned()),
        ("PRUNE_NOTES", statements::audit::PRUNE_NOTES, "86400000, 100".to_owned()),
    ];
    let prepared = prepared.map(|(name, sql, arguments)| (name, sql, arguments.to_owned()));
    for (name, sql, arguments) in prepared.into_iter().chain(audited) {
        let plan = explain(&database, name, sql, &arguments).await;
        for table in ["tasks", "items", "outbox", "audit", "audit_ends", "task_members"] {
            let scan = format!("Seq Scan on {table} ");
            assert!(!plan.contains(&scan), "{name} reads all of {table}:\n{plan}");
        }
    }
}

async fn explain(database: &Database, name: &str, sql: &str, arguments: &str) -> String {
    let mut connection = database.pool().acquire().await.unwrap();
    let execute = if arguments.is_empty() { name.to_owned() } else { format!("{name} ({arguments})") };
    let prepare = AssertSqlSafe(format!("PREPARE {name} AS {sql}"));
    sqlx::raw_sql(prepare).execute(&mut *connection).await.unwrap();
    let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE {execute}"));
    let rows = sqlx::raw_sql(explain).fetch_all(&mut *connection).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0) + "\n").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_items_take_few_statements() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let metrics = Metrics::new();
    let url = format!("postgres://milepost@127.0.0.1:{}/{}", postgres.port(), name_of(&database));
    let counted = Database::connect(&config(&url), "milepost-test", &metrics).await.unwrap();
    let store = PostgresStore::new(counted);
    store.create(new_task(10_000)).await.unwrap();
    run_next(&store, 500).await;
    let count = |op| metrics.db_queries.get_or_create(&Op { op }).get();
    let (reads, writes) = (count("read"), count("write"));
    assert!(writes >= 20, "the batches were counted");
    assert!(reads + writes <= 100, "{reads} reads and {writes} writes: more than 0.01 an item");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_keeps_what_it_had_answered() {
    let mut postgres = Postgres::start().unwrap();
    let store = PostgresStore::new(migrated(&postgres).await);
    let Created::New(task) = store.create(new_task(2)).await.unwrap() else { panic!("it is new") };
    let claim = store.claim(&worker(), &RULES).await.unwrap().unwrap();
    postgres.process().kill().unwrap();
    let error = store.record(fence(&claim), &[succeeded(0)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { doing: "recording results", .. }), "{error}");
    postgres.run().unwrap();
    until("the server is back", async || store.ping().await.is_ok()).await;
    assert_eq!(store.find(task.id).await.unwrap(), Some(claim.task.clone()));
    assert_eq!(store.record(fence(&claim), &[succeeded(0)]).await.unwrap().succeeded, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_of_a_newer_release_is_left_to_it() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let store = PostgresStore::new(database.clone());
    let newer =
        "INSERT INTO tasks (id, owner, action, parameters, cluster, priority, max_attempts, status, total)
        VALUES (gen_random_uuid(), 'ann', 'teleport', '{}', 'prod', 100, 3, 'queued', 1)";
    sqlx::query(newer).execute(database.pool()).await.unwrap();
    assert!(store.claim(&worker(), &RULES).await.unwrap().is_none());
    let Created::New(task) = store.create(new_task(1)).await.unwrap() else { panic!("it is new") };
    assert_eq!(store.snapshot(&task.owner, 10).await.unwrap(), std::slice::from_ref(&task));
    assert_eq!(store.claim(&worker(), &RULES).await.unwrap().unwrap().task.id, task.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_postgres_cannot_hold_does_not_stop_a_task() {
    let postgres = Postgres::start().unwrap();
    let store = PostgresStore::new(migrated(&postgres).await);
    let Created::New(task) = store.create(new_task(1)).await.unwrap() else { panic!("it is new") };
    let claim = store.claim(&worker(), &RULES).await.unwrap().unwrap();
    let odd = ItemResult { outcome: ItemOutcome::failed("a\0b"), ..succeeded(0) };
    store.record(fence(&claim), &[odd]).await.unwrap();
    let mut event = terminal(&store.find(task.id).await.unwrap().unwrap());
    event.error = Some("c\0d".into());
    store.finish(fence(&claim), &event).await.unwrap();
    let over = store.find(task.id).await.unwrap().unwrap();
    assert_eq!(over.error.as_deref(), Some("c\u{FFFD}d"));
    assert_eq!(store.unpublished(Duration::ZERO, 10).await.unwrap()[0].event, event);
}

const RULES: ClaimRules = ClaimRules { lease: Duration::from_secs(600), per_cluster_max: 1_000 };

fn worker() -> ReplicaId {
    ReplicaId::new("worker").unwrap()
}

fn new_task(items: usize) -> NewTask {
    let items = (0..items).map(|n| format!("node-{n}")).collect();
    let draft = Draft { action: "wait".into(), cluster: "prod".into(), items, ..Draft::default() };
    let (id, owner) = (TaskId::generate(), UserId::new("ann").unwrap());
    NewTask {
        id,
        owner,
        spec: TaskSpec::new(draft).unwrap(),
        key: None,
        open_max: 1_000,
        origin: Origin::default(),
    }
}

fn fence(claim: &Claim) -> Fence {
    Fence { task: claim.task.id, attempt: claim.task.state.attempt }
}

fn succeeded(index: u32) -> ItemResult {
    let outcome = ItemOutcome::Succeeded { effect: Effect::Changed };
    let name = ItemName::new(format!("node-{index}")).unwrap();
    ItemResult { index, name, outcome, tries: 1, finished_at: jiff::Timestamp::UNIX_EPOCH }
}

fn terminal(task: &Task) -> Event {
    let mut ended = task.clone();
    ended.state.status = task.counts.verdict().unwrap();
    ended.event(EventKind::terminal(ended.state.status), Seq(2), jiff::Timestamp::UNIX_EPOCH)
}

/// Claims the next task, records its items in batches and ends it.
async fn run_next(store: &PostgresStore, batch: usize) {
    let claim = store.claim(&worker(), &RULES).await.unwrap().unwrap();
    let results: Vec<_> = claim.pending.iter().map(|(index, _)| succeeded(*index)).collect();
    let mut task = claim.task.clone();
    for batch in results.chunks(batch) {
        task.counts = store.record(fence(&claim), batch).await.unwrap();
    }
    store.finish(fence(&claim), &terminal(&task)).await.unwrap();
}

fn name_of(database: &Database) -> String {
    database.options().get_database().unwrap().to_owned()
}
