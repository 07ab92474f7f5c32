"""Verbs for approvals: approvals, approve, reject, edit."""

from __future__ import annotations

import getpass
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from towpath.adapters.wiring import Engine, open_engine
from towpath.adapters.wording import at_store, lasted, place, size_text
from towpath.artifact import File
from towpath.errors import ApprovalRefused, InputInvalid, RunRefused, TowpathError
from towpath.input_types import json_or_text

from . import print_problems
from .options import FEW, find_ids, find_run, is_last, json_option, parse_inputs, run_async, store_option
from .screen import Row, id_words, is_narrow, print_json, print_list, say, short_id, terminal, words
from .tables import when

_BY = click.option("--by", default=None, metavar="NAME", help="Who decides. Default: your user name.")
_REASON = click.option("--reason", default="", metavar="TEXT", help="Why; recorded with the decision.")


def _decider(by: str | None) -> str:
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise click.UsageError("your user has no name on this system: give --by NAME") from None


@click.command("approvals")
@click.argument("run", required=False)
@store_option
@json_option
def approvals_verb(run: str | None, store: str | None, as_json: bool) -> int:
    """List approvals that wait for a decision, oldest first: all, or those of RUN."""
    return run_async(_approvals, run, store, as_json)


async def _approvals(run: str | None, store: str | None, as_json: bool) -> int:
    async with open_engine(store, readonly=True) as engine:
        waiting = await engine.approvals(await find_run(engine, run) if run else None)
    if as_json:
        print_json(waiting)
        return 0
    console = terminal()
    if not waiting:
        console.print("no approval waits for a decision")
        return 0
    _print_gates(console, waiting)
    at = at_store(store)
    console.print(words(f"towpath approve APPROVAL{at}; towpath reject APPROVAL{at} --reason …", "dim"))
    console.print(words(f"towpath edit ARTIFACT FILE{at} replaces a file first", "dim"))
    return 0


def _print_gates(console: Console, waiting: Sequence[Mapping[str, Any]]) -> None:
    now = int(time.time() * 1e6)
    rows: list[Row] = []
    limited = any(gate["expires_at"] for gate in waiting)
    for gate in waiting:
        files = [f"{a['name']} v{a['version']} {a['filename']} {size_text(a['size'])}" for a in gate["artifacts"]]
        cells = (
            id_words(gate["id"], console),
            id_words(gate["run"], console, "dim"),
            words(place(gate["step"], gate["item"])),
            words(f"{lasted(gate['requested_at'], now)} ago"),
            words(when(gate["expires_at"], short=is_narrow(console))),
        )
        rows.append((cells if limited else cells[:-1], words(", ".join(files))))
    columns = ("approval", "run", "step", "asked", *(["waits until"] if limited else []))
    print_list(console, columns, rows, cut=("step",))


async def find_approval(engine: Engine, text: str) -> Mapping[str, Any]:
    """The waiting gate with this id; the beginning or end of the id is enough if it is unique. Or the only one that
    waits in the run that `text` names, as `last` does.

    Raises ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_AMBIGUOUS. RunRefused: E_RUN_MISSING, E_RUN_AMBIGUOUS.
    """
    ids = await find_ids(engine, "approvals", text, "E_APPROVAL_AMBIGUOUS", ApprovalRefused)
    if not ids:
        return await _only_one_of_run(engine, text)
    gate = await engine.get_approval(ids[0])
    waiting = await engine.approvals(gate["chain_id"]) if gate is not None else []
    found = [one for one in waiting if one["id"] in ids]
    return found[0] if found else {"id": ids[0], "artifacts": []}  # decided already


async def _only_one_of_run(engine: Engine, text: str) -> Mapping[str, Any]:
    try:
        run = await find_run(engine, text)
    except RunRefused as refused:
        if refused.code != "E_RUN_MISSING" or is_last(text):
            raise
        return {"id": text, "artifacts": []}  # unknown
    waiting = sorted(await engine.approvals(run), key=lambda gate: (gate["step"] or "", gate["item"] or 0))
    if len(waiting) == 1:
        return waiting[0]
    if not waiting:
        cure = "`towpath approvals` lists what waits for a decision"
        raise ApprovalRefused("E_APPROVAL_MISSING", f"nothing waits for a decision in run {run}", cure=cure)
    console = terminal()
    named = [f"{short_id(gate['id'], console)} ({place(gate['step'], gate['item'])})" for gate in waiting[:FEW]]
    more = f" and {len(waiting) - FEW} more" if len(waiting) > FEW else ""
    raise ApprovalRefused(
        "E_APPROVAL_AMBIGUOUS",
        f"{len(waiting)} approvals wait in run {short_id(run, console)}",
        allowed=", ".join(named) + more,
        cure="name each one that you mean by its id",
    )


