// What a job queue needs to tell browsers: an HTTP server that takes batches and a `ws` server that pushes to their user's sockets.

import { randomUUID } from "node:crypto";
import http from "node:http";
import { WebSocketServer } from "ws";

/** Serves on a port. `submit(id, batch)` queues a batch, `record(id)` says how many results are kept. Returns `push(task, event)`. */
export function gateway(port, { submit, record }) {
  const sockets = new Map(); // user -> sockets
  const users = new Map(); // task -> user

  async function answer(request) {
    if (request.method === "GET") return { succeeded: await record(request.url.split("/").pop()) };
    const batch = JSON.parse(await text(request));
    const id = randomUUID();
    users.set(id, batch.user); // Before it is queued: its first event may be quicker than the queue's answer.
    await submit(id, batch);
    return { task_id: id };
  }

  const server = http.createServer(async (request, response) => {
    const [status, body] = await answer(request).then((body) => [200, body], (error) => [500, { error: String(error) }]);
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  });
  const live = new WebSocketServer({ server, path: "/live", perMessageDeflate: false });
  live.on("connection", (socket, request) => {
    const user = new URL(request.url, "http://gateway").searchParams.get("user");
    const own = sockets.get(user) ?? new Set();
    sockets.set(user, own.add(socket));
    socket.on("close", () => own.delete(socket) && own.size === 0 && sockets.delete(user));
  });
  server.listen(port, "127.0.0.1");

  return function push(task, event) {
    const frame = JSON.stringify(event);
    for (const socket of sockets.get(users.get(task)) ?? []) socket.send(frame);
  };
}

async function text(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
}
