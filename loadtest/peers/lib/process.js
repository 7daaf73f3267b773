// Processes of a run: each with a log in the run's own folder, on free loopback ports, and none outlives the run.

import { spawn } from "node:child_process";
import { appendFileSync, closeSync, openSync, readFileSync } from "node:fs";
import net from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const READY_MS = 30_000;
/** Bytes of a log that an error shows. */
const LOG_LEN = 2_000;

/** All that were started for this run. */
let running = [];
process.on("exit", () => running.forEach(({ child, signal }) => child.kill(signal)));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

/** A started process; `stop` ends it and waits until it is gone. */
export class Process {
  constructor(name, child, log, signal) {
    Object.assign(this, { name, child, log, signal, pid: child.pid });
    this.gone = new Promise((resolve) => child.once("exit", resolve));
    running.push(this);
  }

  get exited() {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  async stop() {
    if (!this.exited) this.child.kill(this.signal);
    await this.gone;
  }

  /** Waits until `ready` says so; a process that ends before, or takes too long, is an error with its log. */
  async ready(ready) {
    const end = Date.now() + READY_MS;
    while (!(await ready().catch(() => false))) {
      if (this.exited || Date.now() > end) {
        throw new Error(`${this.name} did not come up:\n${readFileSync(this.log, "utf8").slice(-LOG_LEN)}`);
      }
      await sleep(20);
    }
    return this;
  }
}

/** The ends of all logs, for when a run fails. */
export function logs() {
  const ends = running.map(({ name, log }) => [name, readFileSync(log, "utf8").slice(-LOG_LEN).trim()]);
  return ends.filter(([, text]) => text).map(([name, text]) => `--- ${name}\n${text}`).join("\n");
}

/** Ends all that run. */
export async function stopAll() {
  await Promise.all(running.map((process) => process.stop()));
  running = [];
}

/** Starts a program with its output in `folder/name.log`. One that has children of its own says which `signal` ends them too. */
export function start(folder, name, [program, ...args], { env = {}, signal = "SIGKILL" } = {}) {
  const log = path.join(folder, `${name}.log`);
  const file = openSync(log, "a");
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ["ignore", file, file] });
  child.once("error", (error) => appendFileSync(log, `${error}\n`) || child.emit("exit"));
  closeSync(file);
  return new Process(name, child, log, signal);
}

/** A port on loopback that nobody listens on just now. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Whether somebody listens on a port. */
export function listens(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(true) || socket.destroy());
    socket.once("error", () => resolve(false));
  });
}
