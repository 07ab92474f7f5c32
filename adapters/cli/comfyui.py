"""Verbs for ComfyUI: servers, workflows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from towpath.adapters.settings import settle
from towpath.adapters.wiring import open_pool
from towpath.errors import InputInvalid

from .options import json_option, run_async
from .screen import Row, block, line, print_json, print_list, say, terminal, words

if TYPE_CHECKING:
    from towpath.adapters.comfyui.pool import Member
    from towpath.adapters.comfyui.workflow_files import Workflow

NO_SERVER = 4


@click.command("servers")
@click.option("--server", "given", metavar="URL", multiple=True, help="Ask this server, not those of towpath.toml.")
@json_option
def servers_verb(given: tuple[str, ...], as_json: bool) -> int:
    """List the ComfyUI servers of towpath.toml and their state. Exit code 4 if none answers."""
    return run_async(_servers, given, as_json)


async def _servers(given: tuple[str, ...], as_json: bool) -> int:
    settings = settle(servers=list(given) or None)
    if not settings.servers:
        if as_json:
            print_json([])
        else:
            say("no servers: add [[servers]] with name and url to towpath.toml")
        return NO_SERVER
    async with open_pool(settings) as pool:
        await pool.check_health()
        members = pool.members
        if as_json:
            print_json([_server_json(member) for member in members])
        else:
            _server_table(terminal(), members)
        return 0 if any(not member.trouble for member in members) else NO_SERVER


def _server_json(member: Member) -> dict[str, Any]:
    server, health = member.server, member.health if not member.trouble else None
    return {
        "name": server.name,
        "url": server.url,
        "tags": sorted(server.tags),
        "slots": server.slots,
        "up": not member.trouble,
        "trouble": member.trouble or None,
        "version": health.version if health else None,
        "queue": health.queue if health else None,
        "devices": list(health.devices) if health else [],
        "vram_free": health.vram_free if health else None,
        "vram_total": health.vram_total if health else None,
    }


def _server_table(console: Console, members: Sequence[Member]) -> None:
    columns = ("server", "state", "version", "queue", "slots", "memory free", "tags", "address")
    rows: list[Row] = []
    for member in members:
        shown = _server_json(member)
        free, total = shown["vram_free"], shown["vram_total"]
        cells = (
            words(shown["name"]),
            Text("up", style="green") if shown["up"] else Text("down", style="red"),
            words(shown["version"] or ""),
            words("" if shown["queue"] is None else shown["queue"]),
            words(shown["slots"]),
            words(f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB" if free is not None and total else ""),
            words(", ".join(shown["tags"])),
            words(shown["url"], "dim"),
        )
        rows.append((cells, block(member.trouble, "red")))
    cut = ("version", "tags", "address", "server")
    print_list(console, columns, rows, right=("queue", "slots", "memory free"), cut=cut, note_lines=3)


@click.command("workflows")
@click.argument("name", required=False)
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where the files are.")
@click.option("--write-overrides", is_flag=True, help="Write NAME_overrides.json, which limits what chains may set.")
@json_option
def workflows_verb(name: str | None, folder: Path | None, write_overrides: bool, as_json: bool) -> int:
    """List the ComfyUI workflow files of a folder, or the parameters of workflow NAME."""
    place = folder or settle().workflows
    found = _found(place, name)
    if write_overrides:
        _write(place, found)
        found = _found(place, name)
    workflows = [w for w in found if not isinstance(w, InputInvalid)]
    if as_json:
        print_json(
            {
                "workflows": [_workflow_json(w) for w in workflows],
                "errors": [e.problem.as_json() for e in found if isinstance(e, InputInvalid)],
            }
        )
    elif name is not None:
        for workflow in workflows:
            _parameter_table(terminal(), workflow)
    else:
        _workflow_table(terminal(), place, workflows)
    from . import print_problems  # noqa: PLC0415 - the package imports this module

    broken = [e.problem for e in found if isinstance(e, InputInvalid)]
    if not as_json:
        print_problems(broken)
    return 2 if broken else 0


def _found(folder: Path, name: str | None) -> list[Workflow | InputInvalid]:
    from towpath.adapters.comfyui.workflow_files import discover, read_workflow  # noqa: PLC0415

    if name is not None:
        return [read_workflow(folder / f"{name.removesuffix('.json')}.json", name.removesuffix(".json"))]
    return discover(folder)


def _write(folder: Path, found: list[Workflow | InputInvalid]) -> None:
    from towpath.adapters.comfyui.workflow_files import write_overrides  # noqa: PLC0415

    for workflow in found:
        if not isinstance(workflow, InputInvalid):
            written = write_overrides(folder / f"{workflow.name}.json")
            say(f"wrote {written}" if written else f"{workflow.name}: nothing changed", err=True)


def _workflow_json(workflow: Workflow) -> dict[str, Any]:
    return {
        "name": workflow.name,
        "nodes": len(workflow.graph),
        "stale": workflow.stale,
        "parameters": [
            {"key": p.key, "type": p.type, "default": p.default, "node": p.node_title, "category": p.category}
            for p in workflow.parameters.values()
        ],
    }


def _workflow_table(console: Console, folder: Path, workflows: list[Workflow]) -> None:
    if not workflows:
        console.print(words(f"no workflow files in {folder}: save them from ComfyUI with Export (API)"))
        return
    rows: list[Row] = []
    for workflow in workflows:
        cells = words(workflow.name), words(len(workflow.graph)), words(len(workflow.parameters))
        note = "the override file belongs to another version" if workflow.stale else ""
        rows.append((cells, words(note, "yellow")))
    print_list(console, ("workflow", "nodes", "parameters"), rows, right=("nodes", "parameters"), cut=("workflow",))


def _parameter_table(console: Console, workflow: Workflow) -> None:
    console.print(line((workflow.name, "bold"), (f"  {len(workflow.graph)} nodes", "dim")))
    rows: list[Row] = []
    ordered = sorted(workflow.parameters.values(), key=lambda p: p.category)
    for category, group in groupby(ordered, key=lambda p: p.category):
        for index, p in enumerate(group):
            now = str(p.default)
            cells = (
                words(category if index == 0 else "", "dim"),
                words(p.key),
                words(p.type),
                words(now if len(now) <= 40 else f"{now[:39]}…", "dim"),
                words(p.node_title),
            )
            rows.append((cells, Text()))
    print_list(console, ("category", "parameter", "type", "value", "node"), rows, cut=("value", "node", "parameter"))
