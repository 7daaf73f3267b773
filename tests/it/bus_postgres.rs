//! The progress bus in Postgres: the contract in both notify modes, and what only a real server can do to it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use milepost::bus::contract::{self, Collector, Fixture, progress, terminal, user};
use milepost::bus::{Feed, Following, Inbox, PostgresFeed, PostgresPublisher, Published, Publisher};
use milepost::config::{BusConfig, Notify};
use milepost::faulty::{Fault, Plan, fixtures};
use milepost::lifecycle::Lifecycle;
use milepost::postgres::Database;
use milepost::task::{TaskId, UserId};
use milepost::telemetry::Metrics;
use milepost_harness::Postgres;
use nix::sys::signal::Signal;
use sqlx::Executor;

use crate::database::{config, migrated};
use crate::support::{PATIENCE, until};

/// Two gateway replicas and a publisher on one database.
struct Bus {
    database: Database,
    publisher: Arc<PostgresPublisher>,
    feeds: [Arc<PostgresFeed>; 2],
    _lifecycle: Lifecycle,
}

impl Bus {
    async fn start(postgres: &Postgres, config: &BusConfig) -> Self {
        Self::on(migrated(postgres).await, config)
    }

    fn on(database: Database, config: &BusConfig) -> Self {
        let lifecycle = Lifecycle::new();
        let feed = || Arc::new(PostgresFeed::start(database.clone(), config, &lifecycle));
        let publisher = Arc::new(PostgresPublisher::new(database.clone(), config));
        Self { publisher, feeds: [feed(), feed()], database, _lifecycle: lifecycle }
    }

    async fn follow(&self, replica: usize, user: &UserId) -> (Following, Arc<Collector>) {
        let inbox = Collector::new();
        let following = self.feeds[replica].follow(user, Arc::clone(&inbox) as Arc<dyn Inbox>).await;
        (following.unwrap(), inbox)
    }

    /// Publishes until the server takes it: it may be away.
    async fn publish(&self, user: &UserId, task: TaskId, seq: u64) {
        let event = progress(task, 1, seq);
        until("the server is back", async || self.publisher.publish(user, &event).await.is_ok()).await;
    }

    async fn wait_for_health(&self, word: &str) {
        let all = async || self.feeds.iter().all(|feed| feed.health().detail.contains(word));
        until(word, all).await;
    }

    /// Waits until a count is as it should be.
    async fn until(&self, what: &'static str, as_it_should: impl Fn(i64) -> bool) {
        until(what, async || as_it_should(self.count(what).await)).await;
    }

    async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what).fetch_one(self.database.pool()).await.unwrap()
    }
}

#[async_trait]
impl Fixture for Bus {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::clone(&self.publisher) as Arc<dyn Publisher>
    }

    fn feed(&self, replica: usize) -> Arc<dyn Feed> {
        Arc::clone(&self.feeds[replica]) as Arc<dyn Feed>
    }

    async fn wipe(&self, user: &UserId) {
        let wipe = "DELETE FROM bus_streams WHERE user_id = $1";
        sqlx::query(wipe).bind(user.as_str()).execute(self.database.pool()).await.unwrap();
    }

    async fn trim(&self, user: &UserId, keep: usize) {
        let trim = "DELETE FROM bus_events e USING bus_streams s
            WHERE s.user_id = $1 AND e.stream = s.stream AND e.id <= s.head - $2";
        let keep = i64::try_from(keep).unwrap();
        sqlx::query(trim).bind(user.as_str()).bind(keep).execute(self.database.pool()).await.unwrap();
    }
}

const EVENTS: &str = "SELECT count(*) FROM bus_events";
const STREAMS: &str = "SELECT count(*) FROM bus_streams";
const LIVE: &str = "SELECT count(*) FROM bus_live";

/// Notifications must do all the work: the poll is too rare to help.
fn listening() -> BusConfig {
    let rare = Duration::from_secs(3600);
    BusConfig { poll_interval: rare, sweep_interval: rare, ..BusConfig::default() }
}

