"""A run that is resumed after its code was changed: refused before anything starts, and left as it was."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.conftest import OpenEngine
from towpath import StepNotRegistered

pytestmark = pytest.mark.anyio

PROGRAM = """
from towpath import chain, step

@step(requires_approval=True)
def first({first}):
    return 1

@step
def second({second}):
    return {value}

@chain
def both():
    return second(first())
"""
Written = Callable[..., Any]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Writes the program anew, and imports it again, as another process would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"changed_code_{tmp_path.name.replace('-', '_')}"
    versions = itertools.count()

    def write(second: str = "v", value: str = "v", first: str = "") -> Any:
        text = PROGRAM.format(first=first, second=second, value=value)
        (tmp_path / f"{name}.py").write_text(f"# {next(versions)}{text}")
        importlib.invalidate_caches()
        return importlib.reload(sys.modules[name]) if name in sys.modules else importlib.import_module(name)

    return write


async def paused(open_engine: OpenEngine, written: Written) -> str:
    """A run behind its first step, whose gate is decided."""
    async with open_engine() as engine:
        run = await engine.run(written().both)
        [gate] = await engine.approvals(run.id)
        await engine.approve(gate["id"], by="me")
        return run.id


CHANGES = {"value": "it needs value", "v, more": "it needs more", "": "it takes no v", "*, w": "it needs w"}


@pytest.mark.parametrize("parameters", CHANGES)
async def test_other_parameters_are_refused(parameters: str, open_engine: OpenEngine, written: Written) -> None:
    """python-trial 22: with the code put back, the run is resumed."""
    run_id = await paused(open_engine, written)
    written(parameters, "0")
    async with open_engine() as engine:
        with pytest.raises(StepNotRegistered, match=CHANGES[parameters]) as refused:
            await engine.resume(run_id)
        problem = refused.value.problem
        assert (problem.code, problem.place.step) == ("E_STEP_ARGUMENTS", "second")
        assert "put the code back" in problem.cure
        assert (await engine.snapshot(run_id)).status == "paused"
    written(value="v + 10")
    async with open_engine() as engine:
        run = await engine.resume(run_id)
        assert (run.status, run.value) == ("completed", 11)


async def test_an_annotation_that_cannot_work_is_refused(open_engine: OpenEngine, written: Written) -> None:
    """As for a class whose codec the resuming process does not register."""
    run_id = await paused(open_engine, written)
    written("v: type('Point', (), {})", "0")
    async with open_engine() as engine:
        with pytest.raises(StepNotRegistered, match="E_ANNOTATION") as refused:
            await engine.resume(run_id)
        problem = refused.value.problem
        assert problem.place.step == "second"
        assert "register towpath.codec(Point, " in problem.cure
        assert (await engine.snapshot(run_id)).status == "paused"
    written("v", "v + 10")
    async with open_engine() as engine:
        assert (await engine.resume(run_id)).value == 11


@pytest.mark.parametrize(("parameters", "value"), [("v, more=1", "v"), ("**rest", "rest['v']"), ("*, v", "v")])
async def test_parameters_that_fit_are_used(
    parameters: str, value: str, open_engine: OpenEngine, written: Written
) -> None:
    run_id = await paused(open_engine, written)
    written(parameters, value)
    async with open_engine() as engine:
        assert (await engine.resume(run_id)).value == 1


async def test_a_step_that_is_over_may_change(open_engine: OpenEngine, written: Written) -> None:
    """Its function is not called again. A rerun that calls it is refused, and makes no run."""
    run_id = await paused(open_engine, written)
    async with open_engine() as engine:
        assert (await engine.resume(run_id)).value == 1
        written(first="more")
        assert (await engine.rerun(run_id, from_steps=["second"])).value == 1
        with pytest.raises(StepNotRegistered, match="it needs more"):
            await engine.rerun(run_id, from_steps=["first"])
        assert len(await engine.list_chains()) == 2
