"""Runs, plans and artifacts as people and as programs read them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from towpath.errors import TowpathError
from towpath.graph import critical_path
from towpath.model import ChainStatus, Plan, StepStatus
from towpath.run import Run, StepRun

from .screen import block, line, words
from .watching import SIGNS

LONG_LIST = 24  # files of one step; more than that are shown as the first few
FEW = 5

CHAIN_STYLE = {
    ChainStatus.COMPLETED: "green",
    ChainStatus.PARTIAL: "yellow",
    ChainStatus.FAILED: "red",
    ChainStatus.CANCELLED: "dim",
    ChainStatus.PAUSED: "yellow",
    ChainStatus.RUNNING: "cyan",
    ChainStatus.PENDING: "dim",
}


def when(microseconds: int | None) -> str:
    """A time for people: local, to the second."""
    if microseconds is None:
        return ""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def lasted(started: int | None, ended: int | None) -> str:
    """A duration for people."""
    if started is None or ended is None:
        return ""
    seconds = (ended - started) / 1e6
    return f"{seconds:.2f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def size_text(size: int) -> str:
    """A file size for people."""
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        size_f = size / 1000 ** (("kB", "MB", "GB").index(unit) + 1)
        if size_f < 1000:
            return f"{size_f:.1f} {unit}"
    return f"{size / 1e12:.1f} TB"


def plan_text(console: Console, plan: Plan) -> None:
    """The plan: what runs at which level, what waits for what, and the longest line."""
    console.print(line((plan.name, "bold"), (f"  {len(plan.steps)} steps in {len(plan.levels)} levels", "dim")))
    table = Table.grid(padding=(0, 2))
    level = -1
    for step in plan.steps:
        label = f"level {step.level}" if step.level != level else ""
        level = step.level
        marks = [
            "one per item" if step.mapped else "",
            f"if {step.condition}" if step.condition else "",
            "waits for approval" if step.approval else "",
            f"{step.retry.attempts} tries" if step.retry.attempts > 1 else "",
            f"at most {step.timeout:g} s" if step.timeout else "",
            f"workflow {step.target}" if step.kind == "workflow" else "",
            f"on {step.server}" if step.server else "",
        ]
        after = f"after {', '.join(step.depends_on)}" if step.depends_on else ""
        table.add_row(
            words(label, "dim"),
            words(step.id),
            words(after, "dim"),
            words(", ".join(m for m in marks if m)),
        )
    console.print(table)
    path = critical_path(plan)
    if len(path) > 1:
        longest = " → ".join(path if len(path) <= 8 else (*path[:4], "…", *path[-3:]))
        console.print(words(f"longest line: {longest}", "dim"))
    console.print()


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "name": plan.name,
        "description": plan.description,
        "inputs": [{"name": i.name, "type": i.type, "required": i.required, "default": i.default} for i in plan.inputs],
        "levels": [list(level) for level in plan.levels],
        "critical_path": list(critical_path(plan)),
        "steps": [
            {
                "id": step.id,
                "kind": step.kind,
                "target": step.target,
                "level": step.level,
                "depends_on": list(step.depends_on),
                "condition": step.condition,
                "mapped": step.mapped,
                "requires_approval": step.approval is not None,
            }
            for step in plan.steps
        ],
    }


def run_summary(console: Console, run: Run, approvals: list[Any], store: str | None) -> None:
    """How a run ended, what failed, what waits, and what to do about it."""
    at = f" --store {store}" if store else ""
    counts: dict[str, int] = {}
    for step in run.steps:
        counts[step.status or "not reached"] = counts.get(step.status or "not reached", 0) + 1
    said = ", ".join(f"{n} {word}" for word, n in counts.items())
    console.print(
        line(
            (f"{run.status}", f"bold {CHAIN_STYLE[run.status]}"),
            f"  {run.plan.name}  ",
            (run.id, "dim"),
            f"  {said}",
        )
    )
    if run.status in (ChainStatus.FAILED, ChainStatus.PARTIAL):
        for step in run.steps:
            if step.error is not None:
                console.print(block(f"  ✗ {step.id}: {step.error.message} [{step.error.code}]", "red"))
        console.print(words(f"  details: towpath show {run.id}{at}; again: towpath rerun {run.id}{at}", "dim"))
    if run.status is ChainStatus.PAUSED:
        for approval in approvals:
            item = "" if approval["item_index"] is None else f"[{approval['item_index']}]"
            console.print(words(f"  ✋ {approval['step_id']}{item} waits for an approval: {approval['id']}", "yellow"))
        if not approvals:
            console.print(words(f"  paused ({run.reason}); go on with: towpath resume {run.id}{at}", "dim"))
        else:
            console.print(
                words(f"  towpath approve {approvals[0]['id']}{at}  (or reject, or edit a file first)", "dim")
            )
            console.print(words(f"  then: towpath resume {run.id}{at}", "dim"))


def run_json(run: Run) -> dict[str, Any]:
    """A run as plain data."""
    return {
        "id": run.id,
        "chain": run.plan.name,
        "status": run.status,
        "reason": run.reason or None,
        "error": {"code": run.error.code, "message": run.error.message} if run.error else None,
        "steps": [step_json(step) for step in run.steps],
    }


def step_json(step: StepRun, *, with_items: bool = True) -> dict[str, Any]:
    """A step of a run as plain data; artifacts by name, version and digest."""
    data: dict[str, Any] = {"id": step.id, "status": step.status, "attempt": step.attempt}
    if step.item is not None:
        data["item"] = step.item
    if step.server is not None:
        data.update(server=step.server, prompt_id=step.prompt_id)
    if step.error is not None:
        error = step.error
        data["error"] = {"code": error.code, "message": error.message, "traceback": error.traceback or None}
        if error.failed_items:
            data["error"]["failed_items"] = list(error.failed_items)
    items = step.items
    if items and with_items:
        data["items"] = [step_json(item) for item in items]
    elif not items:
        data["artifacts"] = [artifact_json(a.row) for a in step.artifacts]
        if step.status is not None and step.status.done:
            data["value"] = _value_json(step.value)
    return data


def artifact_json(row: Any) -> dict[str, Any]:
    """An artifact as plain data."""
    names = ("id", "name", "version", "filename", "media_type", "size", "digest")
    return {name: getattr(row, name) for name in names}


def _value_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _value_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_value_json(inner) for inner in value]
    return {"artifact": value.id, "filename": value.filename} if hasattr(value, "digest") else value


async def artifact_table(console: Console, run: Run, store: str) -> None:
    """The files of a run and where copies of them lie, made on demand; of long fan-outs the first few."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("step", "file", "type", "size", "where"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    folder: Path | None = None
    for step in run.steps:
        files = [(one, artifact) for one in step.items or [step] for artifact in one.artifacts]
        shown = files if len(files) <= LONG_LIST else files[:FEW]
        for one, artifact in shown:
            name = step.id if one.item is None else f"{step.id}[{one.item}]"
            path = await artifact.path()
            folder = folder or next(parent for parent in path.parents if parent.name == run.id)
            where = str(path.relative_to(folder))
            table.add_row(*map(words, (name, artifact.filename, artifact.media_type, size_text(artifact.size), where)))
        if len(shown) < len(files):
            table.add_row(words(step.id), words(f"… and {len(files) - len(shown)} more", "dim"))
    console.print(table)
    if folder is not None:
        console.print(line("in ", (_near(folder), "bold")))
        console.print(words(f"all of them under their own names: towpath get last -o FOLDER --store {store}", "dim"))


