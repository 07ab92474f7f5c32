"""Verbs for people at a gate: approvals, approve, reject, edit."""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from towpath.adapters.wiring import Engine
from towpath.artifact import File
from towpath.errors import ApprovalRefused, InputInvalid
from towpath.input_types import json_or_text

from .options import engine_of, find_ids, find_run, json_option, parse_inputs, run_async, store_option
from .outlet import shown
from .screen import block, print_json, say, terminal, words
from .tables import lasted, size_text, when

_BY = click.option("--by", default=None, metavar="NAME", help="Who decides. Default: your user name.")
_REASON = click.option("--reason", default="", metavar="TEXT", help="Why; kept with the decision.")


def _who(by: str | None) -> str:
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise click.UsageError("this user has no name: give --by NAME") from None


@click.command("approvals")
@click.argument("run", required=False)
@store_option
@json_option
def approvals_verb(run: str | None, store: str | None, as_json: bool) -> int:
    """List what waits for a person, oldest first: everywhere, or in RUN."""
    return run_async(_approvals, run, store, as_json)


async def _approvals(run: str | None, store: str | None, as_json: bool) -> int:
    async with engine_of(store, readonly=True) as engine:
        waiting = await engine.approvals(await find_run(engine, run) if run else None)
    if as_json:
        print_json(waiting)
        return 0
    console = terminal()
    if not waiting:
        console.print("nothing waits for a person")
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("approval", "run", "step", "waits for", "until", "what to look at"):
        table.add_column(column, overflow="fold")
    now = int(time.time() * 1e6)
    for gate in waiting:
        files = [f"{a['name']} v{a['version']}  {a['filename']}  {size_text(a['size'])}" for a in gate["artifacts"]]
        table.add_row(
            words(gate["id"]),
            words(gate["run"], "dim"),
            words(_place(gate)),
            lasted(gate["requested_at"], now) or "",
            when(gate["expires_at"]) if gate["expires_at"] else "",
            block("\n".join(map(shown, files))),
        )
    console.print(table)
    console.print(
        "towpath approve APPROVAL; towpath reject APPROVAL --reason …; towpath edit ARTIFACT FILE", style="dim"
    )
    return 0


def _place(gate: Mapping[str, Any]) -> str:
    return str(gate["step"]) if gate["item"] is None else f"{gate['step']}[{gate['item']}]"


async def find_approval(engine: Engine, text: str) -> Mapping[str, Any]:
    """A waiting gate from its id, or from a part of it that is enough.

    Raises ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_AMBIGUOUS.
    """
    ids = await find_ids(engine, "approvals", text, "E_APPROVAL_AMBIGUOUS", ApprovalRefused)
    gate = await engine.get_approval(ids[0]) if ids else None
    waiting = await engine.approvals(gate["chain_id"]) if gate is not None else []
    found = [one for one in waiting if one["id"] in ids]
    return found[0] if found else {"id": ids[0] if ids else text, "artifacts": []}  # decided, or not there


@click.command("approve")
@click.argument("approval")
@click.option(
    "--seen", metavar="ARTIFACT", multiple=True, help="The versions you saw; refused if others are there now."
)
@_BY
@_REASON
@store_option
@json_option
def approve_verb(
    approval: str, seen: tuple[str, ...], by: str | None, reason: str, store: str | None, as_json: bool
) -> int:
    """Approve what waits at APPROVAL (an id, or part of one): the versions that are there now."""
    return run_async(_approve, approval, seen, _who(by), reason, store, as_json)


async def _approve(approval: str, seen: tuple[str, ...], by: str, reason: str, store: str | None, as_json: bool) -> int:
    async with engine_of(store) as engine:
        gate = await find_approval(engine, approval)
        decided = await engine.approve(gate["id"], by=by, seen=list(seen) or _versions(gate), reason=reason)
    _tell(gate, decided, "approved", by, as_json)
    return 0


def _versions(gate: Mapping[str, Any]) -> list[str]:
    return [artifact["id"] for artifact in gate["artifacts"]]


@click.command("reject")
@click.argument("approval")
@click.option(
    "--action",
    type=click.Choice(["stop", "skip", "regenerate"]),
    help="What the rejection does. Default: what the chain says.",
)
@click.option("--set", "changes", metavar="NAME=VALUE", multiple=True, help="Another argument for a regeneration.")
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
    """Reject what waits at APPROVAL (an id, or part of one)."""
    return run_async(_reject, approval, action, parse_inputs(changes), _who(by), reason, store, as_json)


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
    async with engine_of(store) as engine:
        gate = await find_approval(engine, approval)
        decided = await engine.reject(gate["id"], by=by, reason=reason, action=action, parameters=parameters)
    _tell(gate, decided, "rejected", by, as_json)
    return 0


@click.command("edit")
@click.argument("artifact")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--approve", is_flag=True, help="Approve the gate with this version, in the same moment.")
@_BY
@_REASON
@store_option
@json_option
def edit_verb(
    artifact: str, file: Path, approve: bool, by: str | None, reason: str, store: str | None, as_json: bool
) -> int:
    """Replace ARTIFACT (an id, or part of one) by a new version: the bytes of FILE."""
    return run_async(_edit, artifact, file, approve, _who(by), reason, store, as_json)


async def _edit(
    artifact: str, file: Path, approve: bool, by: str, reason: str, store: str | None, as_json: bool
) -> int:
    async with engine_of(store) as engine:
        found = await find_artifact(engine, artifact)
        new = await engine.edit(found, File(file, filename=file.name), by=by, reason=reason, approve=approve)
    if as_json:
        print_json(new)
    else:
        also = ", approved" if approve else ""
        say(f"{new['name']} v{new['version']} is {file.name}, {size_text(new['file_size'])}{also}: {new['id']}")
    return 0


async def find_artifact(engine: Engine, text: str) -> str:
    """An artifact's id from the id or a part of it that is enough.

    Raises InputInvalid: E_ARTIFACT_MISSING, E_ARTIFACT_AMBIGUOUS.
    """
    ids = await find_ids(engine, "artifacts", text, "E_ARTIFACT_AMBIGUOUS", InputInvalid)
    if not ids:
        raise InputInvalid("E_ARTIFACT_MISSING", f"there is no artifact {text}", cure="`towpath artifacts`")
    return ids[0]


def _tell(gate: Mapping[str, Any], decided: Any, word: str, by: str, as_json: bool) -> None:
    if as_json:
        print_json(decided)
        return
    place = _place(gate) if "step" in gate else gate["id"]
    names = ", ".join(f"{a['name']} v{a['version']}" for a in gate["artifacts"])
    say(f"{word} by {by}: {place}" + (f" ({names})" if names else ""))
    if "run" in gate:
        say(f"  the run goes on where it is worked on, else with: towpath resume {gate['run']}")
