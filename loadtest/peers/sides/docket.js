// Docket (PyPI `pydocket`): one task per batch, one progress message per item, and a gateway in Python.

import path from "node:path";

import { freePort, listens, start } from "../lib/process.js";
import { redis } from "../lib/servers.js";
import { plain } from "../lib/talk.js";

const HERE = path.join(import.meta.dirname, "..");

export const docket = {
  name: "Docket, one task, message per item",
  keeps: "nothing per item; Redis without persistence",
  talk: plain,
  async start(folder) {
    const server = await redis(folder);
    const port = await freePort();
    const python = (name, ...args) => {
      const program = [path.join(HERE, ".venv/bin/python"), path.join(HERE, "docket", `${name}.py`)];
      return start(folder, name, [...program, server.url, ...args]);
    };
    const worker = python("worker");
    const gateway = await python("gateway", `${port}`).ready(() => listens(port));
    const groups = { gateway: [gateway], worker: [worker], redis: [server.process] };
    return { url: `http://127.0.0.1:${port}`, groups, redisPort: server.port };
  },
};
