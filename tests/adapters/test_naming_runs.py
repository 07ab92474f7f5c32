"""How runs, approvals and artifacts are named on the command line: `last`, parts of ids, outermost runs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from towpath import ApprovalRefused, InputInvalid, RunRefused, TowpathError, chain, step
from towpath import open_engine as open_real_engine
from towpath.adapters.cli import towpath
from towpath.adapters.cli.decisions import find_approval, find_artifact
from towpath.adapters.cli.options import find_run


@step
def part(n: int) -> bytes:
    return str(n).encode()


@chain
def inner(n: int) -> Any:
    return part(n)


@chain
def outer(n: int) -> Any:
    return inner(n)


@chain
def gated(n: int) -> Any:
    return part(n).with_approval()


def look(open_engine: OpenEngine, what: Callable[[Any], Any]) -> Any:
    """What a function of an engine that only looks answers."""

    async def asked() -> Any:
        async with open_engine(readonly=True) as engine:
            return await what(engine)

    return anyio.run(asked)


@pytest.fixture
def nested(open_engine: OpenEngine, store: Path) -> list[str]:
    """Three runs, each with one inside a step; ids of the outermost, newest first."""

    async def make() -> list[str]:
        async with open_engine() as engine:
            return [(await engine.run(outer, n=n, run_id=f"outer-{n}")).id for n in range(3)][::-1]

    return anyio.run(make)


@pytest.mark.parametrize(("name", "number"), [("last", 0), ("last~0", 0), ("last~1", 1), ("last~2", 2), ("last~02", 2)])
def test_last_means_outermost_runs(open_engine: OpenEngine, nested: list[str], name: str, number: int) -> None:
    """The newest row of all is a run inside a step of `last`."""
    assert look(open_engine, lambda engine: find_run(engine, name)) == nested[number]


@pytest.mark.parametrize(
    "name", ["last~3", "last~999999999", "last~", "last~-1", "last~x", "last~1~1", "LAST", "last ", "~1", "last~¹"]
)
def test_what_is_no_last_run_is_missing(open_engine: OpenEngine, nested: list[str], name: str) -> None:
    with pytest.raises(RunRefused, match="E_RUN_MISSING"):
        look(open_engine, lambda engine: find_run(engine, name))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a verb prints."""
    towpath.main(list(arguments), standalone_mode=False)
    return capsys.readouterr().out


def test_ls_lists_outermost_runs_unless_asked(
    nested: list[str], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the server's list does."""
    at = ("--store", str(store))
    assert [row["id"] for row in json.loads(said(capsys, "ls", "--json", *at))] == nested
    every = [row["id"] for row in json.loads(said(capsys, "ls", "--inner", "--json", *at))]
    assert len(every) == 6
    assert set(nested) < set(every)
    assert len(json.loads(said(capsys, "ls", "--limit", "2", "--json", *at))) == 2
    assert json.loads(said(capsys, "ls", "--status", "failed", "--json", *at)) == []


@pytest.mark.parametrize("verb", ["show", "logs", "artifacts", "get"])
def test_verbs_that_look_take_last_for_the_outermost_run(
    nested: list[str], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    more = ["-o", str(tmp_path / "out")] if verb == "get" else []
    answer = json.loads(said(capsys, verb, "last", "--json", "--store", str(store), *more))
    same = json.loads(said(capsys, verb, nested[0], "--json", "--store", str(store), *more))
    assert answer == same
    assert verb != "show" or answer["chain"] == "outer"


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "rerun"])
def test_verbs_that_steer_take_last_for_the_outermost_run(
    open_engine: OpenEngine, nested: list[str], store: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """The run is over, so that its name is in the refusal; a rerun is one of the outer chain."""
    if verb == "rerun":
        assert json.loads(said(capsys, verb, "last", "--json", "--store", str(store)))["chain"] == "outer"
    else:
        with pytest.raises(RunRefused, match=f"E_RUN_OVER|{nested[0]}") as refused:
            towpath.main([verb, "last", "--store", str(store)], standalone_mode=False)
        assert nested[0] in str(refused.value)


# ---- parts of ids


@pytest.fixture
def alike(tmp_path: Path) -> Path:
    """Gates and artifacts whose ids begin or end alike, behind more rows than a list shows."""

    store = tmp_path / "alike.db"

    async def make() -> None:
        async with open_real_engine(store) as engine:
            for n in range(7):
                await engine.run(gated, n=n)

    anyio.run(make)
    with closing(sqlite3.connect(store)) as database, database:
        for table in ("approvals", "artifacts"):
            ids = [row[0] for row in database.execute(f"SELECT id FROM {table} ORDER BY id")]
            for number, one in enumerate(ids):
                new = f"same-{number}-{table}-{'even' if number % 2 == 0 else 'odd'}"
                database.execute(f"UPDATE {table} SET id = ? WHERE id = ?", (new, one))
    return store


KINDS: dict[str, tuple[Any, type[TowpathError], str]] = {
    "approvals": (find_approval, ApprovalRefused, "E_APPROVAL_AMBIGUOUS"),
    "artifacts": (find_artifact, InputInvalid, "E_ARTIFACT_AMBIGUOUS"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["same-3", "SAME-3", "3-{}-odd"])
def test_a_part_that_is_enough_names_one(alike: Path, kind: str, name: str) -> None:
    """The beginning or the end."""
    found = _found(alike, kind, name.format(kind))
    assert found == f"same-3-{kind}-odd"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "many"), [("same", "more than 5"), ("-odd", "3"), ("-even", "4"), ("{}-odd", "3")])
def test_a_part_that_is_not_enough_says_which_there_are(alike: Path, kind: str, name: str, many: str) -> None:
    _, refused, code = KINDS[kind]
    with pytest.raises(refused, match=code) as caught:
        _found(alike, kind, name.format(kind))
    assert f"{many} {kind} match" in str(caught.value)
    assert f"-{kind}-" in str(caught.value.problem.allowed)


def _found(store: Path, kind: str, name: str) -> str:
    async def asked() -> Any:
        async with open_real_engine(store, readonly=True) as engine:
            return await KINDS[kind][0](engine, name)

    found = anyio.run(asked)
    return str(found["id"] if isinstance(found, Mapping) else found)


@pytest.mark.parametrize("name", ["none", "sam", "", "%-odd", "same_0", "\x00\x00\x00\x00"])
def test_an_artifact_that_is_not_there_is_missing(alike: Path, name: str) -> None:
    """Also where a sign would match everything in a pattern."""
    with pytest.raises(InputInvalid, match="E_ARTIFACT_MISSING"):
        _found(alike, "artifacts", name)


def test_a_decided_gate_can_be_named_in_part(alike: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says that it is decided, not that it is missing."""
    with closing(sqlite3.connect(alike)) as database, database:
        database.execute(
            "UPDATE approvals SET status = 'approved', decided_at = 1, decided_by = 'x' WHERE id LIKE 'same-0%'"
        )
    with pytest.raises(ApprovalRefused, match="E_APPROVAL_DECIDED"):
        towpath.main(["approve", "same-0", "--by", "me", "--store", str(alike)], standalone_mode=False)
