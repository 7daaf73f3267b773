// Milepost: one gateway, one worker that does maintenance too, real Redis and Postgres; and the design that it comes from.

import { createHmac } from "node:crypto";
import { writeFileSync } from "node:fs";
import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";

import { readEvent } from "../lib/event.js";
import { freePort, start } from "../lib/process.js";
import { postgres, redis } from "../lib/servers.js";
import { json, names } from "../lib/talk.js";

const SECRET = "a-secret-of-load-runs-only-0123456789";

/** A token of an operator, signed as Milepost expects it. */
export function token(user, now = Date.now()) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, role: "operator", exp: Math.floor(now / 1000) + 86_400 };
  const body = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${body}.${createHmac("sha256", SECRET).update(body).digest("base64url")}`;
}

const bearer = (user) => ({ authorization: `Bearer ${token(user)}` });

/** A frame with an event; undefined for the two that come before. */
export function read(text) {
  const frame = JSON.parse(text);
  return frame.type === "hello" || frame.type === "snapshot" ? undefined : readEvent(frame);
}

const talk = {
  live: (url, user) => ({ address: `${url.replace("http", "ws")}/api/v1/live/ws`, headers: bearer(user) }),
  isReady: (text) => text !== undefined && JSON.parse(text).type === "snapshot" && !JSON.parse(text).more,
  read,
  async submit(url, user, { items, itemMs, lanes }) {
    const work = { action: "wait", cluster: "local", parameters: { duration_ms: itemMs }, concurrency: lanes };
    const body = { ...work, items: names(items) };
    return (await json(`${url}/api/v1/tasks`, { body, headers: bearer(user) })).task_id;
  },
  record: async (url, user, task) => (await json(`${url}/api/v1/tasks/${task}`, { headers: bearer(user) })).succeeded,
};

/** The configuration of all processes; lanes enough for all batches at once. */
function config({ tasks = 1, lanes = 20 }, urls, more) {
  const lines = [
    "auth:",
    `  hs256_secret: ${SECRET}`,
    "actions:",
    "  wait: true",
    "limits:",
    "  requests_per_second: 1000",
    ...Object.entries(urls).flatMap(([section, url]) => [`${section}:`, `  url: ${url}`]),
    "worker:",
    `  lanes: ${Math.max(200, tasks * lanes)}`,
    `  tasks_max: ${Math.max(64, tasks)}`,
    `  per_cluster_max: ${Math.max(32, tasks)}`,
    ...more,
  ];
  return `${lines.join("\n")}\n`;
}

async function hub(folder, work, { servers, more = [] }) {
  const binary = process.env.BENCH_MILEPOST;
  const [store, bus] = [servers.postgres && (await postgres(folder)), servers.redis && (await redis(folder))];
  const file = path.join(folder, "milepost.yaml");
  writeFileSync(file, config(work, { ...(store && { database: store.url }), ...(bus && { redis: bus.url }) }, more));
  if (store) await promisify(execFile)(binary, ["migrate", "--config", file]);
  const role = async (...command) => {
    const [port, admin] = [await freePort(), await freePort()];
    const env = { MILEPOST_SERVER__LISTEN: `127.0.0.1:${port}`, MILEPOST_SERVER__ADMIN_LISTEN: `127.0.0.1:${admin}` };
    const replica = start(folder, command[0], [binary, ...command, "--config", file], { env });
    await replica.ready(async () => (await fetch(`http://127.0.0.1:${admin}/readyz`)).ok);
    return { replica, url: `http://127.0.0.1:${port}` };
  };
  if (!store) {
    const { replica, url } = await role("serve");
    return { url, groups: { gateway: [replica] } };
  }
  const [gateway, worker] = [await role("gateway"), await role("worker", "--with-maintenance")];
  const groups = { gateway: [gateway.replica], worker: [worker.replica], postgres: [store.process] };
  if (bus) groups.redis = [bus.process];
  const statements = async () => Number(await store.sql("SELECT coalesce(sum(calls), 0) FROM pg_stat_statements"));
  return { url: gateway.url, groups, redisPort: bus?.port, statements };
}

export const milepost = {
  name: "Milepost",
  keeps: "each result in Postgres, synced to disk at commit; the end of a task before it is told",
  start: (folder, work) => hub(folder, work, { servers: { postgres: true, redis: true } }),
  talk,
};

export const memory = {
  name: "Milepost, memory mode",
  keeps: "nothing: all is lost with the one process",
  start: (folder, work) => hub(folder, work, { servers: {} }),
  talk,
};

export const origin = {
  name: "polled table (the origin's design)",
  keeps: "each result and each step in Postgres, synced to disk at commit",
  start: (folder, work) => hub(folder, work, { servers: { postgres: true }, more: ORIGIN }),
  talk,
};

/** Clients' news are polled from a table every 500 ms; each item is written and told by itself. */
const ORIGIN = [
  "  flush_interval: 1ms",
  "  record_interval: 1ms",
  "  record_batch: 1",
  "bus:",
  "  notify: poll",
  "  poll_interval: 500ms",
];
