"""What `towpath bench` does after its options are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from . import baseline, picture, targets, terminal
from .environments import NotInstalled, towpath_of
from .measuring import Failed, Plan, Taken, measure
from .results import Results, Row, machine, order_of, ratios, results_of, row_of
from .shapes import WORKLOADS, Workload
from .systems import PEER_NAMES, PEERS, System, systems_for

Tick = Callable[[Workload, System, int], None]


class Refused(Exception):
    """The command was given something that it cannot do: what was found, and what is allowed."""

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


@dataclass(frozen=True)
class Wanted:
    """The options of the command."""

    workloads: tuple[str, ...] = ()
    repeats: int = 5
    quick: bool = False
    sizes: tuple[str, ...] = ()
    peers: str = "all"
    against: str | None = None
    folder: Path | None = None
    nice: int = 0

    def plan(self) -> Plan:
        """What shall be measured. Raises Refused."""
        peers = _peers(self.peers)
        try:
            others = (towpath_of(self.against),) if self.against else ()
        except NotInstalled as error:
            raise Refused(str(error), "a commit, branch or tag of this repository") from error
        chosen = tuple(_workloads(self))
        return Plan(chosen, lambda name: systems_for(name, peers, others), self.repeats, self.folder, nice=self.nice)


def _peers(text: str) -> frozenset[str]:
    if text in ("all", "none"):
        return frozenset(PEER_NAMES if text == "all" else ())
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PEER_NAMES:
            raise Refused(f"there is no peer {name!r}", f"all, none, or some of {','.join(PEER_NAMES)}")
    return frozenset(names)


def _workloads(wanted: Wanted) -> Iterator[Workload]:
    sizes = dict(_size(text) for text in wanted.sizes)
    for name in (*wanted.workloads, *sizes):
        if name not in WORKLOADS:
            raise Refused(f"there is no workload {name!r}", " ".join(WORKLOADS))
    for name, workload in WORKLOADS.items():
        if name in wanted.workloads or not wanted.workloads:
            yield workload.sized(sizes.get(name, workload.quick if wanted.quick else workload.size))


def _size(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not size.isdecimal() or int(size) < 1:
        raise Refused(f"a size is given as NAME=N, not as {text!r}", "W1=50, for example")
    return name, int(size)


def take(wanted: Wanted, shown: Console | None, errors: Console) -> Results:
    """Measure everything; each workload is shown as soon as it is done. Raises Refused, Failed."""
    plan = wanted.plan()
    found = results_of([], machine(wanted.folder), quick=wanted.quick or bool(wanted.sizes), repeats=wanted.repeats)
    if shown:
        terminal.show_machine(shown, found)
    # On a terminal the bar and the tables share a console, which draws the bar below what is printed.
    with _progress(plan, shown if shown and shown.is_terminal else errors) as tick:
        for taken in measure(plan, tick):
            rows = [row_of(one) for one in taken] + _unable(taken[0].workload, plan)
            found["rows"] += rows
            if shown:
                terminal.show_workload(shown, rows)
    if shown:
        terminal.show_keeps(shown, found["rows"])
    return found


def _unable(workload: Workload, plan: Plan) -> list[Row]:
    """Rows for the peers that cannot do a workload, with the reason."""
    asked = {system.name for name in WORKLOADS for system in plan.systems(name)}
    return [
        row_of(Taken(workload, peer, missing=peer.lacks[workload.name]))
        for peer in PEERS
        if peer.name in asked and workload.name in peer.lacks
    ]


@contextmanager
def _progress(plan: Plan, console: Console) -> Iterator[Tick]:
    """A bar in a terminal, a line for each workload and system elsewhere."""
    total = sum(len(plan.systems(workload.name)) for workload in plan.workloads) * plan.repeats
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        said: set[tuple[str, str]] = set()

        def tick(workload: Workload, system: System, number: int) -> None:
            progress.update(task, description=f"{workload.name} {system.name}, run {number}")
            progress.advance(task)
            if not console.is_terminal and (workload.name, system.name) not in said:
                said.add((workload.name, system.name))
                console.print(f"measuring {workload.name} {system.name}")

        yield tick


def draw(results: Results, path: Path) -> None:
    """Write the page."""
    path.write_text(picture.page(results, targets.check(sorted(results["rows"], key=order_of))))


__all__ = ["Failed", "Refused", "Wanted", "baseline", "draw", "ratios", "take", "targets", "terminal"]
