// One run of one side: start its processes, let it work, and say what that took. Nothing of it is left when it ends.

import { fork } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { logs, stopAll } from "./process.js";
import { redisInfo } from "./servers.js";
import { loadAverage, parseInfo, usage } from "./usage.js";
import { WARM_UP } from "./works.js";
import { SIDES } from "../sides/all.js";

/** After connecting, and after the warm-up, what it left to do is over. */
const SETTLE_MS = 1_000;
/** Of each step of events: not timed at first, then timed for so long. */
const BEFORE_MS = 2_500;
const WINDOW_MS = 6_000;

/** The client's process. */
class Client {
  constructor() {
    this.child = fork(path.join(import.meta.dirname, "client.js"));
  }

  call(call, args = {}) {
    return new Promise((resolve, reject) => {
      const ended = () => reject(new Error(`the client ended in ${call}`));
      this.child.once("exit", ended);
      this.child.once("message", ({ result, error }) => {
        this.child.off("exit", ended);
        if (error) reject(new Error(error));
        else resolve(result);
      });
      this.child.send({ call, args });
    });
  }
}

/** Everything that counts up, now. */
async function costs({ groups, redisPort, statements }) {
  const of = (processes) =>
    processes.map(({ pid }) => usage(pid)).reduce((a, b) => ({ cpu: a.cpu + b.cpu, kb: a.kb + b.kb }));
  const parts = Object.fromEntries(Object.entries(groups).map(([name, processes]) => [name, of(processes)]));
  const redis = redisPort ? parseInfo(await redisInfo(redisPort)) : {};
  return { ...parts, commands: redis.commands, bytes: redis.bytes, statements: await statements?.() };
}

const per = (after, before, n) => (after === undefined ? undefined : (after - before) / n);

/** A batch, watched by one socket. */
async function batch(name, work, place, client) {
  await client.call("connect", { name, at: place.url, users: 1 });
  await client.call("batch", WARM_UP);
  await sleep(SETTLE_MS);
  const before = await costs(place);
  const seen = await client.call("batch", work.batch);
  const after = await costs(place);
  const { items } = work.batch;
  const cpu = (part) => per(after[part]?.cpu, before[part]?.cpu, items / 10_000);
  const figures = {
    ...seen,
    commandsPerItem: per(after.commands, before.commands, items),
    redisBytesPerItem: per(after.bytes, before.bytes, items),
    statementsPerItem: per(after.statements, before.statements, items),
    workerCpu: cpu("worker"),
    gatewayCpu: cpu("gateway"),
    redisCpu: cpu("redis"),
    postgresCpu: cpu("postgres"),
    workerMb: after.worker && after.worker.kb / 1024,
    gatewayMb: after.gateway.kb / 1024,
  };
  return [{ step: "", figures }];
}

/** Many sockets, first idle, then some of them told of events at a steady rate. */
async function crowd(name, work, place, client) {
  const empty = await costs(place);
  const { seconds } = await client.call("connect", { name, at: place.url, users: work.connected });
  await sleep(SETTLE_MS);
  const idle = await costs(place);
  const idleFigures = {
    kbPerSocket: per(idle.gateway.kb, empty.gateway.kb, work.connected),
    redisBytesPerUser: per(idle.bytes, empty.bytes, work.connected),
    connectedPerSecond: work.connected / seconds,
  };
  const rows = [{ step: "idle", figures: idleFigures }];
  for (const step of work.steps) rows.push({ step: step.name, figures: await events(step, place, client) });
  return rows;
}

async function events(step, place, client) {
  await client.call("begin");
  if (place.publish) place.groups.publisher = [place.publish(step)];
  else await client.call("submitAll", step);
  await sleep(BEFORE_MS);
  await client.call("window", { open: true });
  const before = await costs(place);
  await sleep(WINDOW_MS);
  const after = await costs(place);
  const seen = await client.call("window", { open: false });
  const { bytesPerItem } = await client.call("finish", step);
  const cpu = (part) => after[part] && after[part].cpu - before[part].cpu;
  const share = (part) => (after[part] ? (100 * cpu(part)) / (WINDOW_MS / 1000) : undefined);
  return {
    ...seen,
    bytesPerItem,
    perSecond: seen.timed / (WINDOW_MS / 1000),
    gatewayUsPerEvent: (1e6 * cpu("gateway")) / seen.timed,
    redisPercent: share("redis"),
    gatewayPercent: share("gateway"),
    sourcePercent: (share("worker") ?? share("publisher")) + (share("source") ?? 0),
    postgresPercent: share("postgres"),
    commandsPerItem: per(after.commands, before.commands, seen.timed),
  };
}

/** Runs a work on a side once; returns its rows. A run that was not exact is an error and has no figures. */
export async function once(name, work) {
  const folder = mkdtempSync(path.join(tmpdir(), "milepost-peers-"));
  chmodSync(folder, 0o755); // Postgres runs as another user in it.
  const load = loadAverage();
  const most = (key) => Math.max(...work.steps.map((step) => step[key]));
  const shape = work.batch ?? { tasks: most("users"), lanes: most("lanes") };
  const client = new Client();
  try {
    const place = await SIDES[name].start(folder, shape);
    const rows = await (work.batch ? batch : crowd)(name, work, place, client);
    return rows.map((row) => ({ side: name, load, ...row }));
  } catch (error) {
    throw new Error(`${name}: ${error.message}\n${logs()}`, { cause: error });
  } finally {
    client.child.kill();
    await stopAll();
    rmSync(folder, { recursive: true, force: true });
  }
}
