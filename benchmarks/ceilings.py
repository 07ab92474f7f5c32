"""What towpath is measured against that is no engine: `python -m benchmarks.ceilings ORDER`, the mode says which.

- `asyncio`: tasks that wait for each other. Nothing is kept.
- `one row`: the least that a durable scheduler on asyncio and SQLite can do. One INSERT of four integers per step,
  whatever has queued up is one transaction (group commit), and a step starts when the rows of its dependencies are
  committed. No status, retries, events, artifacts or leases: what an engine costs above this is the price of being one.
- `same rows`: sqlite3 alone with exactly the statements and transactions of a run of towpath, from a recording.
- `copy loop`: the plainest program that keeps files as safely: one thread, one file after another.
"""

from __future__ import annotations

import asyncio
import pickle
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from .copy_loop import keep_all
from .journal import Journal, Row
from .process import Order, System, WrongOutcome, answer
from .recording import BEFORE, RECORDING, Replay, rows_of
from .shapes import Graph, Workload, block, evaluate


class BareAsyncio(System):
    """A future per step, awaited by its successors."""

    async def run(self, workload: Workload) -> int:
        graph = workload.shape
        return sum(await asyncio.gather(*(self._once(graph) for _ in range(workload.runs))))

    async def _once(self, graph: Graph) -> int:
        tasks: list[asyncio.Task[int]] = []

        async def perform(i: int) -> int:
            return await step(graph, i, [await tasks[n] for n in graph.needs[i]])

        async with asyncio.TaskGroup() as group:
            for i in range(len(graph.needs)):
                tasks.append(group.create_task(perform(i)))  # noqa: PERF401 - the tasks look into the list
        return sum(tasks[i].result() for i in graph.last)


class OneRow(System):
    """One row per step; each transaction takes all rows that wait."""

    async def open(self) -> None:
        self._journal = Journal(self.folder / "ceiling.db")
        self._kept = 0
        self._journal.start()

    async def run(self, workload: Workload) -> int:
        before = self._journal.commits
        scheduler = Scheduler(workload.shape, workload.runs, self._journal)
        await scheduler.drive()
        self._kept += workload.steps
        self.extra["commits"] = self._journal.commits - before
        return sum(values[i] for values in scheduler.values for i in workload.shape.last)

    async def close(self) -> None:
        self._journal.close()
        with closing(sqlite3.connect(self._journal.path)) as connection:
            if connection.execute("SELECT count(*) FROM steps").fetchone()[0] != self._kept:
                raise WrongOutcome("a row is missing")


class Scheduler:
    """Runs some graphs at the same time over one journal."""

    def __init__(self, graph: Graph, runs: int, journal: Journal) -> None:
        self.values = [[0] * len(graph.needs) for _ in range(runs)]
        self._graph = graph
        self._journal = journal
        self._dependents: list[list[int]] = [[] for _ in graph.needs]
        for i, needs in enumerate(graph.needs):
            for dependency in needs:
                self._dependents[dependency].append(i)
        self._missing = [[len(needs) for needs in graph.needs] for _ in range(runs)]
        self._open = runs * len(graph.needs)
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: asyncio.TaskGroup | None = None
        journal.committed = self._committed
        journal.failed = self._done.set_exception

    async def drive(self) -> None:
        """Run everything; return when the last row is durable."""
        async with asyncio.TaskGroup() as self._tasks:
            for run, missing in enumerate(self._missing):
                for i, count in enumerate(missing):
                    if count == 0:
                        self._tasks.create_task(self._perform(run, i))
            await self._done

    async def _perform(self, run: int, i: int) -> None:
        values = self.values[run]
        values[i] = await step(self._graph, i, [values[n] for n in self._graph.needs[i]])
        self._journal.put((run, i, values[i]))

    def _committed(self, rows: list[Row]) -> None:
        assert self._tasks is not None
        for run, i, _ in rows:
            missing = self._missing[run]
            for dependent in self._dependents[i]:
                missing[dependent] -= 1
                if missing[dependent] == 0:
                    self._tasks.create_task(self._perform(run, dependent))
        self._open -= len(rows)
        if self._open == 0:
            self._done.set_result(None)


class SameRows(System):
    """Executes again the statements of a run of towpath, one after the other, and counts the rows afterwards."""

    warms = False

    async def open(self) -> None:
        recorded = Path(self.order.place)
        replay = pickle.loads((recorded / RECORDING).read_bytes())
        assert isinstance(replay, Replay)
        self._replay = replay
        path = self.folder / "same.db"
        shutil.copy(recorded / BEFORE, path)
        self._connection = sqlite3.connect(path, isolation_level=None)
        for _, sql, values in replay.settings:
            self._connection.execute(sql, values).fetchall()

    async def run(self, workload: Workload) -> int:
        connection, commits = self._connection, 0
        for how, sql, values in self._replay.said:
            if how == "many":
                connection.executemany(sql, values)
                continue
            cursor = connection.execute(sql, values)
            commits += sql == "COMMIT"
            if cursor.description is not None:
                cursor.fetchall()
        self.extra["commits"] = commits
        return workload.expected

    async def close(self) -> None:
        found = rows_of(self._connection)
        self._connection.close()
        if found != self._replay.rows:
            raise WrongOutcome(f"other rows came of the same statements: {found}, not {self._replay.rows}")


class CopyLoop(System):
    """Keeps the same files under their digests, one after another."""

    async def run(self, workload: Workload) -> int:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return len(set(keep_all((block(i) for i in range(workload.size)), folder)))


async def step(graph: Graph, i: int, needed: list[int]) -> int:
    """What the step does."""
    if graph.naps:
        await asyncio.sleep(graph.naps[i])
    return evaluate(graph.adds[i], needed)


KINDS: dict[str, type[System]] = {
    "asyncio": BareAsyncio,
    "one row": OneRow,
    "same rows": SameRows,
    "copy loop": CopyLoop,
}


def _made(order: Order) -> System:
    return KINDS[order.mode](order)


if __name__ == "__main__":
    answer(_made)
