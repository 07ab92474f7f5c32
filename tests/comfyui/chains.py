"""Chains over two stand-ins: the servers, workflow files and chains made of plain data, and what must come of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anyio

from tests.comfyui.graphs import Graph
from tests.comfyui.running import ComfyServer
from tests.comfyui.server.checking import CONVERT
from tests.comfyui.server.contents import without_metadata
from tests.comfyui.server.nodes import NODES, render, render_movie
from tests.conformance.chain_steps import PATIENCE
from towpath import Artifact, Engine, Run, step
from towpath.chain_file import ChainFile, load_chain_from_dict

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = Path(__file__).parent / "workflows"
QUICK = {"unreachable": 1.0, "silent": 4.0, "busy": 4.0, "lost": 0.5}
"""Seconds under [comfyui] for tests in which servers are in trouble."""

Row = dict[str, Any]


# ---- servers


def table(server: ComfyServer, name: str, **more: Any) -> dict[str, Any]:
    """The server as an entry of `[[servers]]`."""
    return {"name": name, "url": server.url, **more}


def prompts(server: ComfyServer) -> list[Row]:
    """The prompts that were sent to a server, in order: the bodies of POST /prompt."""
    return [line["body"] for line in server.log("/prompt", "POST") if line["body"] is not None]


def uploads(server: ComfyServer) -> list[Row]:
    """The uploads that it took."""
    return [line for line in server.log("/upload/image", "POST") if line["status"] == 200]


def views(server: ComfyServer) -> list[Row]:
    """The files that were fetched from it."""
    return server.log("/view", "GET")


# ---- engines and chains


def write(workflows: Path, **graphs: Graph) -> None:
    """Save workflow files."""
    for name, graph in graphs.items():
        (workflows / f"{name}.json").write_text(json.dumps(graph))


def made_of(*steps: dict[str, Any], name: str = "made", **more: Any) -> ChainFile:
    """A chain of plain data."""
    return load_chain_from_dict({"name": name, "steps": list(steps), **more})


@step
async def told(value: Any) -> Any:
    """Hand a value on."""
    return value


@step
async def sized(photo: Artifact) -> int:
    """Read a file and count its bytes."""
    return len(await photo.read_bytes())


@step
async def breathes(seconds: float) -> None:
    """Take its time."""
    await anyio.sleep(seconds)


BREATHES = "tests.comfyui.chains:breathes"
TOLD = "tests.comfyui.chains:told"
SIZED = "tests.comfyui.chains:sized"


# ---- what is recorded


async def events(engine: Engine, run: Run | str) -> list[Row]:
    """The audit trail of a run, in order."""
    return list(await engine.store.events(run if isinstance(run, str) else run.id))


async def transfers(engine: Engine, run: Run | str) -> list[Row]:
    """The transfers to the steps of a run, oldest first."""
    run_id = run if isinstance(run, str) else run.id
    rows = {row["id"] for row in await engine.get_workflows_by_chain(run_id)}
    found = await engine.list_transfers(limit=10_000)
    return [dict(transfer) for transfer in found if transfer["target_workflow_id"] in rows]


async def row_of(engine: Engine, run: Run | str, step_id: str) -> Any:
    """The row of a step."""
    return await engine.get_workflow_by_step(run if isinstance(run, str) else run.id, step_id)


async def until(check: Callable[[], Any], within: float = PATIENCE) -> None:
    """Wait until `check()` is true."""
    with anyio.fail_after(within):
        while True:
            result = check()
            if await result if hasattr(result, "__await__") else result:
                return
            await anyio.sleep(0.02)


# ---- what must come of a workflow


def pixels(data: bytes) -> bytes:
    """A picture without the text that SaveImage puts into it."""
    return without_metadata(data)


def predicted(graph: Graph, files: Callable[[str], bytes]) -> dict[str, bytes]:
    """What the saving nodes of a sent graph make: the bytes by node, pictures without text.

    `files` gives the content of a file in the server's input folder.
    """

    @cache
    def value(node_id: str) -> bytes | str:
        node = graph[node_id]
        kind, inputs = node["class_type"], node["inputs"]
        slots = NODES[kind].slots()
        literal = {
            name: CONVERT[slots[name].type](given) if name in slots and slots[name].type in CONVERT else given
            for name, given in inputs.items()
            if not isinstance(given, list)
        }
        sources = [value(given[0]) for given in inputs.values() if isinstance(given, list)]
        if kind in ("SaveImage", "SaveVideo", "Sleep"):
            return sources[0]
        if kind == "LoadImage":
            return pixels(files(literal["image"]))
        if kind == "VHS_LoadVideo":
            return render(kind, {k: v for k, v in literal.items() if k != "video"}, [files(literal["video"])])
        if kind == "TextPrompt":
            return f"conditioning of {literal.get('text') or literal.get('prompt') or ''}"
        if kind == "CreateVideo":
            return render_movie("mp4", kind, literal, sources)
        return render(kind, literal, sources)

    found: dict[str, bytes] = {}
    for node_id, node in graph.items():
        if node["class_type"].startswith("Save"):
            made = value(node_id)
            assert isinstance(made, bytes)
            found[node_id] = made
    return found


async def came_home(engine: Engine, run: Run, *servers: ComfyServer) -> None:
    """Every file of every workflow step is what its graph makes of its inputs, and has its right name and row."""
    for each in run.steps:
        row = await row_of(engine, run, each.id)
        if row["prompt_id"] is None:
            continue
        places = [s for s in servers if any(p["prompt_id"] == row["prompt_id"] for p in prompts(s))]
        assert len(places) == 1, f"the prompt of {each.id} is at {len(places)} servers"
        folder = places[0].folder / "input"
        sent = next(p["prompt"] for p in prompts(places[0]) if p["prompt_id"] == row["prompt_id"])
        expected = predicted(sent, lambda name, folder=folder: (folder / name).read_bytes())  # type: ignore[misc]
        found = {a.name.partition(".")[0]: pixels(await a.read_bytes()) for a in each.artifacts}
        assert found == expected, each.id
        kept = await engine.get_artifacts_by_workflow(row.id)
        assert {a.node_id for a in kept} == expected.keys(), each.id
