// The results as Markdown: medians of the runs, and how they compare with Milepost's. Pure.

import { figure, median, ratio } from "./stats.js";
import { SIDES } from "../sides/all.js";
import { WORKS } from "./works.js";

/** Milepost's side, which the others are compared with. */
const BASE = "milepost";

/** What a table says, in this order: key, title, and whether more is better. */
const BATCH = [
  ["p50", "item done → received, p50 ms"],
  ["p99", "p99 ms"],
  ["perSecond", "items/s while it works", true],
  ["submitMs", "submit ms"],
  ["batchMs", "submit → end ms"],
  ["commandsPerItem", "Redis commands/item"],
  ["redisBytesPerItem", "Redis bytes/item"],
  ["statementsPerItem", "SQL statements/item"],
  ["bytesPerItem", "socket bytes/item"],
  ["workerCpu", "worker CPU s/10k"],
  ["gatewayCpu", "gateway CPU s/10k"],
  ["redisCpu", "Redis CPU s/10k"],
  ["postgresCpu", "Postgres CPU s/10k"],
  ["workerMb", "worker MB"],
  ["gatewayMb", "gateway MB"],
];
const EVENTS = [
  ["p50", "published → received, p50 ms"],
  ["p99", "p99 ms"],
  ["perSecond", "events/s received", true],
  ["gatewayUsPerEvent", "gateway CPU µs/event"],
  ["gatewayPercent", "gateway % of a core"],
  ["redisPercent", "Redis % of a core"],
  ["sourcePercent", "source % of a core"],
  ["postgresPercent", "Postgres % of a core"],
  ["commandsPerItem", "Redis commands/event"],
  ["bytesPerItem", "socket bytes/event"],
];
const IDLE = [
  ["kbPerSocket", "gateway kB/socket"],
  ["redisBytesPerUser", "Redis bytes/user"],
  ["connectedPerSecond", "sockets connected/s", true],
];

/** Medians of the same step of the same side. */
export function medians(rows) {
  const keys = [...new Set(rows.flatMap(({ figures }) => Object.keys(figures)))];
  const known = (key) => rows.map(({ figures }) => figures[key]).filter((value) => value !== undefined && value !== null);
  const figures = keys.map((key) => [key, median(known(key))]).filter(([, value]) => value !== undefined);
  return { runs: rows.length, load: median(rows.map(({ load }) => load)), figures: Object.fromEntries(figures) };
}

function markdown(head, rows, align = "--:") {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map((_, i) => (i === 0 ? "---" : align))), ...rows.map(line)].join("\n");
}

/** A side's figure, and how many times Milepost's it is. */
function cell(value, base, isBase) {
  if (value === undefined) return "-";
  return isBase || base === undefined ? figure(value) : `${figure(value)} (${ratio(value, base)})`;
}

function table(step, columns, rows) {
  const sides = [...new Set(rows.map(({ side }) => side))];
  const seen = new Map(sides.map((side) => [side, medians(rows.filter((row) => row.side === side))]));
  const base = seen.get(BASE)?.figures ?? {};
  const used = columns.filter(([key]) => sides.some((side) => seen.get(side).figures[key] !== undefined));
  const line = ([key, title, more]) => [
    more ? `${title} (more is better)` : title,
    ...sides.map((side) => cell(seen.get(side).figures[key], base[key], side === BASE)),
  ];
  const last = ["runs, load average", ...sides.map((side) => `${seen.get(side).runs}, ${figure(seen.get(side).load)}`)];
  return markdown([step, ...sides.map((side) => SIDES[side].name)], [...used.map(line), last]);
}

function columnsOf(work, step) {
  if (WORKS[work].batch) return BATCH;
  return step === "idle" ? IDLE : EVENTS;
}

/** All of it. */
export function page({ machine, versions, rows }) {
  const parts = Object.entries(WORKS).flatMap(([work, { about }]) => {
    const own = rows.filter((row) => row.work === work);
    const steps = [...new Set(own.map(({ step }) => step))];
    const tables = steps.map((step) => table(step, columnsOf(work, step), own.filter((row) => row.step === step)));
    return own.length > 0 ? [`## ${work}\n\n${about}.`, ...tables] : [];
  });
  const sides = [...new Set(rows.map(({ side }) => side))];
  const kept = sides.map((side) => [SIDES[side].name, SIDES[side].keeps]);
  const keeps = markdown(["side", "what is kept of a result"], kept, "---");
  const head = [
    "# Milepost and its peers on the same work",
    `${machine.cores} x ${machine.cpu}, Linux ${machine.kernel}, commit ${machine.commit}. ${versions}.`,
    `Medians; all sides in turn in each run, with the client on the same machine. In brackets: how many times Milepost's figure.
Every run passed the exact-delivery check: at each socket 0 lost, 0 doubled, 0 reordered; where results are kept, the record agreed.
What is the same for all and how to repeat it: [loadtest/peers](../peers/README.md). All runs: [peers.json](peers.json).`,
  ];
  return `${[...head, ...parts, "## What each side keeps", keeps].join("\n\n")}\n`;
}
