// Emits to the rooms of users from another server than the one that they are connected to.

import { createAdapter } from "@socket.io/redis-streams-adapter";
import { Redis } from "ioredis";
import { Server } from "socket.io";

import { runAll } from "../lib/publisher.js";

const [, , redis, work] = process.argv;
const io = new Server({ adapter: createAdapter(new Redis(redis), { onlyPlaintext: true, maxLen: 100_000 }), connectionStateRecovery: {} });
await runAll(JSON.parse(work), async (user, event) => io.to(user).emit("event", event));
