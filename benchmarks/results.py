"""What was measured, as rows: medians, and ratios between systems. This is printed, drawn, saved and compared."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

from .measuring import Taken
from .shapes import WORKLOADS
from .systems import MAPPED, TOWPATH, Kind

FORMAT = 1


class Row(TypedDict):
    """A system on a workload. Times are medians in seconds, `memory`, `grown` and `disk` are bytes.

    `value` is in `unit`: steps/s, MB/s (more is better) or ms (less is better). None if there is no measurement; then
    `missing` says why.
    """

    workload: str
    what: str
    shows: str
    unit: str
    size: int
    steps: int
    system: str
    kind: str
    keeps: str
    runs: int
    value: float | None
    wall: float
    walls: list[float]
    cpu: float
    spread: float
    memory: float
    grown: float
    disk: float
    extra: dict[str, float]
    missing: str


class Results(TypedDict):
    """Everything of one call of the command."""

    format: int
    towpath: str
    machine: dict[str, Any]
    quick: bool
    repeats: int
    rows: list[Row]


def row_of(taken: Taken) -> Row:
    """The medians of all runs of a system on a workload."""
    workload, runs = taken.workload, taken.runs
    walls = [run.wall for run in runs]
    wall = statistics.median(walls) if walls else 0.0
    per = {"steps/s": workload.steps, "MB/s": workload.megabytes}

    def median(name: str) -> float:
        values: list[float] = [getattr(run, name) for run in runs]
        return statistics.median(values or [0.0])

    names = set().union(*(run.extra for run in runs)) if runs else set()
    extra = {name: statistics.median(run.extra.get(name, 0.0) for run in runs) for name in sorted(names)}
    if taken.commits is not None and runs:
        extra["commits"] = taken.commits
    return Row(
        workload=workload.name,
        what=workload.title,
        shows=workload.shows,
        unit=workload.unit,
        size=workload.size,
        steps=workload.steps,
        system=taken.system.name,
        kind=str(taken.system.kind),
        keeps=taken.system.keeps,
        runs=len(runs),
        value=(wall * 1e3 if workload.unit == "ms" else per[workload.unit] / wall) if runs else None,
        wall=wall,
        walls=walls,
        cpu=median("cpu"),
        spread=max(walls) / min(walls) if walls else 0.0,
        memory=median("memory"),
        grown=median("grown"),
        disk=median("disk"),
        extra=extra,
        missing=taken.missing,
    )


def results_of(rows: Sequence[Row], machine: dict[str, Any], *, quick: bool, repeats: int) -> Results:
    """The rows, with where and how they were measured."""
    return Results(
        format=FORMAT, towpath=version("towpath"), machine=machine, quick=quick, repeats=repeats, rows=list(rows)
    )


def find(rows: Iterable[Row], workload: str, system: str) -> Row | None:
    """A row that holds a measurement."""
    return next((r for r in rows if (r["workload"], r["system"]) == (workload, system) and r["runs"]), None)


def best_peer(rows: Iterable[Row], workload: str, without: str = "") -> Row | None:
    """The fastest peer that was measured; all of them keep what they do."""
    peers = [
        r for r in rows if r["workload"] == workload and r["kind"] == Kind.PEER and r["runs"] and r["system"] != without
    ]
    return min(peers, key=lambda row: row["wall"], default=None)


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """How much faster towpath is than each other system, in wall time and in processor time: more is better."""
    found: dict[str, float] = {}
    for ours in rows:
        if ours["system"] not in (TOWPATH.name, MAPPED.name) or not ours["runs"]:
            continue
        for other in rows:
            if other["workload"] == ours["workload"] and other["kind"] != Kind.TOWPATH and other["runs"]:
                name = f"{ours['workload']}: {ours['system']} to {other['system']}"
                found[f"{name}, time"] = other["wall"] / ours["wall"]
                if ours["cpu"] > 0 and other["cpu"] > 0:
                    found[f"{name}, cpu"] = other["cpu"] / ours["cpu"]
    return found | _growth(rows)


def _growth(rows: Sequence[Row]) -> dict[str, float]:
    small = find(rows, "items1", TOWPATH.name)
    found = {}
    for name in ("items10", "items100"):
        large = find(rows, name, TOWPATH.name)
        if small and large:
            title = f"{name}: cpu of an item to that in a map over {small['size']:,}"
            found[title] = (small["cpu"] / small["steps"]) / (large["cpu"] / large["steps"])
    return found


def order_of(row: Row) -> tuple[int, float]:
    """Workloads in their order, the fastest system first."""
    return list(WORKLOADS).index(row["workload"]), row["wall"] if row["runs"] else float("inf")


def machine(folder: Path | None) -> dict[str, Any]:
    """Where this was measured. Absolute numbers mean nothing without it."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fsync_ms": _fsync(folder),
    }


def busy(results: Results) -> bool:
    """Did other programs use the processors when the measurement began?"""
    return bool(results["machine"]["load"] > results["machine"]["cpus"])


def _fsync(folder: Path | None, tries: int = 50) -> float:
    taken = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(tries):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e3
