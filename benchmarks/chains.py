"""The workloads as chains of towpath."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

from towpath import Chain, chain, step
from towpath.tracing import Ref

from .shapes import MODULUS, Graph, Workload, block, evaluate

called: list[tuple[tuple[int, int], float]] = []
"""Which step was called when: for the workloads that tell how long a successor waits."""


@step
async def inc(value: int) -> int:
    """A step of a line."""
    called.append(((0, value), time.perf_counter()))
    return value + 1


@step
async def source() -> int:
    """The first step of a fan."""
    return 1


@step
async def numbers(count: int) -> list[int]:
    """The list that `.map` runs over: known only when the chain runs."""
    return list(range(count))


@step
async def plus(add: int, value: int) -> int:
    """A step in the middle of a fan."""
    return value + add


@step
async def total(values: list[int]) -> int:
    """The last step of a fan."""
    return sum(values) % MODULUS


@step
async def node(level: int, add: int, values: list[int]) -> int:
    """A step of a layered graph."""
    called.append(((level, add), time.perf_counter()))
    return evaluate(add, values)


@step
async def nap(seconds: float, values: list[int]) -> int:
    """A step that takes time."""
    await asyncio.sleep(seconds)
    return sum(values) + 1


@step
async def joined(values: list[int]) -> int:
    """Ends a level, where levels are barriers: waits for the whole level."""
    return len(values)


@step
async def keep(number: int) -> bytes:
    """A step that keeps a file."""
    return block(number)


def chain_of(workload: Workload, mode: str = "") -> Chain[[], Any]:
    """The chain that a workload runs. Modes: `map` for the fan, `levels` puts a barrier between levels."""
    if mode == "map" or workload.name.startswith("items"):
        return mapped(workload.size)
    if workload.name == "W7":
        return chain(lambda: [keep(number) for number in range(workload.size)])
    made = {"W1": inc_line, "W4": inc_line, "W6": inc_line, "W2": written_out, "static": written_out}
    if workload.name in made:
        return made[workload.name](workload.shape)
    return as_chain(workload.shape, barriers=mode == "levels")


def inc_line(graph: Graph) -> Chain[[], Any]:
    """A line."""

    def described() -> Any:
        value: Any = 0
        for _ in graph.needs:
            value = inc(value)
        return value

    return chain(described)


def written_out(graph: Graph) -> Chain[[], Any]:
    """A fan as a static graph."""

    def described() -> Any:
        first = source()
        return total([plus(add, first) for add in graph.adds[1:-1]])

    return chain(described)


def mapped(width: int) -> Chain[[], Any]:
    """A fan as a map over a list."""

    def described() -> Any:
        return total(plus.map(numbers(width), value=source()))

    return chain(described)


def as_chain(graph: Graph, *, barriers: bool = False) -> Chain[[], Any]:
    """Any graph; the value is the list of the last steps' values.

    With barriers every step of a level waits for all steps of the level before, as engines do that run level by level.
    """

    def described() -> Any:
        refs: dict[int, Ref[Any]] = {}
        barrier: Ref[Any] | None = None
        levels = graph.levels
        for number, level in enumerate(levels):
            for i in level:
                refs[i] = _described(graph, i, number, refs, barrier)
            if barriers and number < len(levels) - 1:
                barrier = joined([refs[i] for i in level])
        return [refs[i] for i in graph.last]

    return chain(described)


def _described(graph: Graph, i: int, level: int, refs: dict[int, Ref[Any]], barrier: Ref[Any] | None) -> Ref[Any]:
    values: list[Any] = [refs[n] for n in graph.needs[i]]
    made = nap(graph.nap(i), values) if graph.naps else node(level, graph.adds[i], values)
    made = made.named(f"s{i}")
    return made.after(barrier) if barrier is not None else made


def waits(graph: Graph) -> list[float]:
    """Seconds between the call of a step's last dependency and its own, of all steps of the last run.

    The steps do nothing, so the call of a dependency is also its end.
    """
    if not called:
        return []
    found = []
    if all(level == 0 for (level, _), _ in called):  # a line
        times = [at for _, at in called[-len(graph.needs) :]]
        return [after - before for before, after in pairwise(times)]
    times_of = dict(called)
    place = {i: (number, graph.adds[i]) for number, level in enumerate(graph.levels) for i in level}
    for i, needed in enumerate(graph.needs):
        if needed:
            found.append(times_of[place[i]] - max(times_of[place[n]] for n in needed))
    return found
