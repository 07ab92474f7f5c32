"""Verbs that show what the store holds: ls, show, logs, artifacts, get."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import click
import msgspec
from rich.console import Console
from rich.text import Text

from towpath.adapters.moments import since, until
from towpath.adapters.step_times import Gates, Key, gates_of, waited, work_of, works_of_steps
from towpath.adapters.wiring import Engine, open_engine
from towpath.adapters.wording import at_store, duration, label_text, lasted, place, size_text
from towpath.artifact import Artifact
from towpath.errors import InputInvalid
from towpath.json_form import MAX_VALUE
from towpath.media import safe_filename
from towpath.model import ArtifactRow, ChainStatus, StepStatus
from towpath.run import Run, StepRun
from towpath.run_labels import tag_asked
from towpath.values import without_marks

from .options import find_run, json_option, not_empty, run_async, store_option
from .screen import Row, block, id_words, is_narrow, line, print_json, print_list, say, short_id, terminal, words
from .tables import CHAIN_STYLE, artifact_json, print_steps, print_value, run_json, step_json, when, worked

_LISTED = (
    "id name run_name tags status status_reason current_level started_at completed_at error_code error_message".split()
)


@click.command("ls")
@click.option(
    "--status", type=click.Choice([str(s) for s in ChainStatus]), multiple=True, help="Only this status. Repeatable."
)
@click.option("--name", help="Only runs with this in their name.", callback=not_empty("the name of the run"))
@click.option("--chain", help="Only runs of this chain.", callback=not_empty("the name of the chain"))
@click.option("--tag", "tags", metavar="KEY[=VALUE]", multiple=True, help="Only runs with this tag. Repeatable.")
@click.option("--since", metavar="WHEN", help="Only runs started since: 12h, 2d, 2026-11-01, 2026-11-01T08:30.")
@click.option("--until", metavar="WHEN", help="Only runs started until then; a day is included.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many runs.")
@click.option("--inner", is_flag=True, help="Also runs that are inside a step of another run.")
@store_option
@json_option
def ls_verb(status: tuple[str, ...], limit: int, inner: bool, store: str | None, as_json: bool, **asked: Any) -> int:
    """List runs, newest first."""
    filters = {
        "run_name": asked["name"],
        "chain": asked["chain"],
        "tags": dict(map(tag_asked, asked["tags"])),
        "since": None if asked["since"] is None else since(asked["since"]),
        "until": None if asked["until"] is None else until(asked["until"]),
    }
    return run_async(_ls, status, limit, inner, store, as_json, filters)


async def _ls(
    status: tuple[str, ...], limit: int, inner: bool, store: str | None, as_json: bool, filters: dict[str, Any]
) -> int:
    async with open_engine(store, readonly=True) as engine:
        rows = await engine.list_chains(limit, 0, status, inner=None if inner else False, **filters)
    if as_json:
        print_json([{name: row[name] for name in _LISTED} for row in rows])
        return 0
    console = terminal()
    if not rows:
        asked = status or any(value not in (None, {}) for value in filters.values())
        matches = "no run matches" if asked else ""
        console.print(matches or "no runs yet; start one with: towpath run FILE")
        return 0
    labelled = any(row["run_name"] or row["tags"] for row in rows)
    columns = ("run", *(["name"] if labelled else []), "chain", "status", "started", "took")
    cut = ("chain", *(["name"] if labelled else []))
    print_list(console, columns, [_listed(row, console, labelled) for row in rows], cut=cut)
    return 0


def _listed(row: Any, console: Console, labelled: bool) -> Row:
    status = ChainStatus(row["status"])
    cells = (
        id_words(row["id"], console),
        *([words(label_text(row["run_name"], row["tags"]))] if labelled else []),
        words(row["name"]),
        Text(status, style=CHAIN_STYLE[status]),
        words(when(row["started_at"], short=is_narrow(console))),
        words(lasted(row["started_at"], row["completed_at"])),
    )
    return cells, words(row["error_message"] or row["status_reason"] or "")


@click.command("show")
@click.argument("run")
@click.argument("step", required=False)
@click.option("-v", "verbose", is_flag=True, help="Also print tracebacks of failed steps.")
@store_option
@json_option
def show_verb(run: str, step: str | None, verbose: bool, store: str | None, as_json: bool) -> int:
    """Show RUN (an id, a part of one, or `last`), or one STEP of it.

    STEP is the id of a step (`resize`), or an item of it (`resize[2]`).
    """
    return run_async(_show, run, step, verbose, store, as_json)


async def _show(run: str, step: str | None, verbose: bool, store: str | None, as_json: bool) -> int:
    async with open_engine(store, readonly=True) as engine, engine.store.one_moment():
        found = await engine.snapshot(await find_run(engine, run))
        one = pick_step(found, step) if step else None
        if as_json:
            print_json(step_json(one) if one else run_json(found))
        elif one is not None:
            await _show_step(terminal(), engine, found, one)
            await _show_gates(terminal(), engine, found, one, store)
        else:
            await _show_run(terminal(), engine, found, verbose)
    return 0


def pick_step(run: Run, text: str) -> StepRun:
    """The step of a run that `step` or `step[2]` names. Raises InputInvalid (E_STEP_UNKNOWN)."""
    name, bracket, rest = text.partition("[")
    try:
        found = run[name]
        if bracket:
            return found.items[int(rest.rstrip("]"))]
    except (KeyError, ValueError, IndexError) as error:
        why = error.args[0] if isinstance(error, KeyError) else f"step {name} has no item {rest.rstrip(']')}"
        raise InputInvalid("E_STEP_UNKNOWN", str(why), found=text) from None
    return found


async def _show_run(console: Console, engine: Engine, run: Run, verbose: bool) -> None:
    chain = await engine.get_chain(run.id)
    assert chain is not None, "its snapshot was read"
    state = (str(run.status), f"bold {CHAIN_STYLE[run.status]}")
    console.print(line((run.plan.name, "bold"), "  ", state, f"  {run.reason}"))
    took = lasted(chain["started_at"], chain["completed_at"]) or "–"
    console.print(words(f"run {run.id}", "dim"))
    console.print(words(f"started {when(chain['started_at'])}, took {took}", "dim"))
    if run.name or run.tags:
        console.print(words(label_text(run.name, run.tags)))
    if run.error is not None and not any(step.error for step in run.steps):  # else it is one of theirs
        console.print(block(f"{run.error.message} [{run.error.code}]", "red"))
    rows, gates = await _rows_and_gates(engine, run)
    whole = {step: row for (step, item), row in rows.items() if item is None}
    print_steps(console, run, whole, works_of_steps(run.plan, rows.values(), gates))
    if verbose:
        for step in run.steps:
            for one in (step, *step.items):
                _show_traceback(console, one)


async def _rows_and_gates(engine: Engine, run: Run) -> tuple[Mapping[Key, Mapping[str, Any]], Gates]:
    """The rows of a run by step and item, and its gates by row."""
    found = await engine.get_workflows_by_chain(run.id)
    rows: dict[Key, Mapping[str, Any]] = {(row["step_id"] or "", row["item_index"]): row for row in found}
    gates: list[Mapping[str, Any]] = []
    if any(step.approval is not None for step in run.plan.steps):
        while more := await engine.list_approvals(None, run.id, 10_000, len(gates)):
            gates += more
    return rows, gates_of(gates)


async def _show_step(console: Console, engine: Engine, run: Run, step: StepRun) -> None:
    heading = (place(step.id, step.item), "bold"), f"  {step.status or 'not reached'}  "
    rows, gates = await _rows_and_gates(engine, run)
    row = rows.get((step.id, step.item))
    about = [f"attempts: {step.attempt}", *(_times(row, gates.get(row["id"], ())) if row is not None else ())]
    console.print(line(*heading, (", ".join(about), "dim")))
    if step.server is not None:
        console.print(words(f"server {step.server}, prompt {step.prompt_id}", "dim"))
    if step.error is not None:
        console.print(block(f"{step.error.message} [{step.error.code}]", "red"))
    _show_traceback(console, step)
    if not step.items:
        await print_value(console, step)
    for a in step.artifacts:
        console.print(words(f"file   {a.name} v{a.version}  {a.filename}  {size_text(a.size)}  {a.digest[:12]}"))
    for log in await engine.store.logs(run.id):
        if log["step_id"] == step.id and log["item_index"] == step.item:
            console.print(words(f"log of attempt {log['attempt']}", "dim"))
            console.print(block(log["text"].rstrip("\n")))


def _times(row: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How long a step that asked people worked, and waited for them."""
    took = worked(work_of([(row, gates)]))
    if gates and took:
        yield f"took {took}"
    if gates:
        yield f"waited {duration(waited(row, gates, int(time.time() * 1e6)) / 1e6)} for a decision"


