"""Restate: every step is journaled by the server before its value is handed on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import restate
from restate.serde import BytesSerde

from benchmarks.peers import levels
from benchmarks.peers.restate.service import Restate
from benchmarks.process import System, answer
from benchmarks.shapes import WORKLOADS, Workload, block

service = restate.Service("bench")


async def keep(number: int) -> bytes:
    """A step that keeps a file."""
    return block(number)


@service.handler()
async def flow(ctx: restate.Context, asked: list[Any]) -> int:
    """One run of a workload."""
    name, size = asked
    names = (f"step{number}" for number in itertools.count())

    async def together(calls: list[Awaitable[Any]]) -> list[Any]:
        await restate.gather(*calls)
        return [await call for call in calls]

    if name == "W7":
        options = restate.RunOptions(serde=BytesSerde())
        contents = await together([ctx.run_typed(next(names), keep, options, number) for number in range(size)])
        return len({bytes(content[:8]) for content in contents})

    def call(add: int, needed: list[int], nap: float) -> Awaitable[int]:
        return ctx.run_typed(next(names), levels.step, restate.RunOptions(), add, needed, nap)

    return await levels.by_levels(WORKLOADS[name].sized(size).shape, call, together)


class Peer(System):
    """One server, one service, a thread for each run that goes on."""

    async def open(self) -> None:
        self._restate = Restate(restate.app([service]), self.folder)
        self._threads = ThreadPoolExecutor(100)

    async def run(self, workload: Workload) -> int:
        loop, asked = asyncio.get_running_loop(), [workload.name, workload.size]
        calls = (
            loop.run_in_executor(self._threads, self._restate.call, "/bench/flow", asked) for _ in range(workload.runs)
        )
        return sum(await asyncio.gather(*calls))

    async def close(self) -> None:
        self._restate.stop()


if __name__ == "__main__":
    answer(Peer)