_APPROVALS = click.argument("approvals", metavar="APPROVAL...", nargs=-1, required=True)
_Decide = Callable[[Engine, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


async def _decide(texts: Sequence[str], decide: _Decide, word: str, store: str | None, as_json: bool) -> int:
    """Decide each gate, in the versions that it has now. Of several ones, each that fails is said, and ends with 1."""
    answers: list[Any] = []
    runs: dict[str, None] = {}
    code = 0
    async with open_engine(store) as engine:
        for text, found in (await _found(engine, texts)).items():
            try:
                gate = _or_raise(found)
                answers.append(await decide(engine, gate))
            except (ApprovalRefused, RunRefused, InputInvalid) as error:
                if len(texts) == 1:
                    raise
                code = 1
                answers.append({"id": text, "errors": [problem.as_json() for problem in error.problems]})
                if not as_json:
                    say(f"{text}:", err=True)
                    print_problems(error.problems)
                continue
            if not as_json:
                _print_decision(gate, word)
            runs |= {gate["run"]: None} if "run" in gate else {}
    if as_json:
        print_json(answers if len(texts) > 1 else answers[0])
        return code
    for run in runs:
        named = f"{short_id(run, terminal())}{at_store(store)}"
        say(f"  if no process works on the run, continue it with: towpath resume {named}")
    return code


async def _found(engine: Engine, texts: Sequence[str]) -> dict[str, Mapping[str, Any] | TowpathError]:
    """What each text means, each gate once; all at the same time, before the first one is decided."""
    found: dict[str, Mapping[str, Any] | TowpathError] = {}
    seen: set[str] = set()
    for text in texts:
        try:
            gate = await find_approval(engine, text)
        except (ApprovalRefused, RunRefused) as error:
            found[text] = error
            continue
        if gate["id"] not in seen:
            seen.add(gate["id"])
            found[text] = gate
    return found


def _or_raise(found: Mapping[str, Any] | TowpathError) -> Mapping[str, Any]:
    if isinstance(found, TowpathError):
        raise found
    return found


@click.command("approve")
@_APPROVALS
@click.option("--seen", metavar="ARTIFACT", multiple=True, help="A version you saw; refused if a newer one exists.")
@_BY
@_REASON
@store_option
@json_option
def approve_verb(
    approvals: tuple[str, ...], seen: tuple[str, ...], by: str | None, reason: str, store: str | None, as_json: bool
) -> int:
    """Approve the files at each APPROVAL, in their current versions.

    APPROVAL is an id, a part of one, or a run with one open approval, such as `last`. Of several approvals each is
    decided by itself; the exit code is 1 if one of them could not be.
    """
    if seen and len(approvals) > 1:
        raise click.UsageError("--seen says what was seen at one approval; give only that one")
    who = _decider(by)

    async def decide(engine: Engine, gate: Mapping[str, Any]) -> Mapping[str, Any]:
        return await engine.approve(gate["id"], by=who, seen=list(seen) or _versions(gate), reason=reason)

    return run_async(_decide, approvals, decide, f"approved by {who}", store, as_json)


def _versions(gate: Mapping[str, Any]) -> list[str]:
    return [artifact["id"] for artifact in gate["artifacts"]]


@click.command("reject")
@_APPROVALS
@click.option(
    "--action",
    type=click.Choice(["stop", "skip", "regenerate"]),
    help="What the rejection does. Default: as the chain says.",
)
@click.option("--set", "changes", metavar="NAME=VALUE", multiple=True, help="A new argument for `regenerate`.")
@_BY
@_REASON
@store_option
@json_option
def reject_verb(
    approvals: tuple[str, ...],
    action: str | None,
    changes: tuple[str, ...],
    by: str | None,
    reason: str,
    store: str | None,
    as_json: bool,
) -> int:
    """Reject the files at each APPROVAL: an id, a part of one, or a run with one open approval, such as `last`."""
    parameters = {name: json_or_text(text) for name, text in parse_inputs(changes).items()} or None
    who = _decider(by)

    async def decide(engine: Engine, gate: Mapping[str, Any]) -> Mapping[str, Any]:
        return await engine.reject(gate["id"], by=who, reason=reason, action=action, parameters=parameters)

    return run_async(_decide, approvals, decide, f"rejected by {who}", store, as_json)


@click.command("edit")
@click.argument("artifact")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--approve", is_flag=True, help="Also approve the gate, with this version.")
@_BY
@_REASON
@store_option
@json_option
def edit_verb(
    artifact: str, file: Path, approve: bool, by: str | None, reason: str, store: str | None, as_json: bool
) -> int:
    """Make the bytes of FILE the new version of ARTIFACT (an id, or a part of one)."""
    return run_async(_edit, artifact, file, approve, _decider(by), reason, store, as_json)


async def _edit(
    artifact: str, file: Path, approve: bool, by: str, reason: str, store: str | None, as_json: bool
) -> int:
    async with open_engine(store) as engine:
        found = await find_artifact(engine, artifact)
        new = await engine.edit(found, File(file, filename=file.name), by=by, reason=reason, approve=approve)
    if as_json:
        print_json(new)
    else:
        also = ", approved" if approve else ""
        named = short_id(new["id"], terminal())
        say(f"{new['name']} v{new['version']} is {file.name}, {size_text(new['file_size'])}{also}: {named}")
    return 0


async def find_artifact(engine: Engine, text: str) -> str:
    """The id of an artifact; the beginning or end of it is enough if it is unique.

    Raises InputInvalid: E_ARTIFACT_MISSING, E_ARTIFACT_AMBIGUOUS.
    """
    ids = await find_ids(engine, "artifacts", text, "E_ARTIFACT_AMBIGUOUS", InputInvalid)
    if not ids:
        raise InputInvalid("E_ARTIFACT_MISSING", f"there is no artifact {text}", cure="`towpath artifacts` lists them")
    return ids[0]


def _print_decision(gate: Mapping[str, Any], word: str) -> None:
    where = place(gate["step"], gate["item"]) if "step" in gate else gate["id"]
    names = ", ".join(f"{a['name']} v{a['version']}" for a in gate["artifacts"])
    say(f"{word}: {where}" + (f" ({names})" if names else ""))