def _near(path: Path) -> str:
    """A path as short as it can be typed from here."""
    short = os.path.relpath(path)
    return short if not short.startswith("../..") else str(path)


def steps_table(console: Console, run: Run, rows: dict[str, Any]) -> None:
    """The steps of a run, one line each."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "step", "status", "tries", "time", "files", "what"):
        table.add_column(column, justify="right" if column in ("tries", "time", "files") else "left")
    for step in run.steps:
        row = rows.get(step.id, {})
        sign, style = SIGNS[step.status] if step.status else ("○", "dim")
        what = step.error.message if step.error else row.get("error_message") or ""
        items = step.items
        status = str(step.status or "not reached")
        if items:
            done = sum(1 for item in items if item.status is not None and item.status.done)
            status += f" {done}/{len(items)}"
        table.add_row(
            Text(sign, style=style),
            words(step.id),
            status,
            str(step.attempt or ""),
            lasted(row.get("started_at"), row.get("completed_at")),
            str(len(step.artifacts) or ""),
            block(what, "red" if step.status is StepStatus.FAILED else "dim"),
        )
    console.print(table)


async def value_text(console: Console, step: StepRun) -> None:
    """What a step returned, if it did."""
    try:
        console.print(line(("value  ", "dim"), repr(_value_json(step.value))[:2000]))
    except TowpathError:
        return
