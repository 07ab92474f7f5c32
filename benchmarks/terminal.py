"""The results for a terminal: a table for each workload, the targets, what changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .baseline import Change
from .results import Results, Row, busy, order_of
from .shapes import WORKLOADS
from .systems import Kind
from .targets import Checked

STYLES = {Kind.TOWPATH: "bold cyan", Kind.CEILING: "dim", Kind.PEER: ""}
MIB = 1 << 20
COLUMNS = ("CPU us\n/step", "commits\n/step", "peak\nMiB", "disk\nMiB", "spread", "runs")
"""Two lines each, so that the table fits into 80 columns."""


def show_workload(console: Console, rows: Sequence[Row]) -> None:
    """One workload, the fastest system first; towpath is 1 ×."""
    first, mine = rows[0], next((row for row in rows if row["system"] == "towpath" and row["runs"]), None)
    console.print(Text.assemble((f"{first['workload']}  {first['what']}", "bold"), f"  {first['shows']}"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", min_width=14)
    for heading in (first["unit"], "speed", *COLUMNS):
        table.add_column(heading, justify="right", no_wrap=True)
    ordered = sorted(rows, key=order_of)
    for row in ordered:
        table.add_row(*_cells(row, mine), style=STYLES[Kind(row["kind"])])
    console.print(table)
    for row in ordered:
        if note := _note(row):
            console.print(Text(f"{row['system']}: {note}", style="dim"))
    console.print()


def _cells(row: Row, mine: Row | None) -> list[str]:
    if not row["runs"]:
        return [row["system"], "–", *[""] * (len(COLUMNS) + 1)]
    commits = row["extra"].get("commits")
    return [
        row["system"],
        f"{row['value']:,.0f}" if row["unit"] != "ms" else f"{row['value']:,.1f}",
        f"{mine['wall'] / row['wall']:.2f} ×" if mine else "",
        f"{row['cpu'] / row['steps'] * 1e6:,.0f}",
        f"{commits / row['steps']:.3f}" if commits else "",
        f"{row['memory'] / MIB:,.0f}",
        f"{row['disk'] / MIB:,.1f}",
        f"{row['spread']:.2f}",
        f"{row['runs']}",
    ]


def _note(row: Row) -> str:
    """Why there is no measurement; else what only some rows have."""
    if not row["runs"]:
        return row["missing"]
    extra, said = row["extra"], []
    if "wait_p50" in extra:
        said.append(f"successor waits p50 {extra['wait_p50'] * 1e3:.2f} p99 {extra['wait_p99'] * 1e3:.2f} ms")
    if extra.get("standstill", 0) > 0:
        said.append(f"loop stood still {extra['standstill'] * 1e3:.0f} ms")
    if row["workload"].startswith("items"):
        said.append(f"{row['grown'] / row['size'] / 1024:.2f} KiB of memory an item")
    if "largest" in extra:
        said.append(f"largest transaction {extra['largest']:,.0f} statements")
    if "compile_cpu" in extra:
        said.append(f"compiled in {extra['compile_cpu']:.2f} s of CPU")
    if "fsyncs" in extra:
        said.append(f"{extra['fsyncs']:,.0f} fsyncs")
    return ", ".join(said)


def show_machine(console: Console, results: Results) -> None:
    """Where it was measured."""
    at = results["machine"]
    console.print(
        f"towpath {results['towpath']}, Python {at['python']}, SQLite {at['sqlite']}, {at['system']}, {at['cpus']}"
        f" CPUs, load {at['load']:.1f}, fsync of 4 KiB {at['fsync_ms']:.2f} ms"
    )
    if busy(results):
        console.print(Text("The machine is busy: measure again when it is not.", style="bold yellow"))
    console.print("Medians; each run is a process of its own, systems take turns. Compare ratios, not seconds.\n")


def show_keeps(console: Console, rows: Iterable[Row]) -> None:
    """What each system keeps. Two rows can only be compared with this in mind."""
    console.print(Text("What each keeps", style="bold"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, keeps in {row["system"]: row["keeps"] for row in sorted(rows, key=order_of)}.items():
        table.add_row(name, Text(keeps, style="dim"))
    console.print(table)
    console.print()


def show_targets(console: Console, checked: Sequence[Checked], *, quick: bool) -> None:
    """Target, figure, met or not."""
    words = {True: ("met", "green"), False: ("MISSED", "bold red"), None: ("–", "dim")}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("workload", "what", "target", "measured", ""):
        table.add_column(heading)
    for one in checked:
        text, style = words[one.met]
        target = one.target
        table.add_row(target.workload, target.what, target.wanted, one.found, Text(text, style=style))
    console.print(table)
    if quick:
        console.print("Other sizes than those of the targets: these figures say little.")
    console.print()


def show_changes(console: Console, changes: Sequence[Change], lost: Sequence[Change], tolerance: float) -> None:
    """What fell since the baseline."""
    if not changes:
        console.print("The baseline and these results have no ratio in common.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("ratio", "before", "now", "change"):
        table.add_column(heading, justify="left" if heading == "ratio" else "right")
    for change in [*lost, *(change for change in changes[len(lost) :] if change.by > tolerance)]:
        style = "bold red" if change in lost else "green"
        table.add_row(
            change.name, f"{change.before:.3f}", f"{change.now:.3f}", Text(f"{change.by * 100:+.0f} %", style=style)
        )
    verdict = f"{len(lost)} of {len(changes)} ratios fell by more than {tolerance * 100:.0f} %"
    console.print(Text(verdict, style="bold red" if lost else "green"))
    if table.row_count:
        console.print(table)


def show_list(console: Console) -> None:
    """All workloads."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("workload", "what", "shows", "quick"):
        table.add_column(heading)
    for workload in WORKLOADS.values():
        table.add_row(workload.name, workload.title, workload.shows, f"{workload.quick:,}")
    console.print(table)
