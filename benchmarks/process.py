"""Inside a measured process: one system runs one workload once, is checked, and says what it cost.

Standard library only, as `shapes`. A process is told its order as JSON in its first argument and answers with one
line, which begins with `MEASURED`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .shapes import WORKLOADS, Workload

MARK = "MEASURED "


@dataclass(frozen=True)
class Order:
    """What a process shall do: the workload, its size, the mode, and the folder for its files.

    `place` has what was made before, for systems that need it.
    """

    workload: str
    size: int
    folder: str
    mode: str = ""
    place: str = ""

    @property
    def what(self) -> Workload:
        """The workload in its size."""
        return WORKLOADS[self.workload].sized(self.size)


@dataclass
class Measured:
    """One measurement, from describing the run until the last row is durable. Seconds and bytes.

    `cpu` is that of all processes of the system, `memory` the sum of their peaks, `grown` how far the run raised the
    peak of the measured process.
    """

    wall: float
    cpu: float
    memory: int = 0
    grown: int = 0
    disk: int = 0
    extra: dict[str, float] = field(default_factory=dict)


class System:
    """What is measured: `run` alone. A system overrides what it needs."""

    warms = True  # runs something small before it is measured
    serves = True  # its child processes are part of it; else they stand for other machines

    def __init__(self, order: Order) -> None:
        self.order = order
        self.folder = Path(order.folder)
        self.extra: dict[str, float] = {}

    async def open(self) -> None:
        """Make what all runs share."""

    async def run(self, workload: Workload) -> int:
        """Describe the runs of the workload, carry them out, and return their outcome."""
        raise NotImplementedError

    async def after(self, workload: Workload) -> None:
        """Look at what the run left behind. The clock is stopped."""

    async def close(self) -> None:
        """End everything."""


class WrongOutcome(Exception):
    """The outcome of a system is wrong, so its speed means nothing."""


class Clock:
    """Wall time and processor time since this object was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = tree_cpu(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Seconds of wall time and of processor time."""
        wall = time.perf_counter() - self._wall
        return wall, tree_cpu() - self._cpu


def tree_cpu() -> float:
    """Processor seconds of this process and all below it. Those still alive are counted in ticks of 10 ms."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = sum(_ticks(pid) for pid in _below(os.getpid()))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime + alive / os.sysconf("SC_CLK_TCK")


def _below(root: int) -> list[int]:
    """All processes below one, whichever thread started them; none where there is no /proc."""
    found: list[int] = []
    for listed in Path(f"/proc/{root}/task").glob("*/children"):
        try:
            children = [int(child) for child in listed.read_text().split()]
        except OSError:  # the thread is gone
            continue
        for child in children:
            found += [child, *_below(child)]
    return found


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))


def peak(process: int | str = "self") -> int:
    """The most memory that a process ever had, in bytes. Elsewhere than on Linux only this process is known."""
    status = Path(f"/proc/{process}/status")
    if status.exists():  # ru_maxrss would count what the parent had when it forked
        found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(found[0].split()[1]) * 1024 if found else 0
    if process != "self":
        return 0
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def measure(system: System, order: Order) -> Measured:
    """Open, run something small, run and measure the workload, close, check. Raises WrongOutcome."""
    workload = order.what
    await system.open()
    try:
        if system.warms:
            _check(await system.run(workload.warm()), workload.warm())
        workload.prepare()
        gc.collect()
        before = peak()
        clock = Clock()
        found = await system.run(workload)
        wall, cpu = clock.read()
        grown, memory = peak() - before, peak()
        if system.serves:
            memory += sum(peak(process) for process in _below(os.getpid()))
        await system.after(workload)
    finally:
        await system.close()
    _check(found, workload)
    cpu -= system.extra.get("servers", 0.0)  # stand for other machines
    return Measured(wall, cpu, memory, grown, size_of(Path(order.folder)), dict(system.extra))


def _check(found: int, workload: Workload) -> None:
    if found != workload.expected:
        raise WrongOutcome(f"{workload.name} of size {workload.size} came to {found}, not to {workload.expected}")


def answer(make: Callable[[Order], System]) -> None:
    """The main function of a measured process."""
    order = Order(**json.loads(sys.argv[1]))
    tell(asyncio.run(measure(make(order), order)))


def tell(measured: Measured) -> None:
    """Say what was measured."""
    print(MARK + json.dumps(asdict(measured)), flush=True)


def told(output: str) -> Measured:
    """What a process said. Raises LookupError without such a line."""
    for text in reversed(output.splitlines()):
        if text.startswith(MARK):
            fields: dict[str, Any] = json.loads(text.removeprefix(MARK))
            return Measured(**fields)
    raise LookupError("the process ended without a measurement")
