// What a run costs: processor time and memory of each process from /proc, commands and bytes from Redis. The parsers are pure.

import { readFileSync } from "node:fs";

/** Clock ticks in a second of /proc/PID/stat: fixed in Linux's interface. */
const TICKS = 100;

/** Seconds of processor time of a process and of its children that have ended, from its /proc/PID/stat. */
export function cpuSeconds(stat) {
  // The name in the second field may have spaces and brackets; what counts follows the last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 1).trim().split(/\s+/);
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / TICKS;
}

/** Resident memory in kB, from a /proc/PID/status. */
export function residentKb(status) {
  return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0);
}

/** Processor time and memory of a process and of the children it has now. */
export function usage(pid) {
  const read = (pid, name) => {
    try {
      return readFileSync(`/proc/${pid}/${name}`, "utf8");
    } catch {
      return ""; // It has ended meanwhile.
    }
  };
  const pids = [pid, ...read(pid, `task/${pid}/children`).split(/\s+/).filter(Boolean)];
  return pids.reduce(
    (sum, pid) => ({
      cpu: sum.cpu + cpuSeconds(read(pid, "stat") || ") "),
      kb: sum.kb + residentKb(read(pid, "status")),
    }),
    { cpu: 0, kb: 0 },
  );
}

/** Commands that Redis ran, those inside of scripts included and looks at it left out, and bytes of its data. */
export function parseInfo(info) {
  const calls = [...info.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)];
  const own = new Set(["info", "quit"]);
  const commands = calls.filter(([, name]) => !own.has(name)).reduce((sum, [, , n]) => sum + Number(n), 0);
  return { commands, bytes: Number(/^used_memory:(\d+)/m.exec(info)?.[1] ?? 0) };
}

/** The load average of the last minute. */
export function loadAverage() {
  return Number(readFileSync("/proc/loadavg", "utf8").split(" ")[0]);
}
