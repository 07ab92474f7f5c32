"""An engine beside other event loops, tasks and failing blocks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from tests.adapters.test_outcomes import small
from towpath import Engine, InputInvalid
from towpath import open_engine as open_real_engine

pytestmark = pytest.mark.anyio


def _elsewhere(call: Any) -> BaseException | None:
    """What a call raises in an event loop of another thread."""
    raised: list[BaseException | None] = []

    def work() -> None:
        async def inside() -> None:
            await asyncio.wait_for(call(), 60)

        try:
            asyncio.run(inside())
            raised.append(None)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    return raised[0] if raised else TimeoutError("hangs")


async def test_another_loop_is_refused_and_the_engine_stays_whole(open_engine: OpenEngine) -> None:
    """Every way in says E_LOOP at once, with the cure; afterwards the engine works in its own loop, and closes."""
    async with open_engine() as engine:
        run = await engine.run(small, n=1)
        handle = await engine.get(run.id)
        ways = {
            "run": lambda: engine.run(small, n=2, run_id="never"),
            "start": lambda: engine.start(small, n=2),
            "resume": lambda: engine.resume(run.id),
            "rerun": lambda: engine.rerun(run.id),
            "cancel": lambda: engine.cancel(run.id),
            "pause": lambda: engine.pause(run.id),
            "snapshot": lambda: engine.snapshot(run.id),
            "approvals": engine.approvals,
            "records": lambda: engine.get_chain(run.id),
            "result": handle.result,
            "status": handle.status,
            "close": engine.close,
        }
        for name, way in ways.items():
            error = await anyio.to_thread.run_sync(_elsewhere, way)
            assert isinstance(error, InputInvalid), (name, error)
            assert error.code == "E_LOOP", name
            assert "run_coroutine_threadsafe" in error.problem.cure
        assert (await engine.run(small, n=3)).value == 3
        assert await engine.get_chain("never") is None


def test_an_engine_used_in_a_second_asyncio_run_is_refused(store: Path) -> None:
    """The first loop is gone; the second is told, it does not wait for ever."""

    async def opened() -> Engine:
        return await Engine.open(store)

    async def used(engine: Engine) -> None:
        await engine.run(small, n=1)

    engine = asyncio.run(opened())
    with pytest.raises(InputInvalid, match="E_LOOP"):
        asyncio.run(used(engine))


async def test_any_task_may_close_an_engine(store: Path) -> None:
    """Fixtures of test runners and cells of a notebook open in one task and close in another."""
    engine = await asyncio.create_task(Engine.open(store))
    assert (await asyncio.create_task(engine.run(small, n=1))).value == 1
    await asyncio.create_task(engine.close())
    await engine.close()

    async def fixture() -> AsyncIterator[Engine]:
        async with open_real_engine(store) as opened:
            yield opened

    generator = fixture()

    async def turn() -> Engine | None:
        return await anext(generator, None)

    opened = await asyncio.create_task(turn())
    assert opened is not None
    assert (await opened.run(small, n=2)).value == 2
    assert await asyncio.create_task(turn()) is None


async def test_what_goes_wrong_while_an_engine_opens_is_told_as_it_is(tmp_path: Path) -> None:
    """No group around it, and nothing is left open."""
    (tmp_path / "text.db").write_text("no database" * 200)
    with pytest.raises(Exception, match="E_DB_NOT_SQLITE"):
        await Engine.open(tmp_path / "text.db")
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("towpath")]


async def test_an_opening_that_is_cancelled_leaves_nothing(store: Path) -> None:
    """The task that opens for others ends with it."""
    opening = asyncio.create_task(Engine.open(store))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("towpath")]


async def test_an_error_of_the_block_comes_out_as_it_is(open_engine: OpenEngine) -> None:
    """Not as a group, though tasks run beside the block."""
    with pytest.raises(ZeroDivisionError):
        async with open_engine():
            raise ZeroDivisionError


def test_a_program_ends_that_closed_its_loop_before_its_engine(tmp_path: Path) -> None:
    """The threads of the store end too, though nobody told them."""
    script = """
import asyncio, sys
from towpath import Engine

async def opened():
    return await Engine.open(sys.argv[1])

loop = asyncio.new_event_loop()
engine = loop.run_until_complete(opened())
loop.close()
print("closed")
"""
    command = [sys.executable, "-c", script, str(tmp_path / "towpath.db")]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).stdout == b"closed\n"
