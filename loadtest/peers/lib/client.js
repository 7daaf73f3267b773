// The client of all sides, a process of its own: opens sockets, submits, stamps what arrives after parsing it, and checks that it is
// exact. The bench tells it what to do, one call at a time.

import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";

import { Check } from "./check.js";
import { nowUs } from "./event.js";
import { percentile } from "./stats.js";
import { SIDES } from "../sides/all.js";

/** Sockets that are being opened at once. */
const OPENING = 128;
/** Sockets of one loopback address: one has 28,000 ports, and finding a free one gets slow long before. */
const SOCKETS_PER_ADDRESS = 4_000;
/** Silence after which a run is given up. */
const SILENCE_MS = 60_000;
/** What is still on its way when all has come, comes within this. */
const LATE_MS = 300;

let side, url;
let watchers = [];
let window; // latencies while one is open

/** One user's socket, and the check of what comes in. */
class Watcher {
  constructor(user) {
    this.user = user;
    this.restart();
  }

  restart() {
    this.check = new Check();
    this.latencies = [];
    this.frames = this.bytes = 0;
    this.firstUs = Infinity;
    this.over = new Promise((resolve) => (this.end = resolve));
  }

  open(number) {
    const { address, headers } = side.talk.live(url, this.user);
    const localAddress = `127.0.0.${1 + Math.floor(number / SOCKETS_PER_ADDRESS)}`;
    this.socket = new WebSocket(address, { headers, localAddress, perMessageDeflate: false, skipUTF8Validation: true });
    this.socket.user = this.user;
    return new Promise((resolve, reject) => {
      const begun = (text) => {
        if (!side.talk.isReady(text, this.socket)) return;
        this.socket.off("message", before);
        this.socket.on("message", (data) => this.take(data));
        resolve();
      };
      const before = (data) => begun(data.toString());
      this.socket.on("message", before).once("open", () => begun()).on("error", reject);
      this.socket.on("close", (code) => reject(new Error(`closed with ${code}`)) || this.end(`closed with ${code}`));
    });
  }

  take(data) {
    const frame = side.talk.read(data.toString(), this.socket);
    if (!frame) return;
    const at = nowUs();
    this.lastUs = at;
    this.frames += 1;
    this.bytes += data.length;
    this.check.frame(frame);
    for (const { doneUs } of frame.items) {
      this.firstUs = Math.min(this.firstUs, doneUs);
      this.latencies.push(at - doneUs);
      window?.push(at - doneUs);
    }
    if (this.check.terminal) this.end();
  }
}

async function silence(watcher) {
  for (let seen = -1; seen !== watcher.frames; await sleep(SILENCE_MS)) seen = watcher.frames;
  return `nothing came for ${SILENCE_MS} ms, after ${watcher.frames} frames`;
}

async function arrived(watcher) {
  const fault = await Promise.race([watcher.over, silence(watcher)]);
  if (fault) throw new Error(fault);
}

function inMs(latencies) {
  const sorted = [...latencies].sort((a, b) => a - b);
  const at = (share) => percentile(sorted, share) / 1000;
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1), timed: sorted.length };
}

function demandExact(watcher, task, items) {
  const verdict = watcher.check.verdict(task, items);
  if (!verdict.exact) throw new Error(`not exact for ${watcher.user}: ${JSON.stringify(verdict.faults)}`);
  return verdict.unlisted;
}

const calls = {
  /** Opens one socket for each of so many users. */
  async connect({ name, at, users }) {
    [side, url] = [SIDES[name], at];
    const begin = nowUs();
    for (let i = 0; i < users; i++) watchers.push(new Watcher(`u${i}`));
    let next = 0;
    const opener = async () => {
      while (next < users) {
        const number = next++;
        await watchers[number].open(number);
      }
    };
    await Promise.all(Array.from({ length: OPENING }, opener));
    return { seconds: (nowUs() - begin) / 1e6 };
  },

  /** The first user submits a batch and watches it to its end. */
  async batch(work) {
    const [watcher] = watchers;
    watcher.restart();
    const begin = nowUs();
    const task = await side.talk.submit(url, watcher.user, work);
    const answered = nowUs();
    await arrived(watcher);
    await sleep(LATE_MS);
    const unlisted = demandExact(watcher, task, work.items);
    if (side.talk.record) {
      const kept = await side.talk.record(url, watcher.user, task);
      if (kept !== work.items) throw new Error(`${kept} results of ${work.items} are kept`);
    }
    const working = (watcher.lastUs - watcher.firstUs) / 1e6;
    return {
      ...inMs(watcher.latencies),
      unlisted,
      submitMs: (answered - begin) / 1000,
      batchMs: (watcher.lastUs - begin) / 1000,
      perSecond: work.items / working,
      frames: watcher.frames,
      bytesPerItem: watcher.bytes / work.items,
    };
  },

  /** A step begins: what was told before does not count. */
  async begin() {
    watchers.forEach((watcher) => watcher.restart());
  },

  /** Starts a batch for each of the first users, evenly over one item's time: only where events come from tasks. */
  async submitAll({ users, ...work }) {
    const begin = nowUs();
    const started = watchers.slice(0, users).map(async (watcher, i) => {
      await sleep((i * work.itemMs) / users);
      watcher.task = await side.talk.submit(url, watcher.user, work);
    });
    await Promise.all(started);
    return { seconds: (nowUs() - begin) / 1e6 };
  },

  /** From here on arrivals are timed; returns how many were since it was asked last. */
  async window({ open }) {
    const timed = window ?? [];
    window = open ? [] : undefined;
    return inMs(timed);
  },

  /** Waits until the first users were told of an end, demands that each got everything once, and that nobody else got anything. */
  async finish({ users, items }) {
    for (const watcher of watchers.slice(0, users)) await arrived(watcher);
    await sleep(LATE_MS);
    watchers.forEach((watcher, i) => {
      if (i < users) demandExact(watcher, watcher.task ?? watcher.user, items);
      else if (watcher.frames > 0) throw new Error(`${watcher.user} got ${watcher.frames} frames of others`);
    });
    const told = watchers.slice(0, users);
    const sum = (pick) => told.reduce((sum, watcher) => sum + pick(watcher), 0);
    return { bytesPerItem: sum((w) => w.bytes) / (users * items) };
  },
};

process.on("message", async ({ call, args }) => {
  const reply = await calls[call](args).then((result) => ({ result }), (error) => ({ error: String(error.stack) }));
  process.send(reply);
});
