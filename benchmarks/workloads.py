"""The workloads as plain graphs, and as chains of towpath.

Step i of a `Graph` depends on the steps of its i-th entry, all of them earlier ones. Steps are `async`
functions that only add: a root gives 1, a step with one dependency adds 1 to its value, a step with
several adds their values up. So what a run comes to tells whether every step ran once, after its
dependencies and with their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from towpath import Chain, chain, step
from towpath.tracing import Ref

MODULUS = 1_000_003  # keeps sums of sums small


@dataclass(frozen=True)
class Graph:
    """The dependencies of each step, as positions of earlier steps."""

    needs: tuple[tuple[int, ...], ...]

    @property
    def last(self) -> list[int]:
        """The steps on which no other depends."""
        used = {dependency for needed in self.needs for dependency in needed}
        return [i for i in range(len(self.needs)) if i not in used]


@dataclass(frozen=True)
class Workload:
    """A graph, how many runs of it go on at the same time, and whether towpath maps its fan-out."""

    name: str
    what: str
    graph: Graph
    runs: int = 1
    mapped: bool = False

    @property
    def steps(self) -> int:
        """The steps of all runs together."""
        return len(self.graph.needs) * self.runs


def line(length: int) -> Graph:
    """Each step depends on the one before it."""
    return Graph(tuple((i - 1,) if i else () for i in range(length)))


def fan(width: int) -> Graph:
    """One step, `width` steps that depend on it, and one that depends on all of these."""
    return Graph(((), *((0,) for _ in range(width)), tuple(range(1, width + 1))))


def layers(levels: int, width: int, dependencies: int = 3) -> Graph:
    """Levels of `width` steps; each depends on `dependencies` neighbours of the level before."""
    first = [()] * width
    rest = [
        tuple(sorted((level - 1) * width + (i + d) % width for d in range(dependencies)))
        for level in range(1, levels)
        for i in range(width)
    ]
    return Graph((*first, *rest))


def workloads(scale: float = 1.0) -> list[Workload]:
    """W1 to W4 of `research/peers.md`; W2 once as a static graph and once as `.map`. `scale` shrinks them."""

    def size(full: int) -> int:
        return max(2, int(full * scale))

    wide = size(1000)
    return [
        Workload("W1", f"line of {size(200)}", line(size(200))),
        Workload("W2", f"1 -> {wide} -> 1", fan(wide)),
        Workload("W2map", f"1 -> .map over {wide} -> 1", fan(wide), mapped=True),
        Workload("W3", f"10 levels x {size(100)}, 3 needs each", layers(10, max(3, size(100)))),
        Workload("W4", f"{size(100)} runs x 5 steps at once", line(5), runs=size(100)),
    ]


def evaluate(needed: list[int]) -> int:
    """What a step with these values of its dependencies gives."""
    if not needed:
        return 1
    return needed[0] + 1 if len(needed) == 1 else sum(needed) % MODULUS


def expected(graph: Graph) -> list[int]:
    """The values of the last steps."""
    values: list[int] = []
    for needs in graph.needs:
        values.append(evaluate([values[n] for n in needs]))
    return [values[i] for i in graph.last]


# ---- the same as chains


@step
async def one(value: int) -> int:
    """A step with one dependency, or none."""
    return value + 1


@step
async def total(values: list[int]) -> int:
    """A step with several."""
    return sum(values) % MODULUS


@step
async def spread(width: int) -> list[int]:
    """The list that `.map` runs over."""
    return [1] * width


def as_chain(graph: Graph) -> Chain[[], Any]:
    """The graph as a chain; its value is the list of the last steps' values."""

    def described() -> Any:
        refs: list[Ref[Any]] = []
        for i, needs in enumerate(graph.needs):
            first = refs[needs[0]] if needs else 0
            ref = total([refs[n] for n in needs]) if len(needs) > 1 else one(first)
            refs.append(ref.named(f"s{i}"))
        return [refs[i] for i in graph.last]

    return chain(described)


def as_mapped_chain(width: int) -> Chain[[], Any]:
    """`fan(width)` as a chain that maps a step over a list known only at run time."""

    def described() -> Any:
        return [total(one.map(spread(width)))]

    return chain(described)


def chain_of(workload: Workload) -> Chain[[], Any]:
    """The chain that a workload runs."""
    if workload.mapped:
        return as_mapped_chain(len(workload.graph.needs) - 2)
    return as_chain(workload.graph)


Numbered = Callable[[int], Workload]

GROWING: dict[str, Numbered] = {
    "map": lambda n: Workload("map", f"1 -> .map over {n} -> 1", fan(n), mapped=True),
    "wide": lambda n: Workload("wide", f"1 -> {n} -> 1", fan(n)),
    "line": lambda n: Workload("line", f"line of {n}", line(n)),
}
"""Workloads by name as functions of their size."""
