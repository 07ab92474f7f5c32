"""Runs, plans and artifacts, printed for people and as JSON for programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from towpath.adapters.step_times import Work
from towpath.adapters.wording import at_store, duration, place, size_text
from towpath.errors import TowpathError
from towpath.graph import critical_path
from towpath.model import ChainStatus, Plan, StepStatus
from towpath.run import Run, StepRun

from .screen import SIGNS, Row, block, is_narrow, line, print_list, short_id, words

LONG_LIST = 24  # a step with more files than this shows the first FEW
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


def when(microseconds: int | None, *, short: bool = False) -> str:
    """A time in microseconds since 1970 as local time, to the second; `short`: to the minute, without this year."""
    if microseconds is None:
        return ""
    at = datetime.fromtimestamp(microseconds / 1e6, UTC).astimezone()
    if not short:
        return at.strftime("%Y-%m-%d %H:%M:%S")
    return at.strftime("%m-%d %H:%M" if at.year == datetime.now().astimezone().year else "%Y-%m-%d")


def print_plan(console: Console, plan: Plan) -> None:
    """Print the steps of a plan by level, with what each waits for, and the critical path."""
    console.print(line((plan.name, "bold"), (f"  {len(plan.steps)} steps in {len(plan.levels)} levels", "dim")))
    rows: list[Row] = []
    level = -1
    for step in plan.steps:
        label = f"level {step.level + 1}" if step.level != level else ""
        level = step.level
        marks = [
            f"after {', '.join(step.depends_on)}" if step.depends_on else "",
            "one per item" if step.mapped else "",
            f"if {step.condition}" if step.condition else "",
            "waits for approval" if step.approval else "",
            f"{step.retry.attempts} attempts" if step.retry.attempts > 1 else "",
            f"at most {step.timeout:g} s" if step.timeout else "",
            f"workflow {step.target}" if step.kind == "workflow" else "",
            f"on {step.server}" if step.server else "",
        ]
        rows.append(((words(label, "dim"), words(step.id)), words(", ".join(m for m in marks if m), "dim")))
    print_list(console, (), rows, cut=(1,), note_lines=3)
    path = critical_path(plan)
    if len(path) > 1:
        longest = " → ".join(path if len(path) <= 8 else (*path[:4], "…", *path[-3:]))
        console.print(words(f"critical path: {longest}", "dim"))
    console.print()


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON data."""
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


def print_summary(console: Console, run: Run, approvals: list[Any], store: str | None) -> None:
    """Print how a run ended, its failures, its open approvals, and the next command."""
    at = at_store(store)
    named = short_id(run.id, console)
    counts: dict[str, int] = {}
    for step in run.steps:
        counts[_standing(step)] = counts.get(_standing(step), 0) + 1
    steps = ", ".join(f"{n} {word}" for word, n in counts.items())
    state = (f"{run.status}", f"bold {CHAIN_STYLE[run.status]}")
    console.print(line(state, f"  {run.plan.name}  ", (named, "dim"), f"  {steps}"))
    if run.status in (ChainStatus.FAILED, ChainStatus.PARTIAL):
        for step in run.steps:
            if step.error is not None:
                console.print(block(f"  ✗ {step.id}: {step.error.message} [{step.error.code}]", "red"))
        console.print(words(f"  details: towpath show {named}{at}; again: towpath rerun {named}{at}", "dim"))
    if run.status is ChainStatus.PAUSED:
        _print_waiting(console, run, approvals, named, at)


def _print_waiting(console: Console, run: Run, approvals: list[Any], named: str, at: str) -> None:
    ordered = sorted(approvals, key=lambda gate: (gate["step_id"], gate["item_index"] or 0))
    for gate in ordered if len(ordered) <= LONG_LIST else ordered[:FEW]:
        where = place(gate["step_id"], gate["item_index"])
        console.print(words(f"  ✋ {where} waits for an approval: {short_id(gate['id'], console)}", "yellow"))
    if len(ordered) > LONG_LIST:
        console.print(words(f"  … and {len(ordered) - FEW} more: towpath approvals {named}{at}", "yellow"))
    if ordered:
        first = short_id(ordered[0]["id"], console)
        console.print(words(f"  towpath approve {first}{at}  (or reject, or edit a file first)", "dim"))
        console.print(words(f"  then: towpath resume {named}{at}", "dim"))
    else:
        console.print(words(f"  paused ({run.reason}); continue with: towpath resume {named}{at}", "dim"))


