// Runs Milepost and its peers on the same work, in turn, and writes one page of ratios.
//
//   node bench.js [WORK...] [--rounds 5] [--sides a,b] [--results FOLDER] [--add]
//
// Without a name all works are run. Those that are run replace what the results say of them, or come on top with `--add`; what
// they say of other works stays.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";

import { once } from "./lib/run.js";
import { figure } from "./lib/stats.js";
import { page } from "./lib/table.js";
import { WORKS } from "./lib/works.js";

const { values: args, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "5" },
    sides: { type: "string" },
    results: { type: "string", default: path.join(import.meta.dirname, "../results") },
    binary: { type: "string", default: path.join(import.meta.dirname, "../../target/release/milepost") },
    add: { type: "boolean", default: false },
  },
});

function output(program, ...args) {
  return execFileSync(program, args, { cwd: import.meta.dirname, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] }).trim();
}

function machine() {
  const commit = output("git", "describe", "--always", "--dirty", "--abbrev=12");
  return { cpu: cpus()[0].model, cores: cpus().length, kernel: release(), commit };
}

/** What was compared, as a sentence. */
function versions() {
  const packages = JSON.parse(readFileSync(path.join(import.meta.dirname, "package.json"), "utf8")).dependencies;
  const docket = /^pydocket==(.*)$/m.exec(readFileSync(path.join(import.meta.dirname, "requirements.txt"), "utf8"))[1];
  const nchan = output("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan").replace(/^\d+:/, "");
  const redis = /v=(\S+)/.exec(output("redis-server", "--version"))[1];
  const npm = ["bullmq", "ws", "socket.io", "@socket.io/redis-streams-adapter"].map((name) => `${name} ${packages[name]}`);
  const rest = [`Docket ${docket}`, `nchan ${nchan}`, `Redis ${redis}`];
  return [...npm, ...rest, `Node.js ${process.version}`].join(", ");
}

function kept(file) {
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).rows : [];
}

function line(row) {
  const figures = Object.entries(row.figures).filter(([, value]) => typeof value === "number");
  return `${row.side} ${row.step}: ${figures.map(([key, value]) => `${key} ${figure(value)}`).join(", ")}; load ${row.load}`;
}

async function main() {
  process.env.BENCH_MILEPOST = path.resolve(args.binary);
  const works = positionals.length > 0 ? positionals : Object.keys(WORKS);
  const unknown = works.find((work) => !WORKS[work]);
  if (unknown) throw new Error(`there is no work ${unknown}, only ${Object.keys(WORKS).join(", ")}`);
  mkdirSync(args.results, { recursive: true });
  const file = path.join(args.results, "peers.json");
  const rows = kept(file).filter(({ work }) => args.add || !works.includes(work));
  for (const work of works) {
    const sides = args.sides ? args.sides.split(",") : WORKS[work].sides;
    for (let round = 1; round <= Number(args.rounds); round++) {
      for (const side of sides) {
        for (const row of await once(side, WORKS[work])) {
          console.error(`${work} ${round}/${args.rounds} ${line(row)}`);
          rows.push({ work, ...row });
        }
      }
      write(file, rows); // What there is survives a later run that fails.
    }
  }
  console.log(readFileSync(path.join(args.results, "peers.md"), "utf8"));
}

function write(file, rows) {
  const results = { machine: machine(), versions: versions(), rows };
  writeFileSync(file, `${JSON.stringify(results, null, 1)}\n`);
  writeFileSync(path.join(args.results, "peers.md"), page(results));
}

await main();
process.exit(0);
