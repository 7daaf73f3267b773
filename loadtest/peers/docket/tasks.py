"""The work of one batch: its items on lanes, each reported with one progress message.

`increment` would name no item and takes two round trips; `set_message` publishes once and carries the event.
"""

import asyncio
import json
import time
from datetime import datetime, timezone

from docket import Progress, TaskKey


def item_ended(task: str, index: int, name: str, done_us: int, seq: int, total: int) -> dict:
    counts = {"current": seq, "total": total, "succeeded": seq, "failed": 0, "skipped": 0, "cancelled": 0}
    item = {"index": index, "name": name, "state": "succeeded", "effect": "changed", "done_us": done_us, "tries": 1}
    stamp = datetime.fromtimestamp(done_us / 1e6, timezone.utc).isoformat(timespec="milliseconds")
    head = {"task_id": task, "attempt": 1, "seq": seq, "type": "progress", "status": "running", "action": "wait"}
    rest = {"progress": 100 * seq // total, "current_node": name, "items": [item], "timestamp": stamp}
    return {**head, "cluster": "local", **counts, **rest}


async def run_batch(
    items: list[str], item_ms: int, lanes: int, key: str = TaskKey(), progress: Progress = Progress()
) -> int:
    waiting = iter(enumerate(items))
    # Each report takes a connection of its own from the pool, and two of them may overtake each other: one at a time.
    reporting = asyncio.Lock()
    ended = 0

    async def lane() -> None:
        nonlocal ended
        for index, name in waiting:
            if item_ms:
                await asyncio.sleep(item_ms / 1000)
            done_us = time.time_ns() // 1000
            async with reporting:
                ended += 1
                await progress.set_message(json.dumps(item_ended(key, index, name, done_us, ended, len(items))))

    await asyncio.gather(*(lane() for _ in range(lanes)))
    return ended
