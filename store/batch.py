"""Units of writing, and how many of them become one transaction on the writer's thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from towpath.errors import TowpathError

from .driver_errors import OF_THE_VALUE, database_error

T = TypeVar("T")


class Write(NamedTuple):
    """One statement of a unit. With `refuse`, it must touch exactly one row, else that error is raised."""

    sql: str
    values: Sequence[Any] = ()
    refuse: Callable[[], TowpathError] | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """A question asked once per batch and key: no row in the answer refuses every unit that carries it."""

    key: tuple[Any, ...]
    sql: str
    values: Sequence[Any]
    refuse: Callable[[], TowpathError]


@dataclass(slots=True)
class Unit:
    """Statements that are recorded together or not at all, and the caller that waits for it."""

    writes: Sequence[Write]
    guard: Guard | None
    done: asyncio.Future[None]


def answer(units: Sequence[Unit], results: Sequence[Exception | None]) -> None:
    """Tell every caller that still waits what became of its unit."""
    for unit, error in zip(units, results, strict=True):
        if unit.done.done():
            continue  # the caller went away; what it asked for stands
        if error is None:
            unit.done.set_result(None)
        else:
            unit.done.set_exception(error)


def in_transaction(connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
    """Call a function between BEGIN IMMEDIATE and COMMIT; ROLLBACK if anything goes wrong."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = function(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def in_snapshot(connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
    """Call a reading function so that all its statements see the database as of one moment."""
    if connection.in_transaction:  # inside `one_moment` they do already
        return function(connection)
    connection.execute("BEGIN")
    try:
        return function(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


_OF_THE_UNIT = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    *OF_THE_VALUE,
    TowpathError,
)
"""What a unit's own statements and values are to blame for; everything else fails the whole batch."""


def record_batch(connection: sqlite3.Connection, units: Sequence[Unit], path: Path) -> Sequence[Exception | None]:
    """Record units in one transaction; one result per unit.

    Most batches are free of refusals and run straight through. When a unit is refused the batch is rolled
    back and run again unit by unit behind savepoints, so that only the refused ones fail. What only COMMIT
    can refuse (a deferred foreign key) is found by a transaction for each unit.
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
    asked: set[tuple[Any, ...]] = set()
    for unit in units:
        guard = unit.guard
        if guard is not None and guard.key not in asked:
            _ask(connection, guard)
            asked.add(guard.key)
        _execute(connection, unit.writes)
    return [None] * len(units)


def _record_alone(connection: sqlite3.Connection, unit: Unit, path: Path) -> Exception | None:
    connection.execute("SAVEPOINT unit")
    try:
        _record_straight(connection, [unit])
    except _OF_THE_UNIT as error:
        connection.execute("ROLLBACK TO unit")
        return _blamed(error, path)
    finally:
        if connection.in_transaction:  # a full disk ends the transaction by itself
            connection.execute("RELEASE unit")
    return None


def _record_apart(connection: sqlite3.Connection, unit: Unit, path: Path) -> Exception | None:
    try:
        in_transaction(connection, lambda c: _record_straight(c, [unit]))
    except (sqlite3.Error, *OF_THE_VALUE, TowpathError) as error:
        return _blamed(error, path)
    return None


def _blamed(error: Exception, path: Path) -> Exception:
    return error if isinstance(error, TowpathError) else database_error(error, path)


def _ask(connection: sqlite3.Connection, guard: Guard) -> None:
    if connection.execute(guard.sql, guard.values).fetchone() is None:
        raise guard.refuse()


def _execute(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    execute = connection.execute
    for write in writes:
        cursor = execute(write.sql, write.values)
        if write.refuse is not None and cursor.rowcount != 1:
            raise write.refuse()
