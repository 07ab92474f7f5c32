"""A graph as plain async code that awaits steps, for engines whose flows are written so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.shapes import Graph, evaluate

Call = Callable[[int, list[int], float], Awaitable[int]]
"""A step, called with its number, the values of its dependencies, and the seconds it sleeps."""

Gather = Callable[[list[Awaitable[Any]]], Awaitable[list[Any]]]


async def step(add: int, needed: list[int], nap: float) -> int:
    """What a step does."""
    if nap:
        await asyncio.sleep(nap)
    return evaluate(add, needed)


async def gather(calls: list[Awaitable[Any]]) -> list[Any]:
    """asyncio's own."""
    return await asyncio.gather(*calls)


async def by_levels(graph: Graph, call: Call, together: Gather = gather) -> int:
    """Level by level: for engines that must start their steps in the same order each time."""
    values: dict[int, int] = {}
    for level in graph.levels:
        calls = [call(graph.adds[i], [values[n] for n in graph.needs[i]], graph.nap(i)) for i in level]
        found = await together(calls) if len(calls) > 1 else [await calls[0]]
        values.update(zip(level, found, strict=True))
    return sum(values[i] for i in graph.last)


async def when_ready(graph: Graph, call: Call) -> int:
    """Each step as soon as its own dependencies are there."""
    tasks: list[asyncio.Task[int]] = []

    async def perform(i: int) -> int:
        return await call(graph.adds[i], [await tasks[n] for n in graph.needs[i]], graph.nap(i))

    for i in range(len(graph.needs)):
        tasks.append(asyncio.create_task(perform(i)))  # noqa: PERF401 - the tasks look into the list
    return sum([await tasks[i] for i in graph.last])
