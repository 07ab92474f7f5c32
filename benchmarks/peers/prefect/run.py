"""Prefect: what `python script.py` gives, an API server beside the script, on SQLite. Async tasks, awaited directly."""

from __future__ import annotations

import asyncio

from prefect import flow, task

from benchmarks.peers import levels
from benchmarks.process import System, answer
from benchmarks.shapes import WORKLOADS, Workload, block

step = task(levels.step, name="step")


@task(persist_result=True)
async def keep(number: int) -> bytes:
    """A step that keeps a file."""
    return block(number)


@flow(name="bench", validate_parameters=False)
async def run_one(name: str, size: int) -> int:
    """One run of a workload."""
    if name == "W7":
        contents = await asyncio.gather(*(keep(number) for number in range(size)))
        return len({bytes(content[:8]) for content in contents})
    return await levels.when_ready(WORKLOADS[name].sized(size).shape, step)


class Prefect(System):
    """The server is started by the first flow."""

    async def run(self, workload: Workload) -> int:
        return sum(await asyncio.gather(*(run_one(workload.name, workload.size) for _ in range(workload.runs))))


if __name__ == "__main__":
    answer(Prefect)
