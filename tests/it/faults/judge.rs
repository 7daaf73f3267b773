//! The end of a run: waits until it is over and quiet, notes the record, and has the checker judge all of it.

use std::time::Duration;

use milepost::verify::record::{End, Execution, Gauge, GaugeKind, ItemsDump, TaskDump};
use milepost::verify::{Record, Report, Verdict, check};

use super::stage::{Stage, blocking};
use crate::support::until;

/// Ends of all tasks.
const TASKS: &str = "SELECT json_build_object('task', id, 'owner', owner, 'status', status, 'attempt', attempt, \
    'total', total, 'succeeded', succeeded, 'failed', failed, 'skipped', skipped, 'cancelled', cancelled, \
    'max_attempts', max_attempts, 'finished_us', (extract(epoch FROM finished_at) * 1000000)::bigint)::text \
    FROM tasks";
/// Ends of items: rows of their own, or the end that a task gave all that were left.
const ITEMS: &str = "SELECT json_build_object('task', t.id, 'items', json_agg(json_build_object('index', n.i - 1, \
    'name', n.name, 'state', coalesce(items.state, t.rest))))::text \
    FROM tasks t JOIN task_members m ON m.task_id = t.id \
    CROSS JOIN LATERAL unnest(m.names) WITH ORDINALITY AS n (name, i) \
    LEFT JOIN items ON items.task_id = t.id AND items.idx = n.i - 1 \
    WHERE coalesce(items.state, t.rest) IS NOT NULL GROUP BY t.id";

/// # Panics
/// When the run does not come to an end, or something is not as promised.
pub async fn judge(stage: &Stage) -> Report {
    come_to_rest(stage).await;
    for task in stage.sql(TASKS.to_owned()).await {
        stage.notes.add(Record::Task(serde_json::from_str::<TaskDump>(&task).unwrap()));
    }
    for items in stage.sql(ITEMS.to_owned()).await {
        stage.notes.add(Record::Items(serde_json::from_str::<ItemsDump>(&items).unwrap()));
    }
    note_executions(stage);
    note_leaks(stage).await;
    stage.notes.add(Record::End(End { at_us: stage.notes.now() }));
    let report = check(&stage.notes.history());
    let violations: Vec<_> = report.violations().collect();
    assert_eq!(report.verdict, Verdict::Passed, "{:?} {violations:#?}", report.void);
    report
}

/// I1, I2, I10: every task is over and every watcher knows, every end is told, and no token is left with anybody.
async fn come_to_rest(stage: &Stage) {
    let open = "SELECT count(*) FROM tasks WHERE finished_at IS NULL";
    until("I1: every task ends", async || stage.number(open).await == 0).await;
    let sockets = stage.sockets();
    for socket in &sockets {
        for accepted in stage.accepted.iter().filter(|accepted| accepted.user == socket.user) {
            until("I2: every socket holds every end", async || socket.has_end(&accepted.task)).await;
        }
    }
    let untold = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
    until("I10: every end is told", async || stage.number(untold).await == 0).await;
    if let Some(redis) = &stage.hub.redis {
        let tokens = || blocking(|| redis.command(&["XLEN", "mp:dispatch"])).unwrap_or_default();
        until("I10: no token is left", async || tokens() == ":0\r\n").await;
    }
}

/// I6: each look at a node of the cluster begins a run of its item, if one task alone is about the cluster.
fn note_executions(stage: &Stage) {
    let tasks = stage.on_cluster();
    let (Some(cluster), [task]) = (&stage.cluster, tasks.as_slice()) else { return };
    for request in cluster.requests() {
        let Some(node) = request.path.strip_prefix("/api/v1/nodes/").filter(|_| request.verb == "get") else {
            continue;
        };
        stage.notes.add(Record::Execution(Execution {
            at_us: stage.began_us + i64::try_from(request.at.as_micros()).unwrap(),
            task: task.parse().unwrap(),
            item: node.to_owned(),
            attempt: None,
            worker: None,
            did: Some("get".to_owned()),
        }));
    }
}

/// I14: nobody holds a task, and gateways have the sockets that there are and no others.
async fn note_leaks(stage: &Stage) {
    let held = || stage.on_workers("milepost_tasks_held");
    until("I14: every task is let go", async || held() == 0.0).await;
    let open = || stage.on_gateways("milepost_sockets");
    let there = f64::from(u32::try_from(stage.sockets().len()).unwrap());
    let settled = async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        open() <= there
    };
    until("I14: no socket is left over", settled).await;
    for (name, value, max) in [("tasks held", held(), 0.0), ("sockets", open(), there)] {
        let kind = GaugeKind::Leak;
        stage.notes.add(Record::Gauge(Gauge { name: name.to_owned(), kind, value, max }));
    }
    let backlog = stage.number("SELECT count(*) FROM tasks WHERE finished_at IS NULL").await;
    let value = f64::from(u32::try_from(backlog).unwrap());
    let name = "open tasks".to_owned();
    stage.notes.add(Record::Gauge(Gauge { name, kind: GaugeKind::Backlog, value, max: 0.0 }));
}
