// Socket.IO with the Redis-streams adapter: a gateway, and a publisher in a process of its own.

import path from "node:path";

import { readEvent } from "../lib/event.js";
import { freePort, listens, start } from "../lib/process.js";
import { redis } from "../lib/servers.js";

const PROGRAMS = path.join(import.meta.dirname, "../socketio");

/** Socket.IO's frames: `0{...}` opens, `40` joins with who one is, `2` is a ping, `42["event",{...},"offset"]` an event. */
export function read(text, socket) {
  if (text === "2") socket.send("3");
  return text.startsWith("42") ? readEvent(JSON.parse(text.slice(2))[1]) : undefined;
}

export const socketio = {
  name: "Socket.IO, Redis-streams adapter",
  keeps: "nothing: at most once; the newest 100,000 events of all users in one Redis stream",
  async start(folder) {
    const server = await redis(folder);
    const port = await freePort();
    const node = (name, ...args) => start(folder, name, ["node", path.join(PROGRAMS, `${name}.js`), server.url, ...args]);
    const gateway = await node("gateway", `${port}`).ready(() => listens(port));
    const publish = (work) => node("publisher", JSON.stringify(work));
    const groups = { gateway: [gateway], redis: [server.process] };
    return { url: `http://127.0.0.1:${port}`, groups, redisPort: server.port, publish };
  },
  talk: {
    live: (url) => ({ address: `${url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket` }),
    isReady(text, socket) {
      if (text?.startsWith("0")) socket.send(`40${JSON.stringify({ user: socket.user })}`);
      return text?.startsWith("40") ?? false;
    },
    read,
  },
};
