"""The targets, each as a ratio inside one call of the command. `towpath bench --check` prints them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .results import Row, best_peer, find
from .systems import MAPPED, SAME_ROWS, TOWPATH, Kind

Figure = tuple[float, str] | None
"""A number, and what it was compared with. None if something was not measured."""

NO_FIGURE = "not measured"
KIB = 1024


@dataclass(frozen=True)
class Target:
    """`limit` is the least that `figure` may be; with `below`, the most."""

    workload: str
    what: str
    limit: float
    figure: Callable[[Sequence[Row]], Figure]
    unit: str = "×"
    below: bool = False
    close: bool = True  # a figure equal to the limit is enough

    @property
    def wanted(self) -> str:
        """The target in words."""
        word = ("at most" if self.below else "at least") if self.close else "under"
        return f"{word} {self.limit:,g} {self.unit}".strip()

    def met(self, value: float) -> bool:
        """Is it reached?"""
        return (value <= self.limit if self.close else value < self.limit) if self.below else value >= self.limit


@dataclass(frozen=True)
class Checked:
    """A target beside what was measured; `met` is None without a figure."""

    target: Target
    figure: Figure
    met: bool | None

    @property
    def found(self) -> str:
        """The figure in words."""
        if self.figure is None:
            return NO_FIGURE
        value, beside = self.figure
        unit = "" if self.target.unit == "×" else f" {self.target.unit}"
        return f"{value:,.2f}{unit}" + (f" ({beside})" if beside else "")


def check(rows: Sequence[Row]) -> list[Checked]:
    """All targets whose workload was measured."""
    measured = {row["workload"] for row in rows}
    found = []
    for target in TARGETS:
        if target.workload in measured:
            figure = target.figure(rows)
            found.append(Checked(target, figure, None if figure is None else target.met(figure[0])))
    return found


def _faster(
    workload: str, ours: str, other: Callable[[Sequence[Row]], Row | None]
) -> Callable[[Sequence[Row]], Figure]:
    def figure(rows: Sequence[Row]) -> Figure:
        mine, theirs = find(rows, workload, ours), other(rows)
        if mine is None or theirs is None:
            return None
        return theirs["wall"] / mine["wall"], f"{_in_unit(mine)}, {theirs['system']} {_in_unit(theirs)}"

    return figure


def _in_unit(row: Row) -> str:
    return f"{row['value']:,.0f} {row['unit']}"


def _to_peers(workload: str, ours: str = TOWPATH.name, without: str = "") -> Callable[[Sequence[Row]], Figure]:
    return _faster(workload, ours, lambda rows: best_peer(rows, workload, without))


def _to(workload: str, other: str, ours: str = TOWPATH.name) -> Callable[[Sequence[Row]], Figure]:
    return _faster(workload, ours, lambda rows: find(rows, workload, other))


def _before(rows: Sequence[Row]) -> Figure:
    """The time of the script divided by that of the other commit."""
    mine = find(rows, "W6", TOWPATH.name)
    others = [r for r in rows if r["workload"] == "W6" and r["kind"] == Kind.TOWPATH and r["system"] != TOWPATH.name]
    theirs = next((row for row in others if row["runs"]), None)
    if mine is None or theirs is None:
        return None
    return mine["wall"] / theirs["wall"], f"{_in_unit(mine)}, {theirs['system']} {_in_unit(theirs)}"


def _ideal(rows: Sequence[Row]) -> Figure:
    mine = find(rows, "W5", TOWPATH.name)
    return (mine["wall"] / 0.1, f"{mine['wall'] * 1e3:.1f} ms") if mine else None


def _extra(workload: str, name: str, scale: float = 1.0) -> Callable[[Sequence[Row]], Figure]:
    def figure(rows: Sequence[Row]) -> Figure:
        mine = find(rows, workload, TOWPATH.name)
        return (mine["extra"][name] * scale, "") if mine and name in mine["extra"] else None

    return figure


def _memory(rows: Sequence[Row]) -> Figure:
    mine = find(rows, "items100", TOWPATH.name)
    return (mine["grown"] / mine["size"] / KIB, "peak of the process, SQLite's cache too") if mine else None


def _growth(rows: Sequence[Row]) -> Figure:
    small, large = find(rows, "items1", TOWPATH.name), find(rows, "items100", TOWPATH.name)
    if small is None or large is None:
        return None
    costs = [row["cpu"] / row["steps"] * 1e6 for row in (small, large)]
    return costs[1] / costs[0], f"{costs[0]:.0f} to {costs[1]:.0f} us"


_BEST = "to the best peer that persists"
TARGETS = (
    Target("W1", f"line of 200, {_BEST}", 2, _to_peers("W1")),
    Target("W2", f"fan of 1,000 written out, {_BEST}", 3, _to_peers("W2")),
    Target("W2", f"fan of 1,000 with .map, {_BEST}", 5, _to_peers("W2", MAPPED.name)),
    Target("W2", "written out, to the same rows", 0.5, _to("W2", SAME_ROWS)),
    Target("W2", ".map, to the same rows", 0.5, _to("W2", f"{SAME_ROWS}, .map", MAPPED.name)),
    Target("W3", f"10 levels of 100, {_BEST}", 1.5, _to_peers("W3")),
    Target("W4", f"100 runs of 5 steps, {_BEST}", 1.5, _to_peers("W4")),
    Target("W5", "50 steps of 100 ms, to the ideal 100 ms", 1.10, _ideal, below=True),
    Target("W6", "whole script, to the other commit (--against)", 0.5, _before, below=True),
    Target("W6", "whole script, to the best peer but Burr", 1, _to_peers("W6", without="Burr")),
    Target("W7", "files of 1 MiB, to the copy loop", 2.5, _to("W7", "copy loop")),
    Target("small", "small files between servers, to the copy loop", 0.7, _to("small", "copy loop")),
    Target("large", "large files between servers, to the copy loop", 0.9, _to("large", "copy loop")),
    Target("items100", "longest standstill of the loop", 100, _extra("items100", "standstill", 1e3), "ms", below=True),
    Target("items100", "memory of an item", 1.2, _memory, "KiB", below=True),
    Target("items100", "CPU of an item, to that in a map over 1,000", 1.3, _growth, below=True),
    Target("static", "CPU to compile 20,000 steps", 1, _extra("static", "compile_cpu"), "s", below=True, close=False),
    Target("static", "statements of the largest transaction", 5_000, _extra("static", "largest"), "", below=True),
)
