// BullMQ with QueueEvents and a `ws` gateway, in two shapes.

import path from "node:path";

import { freePort, listens, start } from "../lib/process.js";
import { redis } from "../lib/servers.js";
import { json, plain } from "../lib/talk.js";

const PROGRAMS = path.join(import.meta.dirname, "../bullmq");

async function shape(folder, name, { durable, lanes }) {
  const server = await redis(folder, { durable });
  const port = await freePort();
  const node = (program, ...args) => start(folder, program, ["node", path.join(PROGRAMS, `${program}.js`), server.url, ...args]);
  const worker = node(`${name}-worker`, `${lanes}`);
  const gateway = await node(`${name}-gateway`, `${port}`).ready(() => listens(port));
  const groups = { gateway: [gateway], worker: [worker], redis: [server.process] };
  return { url: `http://127.0.0.1:${port}`, groups, redisPort: server.port };
}

export const progress = {
  name: "BullMQ, one job, progress per item",
  keeps: "nothing per item; Redis without persistence",
  start: (folder, work) => shape(folder, "progress", { ...work, durable: false }),
  talk: plain,
};

export const flow = {
  name: "BullMQ flow, one job per item",
  keeps: "each result in Redis; AOF synced each second (what BullMQ advises): up to 1 s is lost with the machine",
  start: (folder, work) => shape(folder, "flow", { ...work, durable: true }),
  talk: { ...plain, record: async (url, user, task) => (await json(`${url}/tasks/${task}`)).succeeded },
};
