# ruff: noqa: ASYNC222 - a child is looked at without waiting
"""Steps that fork, in a process of its own: `python -m tests.reliability.forking NAME FOLDER [ADAPTER]`.

Prints what the run came to. What a child does that should not be alive any more is noted in FOLDER.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from towpath import chain, open_engine, step

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads


def _note(folder: str, text: str) -> None:
    with Path(folder, "notes").open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


@step
def returns(folder: str) -> int:
    """The child returns as the parent does."""
    return os.fork()


@step
def raises(folder: str) -> int:
    """The child raises what would be the step's failure."""
    child = os.fork()
    if not child:
        raise ValueError("in the child")
    return child


@step
def exits(folder: str) -> int:
    """The child leaves as a program does."""
    child = os.fork()
    if not child:
        sys.exit(7)
    return child


@step
async def returns_async(folder: str) -> int:
    return os.fork()


@step
async def awaits(folder: str) -> int:
    """The child waits for the event loop, which is its parent's."""
    child = os.fork()
    await asyncio.sleep(0.01)
    if not child:
        _note(folder, "the child went on")
    return child


@step
async def yields(folder: str) -> int:
    """The child gives the loop one turn."""
    child = os.fork()
    await asyncio.sleep(0)
    if not child:
        _note(folder, "the child went on")
    return child


@step
async def gathers(folder: str) -> int:
    """The fork is in a task of the step's own."""

    async def inner() -> int:
        return os.fork()

    child, _ = await asyncio.gather(inner(), asyncio.sleep(0.02))
    if not child:
        _note(folder, "the child went on")
    return child


@step
def in_awaitable(folder: str) -> Any:
    """A plain function that hands back something to await, in which it forks."""

    async def later() -> int:
        return os.fork()

    return later()


@step
def by_multiprocessing(folder: str) -> int:
    """Works as it does anywhere: its children end by themselves."""
    context: Any = multiprocessing.get_context("fork")
    child = context.Process(target=_note, args=(folder, "worked"))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    return 0


@step
async def by_pool(folder: str) -> int:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        found = await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, abs, -n) for n in (1, 2)))
    assert found == [1, 2]
    _note(folder, "worked")
    return 0


@step
def with_own_loop(folder: str) -> int:
    """The child's own event loop turns."""
    context: Any = multiprocessing.get_context("fork")
    child = context.Process(target=_runs_a_loop, args=(folder,))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    return 0


def _runs_a_loop(folder: str) -> None:
    async def main() -> None:
        await asyncio.sleep(0.01)
        _note(folder, "worked")

    asyncio.run(main())


@step
async def by_subprocess(folder: str) -> int:
    subprocess.run(["/bin/true"], check=True)  # noqa: ASYNC221 - what the test is about
    _note(folder, "worked")
    return 0


@step
async def ticks(folder: str) -> int:
    """Beside all of them: done once, by one process."""
    for _ in range(20):
        await asyncio.sleep(0.005)
    _note(folder, "ticked")
    return 1


STEPS = (returns, raises, exits, returns_async, awaits, yields, gathers, in_awaitable)
GOOD = (by_multiprocessing, by_pool, with_own_loop, by_subprocess)


async def main(name: str, folder: str, adapter: str | None) -> None:
    made = next(one for one in (*STEPS, *GOOD) if one.name.rpartition(":")[2] == name)

    @chain
    def forks(folder: str):
        return [made(folder).named("forks"), ticks(folder)]

    options: dict[str, Any] = {"adapter": adapter, "worker": True} if adapter else {}
    async with open_engine(f"sqlite:///{folder}/towpath.db", durability="normal", **options) as engine:
        run = await engine.run(forks, folder=folder)
        status: int | str | None = None
        if run.status == "completed" and run.value[0]:
            # Its end, while the engine is still open; ten seconds are far more than it takes.
            for _ in range(1000):
                done, status = os.waitpid(run.value[0], os.WNOHANG)
                if done:
                    break
                await asyncio.sleep(0.01)
            else:
                status = "stuck"
        print(json.dumps([os.getpid(), run.status, status]), flush=True)
    print(json.dumps([os.getpid(), "closed"]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None))
