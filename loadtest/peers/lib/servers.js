// Private Redis and Postgres servers for one run, in its folder and on free ports.

import { execFile } from "node:child_process";
import { chownSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import net from "node:net";
import path from "node:path";
import { promisify } from "node:util";

import { freePort, start } from "./process.js";

const run = promisify(execFile);

/** Redis without persistence, or with an append-only file that is synced each second. */
export async function redis(folder, { durable = false } = {}) {
  const port = await freePort();
  const data = path.join(folder, `redis-${port}`);
  mkdirSync(data);
  const keep = durable ? ["--appendonly", "yes", "--appendfsync", "everysec"] : ["--appendonly", "no"];
  const args = ["--bind", "127.0.0.1", "--port", `${port}`, "--dir", data, "--save", "", ...keep];
  const server = start(folder, "redis", ["redis-server", ...args, "--maxmemory-policy", "noeviction"]);
  await server.ready(async () => (await redisInfo(port)).includes("redis_version"));
  return { process: server, port, url: `redis://127.0.0.1:${port}` };
}

/** Everything that Redis says of itself. */
export function redisInfo(port) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, "127.0.0.1").setEncoding("utf8");
    let text = "";
    socket.on("data", (part) => (text += part)).once("error", reject).once("close", () => resolve(text));
    socket.end("INFO everything\r\nQUIT\r\n");
  });
}

/** Postgres as it comes: every commit is on the disk before it is answered. Statements are counted. */
export async function postgres(folder) {
  const port = await freePort();
  const data = path.join(folder, `postgres-${port}`);
  mkdirSync(data);
  const as = await owner(data);
  const bin = binaries();
  const program = (name) => [...as, path.join(bin, name)];
  const [initdb, ...first] = program("initdb");
  await run(initdb, [...first, "-A", "trust", "-U", "milepost", "-E", "UTF8", "--locale=C.UTF-8", "-D", data], { cwd: "/" });
  const settings = ["max_connections=300", "shared_preload_libraries=pg_stat_statements"].flatMap((s) => ["-c", s]);
  const args = ["-D", data, "-p", `${port}`, "-k", "", "-h", "127.0.0.1", ...settings];
  const server = start(folder, "postgres", [...program("postgres"), ...args], { signal: "SIGINT" });
  const sql = async (statement) => {
    const to = ["-h", "127.0.0.1", "-p", `${port}`, "-U", "milepost", "-d", "postgres"];
    const { stdout } = await run(path.join(bin, "psql"), ["-XqAt", "-v", "ON_ERROR_STOP=1", ...to, "-c", statement]);
    return stdout.trim();
  };
  await server.ready(async () => (await sql("SELECT 1")) === "1");
  await sql("CREATE EXTENSION pg_stat_statements");
  return { process: server, port, sql, url: `postgres://milepost@127.0.0.1:${port}/postgres` };
}

/** Postgres does not run as root: then it gets its own user, and the folder. */
async function owner(data) {
  if (process.getuid() !== 0) return [];
  const id = async (flag) => Number((await run("id", [flag, "postgres"])).stdout);
  chownSync(data, await id("-u"), await id("-g"));
  return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
}

function binaries() {
  const root = "/usr/lib/postgresql";
  const versions = existsSync(root) ? readdirSync(root).filter((name) => existsSync(path.join(root, name, "bin/initdb"))) : [];
  const newest = versions.sort((a, b) => a - b).pop();
  if (!newest) throw new Error("Postgres is not installed: apt-get install postgresql");
  return path.join(root, newest, "bin");
}
