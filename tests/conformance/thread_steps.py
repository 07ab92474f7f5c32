"""Plain functions whose attempt is over before they end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.conformance.chain_steps import PATIENCE, TICK, note
from towpath import StepCancelled, context, step


def exists(*path: str) -> bool:
    return Path(*path).exists()


def until_let_go(folder: str, name: str) -> None:
    """Wait as code that knows nothing of towpath does."""
    end = time.monotonic() + PATIENCE
    while not exists(folder, f"{name}.go") and time.monotonic() < end:
        time.sleep(TICK)


@step(timeout=0.2)
def looks_for_its_end(folder: str) -> None:
    _look(folder)


@step
def looks_for_a_cancel(folder: str) -> None:
    _look(folder)


def _look(folder: str) -> None:
    here = context()
    here.check()
    assert not here.cancelled
    note(folder, "began")
    while not here.cancelled:
        time.sleep(TICK)
    for call in (here.check, lambda: here.progress(1, 2)):
        try:
            call()
        except Exception as error:  # what a library does
            note(folder, "swallowed", repr(error))
        except StepCancelled as error:
            note(folder, "raised", str(error))
    note(folder, "looked")


@step(timeout=0.2, retry={"attempts": 3, "delay": 0})
def takes_its_time(folder: str) -> None:
    """Notes its beginnings and ends; it is never asked to stop."""
    note(folder, "order", "begin")
    time.sleep(0.5)
    note(folder, "order", "end")


@step(timeout=0.2, retry={"attempts": 2, "delay": 0})
def overlaps(folder: str) -> int:
    if context().attempt == 2:
        note(folder, "second")
        return 2
    until_let_go(folder, "first")
    note(folder, "first.ended")
    return 1


@step(timeout=0.2)
def keeps_its_folder(folder: str) -> None:
    """Writes into its work folder after its attempt is over, then leaves it behind."""
    inside = context().work_folder
    note(folder, "where", str(inside))
    until_let_go(folder, "write")
    (inside / "late.txt").write_text("late")
    note(folder, "written")


@step
async def shielded(folder: str) -> None:
    """Swallows every cancellation."""
    note(folder, "shielded.began")
    while not exists(folder, "shielded.go"):
        try:
            await asyncio.sleep(TICK)
        except asyncio.CancelledError:
            note(folder, "shielded.asked")