def _standing(step: StepRun) -> str:
    """The status of a step in words. A mapped step of which items are open is what these items are."""
    open_items = [item.status for item in step.items if item.status is None or not item.status.final]
    if step.status is StepStatus.EXECUTING and open_items and StepStatus.EXECUTING not in open_items:
        waits = StepStatus.WAITING_APPROVAL in open_items
        return str(StepStatus.WAITING_APPROVAL if waits else StepStatus.QUEUED)
    return str(step.status or "not reached")


def run_json(run: Run) -> dict[str, Any]:
    """A run as JSON data."""
    return {
        "id": run.id,
        "name": run.name,
        "tags": run.tags,
        "chain": run.plan.name,
        "status": run.status,
        "reason": run.reason or None,
        "error": {"code": run.error.code, "message": run.error.message} if run.error else None,
        "steps": [step_json(step) for step in run.steps],
    }


def step_json(step: StepRun, *, with_items: bool = True) -> dict[str, Any]:
    """A step of a run as JSON data; its artifacts by name, version and digest."""
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
    """An artifact as JSON data."""
    names = ("id", "name", "version", "filename", "media_type", "size", "digest")
    return {name: getattr(row, name) for name in names}


def _value_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _value_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_value_json(inner) for inner in value]
    return {"artifact": value.id, "filename": value.filename} if hasattr(value, "digest") else value


async def print_artifacts(console: Console, run: Run, store: str) -> None:
    """Print the files of a run and the paths of their copies, which are made now; of a long fan-out the first few."""
    narrow = is_narrow(console)  # then the type is left out: the name of the file says it too
    columns = ("step", "file", *([] if narrow else ["type"]), "size", "where")
    rows: list[Row] = []
    folder: Path | None = None
    for step in run.steps:
        files = [(one, artifact) for one in step.items or [step] for artifact in one.artifacts]
        some = files if len(files) <= LONG_LIST else files[:FEW]
        for one, artifact in some:
            path = await artifact.path()
            folder = folder or next(parent for parent in path.parents if parent.name == run.id)
            kind = [] if narrow else [artifact.media_type]
            where = path.relative_to(folder)
            cells = (place(step.id, one.item), artifact.filename, *kind, size_text(artifact.size), where)
            rows.append((tuple(map(words, cells)), Text()))
        if len(some) < len(files):
            blank = [Text()] * (len(columns) - 2)
            rows.append(((words(step.id), words(f"… and {len(files) - len(some)} more", "dim"), *blank), Text()))
    print_list(console, columns, rows, right=("size",), cut=("where", "file", "step"))
    if folder is not None:
        console.print(line("in ", (_near(folder), "bold")))
        console.print(words(f"copy all of them: towpath get last -o FOLDER{at_store(store)}", "dim"))


def _near(path: Path) -> str:
    """A path relative to the current folder, if that is shorter."""
    short = os.path.relpath(path)
    return short if not short.startswith("../..") else str(path)


def print_steps(console: Console, run: Run, rows: Mapping[str, Any], works: Mapping[str, Work]) -> None:
    """Print the steps of a run, one line each, and its error or reason. `works` says how long each has worked."""
    columns = ("", "step", "status", "attempts", "time", "files")
    listed: list[Row] = []
    for step in run.steps:
        row = rows.get(step.id, {})
        standing = _standing(step)
        sign, style = SIGNS[StepStatus(standing)] if step.status else ("○", "dim")
        note = step.error.message if step.error else row.get("error_message") or ""
        items = step.items
        done = sum(1 for item in items if item.status is not None and item.status.done)
        cells = (
            Text(sign, style=style),
            words(step.id),
            words(standing + (f" {done}/{len(items)}" if items else "")),
            words(step.attempt or ""),
            words(worked(works.get(step.id))),
            words(len(step.artifacts) or ""),
        )
        listed.append((cells, block(note, "red" if step.status is StepStatus.FAILED else "dim")))
    print_list(console, columns, listed, right=("attempts", "time", "files"), cut=("step",), note_lines=5)


def worked(work: Work | None) -> str:
    """How long a step worked; empty while it works."""
    return "" if work is None or work.since is not None else duration(work.done / 1e6)


async def print_value(console: Console, step: StepRun) -> None:
    """Print the value of a step, if the step completed."""
    try:
        console.print(line(("value  ", "dim"), repr(_value_json(step.value))[:2000]))
    except TowpathError:
        return
