"""The chains that the reliability tests hurt.

Every attempt of every step first appends `run step item attempt` to the file `effects`, so that what
really ran can be counted, whatever the store says. What a step makes depends on nothing but its name
and what it was given: a resumed run must end with the very same bytes.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from towpath import Artifact, Chain, RetryPolicy, chain, context, step

INLINE = 1_000  # bytes that the database keeps itself
LARGE = 40_000  # bytes that become a blob


def note(effects: str) -> None:
    """Append the running attempt to the file, as one write."""
    at = context()
    line = f"{at.run_id} {at.step_id} {'-' if at.item is None else at.item} {at.attempt}\n"
    file = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def stretched(basis: str, size: int) -> bytes:
    """`size` bytes that follow from `basis`."""
    return hashlib.shake_128(basis.encode()).digest(size)


def made_from(effects: str, given: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """A word and three files: one for the database, one for a blob, one copied from beside the effects.

    What a step writes itself is not on the store's disk, which may be full: that would be its own error.
    """
    at = context()
    basis = at.step_id + "".join(artifact.digest for one in given for artifact in _files(one))
    (at.work_folder / "scrap").touch()
    folder = Path(effects).parent / f"{at.run_id}-{at.step_id}-{at.attempt}"
    folder.mkdir(exist_ok=True)
    copied = folder / "copied.bin"
    copied.write_bytes(stretched(basis + "copied", size + 5))
    return {
        "word": hashlib.sha256(basis.encode()).hexdigest()[:12],
        "small": stretched(basis + "small", INLINE),
        "large": stretched(basis + "large", size),
        "copied": copied,
    }


def _files(one: dict[str, Any]) -> list[Artifact]:
    return [value for value in one.values() if isinstance(value, Artifact)]


@step
async def work(effects: str, pace: float, size: int, given: list[dict[str, Any]]) -> dict[str, Any]:
    """Note the attempt, read everything given, make three files."""
    note(effects)
    await anyio.sleep(pace)
    for one in given:
        for artifact in _files(one):
            await artifact.read_bytes()
    return made_from(effects, given, size)


@step
def work_in_thread(effects: str, pace: float, size: int, given: list[dict[str, Any]]) -> dict[str, Any]:
    """The same as a plain function."""
    note(effects)
    time.sleep(pace)
    return made_from(effects, given, size)


@chain
def diamond(effects: str, pace: float = 0.01, size: int = LARGE) -> Any:
    """Eight steps, three of them at a time, with three artifacts each."""
    source = work(effects, pace, size, []).named("source")
    left = work(effects, pace, size, [source]).named("left")
    middle = work_in_thread(effects, pace, size, [source]).named("middle")
    right = work(effects, pace, size, [source]).named("right")
    upper = work(effects, pace, size, [left, middle]).named("upper")
    lower = work_in_thread(effects, pace, size, [middle, right]).named("lower")
    joined = work(effects, pace, size, [upper, lower]).named("joined")
    return work(effects, pace, size, [joined, left]).named("last")


@chain
def short(effects: str, pace: float = 0.0, size: int = LARGE) -> Any:
    """Two steps, one in a thread."""
    source = work(effects, pace, size, []).named("source")
    return work_in_thread(effects, pace, size, [source]).named("last")


@step
async def light(effects: str, pace: float, before: int) -> int:
    """Note the attempt and count."""
    note(effects)
    await anyio.sleep(pace)
    return before + 1


def line(length: int) -> Chain[..., Any]:
    """A chain of `length` steps, one after the other."""

    @chain
    def line_of_steps(effects: str, pace: float = 0.0) -> Any:
        value: Any = 0
        for number in range(length):
            value = light(effects, pace, value).named(f"n{number}")
        return value

    return line_of_steps


@step
async def one_of_many(number: int) -> int:
    """As little as a step can do."""
    return number * 2


@step
def total(numbers: list[int]) -> int:
    """The sum of what the items returned."""
    return sum(numbers)


@chain
def wide(numbers: list[int]) -> Any:
    """A step per number, and their sum."""
    return total(one_of_many.map(numbers))


@step
async def stubborn(effects: str, before: int, seconds: float) -> int:
    """Cannot be stopped within `seconds`."""
    note(effects)
    with anyio.CancelScope(shield=True):
        await anyio.sleep(seconds)
    await anyio.lowlevel.checkpoint()
    return before + 1


@chain
def draining(effects: str, pace: float = 0.8) -> Any:
    """A step that takes its time to stop, between two others."""
    first = light(effects, 0.0, 0).named("first")
    slow = stubborn(effects, first, pace).named("slow")
    return light(effects, 0.0, slow).named("last")


@step
async def blocking(effects: str, seconds: float) -> str:
    """Blocks the event loop, as no step should."""
    note(effects)
    time.sleep(seconds)  # noqa: ASYNC251 - this is the fault to be found
    return "done"


@chain
def blocked(effects: str, pace: float = 2.0) -> Any:
    """One step that blocks the event loop."""
    return blocking(effects, pace)


@step(requires_approval=True)
async def asked(effects: str) -> bytes:
    """Waits for a person after it ran."""
    note(effects)
    return stretched("asked", INLINE)


@chain
def gated(effects: str, pace: float = 0.0) -> Any:
    """A gate with a step behind it, and another step beside them."""
    question = asked(effects)
    beside = light(effects, pace, 0).named("beside")
    return [light(effects, 0.0, 0).named("after").after(question), beside]


@chain
def timed(effects: str, pace: float = 0.0) -> Any:
    """The same with a gate that skips its step if nobody decides in time."""
    question = asked(effects).with_approval(timeout=1.5, on_rejected="skip")
    beside = light(effects, pace, 0).named("beside")
    light(effects, 0.0, 0).named("after").after(question)
    return beside


@step(retry=RetryPolicy(attempts=3, delay=0.3))
async def unsteady(effects: str, before: int) -> int:
    """Works at its third attempt."""
    note(effects)
    await anyio.lowlevel.checkpoint()
    if context().attempt < 3:
        raise RuntimeError("not yet")
    return before + 1


@step
def counted(number: int, effects: str, pace: float) -> int:
    """An item, in a thread. It waits without `time.sleep`, which libfaketime 0.9.10 breaks."""
    note(effects)
    threading.Event().wait(pace)
    return number * 2


@step
async def gathered(effects: str, counts: list[int], before: int) -> int:
    """The sum."""
    note(effects)
    await anyio.lowlevel.checkpoint()
    return sum(counts) + before


@step
async def held(effects: str) -> None:
    """Goes on until there is a file `<effects>.end`: then the run may come to its end."""
    note(effects)
    while not await anyio.Path(f"{effects}.end").exists():  # noqa: ASYNC110 - another process makes it
        await anyio.sleep(0.05)


@chain
def timely(effects: str, pace: float = 0.1) -> Any:
    """Steps, retries and items that go on until they may end; a gate that needs a person, one that needs none."""
    question = asked(effects).named("question").with_approval(timeout=600)
    forgotten = asked(effects).named("forgotten").with_approval(timeout=3, timeout_action="auto_approve")
    value: Any = unsteady(effects, light(effects, 0.0, 0).named("first"))
    counts = counted.map(list(range(12)), effects=effects, pace=pace)
    for number in range(30):
        value = light(effects, pace, value).named(f"n{number}")
    return gathered(effects, counts, value).named("last").after(question, forgotten, held(effects))


@step
async def painted(effects: str, pace: float, style: str) -> str:
    """Says the style that it was painted in."""
    note(effects)
    await anyio.sleep(pace)
    return style


@chain
def repainted(effects: str, pace: float = 1.0) -> Any:
    """A gate whose rejections make the step again, with what they change."""
    return painted(effects, pace, "plain").with_approval(on_rejected="regenerate", max_retries=3)


@chain
def painting(effects: str, pace: float, style: str) -> Any:
    """A chain to be inside a step."""
    return painted(effects, pace, style)


@chain
def repainted_inside(effects: str, pace: float = 1.0) -> Any:
    """The same with a chain inside the step: each rejection makes another run of it."""
    inside = painting(effects, pace, "plain").named("painted")
    return inside.with_approval(on_rejected="regenerate", max_retries=3)


CHAINS: dict[str, Chain[..., Any]] = {
    "diamond": diamond,
    "short": short,
    "line": line(60),
    "draining": draining,
    "blocked": blocked,
    "gated": gated,
    "timed": timed,
    "timely": timely,
    "repainted": repainted,
    "repainted_inside": repainted_inside,
}
