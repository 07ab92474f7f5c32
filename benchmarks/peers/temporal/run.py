"""Temporal, by hand: a dev server, and a worker in this process."""

from __future__ import annotations

import asyncio

from benchmarks.process import System, answer
from benchmarks.shapes import Workload

from .flow import QUEUE, Flow, dev_server, worker


class Temporal(System):
    """One server and one worker."""

    async def open(self) -> None:
        self._server = await dev_server(self.folder)
        self._worker = worker(self._server)
        await self._worker.__aenter__()
        self._runs = 0

    async def run(self, workload: Workload) -> int:
        return sum(await asyncio.gather(*(self._once(workload) for _ in range(workload.runs))))

    async def _once(self, workload: Workload) -> int:
        self._runs += 1
        asked = [workload.name, workload.size]
        client = self._server.client
        return await client.execute_workflow(Flow.run, args=asked, id=f"run-{self._runs}", task_queue=QUEUE)

    async def close(self) -> None:
        await self._worker.__aexit__(None, None, None)
        await self._server.shutdown()


if __name__ == "__main__":
    answer(Temporal)
