"""Steps that print, log, warn and say how far they are: plain, async, in a process of their own."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import warnings
from pathlib import Path

import anyio

from tests.conformance.chain_steps import TICK, note
from towpath import context, step

library = logging.getLogger("tests.a_library")


def say(what: str) -> None:
    """One line of each kind."""
    print(f"{what} printed")
    print(f"{what} to stderr", file=sys.stderr)
    library.info("%s logged", what)
    library.debug("%s at DEBUG", what)
    warnings.warn(f"{what} warned", UserWarning, stacklevel=2)
    context().logger.info("%s said", what)


def lines(what: str) -> list[str]:
    """What follows the time in the lines that `say` makes."""
    return [
        f"INFO    stdout: {what} printed",
        f"INFO    stderr: {what} to stderr",
        f"INFO    tests.a_library: {what} logged",
        f"WARNING warnings: UserWarning: {what} warned",
        f"INFO    {what} said",
    ]


@step
async def says_async() -> str:
    say("async")
    await asyncio.to_thread(print, "from a thread")
    return "async"


@step
def says_plain(before: str) -> str:
    say("plain")
    return before


@step(process=True)
def says_in_process(before: str) -> str:
    say("process")
    return before


@step
async def talks(number: int, folder: str) -> int:
    """Others talk at the same time."""
    for part in range(20):
        print(f"{number}.{part}", end=" ")
        library.info("item %d part %d", number, part)
        await asyncio.sleep(0)
    print()
    return number


async def _goes_on(folder: str, name: str) -> None:
    note(folder, f"{name}.began")
    while not Path(folder, f"{name}.go").exists():  # noqa: ASYNC110, ASYNC240 - a test says so with a file
        await anyio.sleep(TICK)


@step
async def half(number: int, folder: str) -> int:
    """Half way, until a test says so."""
    context().progress(number, 10)
    print(f"item {number}")
    await _goes_on(folder, "half")
    return number


@step(process=True)
def counts(folder: str) -> None:
    """Says very often how far it is."""
    for n in range(20_001):
        context().progress(n, 40_000)
    print("half of it")
    note(folder, "counts.began")
    while not Path(folder, "counts.go").exists():
        time.sleep(TICK)


@step
def fails_on_the_way() -> None:
    context().progress(3, 8)
    raise RuntimeError("no further")


@step
def quick() -> int:
    context().progress(1, 2)
    return 1
