"""A batch of units in one SQLite transaction. Runs on the writer's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from towpath.errors import TowpathError

from ..backend import Guard, Unit, Write
from .connection import execute, in_transaction
from .dialect import DIALECT
from .errors import OF_THE_VALUE, database_error

_OF_THE_UNIT = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    *OF_THE_VALUE,
    TowpathError,
)
"""Errors of one unit's own statements and values; every other error fails the whole batch."""


def record_batch(connection: sqlite3.Connection, units: Sequence[Unit], path: Path) -> Sequence[Exception | None]:
    """Record units in one transaction; one result per unit.

    Most batches contain no refused unit, and run once. If a unit is refused, the batch is rolled back and run again
    with a savepoint before each unit, so that only the refused ones fail. If COMMIT itself refuses (a deferred
    foreign key), each unit is run in its own transaction.
    """
    try:
        return in_transaction(connection, lambda c: _record_straight(c, units))
    except _OF_THE_UNIT:
        pass
    try:
        return in_transaction(connection, lambda c: [_record_alone(c, unit, path) for unit in units])
    except sqlite3.IntegrityError:
        return [_record_apart(connection, unit, path) for unit in units]


def _record_straight(connection: sqlite3.Connection, units: Sequence[Unit]) -> Sequence[None]:
    checked: set[tuple[Any, ...]] = set()
    for unit in units:
        guard = unit.guard
        if guard is not None and guard.key not in checked:
            _check(connection, guard)
            checked.add(guard.key)
        _write(connection, unit.writes)
    return [None] * len(units)


def _record_alone(connection: sqlite3.Connection, unit: Unit, path: Path) -> Exception | None:
    connection.execute("SAVEPOINT unit")
    try:
        _record_straight(connection, [unit])
    except _OF_THE_UNIT as error:
        connection.execute("ROLLBACK TO unit")
        return _public(error, path)
    finally:
        if connection.in_transaction:  # a full disk ends the transaction by itself
            connection.execute("RELEASE unit")
    return None


def _record_apart(connection: sqlite3.Connection, unit: Unit, path: Path) -> Exception | None:
    try:
        in_transaction(connection, lambda c: _record_straight(c, [unit]))
    except (sqlite3.Error, *OF_THE_VALUE, TowpathError) as error:
        return _public(error, path)
    return None


def _public(error: Exception, path: Path) -> Exception:
    return error if isinstance(error, TowpathError) else database_error(error, path)


def _check(connection: sqlite3.Connection, guard: Guard) -> None:
    if execute(connection, guard.query).first() is None:
        raise guard.refuse()


def _write(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    run = connection.execute
    for statement, values, refuse in writes:
        form = statement.compiled(DIALECT)
        cursor = run(form.sql, form.bind(values))
        if refuse is not None and cursor.rowcount != 1:
            raise refuse()
