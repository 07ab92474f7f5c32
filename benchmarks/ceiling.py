"""The ceiling: the least that a durable scheduler on asyncio and SQLite can do.

One INSERT per step, whatever has queued up is one transaction (group commit), and a step starts when the
rows of its dependencies are committed. No status, no retries, no events, no artifacts, no leases: what
towpath costs above this is the price of being an engine.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from .workloads import Graph, evaluate

Row = tuple[int, int, int]
"""Run, step, value."""

_TABLE = "CREATE TABLE IF NOT EXISTS steps (id INTEGER PRIMARY KEY, run INT, step INT, value INT, at INT)"
_INSERT = "INSERT INTO steps (run, step, value, at) VALUES (?, ?, ?, unixepoch())"


class Journal:
    """One SQLite connection on a thread of its own. `committed` is called in the loop with durable rows."""

    def __init__(self, path: Path, durability: str) -> None:
        self.path = path
        self.commits = 0
        self.committed: Callable[[list[Row]], None] = lambda rows: None
        self.failed: Callable[[Exception], None] = lambda error: None
        self._synchronous = "FULL" if durability == "full" else "NORMAL"
        self._queue: SimpleQueue[Row | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="ceiling writer")
        self.put = self._queue.put

    def __enter__(self) -> Journal:
        connection = self._connect()
        connection.execute(_TABLE)
        connection.close()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        return connection

    def _work(self) -> None:
        try:
            self._commit_until_closed()
        except Exception as error:
            self._loop.call_soon_threadsafe(self.failed, error)

    def _commit_until_closed(self) -> None:
        connection = self._connect()
        while (first := self._queue.get()) is not None:
            rows = [first]
            self._drain(rows)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, rows)
            connection.execute("COMMIT")
            self.commits += 1
            self._loop.call_soon_threadsafe(self.committed, rows)
        connection.close()

    def _drain(self, rows: list[Row]) -> None:
        try:
            while True:
                row = self._queue.get_nowait()
                if row is None:
                    self._queue.put(None)
                    return
                rows.append(row)
        except Empty:
            return


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
        """Run everything; back when the last row is durable."""
        async with asyncio.TaskGroup() as self._tasks:
            for run, missing in enumerate(self._missing):
                for i, count in enumerate(missing):
                    if count == 0:
                        self._tasks.create_task(self._perform(run, i))
            await self._done

    async def _perform(self, run: int, i: int) -> None:
        values = self.values[run]
        values[i] = await _step([values[n] for n in self._graph.needs[i]])
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


async def _step(needed: list[int]) -> int:
    return evaluate(needed)