async def _show_gates(console: Console, engine: Engine, run: Run, step: StepRun, store: str | None) -> None:
    """What waits for a decision, and how to decide. A value that waits is not the step's value yet."""
    waiting = await engine.approvals(run.id) if step.status is StepStatus.WAITING_APPROVAL else []
    for gate in waiting:
        if gate["step_id"] != step.id or step.item not in (None, gate["item_index"]):
            continue
        for file in await engine.store.latest_artifacts(gate["workflow_id"]):
            if file.name == "value" and file.size <= MAX_VALUE:
                await _show_waiting_value(console, engine, file)
        where = place(gate["step_id"], gate["item_index"])
        approve = f"towpath approve {short_id(gate['id'], console)}{at_store(store)}"
        console.print(words(f"✋ {where} waits for an approval: {approve}  (or reject)", "yellow"))


async def _show_waiting_value(console: Console, engine: Engine, file: ArtifactRow) -> None:
    try:
        value = msgspec.json.decode(await engine.store.files.read_bytes(file))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # somebody's file that is called value, or an edit that is no JSON
    console.print(line(("value  ", "dim"), repr(without_marks(value))[:2000]))


def _show_traceback(console: Console, step: StepRun) -> None:
    if step.error is not None and step.error.traceback:
        console.print(block(step.error.traceback.rstrip("\n"), "dim"))


