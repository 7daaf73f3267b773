//! The parts that run for each event or each frame, in this process alone: how long, and how many allocations.
//!
//! `make bench` runs them. Not here: what needs a server (`backends`), and the whole way (`loadtest/`).

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use divan::{AllocProfiler, Bencher};
use futures_util::FutureExt;
use jiff::Timestamp;
use milepost::bus::contract::{progress, user};
use milepost::bus::{Entry, MemoryBus, Publisher};
use milepost::config::BusConfig;
use milepost::gateway::live::outbox::{Bounds, Outbox};
use milepost::gateway::live::protocol::Frame;
use milepost::task::{Attempt, EntryId, Epoch, Event, ItemChange, Position, Seq, Snapshot, TaskId, TaskView};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Items in an event: alone, as many as a batch has lanes, and as many as one flush may gather.
const ITEMS: [usize; 3] = [1, 20, 200];
/// Bounds of a socket's queue as they are by default.
const ROOMY: Bounds = Bounds { coalesce_bytes: 64 * 1024, bytes_max: 1024 * 1024 };
/// A queue that is under pressure from its first event on.
const TIGHT: Bounds = Bounds { coalesce_bytes: 0, bytes_max: 1024 * 1024 };

fn main() {
    divan::main();
}

fn event(task: TaskId, seq: u64, items: usize) -> Event {
    let event = progress(task, 1, seq);
    let item = event.items[0].clone();
    let item = |index: usize| ItemChange { index: u32::try_from(index).unwrap_or(0), ..item.clone() };
    Event { message: None, timestamp: Timestamp::UNIX_EPOCH, items: (0..items).map(item).collect(), ..event }
}

fn body(event: &Event) -> Bytes {
    serde_json::to_vec(event).expect("an event is plain").into()
}

fn entry(task: TaskId, at: u64, body: Bytes) -> Entry {
    Entry {
        position: Position::new(Epoch::new("0123456789abcdef").expect("a valid epoch"), EntryId::counted(at)),
        task_id: task,
        attempt: Attempt(1),
        seq: Seq(at),
        terminal: false,
        body,
        receipt: None,
    }
}

fn frames(tasks: usize, events: u64) -> Vec<Arc<Frame>> {
    let tasks: Vec<TaskId> = (0..tasks).map(|_| TaskId::generate()).collect();
    let task = |at: u64| tasks[usize::try_from(at).unwrap_or(0) % tasks.len()];
    let frame = |at| Frame::new(entry(task(at), at, body(&event(task(at), at, 1)))).expect("an event");
    (1..=events).map(|at| Arc::new(frame(at))).collect()
}

#[divan::bench(args = ITEMS)]
fn event_encode(bencher: Bencher<'_, '_>, items: usize) {
    let event = event(TaskId::generate(), 7, items);
    bencher.bench(|| body(black_box(&event)));
}

#[divan::bench(args = ITEMS)]
fn frame_build(bencher: Bencher<'_, '_>, items: usize) {
    let task = TaskId::generate();
    let entry = entry(task, 7, body(&event(task, 7, items)));
    bencher.with_inputs(|| entry.clone()).bench_values(|entry| Frame::new(entry).map(Arc::new));
}

/// What each further socket takes of a frame.
#[divan::bench]
fn frame_share(bencher: Bencher<'_, '_>) {
    let frame = frames(1, 1).remove(0);
    bencher.bench(|| black_box(&frame).text(1));
}

/// The frame of an event that stands for others is made for its socket alone.
#[divan::bench]
fn frame_merged(bencher: Bencher<'_, '_>) {
    let frame = frames(1, 1).remove(0);
    bencher.bench(|| black_box(&frame).text(9));
}

/// So many events into a socket's queue, and out of it at once.
#[divan::bench(args = [1, 16, 128])]
fn queue(bencher: Bencher<'_, '_>, events: u64) {
    let (outbox, frames) = (Outbox::new(ROOMY), frames(4, events));
    bencher.bench(|| {
        for frame in &frames {
            outbox.push(black_box(std::slice::from_ref(frame)));
        }
        outbox.take().now_or_never().map(|batch| batch.items.len())
    });
}

/// 1,000 events into a queue under pressure, where the newer ones of so many tasks take the place of the older ones.
#[divan::bench(args = [1, 100])]
fn queue_coalesces_1000(bencher: Bencher<'_, '_>, tasks: usize) {
    let (outbox, frames) = (Outbox::new(TIGHT), frames(tasks, 1_000));
    bencher.bench(|| {
        for frame in &frames {
            outbox.push(black_box(std::slice::from_ref(frame)));
        }
        outbox.take().now_or_never().map(|batch| batch.items.len())
    });
}

/// One event into a snapshot of so many tasks.
#[divan::bench(args = [1, 50, 1_000])]
fn snapshot_fold(bencher: Bencher<'_, '_>, tasks: usize) {
    let first: Vec<Event> = (0..tasks).map(|_| event(TaskId::generate(), 1, 1)).collect();
    let mut snapshot = Snapshot::new(first.iter().map(TaskView::of));
    let mut seq = 1;
    bencher
        .with_inputs(|| {
            seq += 1;
            event(first[tasks / 2].task_id, seq, 1)
        })
        .bench_local_values(|event| snapshot.fold(&event));
}

/// A publish where there is no server.
#[divan::bench]
fn publish_memory(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (bus, user, task) = (MemoryBus::new(&BusConfig::default()), user("bench"), TaskId::generate());
    let mut seq = 0;
    bencher
        .with_inputs(|| {
            seq += 1;
            event(task, seq, 1)
        })
        .bench_local_values(|event| runtime.block_on(bus.publish(&user, &event)));
}
