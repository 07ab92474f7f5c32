"""Cheap steps, which may share a child workflow."""

from __future__ import annotations

from typing import Any

from tests.conformance.chain_steps import note
from towpath import Artifact, context, step


@step(cheap=True)
async def plus(a: int, b: int = 1) -> int:
    return a + b


@step(cheap=True)
def as_file(n: int) -> bytes:
    return b"x" * n


@step(cheap=True)
async def size(file: Artifact) -> int:
    return file.size


@step(cheap=True)
async def total(values: list[Any]) -> int:
    return sum(v for v in values if v is not None)


@step(cheap=True)
async def counted(n: int, folder: str) -> int:
    note(folder, f"counted.{n}", str(context().attempt))
    return n


@step(cheap=True)
async def fails(n: int) -> int:
    raise ValueError(f"no {n}")
