"""What is measured: the workloads as plain graphs, their sizes, and the outcome that each must have.

Standard library only: the measured process of every system imports this, and most of them have no towpath.

A step adds a number of its own to the values of the steps that it depends on. So the outcome of a run shows whether
every step ran once, after its dependencies and with their values.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property

MODULUS = 1_000_003  # keeps sums of sums small
MIB = 1 << 20
MB = 1_000_000
LEVELS, NEEDS, SEED = 10, 3, 1234
NAP = 0.1


@dataclass(frozen=True)
class Graph:
    """Step i depends on the steps `needs[i]`, all earlier ones, adds `adds[i]`, and sleeps `naps[i]` seconds."""

    needs: tuple[tuple[int, ...], ...]
    adds: tuple[int, ...]
    naps: tuple[float, ...] = ()

    def nap(self, i: int) -> float:
        """The seconds that step i sleeps; most graphs have no naps."""
        return self.naps[i] if self.naps else 0.0

    @cached_property
    def last(self) -> list[int]:
        """The steps on which no other depends."""
        used = {dependency for needed in self.needs for dependency in needed}
        return [i for i in range(len(self.needs)) if i not in used]

    @cached_property
    def levels(self) -> list[list[int]]:
        """The steps by the length of the longest way that leads to them."""
        level: list[int] = []
        for needed in self.needs:
            level.append(1 + max((level[n] for n in needed), default=-1))
        found: list[list[int]] = [[] for _ in range(max(level) + 1)]
        for i, at in enumerate(level):
            found[at].append(i)
        return found


def evaluate(add: int, needed: list[int]) -> int:
    """The value of a step."""
    return (sum(needed) + add) % MODULUS


def outcome(graph: Graph) -> int:
    """The sum of the values of the last steps."""
    values: list[int] = []
    for add, needed in zip(graph.adds, graph.needs, strict=True):
        values.append(evaluate(add, [values[n] for n in needed]))
    return sum(values[i] for i in graph.last)


@cache
def line(length: int) -> Graph:
    """Each step depends on the one before it and adds 1."""
    return Graph(tuple((i - 1,) if i else () for i in range(length)), (1,) * length)


@cache
def fan(width: int) -> Graph:
    """One step, `width` steps that depend on it, and one that depends on all of those."""
    needs = ((), *((0,) for _ in range(width)), tuple(range(1, width + 1)))
    return Graph(needs, (1, *range(width), 0))


@cache
def layers(width: int, levels: int = LEVELS) -> Graph:
    """Levels of `width` steps; each depends on three steps of the level before, drawn with a fixed seed."""
    drawn = random.Random(SEED)
    needs: list[tuple[int, ...]] = [()] * width
    for level in range(1, levels):
        for _ in range(width):
            chosen = sorted(drawn.sample(range(width), min(NEEDS, width)))
            needs.append(tuple((level - 1) * width + i for i in chosen))
    return Graph(tuple(needs), tuple(range(1, width + 1)) * levels)


@cache
def naps(width: int) -> Graph:
    """Steps of 100 ms that wait for nothing."""
    return Graph(((),) * width, (1,) * width, (NAP,) * width)


@cache
def uneven(lines: int) -> Graph:
    """As many lines as each has steps. Each line takes 100 ms, and most of that is its long step, each time another.

    With five lines the long step takes 60 ms and the others 10. An engine that waits for a whole level before it
    starts the next one waits for a long step on each level: five times 60 ms.
    """
    short = NAP / (2 * lines)
    long = NAP - short * (lines - 1)
    steps = [(at, level) for level in range(lines) for at in range(lines)]
    needs = tuple(((level - 1) * lines + at,) if level else () for at, level in steps)
    return Graph(needs, (1,) * len(steps), tuple(long if at == level else short for at, level in steps))


@cache
def files(count: int) -> Graph:
    """Steps that wait for nothing; each keeps a file."""
    return Graph(((),) * count, (0,) * count)


def four(_: int) -> Graph:
    """Four files, whatever their size."""
    return files(4)


_noise = bytearray()


def block(number: int) -> bytes:
    """1 MiB that cannot be compressed and that no other number has."""
    if not _noise:
        _noise.extend(os.urandom(MIB))
    return number.to_bytes(8, "big") + _noise[8:]


@dataclass(frozen=True)
class Workload:
    """A kind of run and its size: `what` says it to people, `shows` why it is measured."""

    name: str
    what: str
    shows: str
    size: int
    quick: int
    graph: Callable[[int], Graph]
    unit: str = "steps/s"
    least: int = 3  # the size of the first run, which is not measured

    @property
    def title(self) -> str:
        """In words, with its size."""
        return self.what.format(n=f"{self.size:,}")

    def prepare(self) -> None:
        """Make the graph now, so that no measured time is spent on it."""
        assert self.shape.levels and self.expected >= 0

    @property
    def runs(self) -> int:
        """How many runs of the graph go on at the same time."""
        return self.size if self.name == "W4" else 1

    @property
    def shape(self) -> Graph:
        """The graph of one run."""
        return line(5) if self.name == "W4" else self.graph(self.size)

    @property
    def steps(self) -> int:
        """The steps of all runs together; files for W7."""
        return len(self.shape.needs) * self.runs

    @property
    def expected(self) -> int:
        """The outcome that all runs together must have; for W7 the number of different files."""
        return self.steps if self.unit == "MB/s" else outcome(self.shape) * self.runs

    @property
    def megabytes(self) -> float:
        """The bytes of all files, in millions, where the unit is MB/s."""
        return self.steps * self.file_size / MB

    @property
    def file_size(self) -> int:
        """Bytes of a file."""
        return {"W7": MIB, "large": self.size * MB}.get(self.name, MB)

    @property
    def ideal(self) -> float | None:
        """The seconds that the steps themselves take, if they take any."""
        return NAP if self.shape.naps else None

    def sized(self, size: int) -> Workload:
        """The same with another size."""
        return replace(self, size=size)

    def warm(self) -> Workload:
        """The same, as small as it can be: for the first run of a process."""
        return self.sized(self.least)


_ALL = (
    Workload("W1", "a line of {n} steps", "each step waits until the one before it is durable", 200, 40, line),
    Workload("W2", "1 step, {n} beside each other, 1 step", "a wide graph, written out or with .map", 1000, 100, fan),
    Workload("W3", "10 levels of {n} steps, 3 dependencies each", "many edges", 100, 20, layers),
    Workload("W4", "{n} runs of 5 steps at the same time", "what a run costs", 100, 20, line, least=2),
    Workload("W5", "{n} steps of 100 ms beside each other", "time that the engine adds", 50, 10, naps, "ms"),
    Workload(
        "uneven",
        "{n} lines of {n} steps, each line 100 ms",
        "waiting for a step's own dependencies, or for whole levels",
        5,
        3,
        uneven,
        "ms",
        least=2,
    ),
    Workload("W6", "a whole script: import, new database, 3 steps", "cold start", 3, 3, line, "ms"),
    Workload("W7", "{n} files of 1 MiB, one of each step", "keeping files", 200, 20, files, "MB/s", least=2),
    Workload("items1", "a map over {n} items", "growth", 1_000, 200, fan),
    Workload("items10", "a map over {n} items", "growth", 10_000, 500, fan),
    Workload("items100", "a map over {n} items", "growth", 100_000, 2_000, fan),
    Workload(
        "small", "{n} files of 1 MB from one ComfyUI server to another", "moving many files", 1000, 100, files, "MB/s"
    ),
    Workload("large", "4 files of {n} MB from one ComfyUI server to another", "moving bytes", 500, 25, four, "MB/s"),
    Workload("single", "{n} files of 1 MB, a prompt for each", "what a prompt costs", 100, 10, files, "MB/s"),
    Workload("static", "{n} steps beside each other, written out", "compiling a large graph", 20_000, 500, fan),
)
WORKLOADS = {workload.name: workload for workload in _ALL}
