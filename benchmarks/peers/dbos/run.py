"""DBOS: steps awaited in a workflow, its own SQLite file as system database (its default)."""

from __future__ import annotations

import asyncio

from dbos import DBOS

from benchmarks.peers import levels
from benchmarks.process import Order, System, answer
from benchmarks.shapes import WORKLOADS, Workload, block

step = DBOS.step(name="step")(levels.step)


@DBOS.step(name="keep")
async def keep(number: int) -> bytes:
    """A step that keeps a file."""
    return block(number)


@DBOS.workflow(name="flow")
async def flow(name: str, size: int) -> int:
    """One run of a workload."""
    workload = WORKLOADS[name].sized(size)
    if name == "W7":
        contents = await asyncio.gather(*(keep(number) for number in range(size)))
        return len({bytes(content[:8]) for content in contents})
    return await levels.by_levels(workload.shape, step)


class Dbos(System):
    """One process, launched once."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        url = f"sqlite:///{self.folder / 'dbos.sqlite'}"
        DBOS(config={"name": "bench", "system_database_url": url, "log_level": "WARNING"})

    async def open(self) -> None:
        DBOS.launch()

    async def run(self, workload: Workload) -> int:
        return sum(await asyncio.gather(*(flow(workload.name, workload.size) for _ in range(workload.runs))))

    async def close(self) -> None:
        DBOS.destroy()


if __name__ == "__main__":
    answer(Dbos)
