// The source of events where a peer has no tasks: each user has lanes whose items take so long, as in a Milepost worker.

import { setTimeout as sleep } from "node:timers/promises";

import { itemEnded, taskEnded } from "./event.js";
import { names } from "./talk.js";

/** Runs `items` items on `lanes` lanes for each user, all lanes evenly out of step. A lane awaits `publish(user, event)` before its next item. */
export async function runAll({ users, items, itemMs, lanes }, publish) {
  const all = names(items);
  const each = items / lanes;
  const batch = async (user, i) => {
    let ended = 0;
    const lane = async (l) => {
      const begin = performance.now() + ((i * lanes + l) * itemMs) / (users * lanes);
      for (let n = 0; n < each; n++) {
        await sleep(Math.max(0, begin + (n + 1) * itemMs - performance.now()));
        const index = l * each + n;
        await publish(user, itemEnded(user, index, all[index], ++ended, items));
      }
    };
    await Promise.all(Array.from({ length: lanes }, (_, l) => lane(l)));
    await publish(user, taskEnded(user, items));
  };
  await Promise.all(Array.from({ length: users }, (_, i) => batch(`u${i}`, i)));
}
