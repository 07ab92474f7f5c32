"""Faults that SQLite finds in its own file: damaged pages, references without a row, missing tables and indexes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from ..core import t
from ..schema import names

Fault = tuple[str, str, str, str]


def faults(connection: sqlite3.Connection, deep: bool) -> list[Fault]:
    """The faults found, as code, table, row and sentence. A file too damaged to be read is a fault too."""
    checks: tuple[Callable[[sqlite3.Connection], Iterator[Fault]], ...] = (
        _every_page if deep else _quick,
        _schema,
        _references,
    )
    found: list[Fault] = []
    for check in checks:
        try:
            found.extend(check(connection))
        except sqlite3.Error as error:
            name = check.__name__.lstrip("_")
            found.append(("E_DB_CORRUPT", "database", "", f"{name} could not read everything: {error}"))
    return found


def _every_page(connection: sqlite3.Connection) -> Iterator[Fault]:
    return _pages(connection, "PRAGMA integrity_check(100)")


def _quick(connection: sqlite3.Connection) -> Iterator[Fault]:
    return _pages(connection, "PRAGMA quick_check(100)")


def _pages(connection: sqlite3.Connection, pragma: str) -> Iterator[Fault]:
    for (text,) in connection.execute(pragma):
        if text != "ok":
            yield "E_DB_CORRUPT", "database", "", text


def _schema(connection: sqlite3.Connection) -> Iterator[Fault]:
    """A missing table or index is a fault."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    for table in t.metadata.sorted_tables:
        for name in names(table):
            if name not in there:
                yield "E_FSCK_SCHEMA", table.name, name, f"{name} was dropped from the database"


def _references(connection: sqlite3.Connection) -> Iterator[Fault]:
    for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield "E_DB_REFERENCE", table, str(rowid), f"refers to a row of {parent} that is not there"
