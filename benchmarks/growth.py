"""Does a step cost more in a larger run? Cost per step of towpath at 100, 1,000 and 10,000 steps.

    python -m benchmarks.growth [--quick] [--repetitions N] [--json FILE]

Three shapes: one step mapped over a list, the same as a static graph, and a line. The target is that a
step of a run of 10,000 costs at most 1.5 times a step of a run of 100. A run's fixed cost (made, claimed,
loaded, ended) makes small runs look dear, so the growth from 1,000 on is shown too.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .harness import Measured, in_fresh_process, measure, median, print_json, print_machine
from .workloads import GROWING

SIZES = (100, 1_000, 10_000)
TARGET = 1.5
STEPS_AT_LEAST = 500  # small runs are repeated in their process until this many steps are done


def take(shape: str, size: int, durability: str, repetitions: int) -> Measured:
    """The median over fresh processes; memory is that of the first run of a process."""
    measured: list[Measured] = []
    for _ in range(repetitions):
        measured += in_fresh_process("growth", shape, str(size), durability)
    return median(measured)


def show(shape: str, taken: dict[int, Measured]) -> dict[str, Any]:
    """The table of one shape, and its growth."""
    print(f"{GROWING[shape](10_000).what}")
    print(
        f"{'steps':>9}{'us/step':>9}{'cpu us':>8}{'commits':>9}{'wall s':>8}{'compile s':>11}{'MiB':>8}{'KiB/step':>10}"
    )
    for size, one in taken.items():
        print(
            f"{size:>9,}{one.cost:>9,.0f}{one.cpu / one.steps * 1e6:>8,.0f}{one.commits:>9,}{one.wall:>8.2f}"
            f"{one.compile:>11.3f}{one.memory / 2**20:>8.1f}{one.memory / one.steps / 1024:>10.1f}"
        )
    sizes = sorted(taken)
    growth = taken[sizes[-1]].cost / taken[sizes[0]].cost
    upper = taken[sizes[-1]].cost / taken[sizes[-2]].cost
    verdict = "ok" if growth <= TARGET else "MISSED"
    print(
        f"cost({sizes[-1]:,}) / cost({sizes[0]:,}) = {growth:.2f} (target <= {TARGET}: {verdict});"
        f" / cost({sizes[-2]:,}) = {upper:.2f}\n"
    )
    return {
        "shape": shape,
        "growth": growth,
        "growth_upper": upper,
        "sizes": {size: asdict(one) for size, one in taken.items()},
    }


def one_process(shape: str, size: int, durability: str) -> list[Measured]:
    """What a fresh process measures: the peak of memory belongs to its first run."""
    times = max(1, STEPS_AT_LEAST // size)
    measured = measure("towpath", GROWING[shape](size), durability, times)
    first = measured[0].memory
    return [Measured(m.steps, m.wall, m.cpu, m.commits, m.compile, first) for m in measured]


def main() -> None:
    """Parse arguments, measure, print; with `--one`, be one of the fresh processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="up to 2,000 steps, once each")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--durability", choices=("full", "normal"), default="full")
    parser.add_argument("--only", nargs="*", choices=tuple(GROWING), help="shapes by name")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        shape, size, durability = given.one
        print_json(one_process(shape, int(size), durability))
        return
    sizes = (100, 500, 2_000) if given.quick else SIZES
    repetitions = 1 if given.quick else given.repetitions
    found = print_machine()
    rows = [
        show(shape, {size: take(shape, size, given.durability, repetitions) for size in sizes})
        for shape in given.only or GROWING
    ]
    if given.json:
        given.json.write_text(json.dumps({"machine": found, "shapes": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
