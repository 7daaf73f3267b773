import assert from "node:assert/strict";
import { test } from "node:test";

import { age, duration, rate as rateWords, statusWord } from "../assets/format.js";
import { ItemPage, obstacleDetail, stepWords } from "../assets/items.js";
import { rate, remaining, sample } from "../assets/pace.js";

const item = (index, state = "pending", error = null) => ({ index, name: `n${index}`, state, error });
const states = (page) =>
  page
    .list()
    .map(({ state }) => state)
    .join(" ");

test("events are laid over the page they belong to", () => {
  const page = new ItemPage();
  page.load([item(0), item(1), item(2)], false);
  const changed = page.apply({
    attempt: 1,
    items: [item(1, "running"), item(2, "failed", "no"), item(9, "failed")],
  });
  assert.deepEqual(changed, [1, 2]);
  assert.equal(states(page), "pending running failed");
  assert.equal(page.list()[2].error, "no");
});

test("a result is given once, also when the record lags", () => {
  const page = new ItemPage();
  page.load([item(0), item(1)], false);
  page.apply({ attempt: 1, items: [item(0, "succeeded"), item(1, "running")] });
  page.apply({ attempt: 1, items: [item(0, "running")] });
  page.load([item(0), item(1)], true);
  assert.equal(states(page), "succeeded running");
  page.load([item(0), item(1, "failed", "late")], true);
  assert.equal(states(page), "succeeded failed");
});

test("a new attempt puts back what the one before had in hand", () => {
  const page = new ItemPage();
  page.load([item(0), item(1)], false);
  page.apply({ attempt: 1, items: [item(0, "running"), item(1, "succeeded")] });
  page.apply({ attempt: 2, items: [] });
  assert.equal(states(page), "pending succeeded");
});

test("another page starts from nothing", () => {
  const page = new ItemPage();
  page.load([item(0)], false);
  page.apply({ attempt: 1, items: [item(0, "running")] });
  page.load([item(0)], false);
  assert.equal(states(page), "pending");
});

test("the rate follows what happened lately, and falls to nothing when all stands still", () => {
  let samples = [];
  for (let at = 0; at <= 10_000; at += 100) samples = sample(samples, at, at / 100);
  assert.equal(rate(samples, 10_000), 10);
  assert.ok(samples.length <= 70, `${samples.length}`);
  assert.ok(rate(samples, 20_000) < 6);
  assert.equal(rate(samples, 60_000), null);
});

test("too little is not extrapolated, and another attempt starts over", () => {
  assert.equal(rate(sample([], 0, 5), 500), null);
  const samples = sample(sample([], 0, 5), 2_000, 9);
  assert.equal(rate(samples, 2_000), 2);
  assert.deepEqual(sample(samples, 3_000, 1), [{ at: 3_000, current: 1 }]);
  assert.equal(remaining(2, 10), 5_000);
  assert.equal(remaining(0, 10), null);
  assert.equal(remaining(null, 10), null);
});

test("words for times and rates", () => {
  assert.deepEqual([0, 59_000, 120_000, 7_200_000, 3 * 86_400_000].map(duration), [
    "0 s",
    "59 s",
    "2 min",
    "2 h",
    "3 d",
  ]);
  assert.equal(age(1_000, 2_000), "now");
  assert.deepEqual([null, 0, 1.25, 1234.4].map(rateWords), ["–", "–", "1.3/s", "1,234/s"]);
  assert.equal(statusWord("completed_with_errors"), "Partly failed");
  assert.equal(statusWord("wave_started"), "Wave started");
});

const step = (more) => ({
  doing: "evicting pods",
  pods: { total: 18, waiting: 0, evicting: 3, blocked: 1, failed: 0, gone: 14 },
  obstacles: [
    { by: "budget web", pods: 1, pod: "shop/web-1", since: "2026-01-01T00:00:00Z", why: "needs 2 and has 2" },
  ],
  ...more,
});

test("an item in work says where its pods are and what keeps them", () => {
  const now = Date.parse("2026-01-01T00:00:12Z");
  assert.equal(stepWords(step(), now), "evicting 3, blocked by budget web since 12 s, gone 14 of 18");
  assert.equal(obstacleDetail(step()), "shop/web-1: needs 2 and has 2");
  assert.equal(stepWords({ doing: "cordoning" }, now), "cordoning");
  assert.equal(stepWords(null, now), "");
});

test("the newest step of an item counts, and ends with it", () => {
  const page = new ItemPage();
  page.load([{ index: 0, name: "a", state: "pending" }], false);
  const change = (more) => ({ attempt: 1, items: [{ index: 0, name: "a", state: "running", ...more }] });
  page.apply(change({ step: step() }));
  page.apply(change({ step: { doing: "cordoning" } }));
  assert.equal(page.list()[0].step.doing, "cordoning");
  page.load([{ index: 0, name: "a", state: "pending" }], true);
  assert.equal(page.list()[0].step.doing, "cordoning", "the record knows of no steps");
  page.apply(change({ state: "succeeded" }));
  assert.equal(page.list()[0].step, null);
});
