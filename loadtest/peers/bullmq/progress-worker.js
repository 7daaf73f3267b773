// A batch is one job; its processor runs the items on lanes and reports each with `updateProgress`. Results are not kept one by one.

import { Worker } from "bullmq";
import { Redis } from "ioredis";
import { setTimeout as sleep } from "node:timers/promises";

import { itemEnded } from "../lib/event.js";

const connection = new Redis(process.argv[2], { maxRetriesPerRequest: null });

async function runBatch(job) {
  const { items, item_ms, lanes } = job.data;
  let [started, ended] = [0, 0];
  const lane = async () => {
    while (started < items.length) {
      const index = started++;
      if (item_ms > 0) await sleep(item_ms);
      await job.updateProgress(itemEnded(job.id, index, items[index], ++ended, items.length));
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return { total: items.length };
}

new Worker("batches", runBatch, { connection }).on("error", console.error);
