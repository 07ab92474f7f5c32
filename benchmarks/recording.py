"""Records what a program sends to SQLite: the statements and values of the connection that writes.

It stands between a program and `sqlite3.connect`, so it knows nothing of how towpath uses its connections.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Said = tuple[str, str, Any]
"""`one` or `many`, the statement, its values or a list of them."""

ENDS = ("COMMIT", "END", "ROLLBACK")
RECORDING, BEFORE = "statements.pickle", "before.db"


@dataclass
class Replay:
    """The statements between two moments, the connection's settings, and how many rows each table has at the end."""

    settings: list[Said]
    said: list[Said]
    rows: dict[str, int] = field(default_factory=dict)


class Recording:
    """What the writing connection has sent since `begin`. `listen` sees all connections that are opened after it."""

    def __init__(self) -> None:
        self._heard: list[list[Said]] = []
        self._marks: list[int] = []
        self._before: bytes = b""
        self._rows: dict[str, int] = {}

    def listen(self) -> None:
        """From now on, in this process."""
        connect = sqlite3.connect

        def listening(*args: Any, **options: Any) -> sqlite3.Connection:
            said: list[Said] = []
            self._heard.append(said)
            options["factory"] = heard(options.get("factory", sqlite3.Connection), said)
            connection: sqlite3.Connection = connect(*args, **options)
            return connection

        sqlite3.connect = listening  # type: ignore[assignment]
        self._connect = connect

    def begin(self, database: Path) -> None:
        """Record from now on, and keep a copy of the database as it is now."""
        self._marks = [len(said) for said in self._heard]
        with closing(self._connect(database)) as source, closing(self._connect(":memory:")) as copy:
            source.backup(copy)
            self._before = copy.serialize() if hasattr(copy, "serialize") else b""

    def finish(self, database: Path) -> None:
        """Count the rows that are there now."""
        with closing(self._connect(database)) as connection:
            self._rows = rows_of(connection)

    @property
    def largest(self) -> int:
        """The most statements of one transaction."""
        sizes, size = [0], 0
        for how, sql, values in self._writer[1]:
            size += len(values) if how == "many" else 1
            if sql.startswith(ENDS):
                sizes.append(size)
                size = 0
        return max(sizes)

    @property
    def commits(self) -> int:
        """All transactions; the engine's own counter leaves out those that are no group commit."""
        return sum(sql == "COMMIT" for _, sql, _ in self._writer[1])

    @property
    def statements(self) -> int:
        """All of them; `executemany` counts once for each set of values."""
        return sum(len(values) if how == "many" else 1 for how, _, values in self._writer[1])

    @property
    def _writer(self) -> tuple[list[Said], list[Said]]:
        """The settings and the statements of the writing connection: the one with the most statements."""
        since = [(said[:mark], said[mark:]) for said, mark in zip(self._heard, self._marks, strict=False)]
        writing = [pair for pair in since if any(sql.startswith("BEGIN IMMEDIATE") for _, sql, _ in pair[1])]
        return max(writing, key=lambda pair: len(pair[1]), default=([], []))

    def save(self, folder: Path) -> None:
        """Write the recording and the database that it begins with."""
        settings, said = self._writer
        pragmas = [one for one in settings if one[1].startswith("PRAGMA")]
        (folder / BEFORE).write_bytes(self._before)
        (folder / RECORDING).write_bytes(pickle.dumps(Replay(pragmas, said, self._rows)))


def heard(base: type[sqlite3.Connection], said: list[Said]) -> type[sqlite3.Connection]:
    """A class of connections that records what it gets."""

    def one(sql: str, values: Any) -> None:
        said.append(("one", sql, values))

    def many(sql: Any, values: Iterable[Any]) -> Iterable[Any]:
        if not sql:  # no statement: a function for the connection's thread
            return values
        kept = list(values)
        said.append(("many", sql, kept))
        return kept

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, parameters: Any = (), /) -> Any:
            one(sql, parameters)
            return super().execute(sql, parameters)

        def executemany(self, sql: str, parameters: Any, /) -> Any:
            return super().executemany(sql, many(sql, parameters))

    class Connection(base):  # type: ignore[misc, valid-type]
        def execute(self, sql: str, parameters: Any = (), /) -> Any:
            one(sql, parameters)
            return super().execute(sql, parameters)

        def executemany(self, sql: str, parameters: Any, /) -> Any:
            return super().executemany(sql, many(sql, parameters))

        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

    return Connection


def rows_of(connection: sqlite3.Connection) -> dict[str, int]:
    """How many rows each table has."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
