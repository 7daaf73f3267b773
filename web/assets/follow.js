// The nodes of a cluster, followed: what a stream says, the nodes that come of it, and coming back when it ends.

import { withText } from "./nodes.js";
import { problemOf } from "./api.js";

/** A stream that says nothing for longer is given up; a comment comes every 25 seconds by default. */
const SILENCE_MS = 60_000;
const WAIT_MIN_MS = 500;
const WAIT_MAX_MS = 15_000;

/** Takes server-sent events apart, however they are cut, into their data. */
export class EventReader {
  #rest = "";

  feed(text) {
    const blocks = (this.#rest + text).split("\n\n");
    this.#rest = blocks.pop();
    return blocks.flatMap((block) => {
      const line = block.split("\n").find((one) => one.startsWith("data:"));
      return line ? [JSON.parse(line.slice(5))] : [];
    });
  }
}

const byName = (one, other) => (one.name < other.name ? -1 : one.name > other.name ? 1 : 0);

/** The nodes as the stream has told them. */
export class NodeBook {
  #nodes = new Map();
  #parts = null;
  #sorted = null;
  freshness = { stale: false, silent_ms: 0 };

  /** Takes a frame, and says whether anything is different now. */
  apply(frame) {
    switch (frame.type) {
      case "snapshot":
        return this.#snapshot(frame);
      case "added":
      case "updated":
        this.#nodes.set(frame.node.name, withText(frame.node));
        break;
      case "deleted":
        if (!this.#nodes.delete(frame.name)) return false;
        break;
      case "freshness":
        this.freshness = frame;
        return true;
      default:
        return false;
    }
    this.#sorted = null;
    return true;
  }

  /** Parts of a snapshot count once all of them are there. A node that is as it was stays the same object. */
  #snapshot({ nodes, more }) {
    this.#parts = [...(this.#parts ?? []), ...nodes];
    if (more) return false;
    const before = this.#nodes;
    this.#nodes = new Map();
    for (const node of this.#parts.map(withText)) {
      const known = before.get(node.name);
      const same = known && JSON.stringify(known) === JSON.stringify(node);
      this.#nodes.set(node.name, same ? known : node);
    }
    this.#parts = null;
    this.#sorted = null;
    return true;
  }

  /** By name. */
  list() {
    this.#sorted ??= [...this.#nodes.values()].sort(byName);
    return this.#sorted;
  }
}

/** How long to wait before the next try, with chance in it. */
export function waitMs(failures, random) {
  return Math.max(WAIT_MIN_MS, Math.min(WAIT_MAX_MS, WAIT_MIN_MS * 2 ** failures) * random);
}

/** Follows one cluster at a time, while the page is seen. */
export class NodeFollower {
  #cluster = null;
  #stop = null;

  /** `open(cluster, signal)` gives the body of a stream; `onNodes(book)` is called when there is news. */
  constructor({ open, onNodes }) {
    Object.assign(this, { open, onNodes });
    document.addEventListener("visibilitychange", () => this.#seen());
  }

  start(cluster) {
    if (this.#cluster === cluster && this.#stop) return;
    this.stop();
    this.#cluster = cluster;
    this.#seen();
  }

  stop() {
    this.#cluster = null;
    this.#cut();
  }

  /** A hidden page needs no news, and connections of one browser to one server are few. */
  #seen() {
    if (document.hidden || this.#cluster === null) this.#cut();
    else if (!this.#stop) this.#run(this.#cluster);
  }

  #cut() {
    this.#stop?.abort();
    this.#stop = null;
  }

  async #run(cluster) {
    const stop = new AbortController();
    this.#stop = stop;
    for (let failures = 0; !stop.signal.aborted; failures += 1) {
      try {
        await this.#read(cluster, stop.signal, () => (failures = 0));
      } catch (problem) {
        // What the server refuses for good stays as it was read last; the list says why by itself.
        if (problem.status >= 400 && problem.status < 500 && problem.status !== 429) return;
      }
      if (!stop.signal.aborted) await new Promise((done) => setTimeout(done, waitMs(failures, Math.random())));
    }
  }

  async #read(cluster, stopped, onNews) {
    const silent = new AbortController();
    const signal = AbortSignal.any([stopped, silent.signal]);
    const body = await this.open(cluster, signal);
    const [reader, events, book] = [body.getReader(), new EventReader(), new NodeBook()];
    const decoder = new TextDecoder();
    for (;;) {
      const timer = setTimeout(() => silent.abort(), SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (done || stopped.aborted) return;
      let news = false;
      for (const frame of events.feed(decoder.decode(value, { stream: true }))) {
        if (frame.type === "close") throw problemOf(frame.reconnect ? 503 : 400, null, { title: frame.reason });
        news = book.apply(frame) || news;
      }
      if (news) {
        onNews();
        this.onNodes(book);
      }
    }
  }
}