@click.command("logs")
@click.argument("run")
@click.argument("step", required=False)
@click.option("-f", "--follow", is_flag=True, help="Continue with new lines until the run has ended or paused.")
@store_option
@json_option
def logs_verb(run: str, step: str | None, follow: bool, store: str | None, as_json: bool) -> int:
    """Show what the steps of RUN logged and printed, and their warnings.

    STEP is the id of a step (`resize`), or an item of it (`resize[2]`).
    """
    return run_async(_logs, run, step, follow, store, as_json)


async def _logs(run: str, step: str | None, follow: bool, store: str | None, as_json: bool) -> int:
    async with open_engine(store, readonly=True) as engine:
        run_id = await find_run(engine, run)
        if step is not None:
            pick_step(await engine.snapshot(run_id), step)
        if as_json:
            logs = await engine.store.logs(run_id)
            print_json([log for log in logs if _is_of(log, step)])
            return 0
        printed: dict[tuple[str, int], str] = {}
        since = 0
        while True:
            status = (await engine.store.load(run_id)).status
            whole = not follow or status.final or status is ChainStatus.PAUSED
            for log in await engine.store.logs(run_id, 0 if whole else since):
                since = max(since, log["updated_at"] - _LATE)
                if _is_of(log, step):
                    _print_new(log, printed, whole)
            if whole:
                if not printed:
                    say("no lines: no step has logged or printed anything", err=True)
                return 0
            await anyio.sleep(0.5)


_LATE = 5_000_000  # microseconds: so much later may a text be committed than another one with the same time


def _is_of(log: Mapping[str, Any], step: str | None) -> bool:
    return step in (None, log["step_id"], _place(log))


def _place(log: Mapping[str, Any]) -> str:
    return place(log["step_id"], log["item_index"])


def _print_new(log: Mapping[str, Any], printed: dict[tuple[str, int], str], whole: bool) -> None:
    """Print the lines of a log that are new since the last call. A line without its end only if nothing follows."""
    key = (_place(log), log["attempt"])
    text: str = log["text"]
    end = len(text) if whole else text.rfind("\n") + 1
    lines = text[_known(text, printed.get(key, "")) : end].rstrip("\n")
    for logged in lines.split("\n") if lines else ():
        say(f"{key[0]} {logged}")
    printed[key] = text[:end]


