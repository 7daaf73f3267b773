import assert from "node:assert/strict";
import { test } from "node:test";

import { figure, median, percentile, ratio } from "../lib/stats.js";
import { page } from "../lib/table.js";
import { cpuSeconds, parseInfo, residentKb, usage } from "../lib/usage.js";
import { WORKS } from "../lib/works.js";
import { SIDES } from "../sides/all.js";

test("percentiles and medians", () => {
  const values = Array.from({ length: 200 }, (_, i) => i + 1);
  assert.deepEqual([0.5, 0.99, 1].map((share) => percentile(values, share)), [100, 198, 200]);
  assert.ok(Number.isNaN(percentile([], 0.5)));
  assert.equal(median([9, 1, 4]), 4);
});

test("figures have the digits that say something", () => {
  assert.deepEqual([0, 0.0123, 1.234, 123.45, 12345.6, undefined].map(figure), ["0", "0.012", "1.23", "123.5", "12,346", "-"]);
  assert.deepEqual([ratio(3, 2), ratio(1, 4), ratio(1234, 1), ratio(1, 0), ratio(undefined, 1)], ["1.5x", "0.25x", "1234x", "-", "-"]);
});

test("processor time is found behind any name, and memory", () => {
  assert.equal(cpuSeconds("7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 100 50 25 25 20 0"), 2);
  assert.equal(residentKb("Name:\tx\nVmRSS:\t    1234 kB\n"), 1234);
  assert.ok(usage(process.pid).kb > 1_000);
});

test("Redis says what it ran, and looks do not count", () => {
  const info = "used_memory:123\r\nused_memory_peak:9\r\ncmdstat_xadd:calls=3,usec=9\r\ncmdstat_config|get:calls=2\r\ncmdstat_info:calls=7\r\n";
  assert.deepEqual(parseInfo(info), { commands: 5, bytes: 123 });
});

test("the page compares medians with Milepost's", () => {
  const row = (side, p50, more = {}) => ({ work: "paced", step: "", side, load: 1, figures: { p50, ...more } });
  const rows = [row("milepost", 1), row("milepost", 2), row("milepost", 9), row("docket", 5, { commandsPerItem: null })];
  const machine = { cpu: "x", cores: 2, kernel: "k", commit: "c" };
  const text = page({ machine, versions: "v", rows });
  assert.match(text, /\| item done → received, p50 ms \| 2.00 \| 5.00 \(2.5x\) \|/);
  assert.match(text, /\| runs, load average \| 3, 1.00 \| 1, 1.00 \|/);
  assert.match(text, /Postgres, synced to disk/, "what is kept is said");
  assert.doesNotMatch(text, /Redis commands|## crowd/, "nothing is said of what was not measured");
});

test("every work names sides that there are", () => {
  for (const { about, sides } of Object.values(WORKS)) {
    assert.ok(about && sides.every((side) => SIDES[side]?.keeps && SIDES[side].talk));
  }
});
