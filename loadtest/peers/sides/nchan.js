// nchan: one nginx that is published to, another that the sockets are on, and the messages in Redis between them.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import { freePort, start } from "../lib/process.js";
import { redis } from "../lib/servers.js";
import { plain } from "../lib/talk.js";

const HERE = path.join(import.meta.dirname, "../nchan");
const MODULE = "/usr/lib/nginx/modules/ngx_nchan_module.so";

async function nginx(parent, name, redisUrl) {
  const [folder, port] = [path.join(parent, name), await freePort()];
  mkdirSync(folder);
  const values = { MODULE, FOLDER: folder, REDIS: redisUrl, PORT: port };
  const text = readFileSync(path.join(HERE, "nginx.conf"), "utf8").replace(/@([A-Z]+)@/g, (_, key) => values[key]);
  const file = path.join(folder, "nginx.conf");
  writeFileSync(file, text);
  const own = process.getuid() === 0 ? ["-g", "user root;"] : [];
  const server = start(parent, `${name}-nginx`, ["nginx", "-p", folder, "-c", file, ...own], { signal: "SIGTERM" });
  // Until its Redis is there it answers 503.
  await server.ready(async () => (await fetch(`http://127.0.0.1:${port}/pub?user=none`)).status !== 503);
  return { server, port };
}

export const nchan = {
  name: "nchan, Redis store",
  keeps: "no results; the newest 100 events of each channel in Redis for 5 minutes",
  async start(folder) {
    const store = await redis(folder);
    const [source, gateway] = [await nginx(folder, "source", store.url), await nginx(folder, "gateway", store.url)];
    const publish = (work) =>
      start(folder, "publisher", ["node", path.join(HERE, "publisher.js"), `${source.port}`, JSON.stringify(work)]);
    const groups = { gateway: [gateway.server], source: [source.server], redis: [store.process] };
    return { url: `http://127.0.0.1:${gateway.port}`, groups, redisPort: store.port, publish };
  },
  talk: plain,
};
