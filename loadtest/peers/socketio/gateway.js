// A Socket.IO server with the Redis-streams adapter: each user has a room. Connection state recovery is on, because clients of the
// other sides can resume as well.

import { createAdapter } from "@socket.io/redis-streams-adapter";
import { Redis } from "ioredis";
import http from "node:http";
import { Server } from "socket.io";

const [, , redis, port] = process.argv;
const server = http.createServer();
const io = new Server(server, {
  adapter: createAdapter(new Redis(redis), { onlyPlaintext: true, maxLen: 100_000 }),
  connectionStateRecovery: {},
  transports: ["websocket"],
});
// What its documentation advises for memory: forget the first HTTP request of each connection.
io.engine.on("connection", (socket) => (socket.request = null));
io.on("connection", (socket) => socket.join(socket.handshake.auth.user));
server.listen(Number(port), "127.0.0.1");
