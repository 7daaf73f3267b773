import assert from "node:assert/strict";
import { test } from "node:test";

import { choicesOf, rowsOfTemplate } from "../assets/views/template.js";

const TEMPLATE = {
  entries: [
    { key: "team", values: ["web"] },
    { key: "gpu", values: ["a", "b", ""], effect: "NoSchedule" },
    { key: "gpu", values: ["b", "a"], effect: "NoExecute" },
  ],
};

test("what has one value is there, and what has several once it is picked", () => {
  assert.deepEqual(rowsOfTemplate(TEMPLATE, {}), [{ key: "team", value: "web", effect: "" }]);
  assert.deepEqual(rowsOfTemplate(TEMPLATE, { gpu: "b" }), [
    { key: "team", value: "web", effect: "" },
    { key: "gpu", value: "b", effect: "NoSchedule" },
    { key: "gpu", value: "b", effect: "NoExecute" },
  ]);
});

test("a key is picked once, of the values that all of its entries have", () => {
  assert.deepEqual(choicesOf(TEMPLATE), [["gpu", ["a", "b"]]]);
});
