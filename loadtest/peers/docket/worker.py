"""Docket's worker."""

import asyncio
import sys

from docket import Docket, Worker

from tasks import run_batch


async def main(redis: str) -> None:
    async with Docket(name="bench", url=redis) as docket:
        docket.register(run_batch)
        async with Worker(docket) as worker:
            await worker.run_forever()


asyncio.run(main(sys.argv[1]))
