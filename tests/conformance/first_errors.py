# ruff: noqa: ASYNC110, ASYNC240 - tests and steps meet through files, by looking again
"""The error of a run is that of its first failed step in the plan, in whatever order they fail.

Taken by the test modules of adapters, beside a fixture `open_engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.adapter import pending, status_of, until
from tests.conformance.chain_steps import TICK, let_go
from towpath import Engine, StepFailed, chain, step
from towpath.errors import RunRefused

OpenEngine = Callable[..., Any]


@step
async def fails(folder: str, name: str) -> None:
    """Fails when there is a file `<name>.go`."""
    while not Path(folder, f"{name}.go").exists():
        await anyio.sleep(TICK)
    raise StepFailed(f"{name} failed")


@step
async def fails_item(name: str, folder: str) -> None:
    await fails.function(folder, name)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    path = tmp_path / "meeting"
    path.mkdir()
    return str(path)


@chain
def two(folder: str):
    """Two steps beside each other."""
    return [fails(folder, "a").named("a"), fails(folder, "b").named("b")]


@chain
def three_deep(folder: str):
    """The one further down is of a later level, and has nothing to do with the first."""
    first = fails(folder, "a").named("a")
    return [first, fails(folder, "b").named("b").after(steps.number(1))]


@chain
def items(folder: str):
    """Items of one mapped step."""
    return fails_item.map(["a", "b"], folder=folder)


@chain
def item_and_step(folder: str):
    """An item of a mapped step, and a step behind it in the plan."""
    return [fails_item.map(["a"], folder=folder), fails(folder, "b").named("b")]


@chain
def handled(folder: str):
    """The first failure is handled by a step that watches it; it still is the first."""
    first = fails(folder, "a").named("a")
    return [steps.number(1).when("a.status == 'failed'").after(first), fails(folder, "b").named("b")]


@chain
def inside(folder: str):
    """The chain inside a step, whose own error becomes the error of the step around it."""
    return two(folder)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")], ids=["in order", "the other way round"])
@pytest.mark.parametrize("made", [two, three_deep, items, item_and_step, handled, inside], ids=lambda made: made.name)
async def test_the_first_error_is_that_of_the_plan(
    open_engine: OpenEngine, folder: str, made: Any, order: Sequence[str]
) -> None:
    """Whichever fails first in time."""
    async with open_engine() as engine:
        handle = await engine.start(made, folder=folder)
        for name in order:
            before = await _failed(engine, handle.id)
            let_go(folder, name)
            if name != order[-1]:
                await until(lambda: _more(engine, handle.id, before))  # noqa: B023 - awaited here
        run = await handle.result(check=False)
        assert run.status == "failed"
        assert run.error is not None
        assert "a failed" in run.error.message
        recorded = await engine.get_chain(run.id)
        assert (recorded.error_code, recorded.error_message) == (run.error.code, run.error.message)
        assert (await engine.snapshot(run.id)).error.message == run.error.message
        ends = [event for event in await engine.store.events(run.id) if event["type"] == "ChainEnded"]
        assert "a failed" in str(ends[-1]["data"])


async def _failed(engine: Engine, run_id: str) -> int:
    """How many rows failed in a run and in the runs inside its steps."""
    ids = [run_id, *(await engine.store.load(run_id)).children.values()]
    rows = [row for one in ids for row in (await engine.store.load(one)).rows]
    return sum(row.status == "failed" for row in rows)


async def _more(engine: Engine, run_id: str, before: int) -> bool:
    return await _failed(engine, run_id) > before


@chain
def gate_and_step(folder: str):
    """A person rejects one, the other fails by itself."""
    return [fails(folder, "a").named("a"), steps.draft("text").named("b")]


@pytest.mark.parametrize("rejected_first", [True, False])
async def test_a_rejection_counts_where_it_stands_in_the_plan(
    open_engine: OpenEngine, folder: str, rejected_first: bool
) -> None:
    """The rejected step stands behind the one that failed."""
    async with open_engine() as engine:
        handle = await engine.start(gate_and_step, folder=folder)
        await until(lambda: _has_status(engine, handle.id, "b", "waiting_approval"))
        if rejected_first:
            await engine.reject((await pending(engine, handle.id)).id, by="anna")
            await until(lambda: _has_status(engine, handle.id, "b", "failed"))
            let_go(folder, "a")
        else:
            let_go(folder, "a")
            await until(lambda: _has_status(engine, handle.id, "a", "failed"))
            await engine.reject((await pending(engine, handle.id)).id, by="anna")
        run = await _ended(engine, handle.id)
        assert run.status == "failed"
        assert run.error is not None
        assert "step a: a failed" in run.error.message


async def test_a_run_that_is_gone_on_with_tells_the_same(open_engine: OpenEngine, folder: str) -> None:
    """What failed before the pause comes later in the plan than what fails behind it."""
    async with open_engine() as engine:
        handle = await engine.start(two, folder=folder)
        let_go(folder, "b")
        await until(lambda: _has_status(engine, handle.id, "b", "failed"))
        await handle.pause()
        let_go(folder, "a")
        run = await _ended(engine, handle.id)
        if run.status == "paused":
            run = await engine.resume(handle.id)
        assert run.error is not None
        assert "step a: a failed" in run.error.message


async def _has_status(engine: Engine, run_id: str, step: str, status: str) -> bool:
    return await status_of(engine, run_id, step) == status


async def _ended(engine: Engine, run_id: str) -> Any:
    """The run when no step works any more."""
    while True:
        await until(lambda: _rests(engine, run_id))
        run = await engine.snapshot(run_id)
        if run.status != "paused":
            return run
        try:
            return await engine.resume(run_id, check=False)
        except RunRefused as error:  # its driver has seen the decision, and drives on by itself
            if error.code != "E_RUN_OWNED":
                raise


async def _rests(engine: Engine, run_id: str) -> bool:
    run = await engine.snapshot(run_id)
    return run.status.final or (run.status == "paused" and not await engine.get_pending_approvals(run_id))
