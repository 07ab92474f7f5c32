"""A batch of units in one SQLite transaction. Runs on the writer's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from towpath.errors import TowpathError

from ..backend import Guard, Line, Refuse, Unit
from ..statements import Phase, Statement, Values
from .connection import in_transaction
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

    Most batches contain no refused unit, and run once, rows of one statement together. If a unit is refused, the batch
    is rolled back and run again, statement by statement, with a savepoint before each unit, so that only the refused
    ones fail, and those behind them in their lines. If COMMIT itself refuses (a deferred foreign key), each unit is run
    in its own transaction.
    """
    standing = [unit for unit in units if unit.line is None or unit.line.broken is None]
    if len(standing) == len(units):
        return _record(connection, units, path)
    results = iter(_record(connection, standing, path) if standing else ())
    return [next(results) if unit.line is None or unit.line.broken is None else unit.line.broken for unit in units]


def break_lines(units: Sequence[Unit], results: Sequence[Exception | None]) -> None:
    """After a batch: what is queued behind a unit that was not recorded is not recorded either."""
    for unit, error in zip(units, results, strict=True):
        if error is not None and unit.line is not None:
            unit.line.broken = error


def _record(connection: sqlite3.Connection, units: Sequence[Unit], path: Path) -> Sequence[Exception | None]:
    try:
        return in_transaction(connection, lambda c: _record_together(c, units))
    except (*_OF_THE_UNIT, _OutOfOrder):
        pass
    try:
        return in_transaction(connection, lambda c: _in_line(units, lambda unit: _record_alone(c, unit, path)))
    except sqlite3.IntegrityError:
        return _in_line(units, lambda unit: _record_apart(connection, unit, path))


def _in_line(units: Sequence[Unit], record: Callable[[Unit], Exception | None]) -> Sequence[Exception | None]:
    """Record one unit after the other, without those behind a refused one in its line."""
    broken: dict[Line | None, Exception] = {}
    results: list[Exception | None] = []
    for unit in units:
        error = broken.get(unit.line) or record(unit)
        if error is not None and unit.line is not None:
            broken[unit.line] = error
        results.append(error)
    return results


def _record_together(connection: sqlite3.Connection, units: Sequence[Unit]) -> Sequence[None]:
    checked: set[tuple[Any, ...]] = set()
    rows = _Rows(connection)
    for unit in units:
        guard = unit.guard
        if guard is not None and guard.key not in checked:
            if rows.born:  # perhaps the run that the guard looks for
                rows.write()
            _check(connection, guard)
            checked.add(guard.key)
        for statement, values, refuse in unit.writes:
            if statement.phase is not None:
                rows.add(statement, values, refuse)
                continue
            rows.write()
            _execute(connection, statement, values, refuse)
    rows.write()
    return [None] * len(units)


_FIRST = itemgetter(0)  # the first value of these statements is the id of the row


class _OutOfOrder(Exception):
    """A row of the batch is completed and starts again. The order matters then, so the units run one by one."""


class _Rows:
    """Rows of a batch that wait until those of the same statement can be written together."""

    __slots__ = ("_connection", "_waiting")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._waiting: dict[Statement, tuple[list[Values], Refuse | None]] = {}

    @property
    def born(self) -> bool:
        """Is there a run among them?"""
        return any(statement.phase is Phase.RUN_BORN for statement in self._waiting)

    def add(self, statement: Statement, values: Values, refuse: Refuse | None) -> None:
        waiting = self._waiting.get(statement)
        if waiting is None:
            self._waiting[statement] = ([values], refuse)
        else:
            waiting[0].append(values)

    def write(self) -> None:
        """Write them, phase by phase."""
        if not self._waiting:
            return
        by_phase = sorted(self._waiting.items(), key=_phase)
        self._waiting = {}
        _check_order({statement.phase: rows for statement, (rows, _) in by_phase})
        for statement, (rows, refuse) in by_phase:
            form = statement.compiled(DIALECT)
            if len(rows) == 1:
                cursor = self._connection.execute(form.sql, form.bind(rows[0]))
            else:
                cursor = self._connection.executemany(form.sql, map(form.bind, rows))
            if refuse is not None and cursor.rowcount != len(rows):
                raise refuse(rows[0])  # perhaps it was another row: running unit by unit finds it


def _phase(waiting: tuple[Statement, Any]) -> int:
    phase = waiting[0].phase
    assert phase is not None
    return phase


def _check_order(rows: dict[Phase | None, list[Values]]) -> None:
    started, completed = rows.get(Phase.ROW_STARTED), rows.get(Phase.ROW_COMPLETED)
    if started and completed and not {*map(_FIRST, started)}.isdisjoint(map(_FIRST, completed)):
        raise _OutOfOrder


def _record_straight(connection: sqlite3.Connection, unit: Unit) -> None:
    if unit.guard is not None:
        _check(connection, unit.guard)
    for statement, values, refuse in unit.writes:
        _execute(connection, statement, values, refuse)


def _record_alone(connection: sqlite3.Connection, unit: Unit, path: Path) -> Exception | None:
    connection.execute("SAVEPOINT unit")
    try:
        _record_straight(connection, unit)
    except _OF_THE_UNIT as error:
        connection.execute("ROLLBACK TO unit")
        return _public(error, path)
    finally:
        if connection.in_transaction:  # a full disk ends the transaction by itself
            connection.execute("RELEASE unit")
    return None


def _record_apart(connection: sqlite3.Connection, unit: Unit, path: Path) -> Exception | None:
    try:
        in_transaction(connection, lambda c: _record_straight(c, unit))
    except (sqlite3.Error, *OF_THE_VALUE, TowpathError) as error:
        return _public(error, path)
    return None


def _public(error: Exception, path: Path) -> Exception:
    return error if isinstance(error, TowpathError) else database_error(error, path)


def _check(connection: sqlite3.Connection, guard: Guard) -> None:
    form = guard.query.statement.compiled(DIALECT)
    if connection.execute(form.sql, form.bind(guard.query.values)).fetchone() is None:
        raise guard.refuse()


def _execute(connection: sqlite3.Connection, statement: Statement, values: Values, refuse: Refuse | None) -> None:
    form = statement.compiled(DIALECT)
    cursor = connection.execute(form.sql, form.bind(values))
    if refuse is not None and cursor.rowcount != 1:
        raise refuse(values)
