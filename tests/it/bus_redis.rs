//! Progress on a real Redis: the contract, and what watchers see when Redis forgets, trims or goes away.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use milepost::bus::contract::{self, Collector, progress, terminal, user};
use milepost::bus::redis::collect_dead_groups;
use milepost::bus::{BusError, Feed, Loss, Published, Publisher, RedisBus};
use milepost::config::bus::Ack;
use milepost::config::{BusConfig, RedisConfig};
use milepost::lifecycle::Lifecycle;
use milepost::redis::{Keys, LIBRARY, Redis, Shard};
use milepost::task::{ReplicaId, TaskId, UserId};
use milepost::telemetry::Metrics;
use tokio::time::Instant;

/// How long a test waits for what must come, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

type Server = milepost_harness::Redis;

/// Settings under which a lost doorbell would be noticed as a delay: a sweep alone would come too late.
fn patient() -> BusConfig {
    BusConfig { sweep_interval: Duration::from_secs(3600), ..BusConfig::default() }
}

fn swept() -> BusConfig {
    BusConfig { sweep_interval: Duration::from_millis(200), ..BusConfig::default() }
}

/// A gateway replica's view of the bus.
struct Replica {
    name: ReplicaId,
    bus: Arc<RedisBus>,
    metrics: Metrics,
    life: Lifecycle,
}

impl Replica {
    fn start(server: &Server, config: &BusConfig) -> Self {
        let (life, metrics, name) = (Lifecycle::new(), Metrics::new(), ReplicaId::generate("gateway"));
        let redis = connect(server, &metrics);
        let bus = Arc::new(RedisBus::start(redis, config, &name, &life).unwrap());
        Self { name, bus, metrics, life }
    }

    fn group(&self) -> String {
        format!("gw:{}", self.name)
    }

    /// Follows a user with an inbox that remembers.
    async fn follow(&self, user: &UserId) -> (milepost::bus::Following, Arc<Collector>) {
        let inbox = Collector::new();
        let following = eventually(async || self.bus.follow(user, inbox.clone()).await.ok()).await;
        (following, inbox)
    }

    /// Publishes the events `seqs` of attempt 1, through outages.
    async fn publish(&self, user: &UserId, task: TaskId, seqs: std::ops::RangeInclusive<u64>) {
        for seq in seqs {
            eventually(async || self.bus.publish(user, &progress(task, 1, seq)).await.ok()).await;
        }
    }

    fn repairs(&self, kind: &str) -> bool {
        !self.metrics.text().contains(&format!("milepost_bus_repairs_total{{kind=\"{kind}\"}} 0"))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.life.hard().cancel();
    }
}

fn connect(server: &Server, metrics: &Metrics) -> Redis {
    let config = RedisConfig { url: Some(server.url().into()), ..RedisConfig::default() };
    Redis::connect(&config, metrics).unwrap()
}

fn keys() -> Keys {
    Keys::new("mp").unwrap()
}

/// Tries until something comes of it.
async fn eventually<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A number that Redis replies.
fn number(server: &Server, words: &[&str]) -> u64 {
    server.command(words).unwrap().trim().trim_start_matches(':').parse().unwrap()
}

/// Entries pending in a group, summed over all its consumers.
fn pending(server: &Server, stream: &str, group: &str) -> u64 {
    let summary = server.command(&["XPENDING", stream, group]).unwrap();
    summary.lines().nth(1).unwrap().trim_start_matches(':').parse().unwrap()
}

/// Names of the groups on a stream.
fn groups(server: &Server, stream: &str) -> HashSet<String> {
    let info = server.command(&["XINFO", "GROUPS", stream]).unwrap_or_default();
    info.lines().filter(|line| line.starts_with("gw:")).map(str::to_owned).collect()
}

struct Fixture {
    server: Server,
    replicas: [Replica; 2],
    acks: bool,
}

