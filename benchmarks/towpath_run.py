"""A measured process of towpath itself: `python -m benchmarks.towpath_run ORDER`.

Modes: `map` and `levels` as in `chains`; `record` (or `record map`) also writes down every statement of the run's
database connection, for the ceiling of the same rows.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from towpath import ChainStatus, Engine, Run, open_engine

from .chains import called, chain_of, waits
from .process import Order, System, WrongOutcome, answer, tree_cpu
from .recording import Recording
from .shapes import Workload

LARGE = 1_000  # from this many steps on, a task watches whether the event loop stands still
TICK = 0.002


class Towpath(System):
    """One engine with a new database in the order's folder."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._mode = order.mode.removeprefix("record").strip()
        self._recording = Recording() if order.mode.startswith("record") or order.workload == "static" else None
        self._place = Path(order.place) if order.place else None
        self._rows = 0

    @property
    def _database(self) -> Path:
        return self.folder / "towpath.db"

    async def open(self) -> None:
        if self._recording is not None:
            self._recording.listen()
        self._entered = open_engine(self._database, durability="full")
        self._engine: Engine = await self._entered.__aenter__()

    async def close(self) -> None:
        if self._recording is not None and self._place is not None:
            self._recording.finish(self._database)
            self._recording.save(self._place)
        await self._entered.__aexit__(None, None, None)
        _check_rows(self._database, self._rows)

    async def run(self, workload: Workload) -> int:
        called.clear()
        if self._recording is not None:
            self._recording.begin(self._database)
        described = chain_of(workload, self._mode)
        commits = self._engine.store.database.counts.commits  # type: ignore[attr-defined]
        watch = asyncio.create_task(_watch(self.extra)) if workload.steps >= LARGE else None
        runs = await asyncio.gather(*(self._engine.run(described) for _ in range(workload.runs)))
        if watch is not None:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        self.extra["commits"] = self._engine.store.database.counts.commits - commits  # type: ignore[attr-defined]
        self._rows += self._rows_of(workload)
        return sum(_value(run, workload) for run in runs)

    async def after(self, workload: Workload) -> None:
        """What is told beside time and memory."""
        gaps = waits(workload.shape) if workload.name in ("W1", "W3") and len(called) > 1 else []
        if gaps:
            cuts = statistics.quantiles(gaps, n=100, method="inclusive")
            self.extra |= {"wait_p50": cuts[49], "wait_p99": cuts[98]}
        if self._recording is not None:
            self.extra["commits"] = self._recording.commits
            self.extra["largest"] = self._recording.largest
            self.extra["statements"] = self._recording.statements
        if workload.name == "static":
            before = tree_cpu()
            chain_of(workload).compile()
            self.extra["compile_cpu"] = tree_cpu() - before

    def _rows_of(self, workload: Workload) -> int:
        """Rows of steps and items. A mapped step has one of its own, and so has the step that makes the list."""
        more = 2 if self._mode == "map" or workload.name.startswith("items") else 0
        if self._mode == "levels":
            more = len(workload.shape.levels) - 1
        return (len(workload.shape.needs) + more) * workload.runs


def _value(run: Run, workload: Workload) -> int:
    if run.status is not ChainStatus.COMPLETED:
        raise WrongOutcome(f"{workload.name} is {run.status}: {run.error}")
    value: Any = run.value
    if workload.name == "W7":
        return len({artifact.digest for artifact in value})
    return sum(value) if isinstance(value, list) else int(value)


def _check_rows(path: Path, wanted: int) -> None:
    """Every step left its row."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT count(*) FROM workflows WHERE status = 'completed'").fetchone()[0]
    if found != wanted:
        raise WrongOutcome(f"{found} rows of completed steps, not {wanted}")


async def _watch(extra: dict[str, float]) -> None:
    """How long the event loop stands still at most, in seconds."""
    extra["standstill"] = 0.0
    while True:
        began = time.perf_counter()
        await asyncio.sleep(TICK)
        extra["standstill"] = max(extra["standstill"], time.perf_counter() - began - TICK)


if __name__ == "__main__":
    answer(Towpath)
