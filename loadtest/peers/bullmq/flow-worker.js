// A batch is a flow: a parent and one child job for each item, whose return value is the item's kept result. As many children run
// at once as a batch has lanes.

import { Worker } from "bullmq";
import { Redis } from "ioredis";
import { setTimeout as sleep } from "node:timers/promises";

import { itemEnded } from "../lib/event.js";

const [, , redis, lanes] = process.argv;
const connection = new Redis(redis, { maxRetriesPerRequest: null });

async function runItem({ data: { task, index, name, item_ms, total } }) {
  if (item_ms > 0) await sleep(item_ms);
  return itemEnded(task, index, name, 0, total); // Which one of all it is, only the listener can count.
}

new Worker("items", runItem, { connection, concurrency: Number(lanes) }).on("error", console.error);
new Worker("batches", async (job) => ({ total: job.data.total }), { connection }).on("error", console.error);
