"""The house rules that a script can count: sizes, words for people, and which room speaks SQL."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(p for folder in ("engine", "store", "adapters") for p in (ROOT / folder).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef
SQL = re.compile(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|BEGIN|ROLLBACK)\b[^.]")


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def functions() -> Iterator[Function]:
    for path in SOURCES:
        yield from (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, Function))


def public(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """Functions and classes without an underscore, in a module and in its public classes."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def test_functions_are_short() -> None:
    sizes = sorted(1 + (node.end_lineno or 0) - node.lineno for node in functions())
    assert sizes[int(len(sizes) * 0.95)] < 25


def test_files_have_at_most_600_lines() -> None:
    """One may be longer, if its first line says why."""
    long = [p for p in SOURCES if lines(p) > 600]
    assert len(long) <= 1, long
    assert all("600 lines" in p.read_text().splitlines()[0] for p in long), long


def test_test_files_have_at_most_600_lines() -> None:
    assert [p for p in (ROOT / "tests").rglob("*.py") if lines(p) > 600] == []


def test_public_names_have_docstrings() -> None:
    found = [ast.get_docstring(n) is not None for p in SOURCES for n in public(ast.parse(p.read_text()).body)]
    assert sum(found) / len(found) >= 0.8


def test_the_reading_order_is_short() -> None:
    """The files that ARCHITECTURE.md names in its first paragraph."""
    first = (ROOT / "ARCHITECTURE.md").read_text().split("\n\n")[1]
    named = re.findall(r"`(\w+/\w+\.py)`", first)
    assert len(named) >= 2
    total = sum(lines(ROOT / name) for name in named)
    assert total <= 900
    assert f"{total} lines" in first


def texts(path: Path) -> Iterator[str]:
    """The strings of a file, without its docstrings."""
    tree = ast.parse(path.read_text())
    docs = {
        id(n.body[0].value)
        for n in ast.walk(tree)
        if isinstance(n, ast.Module | ast.ClassDef | Function) and n.body and isinstance(n.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if "sqlite" not in p.parts], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_only_a_backend_speaks_sql(path: Path) -> None:
    """Elsewhere statements are Core expressions, and nobody holds a driver's connection."""
    assert [text for text in texts(path) if SQL.match(text)] == []
    assert not re.search(r"\b(import sqlite3|sqlite3\.Connection)\b", path.read_text())
