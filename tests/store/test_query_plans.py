"""How SQLite carries out the statements of the store: what it reads of large tables, and what it builds in memory."""

from __future__ import annotations

import importlib
import pkgutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from towpath import store as api
from towpath.store import ended_tree, journal
from towpath.store.schema import definitions
from towpath.store.sqlite.dialect import DIALECT
from towpath.store.statements import Statement

READS_ALL = {"fsck", "invariants", "findings", "trails"}  # they check every row


@pytest.fixture
def empty() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in definitions(DIALECT.spelling.core):
            connection.execute(statement)
        yield connection


def explained(connection: sqlite3.Connection, how: str, statement: Statement) -> list[tuple[Any, ...]]:
    sql = statement.compiled(DIALECT).sql
    return connection.execute(f"{how} {sql}", [None] * sql.count("?")).fetchall()


def statements(value: Any, name: str) -> Iterator[tuple[str, Statement]]:
    """Every statement in a module's values, with its name."""
    if isinstance(value, Statement):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from statements(part, f"{name}[{key}]")
    elif isinstance(value, tuple | list):
        for i, part in enumerate(value):
            yield from statements(part, f"{name}[{i}]")


def prepared() -> list[tuple[str, Statement]]:
    """All statements that the modules of the store keep, those of `fsck` left out."""
    found: list[tuple[str, Statement]] = []
    for module in pkgutil.iter_modules(api.__path__):
        if module.name not in READS_ALL:
            for name, value in vars(importlib.import_module(f"towpath.store.{module.name}")).items():
                found += statements(value, f"{module.name}.{name}")
    return found


def test_no_statement_reads_every_row_of_a_step(empty: sqlite3.Connection) -> None:
    """Rows that wait or run have no index entry of their own: they are found by the `chain_id` of their run."""
    assert len(prepared()) > 60
    for name, statement in prepared():
        plan = [row[3] for row in explained(empty, "EXPLAIN QUERY PLAN", statement)]
        assert not [line for line in plan if line.startswith("SCAN workflows")], f"{name}: {plan}"


def test_the_open_rows_of_a_run_are_found_by_its_id(empty: sqlite3.Connection) -> None:
    for statement in ended_tree._END_TREE:
        plan = [row[3] for row in explained(empty, "EXPLAIN QUERY PLAN", statement)]
        rows = [line for line in plan if " workflows " in line]
        assert all("(chain_id=?)" in line or "(id=?)" in line for line in rows), plan


def test_recording_a_step_builds_no_table_in_memory(empty: sqlite3.Connection) -> None:
    """`IN` with three words or more builds one for each row, in checks and in conditions."""
    hot = [journal._INSERT_ROW, journal._START_ROW, *journal._END_ROW.values(), journal._CHAIN]
    for statement in hot:
        codes = [row[1] for row in explained(empty, "EXPLAIN", statement)]
        assert not [code for code in codes if "Ephemeral" in code], statement.compiled(DIALECT).sql


@pytest.mark.parametrize("status", ["waiting_approval", "failed"])
def test_rows_that_wait_for_a_person_or_failed_are_found_by_their_status(
    empty: sqlite3.Connection, status: str
) -> None:
    (row,) = empty.execute(f"EXPLAIN QUERY PLAN SELECT id FROM workflows WHERE status = '{status}'").fetchall()
    assert "ix_workflows_status" in row[3]
