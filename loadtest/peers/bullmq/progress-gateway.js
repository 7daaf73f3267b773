// Queues a batch as one job, and pushes what QueueEvents tells of it.

import { Queue, QueueEvents } from "bullmq";
import { Redis } from "ioredis";

import { taskEnded } from "../lib/event.js";
import { gateway } from "../lib/gateway.js";

const [, , redis, port] = process.argv;
const queue = new Queue("batches", { connection: new Redis(redis) });
const events = new QueueEvents("batches", { connection: new Redis(redis, { maxRetriesPerRequest: null }) });
await events.waitUntilReady();

const push = gateway(port, {
  submit: (jobId, batch) => queue.add("batch", batch, { jobId }),
});
events.on("progress", ({ jobId, data }) => push(jobId, data));
events.on("completed", ({ jobId, returnvalue }) => push(jobId, taskEnded(jobId, returnvalue.total)));