impl Fixture {
    fn start(config: &BusConfig) -> Self {
        let server = Server::start().unwrap();
        let replicas = [Replica::start(&server, config), Replica::start(&server, config)];
        Self { server, replicas, acks: config.ack == Ack::Batched }
    }
}

#[async_trait]
impl contract::Fixture for Fixture {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.replicas[0].bus.clone()
    }

    fn feed(&self, replica: usize) -> Arc<dyn Feed> {
        self.replicas[replica].bus.clone()
    }

    async fn wipe(&self, user: &UserId) {
        let found = self.server.command(&["KEYS", &format!("mp:*:u:{user}:*")]).unwrap();
        let mut wipe = vec!["DEL"];
        wipe.extend(found.lines().filter(|line| line.starts_with("mp:")));
        self.server.command(&wipe).unwrap();
    }

    async fn trim(&self, user: &UserId, keep: usize) {
        self.server.command(&["XTRIM", &keys().events(user), "MAXLEN", &keep.to_string()]).unwrap();
    }

    async fn unacked(&self, user: &UserId, replica: usize) -> Option<u64> {
        self.acks.then(|| pending(&self.server, &keys().events(user), &self.replicas[replica].group()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds() {
    contract::holds(&Fixture::start(&patient())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_with_a_sweep_all_the_time() {
    let config = BusConfig { sweep_interval: Duration::from_millis(5), ..BusConfig::default() };
    contract::holds(&Fixture::start(&config)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_without_acknowledgements() {
    contract::holds(&Fixture::start(&BusConfig { ack: Ack::None, ..patient() })).await;
}

/// What a server loses, and whether watchers must be told. Deliveries go on in every case, without any sweep.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_redis_forgets_later_events_flow() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    for (forgets, loss) in [
        (vec!["FLUSHALL"], Some(Loss::Epoch)),
        (vec!["DEL", "<events>"], Some(Loss::Epoch)),
        (vec!["DEL", "<epoch>"], Some(Loss::Epoch)),
        // The reader knows where it was, so nothing is lost.
        (vec!["XGROUP", "DESTROY", "<events>", "<group>"], None),
        (vec!["FUNCTION", "FLUSH"], None),
        (vec!["CLIENT", "KILL", "TYPE", "pubsub"], None),
        (vec!["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"], None),
    ] {
        let (user, task) = (user("forgotten"), TaskId::generate());
        let (_following, inbox) = replica.follow(&user).await;
        replica.publish(&user, task, 1..=3).await;
        inbox.wait_for(3).await;
        let (events, epoch, group) = (keys().events(&user), keys().epoch(&user), replica.group());
        let words: Vec<&str> = forgets
            .iter()
            .map(|word| match *word {
                "<events>" => &events,
                "<epoch>" => &epoch,
                "<group>" => &group,
                word => word,
            })
            .collect();
        server.command(&words).unwrap();
        replica.publish(&user, task, 4..=6).await;
        let told = |inbox: &Collector| inbox.losses().first() == loss.as_ref();
        if loss.is_some() {
            inbox.wait_until("the loss", told).await;
        }
        replica.publish(&user, task, 7..=9).await;
        let last = |inbox: &Collector| inbox.entries().last().is_some_and(|entry| entry.seq.0 == 9);
        inbox.wait_until("what came after", last).await;
        assert!(told(&inbox), "{:?} after {forgets:?}", inbox.losses());
        let seqs: Vec<u64> = inbox.entries().iter().map(|entry| entry.seq.0).collect();
        assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
        assert!(loss.is_some() || seqs == (1..=9).collect::<Vec<_>>(), "{seqs:?} after {forgets:?}");
    }
    assert!(replica.repairs("group") && replica.repairs("epoch"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_persistence_is_told_and_survived() {
    let mut server = Server::start().unwrap();
    let replica = Replica::start(&server, &swept());
    let (user, quiet, task) = (user("restart"), user("quiet"), TaskId::generate());
    let (_one, inbox) = replica.follow(&user).await;
    let (_other, quiet_inbox) = replica.follow(&quiet).await;
    replica.publish(&user, task, 1..=3).await;
    inbox.wait_for(3).await;
    server.process().kill().unwrap();
    until("readiness to be off", || !replica.bus.health().ready).await;
    server.run().unwrap();
    // These come after the loss or are part of it.
    replica.publish(&user, task, 4..=6).await;
    inbox.wait_until("the loss", |inbox| !inbox.losses().is_empty()).await;
    replica.publish(&user, task, 7..=9).await;
    let last = |inbox: &Collector| inbox.entries().last().is_some_and(|entry| entry.seq.0 == 9);
    inbox.wait_until("what came after the restart", last).await;
    assert_eq!(inbox.losses(), [Loss::Epoch]);
    // Nobody published to this one: the sweep alone tells.
    quiet_inbox.wait_until("the loss", |inbox| inbox.losses() == [Loss::Epoch]).await;
    until("readiness to be back", || replica.bus.health().ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_delays_and_loses_nothing() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &swept());
    let (user, task) = (user("still"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    let writer = async {
        replica.publish(&user, task, 1..=300).await;
    };
    let stops = async {
        for _ in 0..2 {
            inbox.wait_until("some entries", |inbox| !inbox.entries().is_empty()).await;
            server.process().signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
            // Longer than any command may take, so that replies are given up on.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            server.process().signal(nix::sys::signal::Signal::SIGCONT).unwrap();
        }
    };
    tokio::join!(writer, stops);
    let seqs: Vec<u64> = inbox.wait_for(300).await.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=300).collect::<Vec<_>>());
    assert_eq!(inbox.losses(), []);
    inbox.clear();
    let (events, group) = (keys().events(&user), replica.group());
    until("everything to be acknowledged", || pending(&server, &events, &group) == 0).await;
}

/// Appends entries of attempt 1 as `mp1_publish` does but without ringing, then runs `then`, all in one step.
fn append_silently(server: &Server, user: &UserId, seqs: std::ops::RangeInclusive<u64>, then: &str) {
    let script = format!(
        "for seq = {}, {} do
            local previous = redis.call('HGET', KEYS[2], 'last')
            local id = redis.call('XADD', KEYS[1], '*', 't', ARGV[1], 'n', '1-' .. seq, 'e', 0, 'p', previous, 'd', '{{}}')
            redis.call('HSET', KEYS[2], 'last', id)
        end
        {then}",
        seqs.start(),
        seqs.end()
    );
    let (events, epoch, task) = (keys().events(user), keys().epoch(user), TaskId::generate().to_string());
    server.command(&["EVAL", &script, "2", &events, &epoch, &task]).unwrap();
}

async fn publish_one(replica: &Replica, user: &UserId, task: TaskId, seq: u64) -> String {
    match replica.bus.publish(user, &progress(task, 1, seq)).await.unwrap() {
        Published::Appended(position) => position.id.to_string(),
        Published::Repeat => panic!("{seq} was published before"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_trimmed_before_they_were_read_are_a_loss() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let (user, task) = (user("trimmed"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    publish_one(&replica, &user, task, 1).await;
    inbox.wait_for(1).await;
    append_silently(&server, &user, 2..=3, "redis.call('XTRIM', KEYS[1], 'MAXLEN', 1)");
    publish_one(&replica, &user, task, 4).await;
    let seqs: Vec<u64> = inbox.wait_for(3).await.iter().map(|entry| entry.seq.0).collect();
    assert_eq!((seqs, inbox.losses()), (vec![1, 3, 4], vec![Loss::Trimmed]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_reply_is_read_again_and_no_loss() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let (user, task) = (user("swallowed"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    publish_one(&replica, &user, task, 1).await;
    inbox.wait_for(1).await;
    let (events, group) = (keys().events(&user), replica.group());
    // A late read of an earlier connection takes the entry, and its reply reaches nobody.
    let late = format!("redis.call('XREADGROUP', 'GROUP', '{group}', 'gateway', 'STREAMS', KEYS[1], '>')");
    append_silently(&server, &user, 2..=2, &late);
    publish_one(&replica, &user, task, 3).await;
    let seqs: Vec<u64> = inbox.wait_for(3).await.iter().map(|entry| entry.seq.0).collect();
    assert_eq!((seqs, inbox.losses()), (vec![1, 2, 3], vec![]));
    inbox.clear();
    until("everything to be acknowledged", || pending(&server, &events, &group) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_without_a_doorbell_is_found_by_the_sweep() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &swept());
    let (user, task) = (user("unheard"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    publish_one(&replica, &user, task, 1).await;
    let mut seq = 1;
    // The first ones may be found by a read that an earlier doorbell asked for.
    while replica.metrics.text().contains("milepost_doorbells_missed_total 0") {
        seq += 1;
        append_silently(&server, &user, seq..=seq, "");
        let entries = inbox.wait_for(usize::try_from(seq).unwrap()).await;
        assert_eq!(entries.last().unwrap().seq.0, seq);
    }
    assert_eq!(inbox.losses(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_lost_with_its_primary_is_told_by_the_sweep() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &swept());
    let (user, task) = (user("failover"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    let first = publish_one(&replica, &user, task, 1).await;
    let second = publish_one(&replica, &user, task, 2).await;
    inbox.wait_for(2).await;
    // The new primary has never heard of the second entry.
    server.command(&["XDEL", &keys().events(&user), &second]).unwrap();
    server.command(&["HSET", &keys().epoch(&user), "last", &first]).unwrap();
    inbox.wait_until("the loss", |inbox| inbox.losses() == [Loss::Ahead]).await;
    publish_one(&replica, &user, task, 3).await;
    assert_eq!(inbox.wait_for(3).await[2].seq.0, 3);
    assert_eq!(inbox.losses(), [Loss::Ahead]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_has_its_group_while_it_follows_and_no_longer() {
    let fixture = Fixture::start(&patient());
    let [one, two] = &fixture.replicas;
    let user = user("groups");
    let events = keys().events(&user);
    let (first, _) = one.follow(&user).await;
    let (second, _) = two.follow(&user).await;
    assert_eq!(groups(&fixture.server, &events), HashSet::from([one.group(), two.group()]));
    drop(first);
    until("the group to go", || groups(&fixture.server, &events) == HashSet::from([two.group()])).await;
    let channel = keys().doorbell(&user);
    let listeners = || fixture.server.command(&["PUBSUB", "SHARDNUMSUB", &channel]).unwrap();
    until("one listener to be left", || listeners().ends_with(":1\r\n")).await;
    drop(second);
    until("the last group to go", || groups(&fixture.server, &events).is_empty()).await;
    until("no listener to be left", || listeners().ends_with(":0\r\n")).await;
    let index = keys().groups(Shard::of(&user), one.name.as_str());
    assert_eq!(number(&fixture.server, &["EXISTS", &index]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_leaves_nothing_behind() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let user = user("stop");
    let (following, inbox) = replica.follow(&user).await;
    until("the lease", || number(&server, &["ZCARD", "mp:gateways"]) == 1).await;
    replica.life.stop();
    // Sockets are closed one by one after the stop; until then events still arrive.
    replica.publish(&user, TaskId::generate(), 1..=2).await;
    inbox.wait_for(2).await;
    drop(following);
    let stopped = Instant::now();
    replica.life.shut_down(PATIENCE).await;
    assert!(stopped.elapsed() < PATIENCE / 2, "the tasks did not end by themselves");
    assert!(groups(&server, &keys().events(&user)).is_empty());
    assert_eq!(number(&server, &["ZCARD", "mp:gateways"]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_a_dead_gateway_are_collected_and_those_of_the_living_stay() {
    let fixture = Fixture::start(&patient());
    let [dead, alive] = &fixture.replicas;
    let users: Vec<UserId> = (0..300).map(|n| user(&format!("orphan{n}"))).collect();
    let mut following = Vec::new();
    for user in &users {
        following.push((dead.follow(user).await, alive.follow(user).await));
    }
    let redis = connect(&fixture.server, &Metrics::new());
    assert_eq!(collect_dead_groups(&redis).await.unwrap(), 0, "both are alive");
    dead.life.hard().cancel();
    dead.life.shut_down(PATIENCE).await;
    fixture.server.command(&["ZADD", "mp:gateways", "1", dead.name.as_str()]).unwrap();
    assert_eq!(collect_dead_groups(&redis).await.unwrap(), 300);
    for user in &users {
        assert_eq!(groups(&fixture.server, &keys().events(user)), HashSet::from([alive.group()]));
    }
    let gateways = fixture.server.command(&["ZRANGE", "mp:gateways", "0", "-1"]).unwrap();
    assert!(!gateways.contains(dead.name.as_str()) && gateways.contains(alive.name.as_str()), "{gateways}");
    assert_eq!(collect_dead_groups(&redis).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_keeps_about_as_much_as_was_asked_for() {
    let server = Server::with_args(&["--save", "", "--stream-node-max-entries", "20"]).unwrap();
    let config = BusConfig { entries_max: 100, ..patient() };
    let replica = Replica::start(&server, &config);
    let (user, task) = (user("long"), TaskId::generate());
    replica.publish(&user, task, 1..=500).await;
    let length = number(&server, &["XLEN", &keys().events(&user)]);
    assert!((100..=140).contains(&length), "{length} entries are kept");
    for key in [keys().events(&user), keys().epoch(&user), keys().task(&user, task)] {
        assert!(number(&server, &["PTTL", &key]) > 0, "{key} would live for ever");
    }
    let day = Duration::from_secs(24 * 3600);
    replica.bus.publish(&user, &terminal(task, 1, 501)).await.unwrap();
    let ttl = Duration::from_millis(number(&server, &["PTTL", &keys().task(&user, task)]));
    assert!(ttl < day / 24, "the fence of a finished task is kept for {ttl:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_older_than_asked_for_go() {
    let server = Server::with_args(&["--save", "", "--stream-node-max-entries", "1"]).unwrap();
    let config = BusConfig { retention: Duration::from_millis(300), ..patient() };
    let replica = Replica::start(&server, &config);
    let (user, task) = (user("old"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    replica.publish(&user, task, 1..=20).await;
    inbox.wait_for(20).await;
    // Time itself is what is waited for.
    tokio::time::sleep(Duration::from_millis(400)).await;
    replica.publish(&user, task, 21..=21).await;
    inbox.wait_for(21).await;
    assert!(number(&server, &["XLEN", &keys().events(&user)]) < 20);
    assert_eq!(inbox.losses(), [], "what was read before it was trimmed is no loss");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_to_publish_and_still_delivers_and_acknowledges() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let (user, task) = (user("full"), TaskId::generate());
    let (_following, inbox) = replica.follow(&user).await;
    replica.publish(&user, task, 1..=5).await;
    inbox.wait_for(5).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let refused = replica.bus.publish(&user, &progress(task, 1, 6)).await.unwrap_err();
    assert!(matches!(refused, BusError::Unavailable { .. }), "{refused}");
    inbox.clear();
    let (events, group) = (keys().events(&user), replica.group());
    until("everything to be acknowledged", || pending(&server, &events, &group) == 0).await;
    let (_another, _) = replica.follow(&contract::user("late")).await;
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    replica.publish(&user, task, 6..=6).await;
    assert_eq!(inbox.wait_for(1).await[0].seq.0, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_shown_live_to_its_owner_only() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let owner = user("owner");
    // Another user of the same shard, who could reach the key.
    let other = (0..)
        .map(|n| user(&format!("other{n}")))
        .find(|other| Shard::of(other) == Shard::of(&owner))
        .unwrap();
    let task = TaskId::generate();
    replica.publish(&owner, task, 1..=2).await;
    assert_eq!(replica.bus.live(&owner, &[task]).await.unwrap().len(), 1);
    assert!(replica.bus.live(&other, &[task]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_user_costs_about_a_kilobyte() {
    const USERS: usize = 2_000;
    let server = Server::with_args(&["--save", "", "--stream-node-max-bytes", "1024"]).unwrap();
    let replica = Replica::start(&server, &patient());
    let memory = || {
        let info = server.command(&["INFO", "memory"]).unwrap();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        used.trim().parse::<usize>().unwrap()
    };
    // Connections and the library are there before the measurement.
    let (_warm, _) = replica.follow(&user("warm")).await;
    let before = memory();
    let mut following = Vec::new();
    for n in 0..USERS {
        following.push(replica.follow(&user(&format!("quiet{n}"))).await);
    }
    let each = (memory() - before) / USERS;
    assert!(each < 1_800, "{each} bytes for each user");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_is_an_error_in_good_time() {
    let server = Server::start().unwrap();
    let replica = Replica::start(&server, &patient());
    let user = user("dead");
    let head = replica.bus.head(&user).await.unwrap();
    server.process().signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    let event = progress(TaskId::generate(), 1, 1);
    let calls = async {
        let (inbox, tasks) = (Collector::new(), [event.task_id]);
        let (a, b, c, d) = tokio::join!(
            replica.bus.publish(&user, &event),
            replica.bus.follow(&user, inbox),
            replica.bus.replay(&user, &head, 10),
            replica.bus.live(&user, &tasks),
        );
        [a.is_err(), b.is_err(), c.is_err(), d.is_err()]
    };
    let failed = tokio::time::timeout(PATIENCE, calls).await.expect("every call has a deadline");
    assert_eq!(failed, [true; 4]);
    server.process().signal(nix::sys::signal::Signal::SIGCONT).unwrap();
    eventually(async || replica.bus.replay(&user, &head, 10).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_is_installed_compared_and_healed() {
    use milepost::redis::LibraryState;
    let server = Server::start().unwrap();
    let redis = connect(&server, &Metrics::new());
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Missing);
    let replica = Replica::start(&server, &patient());
    replica.publish(&user("heals"), TaskId::generate(), 1..=1).await;
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Current);
    let other = format!("#!lua name={LIBRARY}\nredis.register_function('mp1_head', function() return 1 end)");
    server.command(&["FUNCTION", "LOAD", "REPLACE", &other]).unwrap();
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Different);
    redis.install_library().await.unwrap();
    assert_eq!(redis.library_state().await.unwrap(), LibraryState::Current);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checks_find_what_is_wrong_with_a_server() {
    use milepost::redis::checks::{Severity, check};
    let server = Server::start().unwrap();
    let redis = connect(&server, &Metrics::new());
    let faults = |findings: Vec<milepost::redis::checks::Finding>| -> Vec<&'static str> {
        findings.iter().filter(|f| f.severity != Severity::Good).map(|f| f.subject).collect()
    };
    let found = faults(check(&redis).await.unwrap());
    assert_eq!(found, ["persistence", "stream-node-max-bytes", "function library"]);
    for (setting, value) in [("appendonly", "yes"), ("stream-node-max-bytes", "1024")] {
        server.command(&["CONFIG", "SET", setting, value]).unwrap();
    }
    redis.install_library().await.unwrap();
    assert_eq!(faults(check(&redis).await.unwrap()), [""; 0]);
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    assert_eq!(faults(check(&redis).await.unwrap()), ["maxmemory-policy"]);
}
