"""The writer of the one-row ceiling: a thread with a connection. It commits all rows that wait, again and again."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue

Row = tuple[int, int, int]
"""Run, step, value."""

_TABLE = "CREATE TABLE IF NOT EXISTS steps (id INTEGER PRIMARY KEY, run INT, step INT, value INT, at INT)"
_INSERT = "INSERT INTO steps (run, step, value, at) VALUES (?, ?, ?, unixepoch())"


class Journal:
    """One SQLite connection on a thread of its own. `committed` is called in the loop with durable rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commits = 0
        self.committed: Callable[[list[Row]], None] = lambda rows: None
        self.failed: Callable[[Exception], None] = lambda error: None
        self._queue: SimpleQueue[Row | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="ceiling writer")
        self.put = self._queue.put

    def start(self) -> None:
        """Make the table and start the thread."""
        with closing(self._connect()) as connection:
            connection.execute(_TABLE)
        self._thread.start()

    def close(self) -> None:
        """Commit what is left and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
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
