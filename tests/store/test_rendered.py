"""SQL that is rendered ahead: it is what the Core expressions say, and it is used only while it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import towpath.store.rendered
from towpath.store import open_store
from towpath.store.core import sa, t
from towpath.store.rendered import Rendered
from towpath.store.schema import definitions
from towpath.store.sqlite.dialect import DIALECT
from towpath.store.statements import Statement, any_of, param

FILE = Path(__file__).parents[2] / "store/sqlite/rendered.json"
CURE = "python -m towpath.store.render store/sqlite/rendered.json"


def python(*args: str) -> str:
    return subprocess.run([sys.executable, *args], check=True, capture_output=True, text=True).stdout.strip()


def test_the_rendered_file_says_what_the_expressions_say(tmp_path: Path) -> None:
    """There is no second source of truth: rendering gives the same file again."""
    python("-m", "towpath.store.render", str(tmp_path / "again.json"))
    assert FILE.read_bytes() == (tmp_path / "again.json").read_bytes(), f"run: {CURE}"


def changed(tmp_path: Path, old: bytes, new: bytes) -> Rendered:
    data = FILE.read_bytes()
    assert old in data
    (tmp_path / "rendered.json").write_bytes(data.replace(old, new))
    return Rendered("sqlite", tmp_path / "rendered.json")


def test_it_is_used_while_its_sources_are_unchanged(tmp_path: Path) -> None:
    for rendered in (DIALECT.rendered, changed(tmp_path, b"claims", b"claims")):
        form = rendered.form("towpath.store.claims", 0)
        assert form is not None
        assert form.sql.startswith("SELECT")
        assert list(rendered.schema) == definitions(DIALECT.spelling.core)
        assert rendered.form("towpath.store.claims", 10_000) is None
        assert rendered.form("towpath.store.nothing", 0) is None


def test_a_changed_source_makes_all_of_it_stale(tmp_path: Path) -> None:
    known = msgspec.json.decode(FILE.read_bytes())["sources"]["store/tables.py"]
    rendered = changed(tmp_path, f'"store/tables.py": {known}'.encode(), b'"store/tables.py": 1')
    assert rendered.form("towpath.store.claims", 0) is None
    assert not rendered.schema


@pytest.mark.parametrize("data", [None, b"", b"{}", b'{"sources": {}, "schema": 1, "statements": {}}'])
def test_a_file_that_is_not_there_or_broken_is_no_error(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "rendered.json"
    if data is not None:
        path.write_bytes(data)
    rendered = Rendered("sqlite", path)
    assert rendered.form("towpath.store.claims", 0) is None
    assert not rendered.schema


def test_without_sources_nobody_can_have_changed_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towpath.store.rendered, "ROOT", tmp_path)
    rendered = Rendered("sqlite", FILE)
    assert rendered.form("towpath.store.claims", 0) is not None


def test_a_statement_that_was_not_rendered_is_compiled() -> None:
    """`__module__` is this one, which is not in the file."""
    statement = Statement(lambda: sa.select(t.chains.c.id).where(any_of(t.chains.c.id, "runs"), sa.true()))
    form = statement.compiled(DIALECT)
    assert "json_each" in form.sql
    assert list(form.bind({"runs": ["a"]})) == ['["a"]']


def test_a_rendered_statement_binds_as_a_compiled_one() -> None:
    """For every statement in the file: the same SQL, parameters, fixed values and lists."""
    code = """
import importlib
from towpath.store import statements
from towpath.store.sqlite.dialect import DIALECT
for name in ("runs", "chains", "workflows", "artifacts", "transfers", "approvals", "unattended"):
    importlib.import_module(f"towpath.store.{name}")
many = 0
for found in statements.STATEMENTS.values():
    for one in found:
        ahead, made = DIALECT.rendered.form(*one.name), one.rendered(DIALECT.spelling)
        assert ahead is not None
        assert (ahead.sql, tuple(ahead.names), dict(ahead.defaults), tuple(ahead.lists)) == made, one.name
        many += 1
print(many)
"""
    assert int(python("-c", code)) > 60


def test_an_import_that_was_interrupted_and_is_tried_again_gives_the_same_statements() -> None:
    """Ctrl-C during an import: the next one must not take the SQL of other statements."""
    code = """
from towpath.store import statements
from towpath.store.sqlite.dialect import DIALECT
whole = statements.Statement.__init__
def interrupted(self, *args, **kwargs):
    whole(self, *args, **kwargs)
    if self.name == ("towpath.store.journal", 3):
        raise KeyboardInterrupt
statements.Statement.__init__ = interrupted
try:
    import towpath.store.journal
except KeyboardInterrupt:
    statements.Statement.__init__ = whole
import towpath.store.journal as again
for one in statements.STATEMENTS["towpath.store.journal"]:
    assert one.compiled(DIALECT).sql == one.rendered(DIALECT.spelling).sql, one.name
print(again._POINT_ROW.compiled(DIALECT).sql.split()[:2])
"""
    assert python("-c", code) == "['UPDATE', 'workflows']"


@pytest.mark.anyio
async def test_a_run_is_opened_recorded_and_listed_without_making_an_expression(tmp_path: Path) -> None:
    """W6: SQLAlchemy's tables are only made where a caller chooses columns and filters."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import asyncio, sys
from towpath import chain, open_engine, step

@step
def one(x: int) -> int:
    return x + 1

@chain
def line(x: int = 1):
    return one(one(one(x)))

async def main():
    async with open_engine(sys.argv[1]) as engine:
        assert (await engine.run(line, x=1)).value == 4
        assert len(await engine.list_chains()) == 1
    late = "networkx yaml jsonschema_rs minijinja towpath.store.tables towpath.store.fsck towpath.chain_file"
    print([name for name in late.split() if name in sys.modules])

asyncio.run(main())
"""
    )
    assert python(str(script), str(tmp_path / "new.db")) == "[]"
    async with open_store(tmp_path / "new.db") as store, store.session() as session:
        assert len(await session.fetch_all(sa.select(t.chains))) == 1


def test_a_parameter_has_no_value_of_its_own() -> None:
    statement = Statement(lambda: sa.select(t.chains.c.id).where(t.chains.c.id == param("run")))
    assert list(statement.compiled(DIALECT).bind({})) == [None]
