"""Runs of 200 steps that return, raise, log and cancel whatever hypothesis thinks of."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.conftest import check
from tests.conformance import hostile_steps as hostile
from tests.conformance.outcomes import by_itself
from towpath import StepFailed, chain, context, open_engine, step

STEPS = 100  # of each of two kinds; what they do is drawn for a few and repeated

text = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    text,
    st.binary(max_size=40),
    st.sampled_from([hostile.Label("x"), hostile.Size.LARGE, hostile.Share(1.5), hostile.Count(3), 1j, object()]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | st.integers(), inner, max_size=4),
    max_leaves=8,
)


@dataclass(frozen=True)
class Act:
    """What one step does: log calls, a progress call, then its end."""

    logs: list[tuple[str, tuple[Any, ...]]]
    progress: Any
    end: str
    what: Any


acts = st.builds(
    Act,
    logs=st.lists(st.tuples(text | st.sampled_from(["%d", "%s %s", "%(name)s"]), st.tuples(scalars)), max_size=2),
    progress=st.sampled_from([None, 1, float("nan"), "half", 10**400]),
    end=st.sampled_from(["return", "return", "raise", "message", "final", "cancel", "known"]),
    what=values,
)


@step(retries=1)
def plain(n: int) -> Any:
    return _act(_acts[n % len(_acts)])


@step
async def awaited(n: int) -> Any:
    act = _acts[n % len(_acts)]
    if act.end == "cancel":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
    if act.end == "known":
        name = sorted(hostile.ASYNC)[len(repr(act.what)) % len(hostile.ASYNC)]
        return await hostile.async_odd(name)
    return _act(act)


@step
async def counted(n: int) -> int:
    await asyncio.sleep(0)
    return n


@chain
def hostile_run(items: list[int]):
    return plain.map(items), awaited.map(items)


@chain
def good_run(items: list[int]):
    return counted.map(items)


_acts: list[Act] = []


def _act(act: Act) -> Any:
    for form, args in act.logs:
        context().logger.info(form, *args)
    if act.progress is not None:
        context().progress(act.progress)
    ends: dict[str, Callable[[], Any]] = {
        "raise": lambda: _raise(ValueError(act.what)),
        "message": lambda: _raise(RuntimeError(str(act.what))),
        "final": lambda: _raise(StepFailed(str(act.what), retryable=False)),
        "cancel": lambda: _raise(asyncio.CancelledError()),
    }
    return ends[act.end]() if act.end in ends else act.what


def _raise(error: BaseException) -> None:
    raise error


async def _runs(store: Path) -> None:
    async with open_engine(store, durability="normal") as engine:
        with anyio.fail_after(120):
            odd = await engine.start(hostile_run, items=list(range(STEPS)))
            good = await engine.start(good_run, items=list(range(50)))
            run, beside = await odd.result(check=False), await good.result()
        assert beside.value == list(range(50))
        assert run.status in ("completed", "failed")
        rows = await engine.list_workflows(limit=1000, chain_id=run.id)
        ended = Counter(row.status for row in rows)
        assert set(ended) <= {"completed", "failed"}
        assert len(rows) == 2 * STEPS + 2
    async with open_engine(store) as engine:
        assert (await engine.snapshot(run.id)).status == run.status  # nothing is left to be resumed


@pytest.fixture(autouse=True, scope="module")
def unheard() -> Iterator[None]:
    """What steps log here is no text that a test runner could pass on between its processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("towpath.context"), "step_logger", by_itself)
        yield


def _checked(drawn: list[Act]) -> None:
    _acts[:] = drawn
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "s.db")
        anyio.run(_runs, store)
        check(store)


TOLD = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    derandomize=bool(os.environ.get("CI")),
)


@settings(TOLD, max_examples=5)
@given(st.lists(acts, min_size=1, max_size=25))
def test_every_hostile_run_ends(drawn: list[Act]) -> None:
    """Every run ends by itself, a good run beside it completes, the store is clean, nothing has to be resumed."""
    _checked(drawn)


@pytest.mark.full
@settings(TOLD, max_examples=100)
@given(st.lists(acts, min_size=1, max_size=25))
def test_every_hostile_run_ends_in_full(drawn: list[Act]) -> None:
    """The same, a hundred times."""
    _checked(drawn)
