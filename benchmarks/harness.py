"""Running one workload once, in towpath or in the ceiling, and running such measurements in fresh processes."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from towpath import ChainStatus, Engine, open_engine

from .ceiling import Journal, Scheduler
from .workloads import Graph, Workload, as_chain, chain_of, expected, line

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Measured:
    """One measurement of the run part: from the call that starts the runs until the last row is durable."""

    steps: int
    wall: float
    cpu: float
    commits: int
    compile: float = 0.0
    memory: int = 0  # bytes by which the peak of the process grew, plan and run together

    @property
    def rate(self) -> float:
        """Steps per second."""
        return self.steps / self.wall

    @property
    def cost(self) -> float:
        """Microseconds per step."""
        return self.wall / self.steps * 1e6


class Clock:
    """Wall and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def peak() -> int:
    """The most memory this process ever had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent had when it forked
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


# ---- towpath


async def run_towpath(workload: Workload, durability: str, folder: Path, times: int = 1) -> list[Measured]:
    """Compile and run a workload `times` times on one engine, checking values and rows."""
    path = folder / "towpath.db"
    async with open_engine(path, durability=durability) as engine:
        await engine.run(as_chain(line(3)))
        measured = [await _run_once(engine, workload) for _ in range(times)]
    rows = len(workload.graph.needs) + workload.mapped
    _check_rows(path, "workflows WHERE status = 'completed'", 3 + rows * workload.runs * times)
    return measured


async def _run_once(engine: Engine, workload: Workload) -> Measured:
    counts = engine.store.database.counts  # type: ignore[attr-defined]
    before, commits = peak(), counts.commits
    clock = Clock()
    described = chain_of(workload)
    assert described.plan.steps
    compiled, _ = clock.read()
    clock = Clock()
    if workload.runs == 1:
        runs = [await engine.run(described)]
    else:
        runs = await asyncio.gather(*(engine.run(described) for _ in range(workload.runs)))
    wall, cpu = clock.read()
    commits = counts.commits - commits
    wanted = expected(workload.graph)
    for run in runs:
        assert run.status is ChainStatus.COMPLETED, (run.status, run.error)
        assert run.value == wanted, f"{workload.name} came to {run.value}, not {wanted}"
    return Measured(workload.steps, wall, cpu, commits, compiled, peak() - before)


# ---- the ceiling


async def run_ceiling(workload: Workload, durability: str, folder: Path, times: int = 1) -> list[Measured]:
    """The same with the ceiling."""
    path = folder / "ceiling.db"
    with Journal(path, durability) as journal:
        await Scheduler(line(3), 1, journal).drive()
        measured = [await _drive_once(workload.graph, workload, journal) for _ in range(times)]
    _check_rows(path, "steps", 3 + workload.steps * times)
    return measured


async def _drive_once(graph: Graph, workload: Workload, journal: Journal) -> Measured:
    before, commits = peak(), journal.commits
    clock = Clock()
    scheduler = Scheduler(graph, workload.runs, journal)
    compiled, _ = clock.read()
    clock = Clock()
    await scheduler.drive()
    wall, cpu = clock.read()
    wanted = expected(graph)
    for values in scheduler.values:
        assert [values[i] for i in graph.last] == wanted, workload.name
    return Measured(workload.steps, wall, cpu, journal.commits - commits, compiled, peak() - before)


SYSTEMS = {"towpath": run_towpath, "ceiling": run_ceiling}


def measure(system: str, workload: Workload, durability: str, times: int = 1) -> list[Measured]:
    """Measure in this process, in an empty folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="towpath-bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        return asyncio.run(SYSTEMS[system](workload, durability, Path(folder), times))


def _check_rows(path: Path, what: str, wanted: int) -> None:
    connection = sqlite3.connect(path)
    found = connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0]
    connection.close()
    assert found == wanted, f"{found} rows in {what}, not {wanted}"


# ---- fresh processes


def in_fresh_process(module: str, *arguments: str) -> list[Measured]:
    """`python -m benchmarks.<module> --one …` and what it measured."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--one", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return [Measured(**fields) for fields in json.loads(done.stdout)]


def print_json(measured: Sequence[Measured]) -> None:
    """How a fresh process hands its measurements back."""
    print(json.dumps([asdict(one) for one in measured]))


def median(measured: Sequence[Measured]) -> Measured:
    """Field by field, the median of several measurements of one thing."""
    columns = zip(*(asdict(one).values() for one in measured), strict=True)
    steps, wall, cpu, commits, compiled, memory = (statistics.median(column) for column in columns)
    return Measured(int(steps), wall, cpu, int(commits), compiled, int(memory))


def machine() -> dict[str, Any]:
    """Where this was measured. Absolute numbers mean nothing without it."""
    return {
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fdatasync_ms": _fdatasync(),
    }


def _fdatasync(tries: int = 100) -> float:
    taken = []
    with tempfile.NamedTemporaryFile(dir=os.environ.get("BENCH_DIR")) as file:
        for _ in range(tries):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e3


def print_machine() -> dict[str, Any]:
    found = machine()
    print(
        f"Python {found['python']}, SQLite {found['sqlite']}, {found['cpus']} CPUs, load {found['load']:.1f},"
        f" fsync of 4 KiB {found['fdatasync_ms']:.2f} ms\n"
    )
    return found
