"""Verbs for approvals: approvals, approve, reject, edit."""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from towpath.adapters.wiring import Engine, open_engine
from towpath.adapters.wording import lasted, place, size_text
from towpath.artifact import File
from towpath.errors import ApprovalRefused, InputInvalid
from towpath.input_types import json_or_text

from .options import find_ids, find_run, json_option, parse_inputs, run_async, store_option
from .screen import Row, id_words, is_narrow, print_json, print_list, say, terminal, words
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
    console.print("towpath approve APPROVAL; towpath reject APPROVAL --reason …", style="dim")
    console.print("towpath edit ARTIFACT FILE replaces a file first", style="dim")
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
    """The waiting gate with this id; the beginning or end of the id is enough if it is unique.

    Raises ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_AMBIGUOUS.
    """
    ids = await find_ids(engine, "approvals", text, "E_APPROVAL_AMBIGUOUS", ApprovalRefused)
    gate = await engine.get_approval(ids[0]) if ids else None
    waiting = await engine.approvals(gate["chain_id"]) if gate is not None else []
    found = [one for one in waiting if one["id"] in ids]
    return found[0] if found else {"id": ids[0] if ids else text, "artifacts": []}  # decided already, or unknown


@click.command("approve")
@click.argument("approval")
@click.option("--seen", metavar="ARTIFACT", multiple=True, help="A version you saw; refused if a newer one exists.")
@_BY
@_REASON
@store_option
@json_option
def approve_verb(
    approval: str, seen: tuple[str, ...], by: str | None, reason: str, store: str | None, as_json: bool
) -> int:
    """Approve the files at APPROVAL (an id, or a part of one), in their current versions."""
    return run_async(_approve, approval, seen, _decider(by), reason, store, as_json)


async def _approve(approval: str, seen: tuple[str, ...], by: str, reason: str, store: str | None, as_json: bool) -> int:
    async with open_engine(store) as engine:
        gate = await find_approval(engine, approval)
        decided = await engine.approve(gate["id"], by=by, seen=list(seen) or _versions(gate), reason=reason)
    _print_decision(gate, decided, "approved", by, as_json, store)
    return 0


def _versions(gate: Mapping[str, Any]) -> list[str]:
    return [artifact["id"] for artifact in gate["artifacts"]]


@click.command("reject")
@click.argument("approval")
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
    approval: str,
    action: str | None,
    changes: tuple[str, ...],
    by: str | None,
    reason: str,
    store: str | None,
    as_json: bool,
) -> int:
    """Reject the files at APPROVAL (an id, or a part of one)."""
    return run_async(_reject, approval, action, parse_inputs(changes), _decider(by), reason, store, as_json)


async def _reject(
    approval: str,
    action: str | None,
    changes: dict[str, str],
    by: str,
    reason: str,
    store: str | None,
    as_json: bool,
) -> int:
    parameters = {name: json_or_text(text) for name, text in changes.items()} or None
    async with open_engine(store) as engine:
        gate = await find_approval(engine, approval)
        decided = await engine.reject(gate["id"], by=by, reason=reason, action=action, parameters=parameters)
    _print_decision(gate, decided, "rejected", by, as_json, store)
    return 0


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
        say(f"{new['name']} v{new['version']} is {file.name}, {size_text(new['file_size'])}{also}: {new['id']}")
    return 0


async def find_artifact(engine: Engine, text: str) -> str:
    """The id of an artifact; the beginning or end of it is enough if it is unique.

    Raises InputInvalid: E_ARTIFACT_MISSING, E_ARTIFACT_AMBIGUOUS.
    """
    ids = await find_ids(engine, "artifacts", text, "E_ARTIFACT_AMBIGUOUS", InputInvalid)
    if not ids:
        raise InputInvalid("E_ARTIFACT_MISSING", f"there is no artifact {text}", cure="`towpath artifacts` lists them")
    return ids[0]


def _print_decision(
    gate: Mapping[str, Any], decided: Any, word: str, by: str, as_json: bool, store: str | None
) -> None:
    if as_json:
        print_json(decided)
        return
    where = place(gate["step"], gate["item"]) if "step" in gate else gate["id"]
    names = ", ".join(f"{a['name']} v{a['version']}" for a in gate["artifacts"])
    say(f"{word} by {by}: {where}" + (f" ({names})" if names else ""))
    if "run" in gate:
        at = f" --store {store}" if store else ""
        say(f"  if no process works on the run, continue it with: towpath resume {gate['run']}{at}")
