"""A step is blamed for a blocked event loop only if its function is what runs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance.chain_steps import PATIENCE
from tests.conformance.runs import DONE, settled
from towpath import chain, step
from towpath.adapters import watchdog
from towpath.adapters.watchdog import Watchdog
from towpath.graph import compile_plan
from towpath.model import Plan, StepPlan

pytestmark = pytest.mark.anyio
LAG = 0.1
_said = threading.Event()


class _Ear(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if "event loop" in record.getMessage():
            _said.set()


def stands() -> int:
    """Blocks for a while, and then until the watchdog has said so."""
    time.sleep(2 * LAG)
    _said.wait(60)
    return 0


async def innocent() -> None:
    """A step that does not block."""


async def guilty() -> None:
    stands()


async def deep() -> None:
    """A step whose helper blocks."""
    await asyncio.sleep(0)
    sorted([1], key=lambda _: stands())


async def in_a_comprehension() -> None:
    [stands() for _ in range(1)]


async def plan_of_many() -> None:
    """The engine's own work: a large plan."""
    until = time.monotonic() + 60
    while not _said.is_set() and time.monotonic() < until:
        compile_plan(Plan("p", tuple(StepPlan(f"s{n}", "python", "m:f") for n in range(300))))


async def in_a_callback() -> None:
    """Something the program has put into the loop."""
    asyncio.get_running_loop().call_soon(stands)
    await asyncio.sleep(0.01)


async def beside_a_step() -> None:
    """A step waits while something else blocks."""
    waits = asyncio.create_task(innocent_and_long())
    await asyncio.sleep(0)
    stands()
    await waits


async def innocent_and_long() -> None:
    await asyncio.sleep(LAG)


async def with_a_listener() -> None:
    """A listener of the user's: no step."""
    stands()


async def in_a_library() -> None:
    """Somebody else's code, as that which hands results of threads to the loop."""
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: stands())
    future.set_result(None)
    await asyncio.sleep(0.01)


STEPS = {f.__code__: f.__name__ for f in (innocent, innocent_and_long, guilty, deep, in_a_comprehension)}


async def _told(work: Callable[[], object], caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    logger, ear = logging.getLogger("towpath"), _Ear()
    _said.clear()
    logger.addHandler(ear)
    try:
        with caplog.at_level(logging.DEBUG, "towpath"), Watchdog(lambda: STEPS):
            await work()  # type: ignore[misc]
            await asyncio.sleep(3 * LAG)
    finally:
        logger.removeHandler(ear)
    return [r for r in caplog.records if "event loop" in r.getMessage()]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LAG", LAG)
    monkeypatch.setattr(watchdog, "INTERVAL", LAG / 4)


@pytest.mark.parametrize("work", [guilty, deep, in_a_comprehension])
async def test_a_step_that_blocks_is_named(work: Callable[[], object], caplog: pytest.LogCaptureFixture) -> None:
    """Also where the blocking call is in something that the step calls."""
    told = await _told(work, caplog)
    assert any(r.levelno == logging.WARNING and f"step {work.__name__} blocks" in r.getMessage() for r in told)


@pytest.mark.parametrize("work", [plan_of_many, in_a_callback, beside_a_step, with_a_listener, in_a_library])
async def test_what_is_no_step_is_blamed_on_none(work: Callable[[], object], caplog: pytest.LogCaptureFixture) -> None:
    """Work of the engine, of a library or of the program: told for those who look for it, and nobody is warned."""
    told = await _told(work, caplog)
    assert told
    assert {r.levelno for r in told} == {logging.DEBUG}
    assert not any("step " in r.getMessage().replace("no step does it", "") for r in told)


_warned = threading.Event()


@step
async def blocks_the_loop(seconds: float) -> str:
    """Blocks so long, and then until the watchdog has named it."""
    time.sleep(seconds)  # noqa: ASYNC251 - the fault under test
    return "done" if _warned.wait(PATIENCE) else "not named while it blocked"


async def test_R34_the_watchdog_names_a_step_that_blocks_the_loop(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """While it blocks for longer than the lease; the run keeps its lease and completes."""

    @chain
    def blocking():
        return blocks_the_loop(1.6)

    blocked: list[str] = []
    _warned.clear()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "blocks the event loop" in record.getMessage():
                blocked.append(record.getMessage())
                _warned.set()

    handler = Keep()
    logging.getLogger("towpath").addHandler(handler)
    try:
        async with open_engine(lease_seconds=1.0) as engine:
            run = await engine.run(blocking)
            assert run.value == "done"
            assert await settled(engine, run) == {"blocks_the_loop": DONE}
    finally:
        logging.getLogger("towpath").removeHandler(handler)
    assert len(blocked) == 1
    assert "test_watchdog:blocks_the_loop" in blocked[0]
    assert "test_watchdog.py:" in blocked[0]