fn polling() -> BusConfig {
    BusConfig { notify: Notify::Poll, poll_interval: Duration::from_millis(20), ..BusConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_with_notifications_alone() {
    let postgres = Postgres::start().unwrap();
    let bus = Bus::start(&postgres, &listening()).await;
    bus.wait_for_health("by notification").await;
    contract::holds(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_callers_that_ask_again_after_lost_replies() {
    let postgres = Postgres::start().unwrap();
    let bus = Bus::start(&postgres, &listening()).await;
    bus.wait_for_health("by notification").await;
    let plan = Plan::in_turn(Fault::After, fixtures::REPEATABLE);
    contract::holds(&fixtures::Through::new(bus, &plan)).await;
    assert!(plan.met("feed.follow") > 0 && plan.met("feed.replay") > 0, "no fault bit");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_with_polls_alone() {
    let postgres = Postgres::start().unwrap();
    let bus = Bus::start(&postgres, &polling()).await;
    contract::holds(&bus).await;
    bus.wait_for_health("by polling, as configured").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_fits_the_schema() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    for (name, statement) in milepost::bus::postgres::STATEMENTS {
        let prepared = database.pool().prepare(sqlx::SqlSafeStr::into_sql_str(statement)).await;
        assert!(prepared.is_ok(), "{name}: {prepared:?}");
    }
}

/// What is read for one user must not cost what all users have.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_for_a_user_never_scans_the_events_of_all() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let many = "INSERT INTO bus_streams (user_id, epoch, head) SELECT 'user-' || n, 'e', 100 FROM generate_series(1, 1000) AS n;
        INSERT INTO bus_events (stream, id, task_id, attempt, seq, terminal, body, created_at)
            SELECT stream, id, gen_random_uuid(), 1, 1, false, '', now() FROM bus_streams, generate_series(1, 100) AS id;
        INSERT INTO bus_live SELECT stream, task_id, 1, 1, '', now() FROM bus_events WHERE id <= 20;
        ANALYZE";
    sqlx::raw_sql(many).execute(database.pool()).await.unwrap();
    for (name, arguments) in [
        ("READ", "ARRAY['user-1', 'user-2'], ARRAY['e', 'e'], ARRAY[90, 95], 256, 4096"),
        ("LIVE", "'user-1', ARRAY[gen_random_uuid()]"),
        ("HEAD", "'user-1'"),
        ("OPEN", "'user-1', 'e'"),
        ("TRIM_OLD", "3600, 2000"),
    ] {
        let (_, sql) = milepost::bus::postgres::STATEMENTS.into_iter().find(|(n, _)| *n == name).unwrap();
        let explain = format!("PREPARE plan_{name} AS {sql}; EXPLAIN EXECUTE plan_{name} ({arguments})");
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(database.pool()).await.unwrap();
        let plan: String = rows.iter().map(|row| sqlx::Row::get::<String, _>(row, 0) + "\n").collect();
        assert!(plan.contains("Index"), "{name} has a plan by index:\n{plan}");
        for table in ["bus_events", "bus_live", "bus_streams"] {
            assert!(!plan.contains(&format!("Seq Scan on {table} ")), "{name} reads all of {table}:\n{plan}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_listener_comes_back_and_nothing_is_missed() {
    let postgres = Postgres::start().unwrap();
    let bus = Bus::start(&postgres, &listening()).await;
    let (user, task) = (user("killed"), TaskId::generate());
    let (_following, inbox) = bus.follow(0, &user).await;
    bus.wait_for_health("by notification").await;
    for round in 0..3 {
        bus.publish(&user, task, round * 3 + 1).await;
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'milepost listener'";
        assert_eq!(bus.count(kill).await, 2, "one listener per replica");
        // Whether this one rings a dying listener or none: the reconnect looks for itself.
        bus.publish(&user, task, round * 3 + 2).await;
        inbox.wait_for(usize::try_from(round * 3 + 2).unwrap()).await;
        bus.wait_for_health("by notification").await;
        bus.publish(&user, task, round * 3 + 3).await;
        inbox.wait_for(usize::try_from(round * 3 + 3).unwrap()).await;
    }
    let seqs: Vec<_> = inbox.entries().iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=9).collect::<Vec<_>>());
    assert!(inbox.losses().is_empty());
}

/// Backends that stand still until dropped: their connections are open and say nothing.
struct Stopped(Vec<i32>);

impl Stopped {
    async fn listeners_of(bus: &Bus) -> Self {
        let listeners = "SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'milepost listener'";
        let pids = sqlx::query_scalar(listeners).fetch_all(bus.database.pool()).await.unwrap();
        let stopped = Self(pids);
        assert_eq!(stopped.0.len(), 2, "one listener per replica");
        stopped.signal(Signal::SIGSTOP);
        stopped
    }

    fn signal(&self, signal: Signal) {
        for &pid in &self.0 {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_went_deaf_is_noticed_and_replaced() {
    let postgres = Postgres::start().unwrap();
    let bus = Bus::start(&postgres, &listening()).await;
    let user = user("deaf");
    let (_following, inbox) = bus.follow(0, &user).await;
    bus.wait_for_health("by notification").await;
    let _stopped = Stopped::listeners_of(&bus).await;
    bus.publish(&user, TaskId::generate(), 1).await;
    // The silence before a probe, and the probe itself, take 25 s.
    let heard = async {
        while inbox.entries().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), heard).await.expect("no poll helps: only a new listener");
    bus.wait_for_health("by notification").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_bell_is_found_by_the_sweep() {
    let postgres = Postgres::start().unwrap();
    let sweep = Duration::from_millis(200);
    let config = BusConfig { poll_interval: sweep, sweep_interval: sweep, ..BusConfig::default() };
    let bus = Bus::start(&postgres, &config).await;
    let user = user("lost-bell");
    let (_following, inbox) = bus.follow(0, &user).await;
    bus.wait_for_health("by notification").await;
    let _stopped = Stopped::listeners_of(&bus).await;
    bus.publish(&user, TaskId::generate(), 1).await;
    inbox.wait_for(1).await;
}

/// A database that takes notifications and passes none on, as behind a pooler in transaction mode.
async fn deaf(postgres: &Postgres) -> Database {
    let url = postgres.database().unwrap();
    let connect = async || Database::connect(&config(&url), "milepost-test", &Metrics::new()).await.unwrap();
    let database = connect().await;
    database.migrate().await.unwrap();
    let swallow = format!(
        "CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
         ALTER DATABASE {} SET search_path = public, pg_catalog",
        database.options().get_database().unwrap()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(swallow)).execute(database.pool()).await.unwrap();
    connect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_notifications_the_poll_does_all_the_work() {
    let postgres = Postgres::start().unwrap();
    let poll_interval = Duration::from_millis(50);
    let bus = Bus::on(deaf(&postgres).await, &BusConfig { poll_interval, ..listening() });
    let (user, task) = (user("deaf-server"), TaskId::generate());
    let (_following, inbox) = bus.follow(0, &user).await;
    for seq in 1..=5 {
        bus.publish(&user, task, seq).await;
        inbox.wait_for(usize::try_from(seq).unwrap()).await;
    }
    bus.wait_for_health("by polling, for notifications do not arrive").await;
    assert!(bus.feeds[0].health().ready, "slower, and nothing is lost");
    bus.publish(&user, task, 6).await;
    inbox.wait_for(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_says_whose_stream_has_news_and_nothing_else() {
    let postgres = Postgres::start().unwrap();
    let database = migrated(&postgres).await;
    let mut listener = sqlx::postgres::PgListener::connect_with(database.pool()).await.unwrap();
    listener.listen("milepost_bus").await.unwrap();
    let (loud, silent) = (user("loud"), user("silent"));
    let publisher = |config: BusConfig| PostgresPublisher::new(database.clone(), &config);
    publisher(polling()).publish(&silent, &progress(TaskId::generate(), 1, 1)).await.unwrap();
    for seq in 1..=2 {
        publisher(listening()).publish(&loud, &progress(TaskId::generate(), 1, seq)).await.unwrap();
        let heard = tokio::time::timeout(PATIENCE, listener.recv()).await.expect("it rings").unwrap();
        assert_eq!(heard.payload(), loud.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_orderly_restart_streams_go_on() {
    let mut postgres = Postgres::start().unwrap();
    let bus = Bus::start(&postgres, &BusConfig::default()).await;
    let (user, task) = (user("restart"), TaskId::generate());
    let (_following, inbox) = bus.follow(0, &user).await;
    bus.publish(&user, task, 1).await;
    inbox.wait_for(1).await;
    postgres.process().signal(Signal::SIGINT).unwrap();
    postgres.process().wait_gone(PATIENCE).unwrap();
    bus.wait_for_health("cannot be read").await;
    assert!(!bus.feeds[0].health().ready);
    postgres.run().unwrap();
    bus.publish(&user, task, 2).await;
    inbox.wait_for(2).await;
    assert!(inbox.losses().is_empty(), "an orderly stop keeps the streams");
    bus.wait_for_health("by notification").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_of_the_server_readers_are_told_and_streams_go_on() {
    let mut postgres = Postgres::start().unwrap();
    let bus = Bus::start(&postgres, &BusConfig::default()).await;
    let (user, task) = (user("crash"), TaskId::generate());
    let (_following, inbox) = bus.follow(1, &user).await;
    bus.publish(&user, task, 1).await;
    inbox.wait_for(1).await;
    postgres.process().kill().unwrap();
    postgres.run().unwrap();
    inbox.wait_until("the loss", |inbox| !inbox.losses().is_empty()).await;
    bus.publish(&user, task, 2).await;
    bus.publish(&user, task, 3).await;
    let arrived = |inbox: &Collector| inbox.entries().last().is_some_and(|entry| entry.seq.0 == 3);
    inbox.wait_until("what was published after the crash", arrived).await;
    bus.wait_for_health("by notification").await;
}

/// Many transactions on one user at once, against a reader that is always reading: a cursor that could pass a late
/// commit would do so here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_writers_never_make_a_reader_skip() {
    const WRITERS: usize = 12;
    const EACH: u64 = 60;
    let postgres = Postgres::start().unwrap();
    let bus = Bus::start(&postgres, &polling()).await;
    let user = user("racing");
    let followers = [bus.follow(0, &user).await, bus.follow(1, &user).await];
    let writers = (0..WRITERS).map(|_| {
        let (publisher, user, task) = (Arc::clone(&bus.publisher), user.clone(), TaskId::generate());
        tokio::spawn(async move {
            for seq in 1..=EACH {
                let published = publisher.publish(&user, &progress(task, 1, seq)).await.unwrap();
                assert!(matches!(published, Published::Appended(_)));
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let all = WRITERS * usize::try_from(EACH).unwrap();
    for (_following, inbox) in &followers {
        let ids: Vec<_> = inbox.wait_for(all).await.iter().map(|entry| entry.position.id.major).collect();
        assert_eq!(ids, (1..=all as u64).collect::<Vec<_>>(), "dense, in order, each once");
        assert!(inbox.losses().is_empty());
    }
}

/// A transaction that has its id but does not commit holds back every later one of the same user, and no other user's.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_commits_late_is_never_passed() {
    let postgres = Postgres::start().unwrap();
    let bus = Bus::start(&postgres, &polling()).await;
    let (user, other) = (user("late"), user("other"));
    let (early, late) = (TaskId::generate(), TaskId::generate());
    bus.publish(&user, early, 1).await;
    let (_following, inbox) = bus.follow(0, &user).await;

    let mut open = bus.database.pool().begin().await.unwrap();
    let publish = "SELECT id FROM bus_publish_v2($1, $2, 1, 1, false, '{}', '{}', NULL, NULL)";
    let id: i64 = sqlx::query_scalar(publish)
        .bind(user.as_str())
        .bind(late.as_uuid())
        .fetch_one(&mut *open)
        .await
        .unwrap();
    assert_eq!(id, 2);
    let (publisher, owner) = (Arc::clone(&bus.publisher), user.clone());
    let waiting =
        tokio::spawn(async move { publisher.publish(&owner, &progress(early, 1, 2)).await.unwrap() });
    // Once this one is through, the other has long had its turn to overtake.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    bus.until(waits, |waiting| waiting > 0).await;
    bus.publish(&other, TaskId::generate(), 1).await;
    assert!(!waiting.is_finished());
    open.commit().await.unwrap();

    let Published::Appended(position) = waiting.await.unwrap() else { panic!("a repeat") };
    assert_eq!(position.id.major, 3);
    let after_late = |inbox: &Collector| inbox.entries().iter().any(|entry| entry.position.id.major == 3);
    inbox.wait_until("the one that waited", after_late).await;
    let ids: Vec<_> = inbox.entries().iter().map(|entry| entry.position.id.major).collect();
    assert!(ids.ends_with(&[2, 3]), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_trimmed_by_count_and_the_gap_is_told() {
    let postgres = Postgres::start().unwrap();
    let config = BusConfig { entries_max: 10, stream_ttl: Duration::from_secs(4), ..listening() };
    let bus = Bus::start(&postgres, &BusConfig { retention: Duration::from_secs(3600), ..config }).await;
    let (user, task) = (user("count"), TaskId::generate());
    let start = bus.feeds[0].head(&user).await.unwrap();
    let (_following, inbox) = bus.follow(0, &user).await;
    for seq in 1..=50 {
        bus.publish(&user, task, seq).await;
    }
    inbox.wait_for(50).await;
    bus.until(EVENTS, |events| events <= 10).await;
    let replay = bus.feeds[1].replay(&user, &start, 100).await.unwrap();
    assert!(matches!(replay, milepost::bus::Replay::Lost(milepost::bus::Loss::Trimmed)), "{replay:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_and_idle_goes_unless_somebody_watches() {
    let postgres = Postgres::start().unwrap();
    let ttl = Duration::from_secs(1);
    let bus = Bus::start(&postgres, &BusConfig { retention: ttl, stream_ttl: ttl, ..listening() }).await;
    let (idle, watched) = (user("idle"), user("watched"));
    let (_following, inbox) = bus.follow(0, &watched).await;
    let busy = user("busy");
    for user in [&idle, &watched] {
        bus.publisher.publish(user, &terminal(TaskId::generate(), 1, 1)).await.unwrap();
    }
    let open = TaskId::generate();
    bus.publisher.publish(&busy, &progress(open, 2, 1)).await.unwrap();
    let position = inbox.wait_for(1).await[0].position.clone();
    bus.until(EVENTS, |events| events == 0).await;
    bus.until(LIVE, |tasks| tasks == 1).await;
    bus.until(STREAMS, |streams| streams == 2).await;
    let late = bus.publisher.publish(&busy, &progress(open, 1, 9)).await;
    assert!(late.is_err(), "a task that is not over keeps its fence: {late:?}");
    let head = bus.feeds[1].head(&watched).await.unwrap();
    assert_eq!(head, position, "a watched stream keeps its epoch");
    assert!(inbox.losses().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_ends_with_the_last_follower_after_a_soft_stop() {
    let postgres = Postgres::start().unwrap();
    let (lifecycle, database) = (Lifecycle::new(), migrated(&postgres).await);
    let feed = PostgresFeed::start(database, &listening(), &lifecycle);
    let inbox = Collector::new();
    let following = feed.follow(&user("last"), inbox).await.unwrap();
    lifecycle.stop();
    tokio::time::timeout(PATIENCE, async {
        while !feed.health().ready {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it reads on while a socket is open");
    drop(following);
    tokio::time::timeout(PATIENCE, lifecycle.shut_down(Duration::from_secs(3600))).await.unwrap();
    assert!(!feed.health().ready);
    assert!(feed.follow(&user("late"), Collector::new()).await.is_err());
}
