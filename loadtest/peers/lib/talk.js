// How the client talks to the peers' gateways: JSON over HTTP, one event per frame. Milepost and Socket.IO have their own ways.

import { readEvent } from "./event.js";

/** Asks with JSON and gets JSON. */
export async function json(url, { body, headers = {} } = {}) {
  const request = body && { method: "POST", body: JSON.stringify(body) };
  const answer = await fetch(url, { ...request, headers: { "content-type": "application/json", ...headers } });
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** The names of so many items. */
export function names(n) {
  return Array.from({ length: n }, (_, index) => `item-${String(index).padStart(6, "0")}`);
}

/** The plain protocol of the gateways in this folder. */
export const plain = {
  live: (url, user) => ({ address: `${url.replace("http", "ws")}/live?user=${user}` }),
  isReady: () => true,
  read: (text) => readEvent(JSON.parse(text)),
  async submit(url, user, { items, itemMs, lanes }) {
    const body = { user, items: names(items), item_ms: itemMs, lanes };
    return (await json(`${url}/tasks`, { body })).task_id;
  },
};