def _known(text: str, before: str) -> int:
    """Up to where `text` was printed `before`. Of a long log the oldest lines are dropped as it grows."""
    if text.startswith(before):
        return len(before)
    last = before[-_COMPARED:]
    return text.rfind(last) + len(last) if last in text else 0


_COMPARED = 4096  # characters at the end of what was printed


@click.command("artifacts")
@click.argument("run", required=False)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many files.")
@click.option("--all-versions", is_flag=True, help="Also versions that were replaced.")
@store_option
@json_option
def artifacts_verb(run: str | None, limit: int, all_versions: bool, store: str | None, as_json: bool) -> int:
    """List the newest files in the store, or all files of RUN."""
    return run_async(_artifacts, run, limit, all_versions, store, as_json)


async def _artifacts(run: str | None, limit: int, all_versions: bool, store: str | None, as_json: bool) -> int:
    async with open_engine(store, readonly=True) as engine:
        chain = await find_run(engine, run) if run else None
        latest = None if all_versions else True
        rows = await engine.list_artifacts(limit, 0, None, None, latest, chain)
        while chain and (more := await engine.list_artifacts(1_000, len(rows), None, None, latest, chain)):
            rows += more
        steps = {row["id"]: row for row in await engine.get_workflows_by_chain(chain)} if chain else {}
    if as_json:
        print_json(rows)
        return 0
    _print_artifacts(terminal(), rows, steps)
    return 0


def _print_artifacts(console: Console, rows: Sequence[Any], steps: Mapping[str, Any]) -> None:
    """The type is told by the name of the file, too; and files of one run were made about the same time."""
    narrow = is_narrow(console)
    columns = ["artifact", *(["step"] if steps else []), "output", "file", *([] if narrow else ["type"]), "size"]
    columns += [] if narrow and steps else ["made"]
    listed: list[Row] = []
    for row in rows:
        made_by = steps.get(row["workflow_id"])
        cells = {
            "artifact": id_words(row["id"], console),
            "step": words("" if made_by is None else _place(made_by)),
            "output": words(f"{row['name']} v{row['version']}"),
            "file": words(row["filename"]),
            "type": words(row["media_type"]),
            "size": words(size_text(row["file_size"])),
            "made": words(when(row["created_at"], short=narrow)),
        }
        listed.append(([cells[name] for name in columns], Text()))
    print_list(console, columns, listed, right=("size",), cut=("file", *(["step"] if steps else [])))


@click.command("get")
@click.argument("run")
@click.argument("step", required=False)
@click.option("-o", "--output", "folder", required=True, type=click.Path(file_okay=False), help="Folder to copy to.")
@store_option
@json_option
def get_verb(run: str, step: str | None, folder: str, store: str | None, as_json: bool) -> int:
    """Copy the files of RUN, or of one STEP of it, into a folder.

    Each file becomes `<step>/<file name>`, or `<step>/<item>/<file name>`.
    """
    return run_async(_get, run, step, Path(folder), store, as_json)


async def _get(run: str, step: str | None, folder: Path, store: str | None, as_json: bool) -> int:
    written: list[dict[str, Any]] = []
    async with open_engine(store, readonly=True) as engine:
        found = await engine.snapshot(await find_run(engine, run))
        for one in [pick_step(found, step)] if step else found.steps:
            for part in one.items or [one]:
                for artifact, target in _targets(folder, part):
                    await engine.store.files.write_to(artifact.row, target)
                    written.append({**artifact_json(artifact.row), "path": str(target)})
    if as_json:
        print_json(written)
        return 0
    for file in written:
        say(f"{file['path']}  {size_text(file['size'])}")
    if not written:
        say("no files", err=True)
    return 0


def _targets(folder: Path, step: StepRun) -> list[tuple[Artifact, Path]]:
    """The path of each file of a step. Files with the same name get the name of their output in front."""
    below = folder / step.id if step.item is None else folder / step.id / str(step.item)
    names = [artifact.filename for artifact in step.artifacts]
    return [
        (a, below / safe_filename(a.filename if names.count(a.filename) == 1 else f"{a.name}-{a.filename}"))
        for a in step.artifacts
    ]
