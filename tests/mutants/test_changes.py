"""The mistakes that are made on purpose are mistakes: each changes the code, and those that matter are among them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.__main__ import SURVIVORS, reasons
from tests.mutants.changes import mutants

SOURCE = '''
"""A docstring."""
from typing import Any
STATEMENT = Statement(update(t).where(t.id == b("row"), t.done == 0).values(status="over", at=b("at")))
QUERY = "SELECT id FROM t WHERE done = 0 AND at <= ? ORDER BY at, id"

def first(rows: list[Any] | None, seen: bool) -> int:
    """A docstring."""
    assert rows, "a message"
    if seen and rows is not None:
        rows.append(min(rows) or 1)
    return rows[0] if not seen else -1
'''
EXPECTED = {
    'STATEMENT: call: where without t.id == b("row")': ".where(t.done == 0)",
    "STATEMENT: call: where without t.done == 0": '.where(t.id == b("row"))',
    "STATEMENT: call: values without status": '.values(at=b("at"))',
    'STATEMENT: word: "over" -> "xx"': 'status="xx"',
    "STATEMENT: comparison: t.done == 0 -> t.done != 0": "t.done != 0",
    "first: guard: seen and rows is not None -> True": "if True:",
    "first: guard: seen and rows is not None -> False": "if False:",
    "first: half forgotten: seen and rows is not None -> rows is not None": "if rows is not None:",
    "first: and, or: seen and rows is not None -> (seen or rows is not None)": "if (seen or rows is not None):",
    "first: statement forgotten: rows.append(min(rows) or 1) -> pass": "        pass",
    "first: call: min -> max": "max(rows)",
    "first: number: 0 -> 1": "rows[1]",
    "first: guard: not seen -> bool(seen)": "if bool(seen) else",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_mistake_is_made_where_its_name_says(name: str) -> None:
    made = {m.name: m for m in mutants("f.py", SOURCE.encode())}
    assert EXPECTED[name] in made[name].applied(SOURCE.encode()).decode()


def test_conditions_and_orders_of_sql_are_forgotten_too() -> None:
    changed = [m.applied(SOURCE.encode()).decode() for m in mutants("f.py", SOURCE.encode()) if ": sql: " in m.name]
    assert any('WHERE done = 0 ORDER BY at, id"' in text for text in changed)
    assert any('AND at < ? ORDER BY at, id"' in text for text in changed)
    assert any('AND at <= ?"' in text for text in changed)


def test_every_mistake_is_other_code_and_has_its_own_name() -> None:
    """Messages, docstrings, imports, annotations and assertions are left alone."""
    found = mutants("f.py", SOURCE.encode())
    trees = [ast.dump(ast.parse(m.applied(SOURCE.encode()))) for m in found]
    assert ast.dump(ast.parse(SOURCE)) not in trees
    assert len({m.name for m in found}) == len(found)
    kept = ('"""A docstring."""', "from typing import Any", "rows: list[Any] | None", 'assert rows, "a message"')
    for mutant in found:
        text = mutant.applied(SOURCE.encode()).decode()
        assert all(part in text for part in kept)


def test_a_sample_does_not_move_with_the_lines() -> None:
    below = ("\n\nUNUSED = 1\n" + SOURCE).encode()
    ranks = {m.name: m.rank(1) for m in mutants("f.py", SOURCE.encode())}
    moved = {m.name: m.rank(1) for m in mutants("f.py", below)}
    assert ranks.items() <= moved.items()
    assert ranks != {m.name: m.rank(2) for m in mutants("f.py", SOURCE.encode())}


def test_every_listed_survivor_has_a_reason() -> None:
    assert SURVIVORS.exists()
    assert all(len(reason.split()) >= 4 for reason in reasons().values())


def test_every_file_and_test_that_is_named_is_there() -> None:
    from tests.mutants.__main__ import ROOT, STAGES

    files = [Path(name) for stages in STAGES.values() for stage in stages for name in stage if name.endswith(".py")]
    assert [name for name in [*files, *map(Path, STAGES)] if not (ROOT / name).exists()] == []
