"""The chains of the runs in `recorded/`. They are resumed and rerun after a migration: keep their names and steps."""

from __future__ import annotations

import os

import anyio

from towpath import Artifact, File, chain, step

HELD = "TOWPATH_TEST_HELD"
"""With this variable set, `held` never ends: the process is killed in it."""
RUNS = ("completed", "paused", "failed", "interrupted", "mapped", "nested")
"""The ids of the recorded runs."""


@step
async def draw(text: str, size: int) -> File:
    """A file: of more than 16 KiB it lies beside the database."""
    return File((text.encode() * size)[:size], filename="picture.txt")


@step
async def measure(picture: Artifact) -> int:
    return len(await picture.read_bytes())


@step
async def held(number: int) -> int:
    if os.environ.get(HELD):
        await anyio.sleep_forever()
    return number + 1


@step
async def divided(whole: int, by: int) -> float:
    return whole / by


@step
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@chain
def drawn(text: str = "water ", size: int = 40_000):
    return measure(draw(text, size))


@chain
def looked_at(text: str = "lock "):
    return measure(draw(text, 100).with_approval())


@chain
def quotient(by: int):
    return divided(held(41), by)


@chain
def counted(numbers: list[int]):
    return total(held.map(numbers))


@chain
def around(text: str):
    return held(drawn(text=text, size=30))
