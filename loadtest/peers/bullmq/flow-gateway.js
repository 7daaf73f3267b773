// Queues a batch as a flow, and pushes the return value of each child that QueueEvents tells of. The end of the parent comes by another
// stream than those of its children, so it is held back until all of those were told.

import { FlowProducer, Job, Queue, QueueEvents } from "bullmq";
import { Redis } from "ioredis";

import { taskEnded } from "../lib/event.js";
import { gateway } from "../lib/gateway.js";

const [, , redis, port] = process.argv;
const listening = () => ({ connection: new Redis(redis, { maxRetriesPerRequest: null }) });
const flows = new FlowProducer({ connection: new Redis(redis) });
const batches = new Queue("batches", { connection: new Redis(redis) });
const [items, ends] = [new QueueEvents("items", listening()), new QueueEvents("batches", listening())];
await Promise.all([items.waitUntilReady(), ends.waitUntilReady()]);
const open = new Map(); // task -> { told, total, over }

function tree(task, { items, item_ms }) {
  const total = items.length;
  const child = (name, index) => ({ name: "item", queueName: "items", data: { task, index, name, item_ms, total } });
  return { name: "batch", queueName: "batches", data: { total }, opts: { jobId: task }, children: items.map(child) };
}

const push = gateway(port, {
  submit(task, batch) {
    open.set(task, { told: 0, total: batch.items.length, over: false });
    return flows.add(tree(task, batch));
  },
  async record(task) {
    const { processed } = await (await Job.fromId(batches, task)).getDependenciesCount();
    return processed;
  },
});

function tellEnd(task, state) {
  if (!state.over || state.told < state.total) return;
  push(task, taskEnded(task, state.total));
  open.delete(task);
}

items.on("completed", ({ returnvalue: event }) => {
  const task = event.task_id;
  const state = open.get(task);
  const current = ++state.told;
  const progress = Math.floor((100 * current) / state.total);
  push(task, { ...event, seq: current, current, succeeded: current, progress });
  tellEnd(task, state);
});
ends.on("completed", ({ jobId }) => {
  const state = open.get(jobId);
  state.over = true;
  tellEnd(jobId, state);
});
