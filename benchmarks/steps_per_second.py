"""Steps per second of towpath beside the ceiling, on the same machine at the same time.

    python -m benchmarks.steps_per_second [--quick] [--repetitions N] [--json FILE]

Every measurement is a fresh process; systems and workloads take turns, so that a busy minute hits all
of them. What is compared is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .harness import SYSTEMS, Measured, in_fresh_process, measure, median, print_json, print_machine
from .workloads import Workload, workloads

DURABILITIES = ("full", "normal")
QUICK = 0.2

Taken = dict[tuple[str, str, str], list[Measured]]
"""Measurements by workload, durability, system."""


def take(chosen: list[Workload], repetitions: int, scale: float) -> Taken:
    """All measurements, taking turns."""
    taken: Taken = {}
    for repetition in range(repetitions):
        systems = sorted(SYSTEMS, reverse=repetition % 2 == 0)
        for workload in chosen:
            for durability in DURABILITIES:
                for system in systems:
                    arguments = (system, workload.name, durability, str(scale))
                    found = in_fresh_process("steps_per_second", *arguments)
                    taken.setdefault((workload.name, durability, system), []).extend(found)
    return taken


def table(chosen: list[Workload], taken: Taken) -> list[dict[str, Any]]:
    """One row per workload and durability: medians, and their ratio."""
    rows = []
    for durability in DURABILITIES:
        for workload in chosen:
            ours, bound = (median(taken[workload.name, durability, s]) for s in ("towpath", "ceiling"))
            rows.append(
                {
                    "workload": workload.name,
                    "what": workload.what,
                    "durability": durability,
                    "towpath": asdict(ours),
                    "ceiling": asdict(bound),
                    "ratio": ours.rate / bound.rate,
                    "spread": _spread(taken[workload.name, durability, "towpath"]),
                }
            )
    return rows


def _spread(measured: list[Measured]) -> float:
    walls = sorted(one.wall for one in measured)
    return walls[-1] / walls[0]


def show(rows: list[dict[str, Any]]) -> None:
    """The table for people."""
    heads = ("workload", "towpath/s", "ceiling/s", "ratio", "us/step", "cpu us", "commits", "of ceiling")
    for durability in DURABILITIES:
        print(f"durability={durability}")
        print("{:<36}{:>10}{:>11}{:>7}{:>9}{:>8}{:>9}{:>11}{:>9}{:>8}".format(*heads, "compile", "spread"))
        for row in (r for r in rows if r["durability"] == durability):
            ours, bound = Measured(**row["towpath"]), Measured(**row["ceiling"])
            print(
                f"{row['workload']:<6}{row['what']:<30}{ours.rate:>10,.0f}{bound.rate:>11,.0f}"
                f"{row['ratio']:>7.3f}{ours.cost:>9,.0f}{ours.cpu / ours.steps * 1e6:>8,.0f}"
                f"{ours.commits:>9,}{bound.commits:>11,}{ours.compile * 1e3:>6,.0f} ms{row['spread']:>7.2f}x"
            )
        print()


def main() -> None:
    """Parse arguments, measure, print; with `--one`, be one of the fresh processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the size, three repetitions")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="workloads by name")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        system, name, durability, scale = given.one
        workload = next(w for w in workloads(float(scale)) if w.name == name)
        print_json(measure(system, workload, durability))
        return
    scale = QUICK if given.quick else 1.0
    chosen = [w for w in workloads(scale) if not given.only or w.name in given.only]
    found = print_machine()
    rows = table(chosen, take(chosen, 3 if given.quick else given.repetitions, scale))
    show(rows)
    if given.json:
        given.json.write_text(json.dumps({"machine": found, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
