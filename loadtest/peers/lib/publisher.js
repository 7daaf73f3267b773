// The source of events where a peer has no tasks: each user has one lane whose items take so long, as in a Milepost worker.

import { setTimeout as sleep } from "node:timers/promises";

import { itemEnded, taskEnded } from "./event.js";
import { names } from "./talk.js";

/** Runs `items` items for each user, evenly out of step with each other. `publish(user, event)` is awaited before the next one. */
export async function runAll({ users, items, itemMs }, publish) {
  const all = names(items);
  const lane = async (user, i) => {
    const begin = performance.now() + (i * itemMs) / users;
    for (let n = 1; n <= items; n++) {
      await sleep(Math.max(0, begin + n * itemMs - performance.now()));
      await publish(user, itemEnded(user, n - 1, all[n - 1], n, items));
    }
    await publish(user, taskEnded(user, items));
  };
  await Promise.all(Array.from({ length: users }, (_, i) => lane(`u${i}`, i)));
}
