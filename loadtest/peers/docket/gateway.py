"""Takes batches over HTTP, and pushes to a WebSocket what Docket publishes of them."""

import asyncio
import json
import sys
from uuid import uuid4

from aiohttp import WSMsgType, web
from docket import Docket
from docket.execution import ExecutionProgress

from tasks import run_batch

sockets: dict[str, set[web.WebSocketResponse]] = {}
following: set[asyncio.Task] = set()


async def push(user: str, frame: str) -> None:
    for socket in list(sockets.get(user, ())):
        await socket.send_str(frame)


async def follow(progress: ExecutionProgress, user: str, total: int, ready: asyncio.Event) -> None:
    """Passes on every message until all items were told."""
    told = 0
    async for event in progress.subscribe(ready=ready):
        if event["message"] is not None:
            await push(user, event["message"])
            told += 1
        if told == total:
            return


async def tell_end(told: asyncio.Task, execution, user: str, key: str) -> None:
    await told
    total = await execution.get_result()
    counts = {"current": total, "total": total, "succeeded": total}
    end = {"task_id": key, "attempt": 1, "seq": total + 1, "type": "complete", "status": "completed", **counts}
    await push(user, json.dumps(end))


def spawn(coroutine) -> asyncio.Task:
    task = asyncio.create_task(coroutine)
    following.add(task)
    task.add_done_callback(following.discard)
    return task


async def submit(request: web.Request) -> web.Response:
    docket: Docket = request.app["docket"]
    batch, key, ready = await request.json(), str(uuid4()), asyncio.Event()
    # Messages of before a subscription are lost, so it comes before the task.
    told = spawn(follow(ExecutionProgress(docket, key), batch["user"], len(batch["items"]), ready))
    await ready.wait()
    execution = await docket.add(run_batch, key=key)(batch["items"], batch["item_ms"], batch["lanes"])
    spawn(tell_end(told, execution, batch["user"], key))
    return web.json_response({"task_id": key})


async def live(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False)
    own = sockets.setdefault(request.query["user"], set())
    own.add(socket)
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.ERROR:
            break
    own.discard(socket)
    return socket


async def connected(app: web.Application):
    async with Docket(name="bench", url=app["redis"]) as app["docket"]:
        app["docket"].register(run_batch)
        yield


def main(redis: str, port: str) -> None:
    app = web.Application(client_max_size=64 * 2**20)
    app["redis"] = redis
    app.cleanup_ctx.append(connected)
    app.add_routes([web.post("/tasks", submit), web.get("/live", live)])
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


main(*sys.argv[1:])
