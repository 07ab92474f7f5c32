"""What a step does to its own process, and to the runs beside it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance import isolation_steps as alone
from tests.conformance.chain_steps import PATIENCE
from towpath import Engine, Run, chain, open_engine, step
from towpath.store.fsck import fsck


@chain
def destructive(folder: str):
    return alone.cancels_every_task(folder)


@pytest.mark.parametrize("beside", [0, 5])
def test_a_step_that_cancels_every_task_leaves_a_run_to_resume(tmp_path: Path, beside: int) -> None:
    """Those of towpath and of the script too: the script ends, nothing hangs, and the run goes on with a resume."""
    store = tmp_path / "s.db"

    async def cancelled() -> None:
        async with open_engine(store) as engine:
            for _ in range(beside):
                await engine.start(waiting, folder=str(tmp_path))
            await engine.run(destructive, run_id="odd", folder=str(tmp_path))

    async def resumed() -> Run:
        async with open_engine(store) as engine:
            run = await engine.resume("odd")
            assert not (await fsck(engine.store)).problems  # type: ignore[arg-type]
            return run

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(asyncio.wait_for(cancelled(), PATIENCE))
    run = asyncio.run(asyncio.wait_for(resumed(), PATIENCE))
    assert run.value == "second"


@chain
def waiting(folder: str):
    return steps.hold(folder, "never")


class Here:
    """The engine that steps use."""

    engine: ClassVar[Engine]


@chain
def small(n: int):
    return steps.double(steps.double(n))


@step
async def runs_a_chain(n: int) -> Any:
    return (await Here.engine.run(small, n=n)).value


@step
def runs_a_chain_from_a_thread(n: int) -> Any:
    return anyio.from_thread.run(_run_small, n).value


async def _run_small(n: int) -> Run:
    return await Here.engine.run(small, n=n)


@pytest.mark.anyio
@pytest.mark.parametrize(("running", "count"), [(runs_a_chain, 300), (runs_a_chain_from_a_thread, 60), (small, 300)])
async def test_more_steps_than_slots_each_run_a_chain(store: Path, running: Any, count: int) -> None:
    """A step that waits for a run lends out its slot: else the steps of that run would wait for ever."""

    @chain
    def outer():
        if running is small:
            return [small(n) for n in range(count)]
        return running.map(list(range(count)))

    async with open_engine(store) as engine:
        Here.engine = engine
        with anyio.fail_after(PATIENCE):
            run = await engine.run(outer)
        assert run.value == [4 * n for n in range(count)]


class Turns:
    """How many steps were called since the loop had its turn."""

    called = most = 0


@step
async def quick_then_slow(n: int) -> int:
    if n >= 100:
        Turns.called += 1
        Turns.most = max(Turns.most, Turns.called)
        time.sleep(0.006)  # noqa: ASYNC251 - a function that never suspends
    return n


@pytest.mark.anyio
async def test_functions_that_never_suspend_leave_turns_to_the_loop(store: Path) -> None:
    """However quick those before them were, and however many of them start together."""

    @chain
    def mapped():
        return quick_then_slow.map(list(range(160)))

    async def watch() -> None:
        while True:
            Turns.called = 0
            await asyncio.sleep(0)

    async with open_engine(store) as engine:
        watching = asyncio.create_task(watch())
        run = await engine.run(mapped)
        watching.cancel()
    assert run.value == list(range(160))
    assert 1 <= Turns.most <= 2


SCRIPT = """
import asyncio, sys
if {hidden}:
    sys.modules["sniffio"] = None
from towpath import chain, open_engine, step

@step
async def quick(n: int) -> int:
    return n

@step(retry={{"attempts": 2, "delay": 0.01}})
def in_a_thread(n: int) -> int:
    from towpath import context
    if context().attempt == 1:
        raise ValueError("once")
    return n

@chain
def inside(n: int):
    return in_a_thread(quick(n))

@chain
def all_kinds():
    return in_a_thread.map([1, 2, 3]), inside(4), quick(in_a_thread(5))

async def main():
    async with open_engine("s.db", concurrency=2) as engine:
        runs = await asyncio.gather(*(engine.run(all_kinds) for _ in range(3)))
        print([run.value for run in runs], "sniffio" in sys.modules and sys.modules["sniffio"] is not None)

asyncio.run(main())
"""


@pytest.mark.parametrize("hidden", [False, True])
def test_a_script_runs_with_and_without_sniffio(tmp_path: Path, hidden: bool) -> None:
    """Where it is installed, anyio asks it which library runs, and it knows that of tasks only."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(hidden=hidden))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout.split("] ")[-1].strip() == str(not hidden), done.stderr
    assert done.stdout.startswith(str([[[1, 2, 3], 4, 5]] * 3)[:-1]), done.stderr
