"""What tests of the activities do over and over: run a graph, record a workflow, look at what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.comfyui.graphs import Graph, node
from tests.comfyui.running import ComfyServer
from towpath.adapters.activities import (
    create_workflow_record,
    download_and_store_artifacts,
    execute_and_track_workflow,
    get_server_output_files,
)
from towpath.store import Record, RunStore, list_transfers


def large(size: int, **more: Any) -> Graph:
    """One file of that size: node 1."""
    return {"1": node("SaveBytes", **{"size": size, "seed": 1, "extension": "mp4", **more})}


async def outputs(server: ComfyServer, graph: Graph) -> list[dict[str, Any]]:
    """The entries of what a graph makes on a server."""
    done = await execute_and_track_workflow(server.url, graph)
    assert done["status"] == "completed", done
    return await get_server_output_files(server.url, done)


async def stored(store: RunStore, server: ComfyServer, graph: Graph) -> tuple[str, list[dict[str, Any]]]:
    """A workflow whose outputs are in the store."""
    workflow = await create_workflow_record("made", store=store)
    return workflow, await download_and_store_artifacts(workflow, server.url, await outputs(server, graph), store=store)


async def transfers(store: RunStore) -> list[Record]:
    async with store.session() as session:
        return await list_transfers(session)


def received(server: ComfyServer, name: str) -> bytes:
    """The file that a server has in its input folder under the name that it gave."""
    return (server.folder / "input" / name).read_bytes()


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def bytes_of(path: str | Path) -> bytes:
    return Path(path).read_bytes()
