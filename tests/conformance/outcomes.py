"""Whatever a step returns, raises or does to its own task is recorded as its result or its failure.

A test module takes these tests with `import *`, as those of `adapter.py`, for each adapter.
"""

from __future__ import annotations

import contextvars
import logging
from collections import Counter
from importlib import import_module

import anyio
import pytest

from tests.conformance import hostile_steps as steps
from tests.conformance.adapter import OpenEngine
from tests.conformance.chain_steps import PATIENCE
from towpath import chain, context, step
from towpath.logs import step_logger


@pytest.fixture(autouse=True)
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """What steps log here is no text that a test runner could pass on between its processes."""
    monkeypatch.setattr(import_module("towpath.context"), "step_logger", by_itself)


def by_itself(step_id: str) -> logging.Logger:
    """A step's logger without handlers: its lines reach the log of the run only."""
    logger = step_logger(step_id)
    logger.propagate = False
    return logger


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

# What these come to is a value; everything else fails its item.
VALUES = {
    "label": "x",
    "label-inside": [{"name": "x"}],
    "label-key": {"k": 1},
    "str-enum": "red",
    "int-enum": [3],
    "int": 7,
    "share": {"part": 0.5},
    "uncancels": 1,
    "overwrites-context": 1,
    "leaks-a-scope-and-returns": 1,
    "swallows": 1,
    "logs-halves": 1,
}


@chain
def all_odd(what: list[str]):
    return steps.odd.map(what)


@chain
def all_async_odd(what: list[str]):
    return steps.async_odd.map(what)


@chain
def all_good(n: int):
    return steps.good.map(list(range(20))), n


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_every_outcome_is_recorded(open_engine: OpenEngine, kind: str) -> None:
    """Each item ends as completed or failed, none hangs or ends the run; a run beside them completes."""
    names = steps.PLAIN if kind == "plain" else steps.ASYNC
    odd = all_odd if kind == "plain" else all_async_odd
    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE):
            handle = await engine.start(odd, what=names)
            good = await engine.start(all_good, n=1)
            run, beside = await handle.result(check=False), await good.result()
        assert beside.status == "completed"
        assert run.status == "failed"
        rows = await engine.list_workflows(limit=1000, chain_id=run.id)
        ended = {names[row.item_index]: row for row in rows if row.item_index is not None}
        assert set(ended) == set(names)
        wrong = {name: row.status for name, row in ended.items() if row.status not in ("completed", "failed")}
        assert not wrong
        for name, row in ended.items():
            if name in VALUES:
                assert (row.status, row.value) == ("completed", VALUES[name]), name
            elif name not in ("half-name", "no-name"):  # names are cleaned
                assert row.status == "failed", name
                assert row.error_code.isprintable(), name
                assert row.error_message, name
                row.error_message.encode()  # Unicode that every database and terminal takes
        assert (await engine.run(all_good, n=2)).status == "completed"


async def test_an_exit_in_what_a_plain_function_hands_on(open_engine: OpenEngine) -> None:
    """The awaitable is the step's code as well."""

    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(one_exit, check=False)
        assert run.status == "failed"
        assert run["exits"].error is not None
        assert "SystemExit" in run["exits"].error.message


@chain
def one_exit():
    return steps.exits("x")


@step
async def sets(n: int) -> str:
    before = tenant.get()
    tenant.set(f"item {n}")
    await anyio.sleep(0.01)
    return before


@step
def sets_in_a_thread(n: int) -> str:
    before = tenant.get()
    tenant.set(f"thread {n}")
    return before


@step
async def looks(after: object) -> str:
    return tenant.get()


@chain
def leaky():
    first = sets.map(list(range(30)))
    second = sets_in_a_thread.map(list(range(30)))
    return first, second, looks([first, second]).named("looks")


@chain
def innocent():
    return looks.map(list(range(30)))


async def test_no_step_sees_what_another_has_set(open_engine: OpenEngine) -> None:
    """Few slots that go from run to run: no item, later step or other run sees a variable that a step set."""
    async with open_engine(concurrency=3) as engine:
        with anyio.fail_after(PATIENCE):
            one, other = await engine.start(leaky), await engine.start(innocent)
            left, right = await one.result(), await other.result()
        first, second, later = left.value
        seen = Counter([*first, *second, later, *right.value])
        assert set(seen) == {"nobody"}


@step
async def nests(n: int) -> str:
    return context().step_id


@chain
def nested():
    return nests.map([1, 2])


async def test_a_step_sees_its_own_context_only(open_engine: OpenEngine) -> None:
    """`context()` belongs to the attempt, and is nothing that anybody else could see."""
    async with open_engine() as engine:
        run = await engine.run(nested)
        assert run.value == ["nests", "nests"]
    with pytest.raises(RuntimeError):
        context()
