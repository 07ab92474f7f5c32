"""Engines over servers with waits and limits of a test's own, which `towpath.toml` does not reach.

`python -m tests.comfyui.farms` runs one chain in a process of its own and prints what became of it and of its memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.conftest import check as check_store
from tests.comfyui.graphs import Graph
from towpath import Engine, Run
from towpath.adapters.comfyui.configuration import servers_of
from towpath.adapters.comfyui.connection import Timeouts
from towpath.adapters.comfyui.downloads import Limits
from towpath.adapters.comfyui.farm import comfy_farm
from towpath.adapters.comfyui.workflow_run import Rules
from towpath.adapters.local import local_adapter
from towpath.adapters.step_executor import Resources
from towpath.adapters.task_group import background_tasks
from towpath.chain_file import ChainFile, load_chain_from_dict
from towpath.store.runs import open_store

BRIEF = Timeouts(connect=2.0, read=0.5, reply=2.0, unreachable=1.0, silent=1.5, busy=5.0, broken=1.0, lost=0.5)
"""Short waits for servers that will not get well."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of a test's store and workflows. After the test the store is checked from top to bottom."""
    yield tmp_path
    if (tmp_path / "towpath.db").exists():
        check_store(tmp_path / "towpath.db")


@asynccontextmanager
async def farming(
    folder: Path,
    servers: Sequence[str | Mapping[str, Any]],
    *,
    timeouts: Timeouts = BRIEF,
    limits: Limits | None = None,
) -> AsyncIterator[Engine]:
    """The engine of `open_engine`, with its store and its workflow files in `folder`."""
    rules = Rules(limits=limits or Limits())
    async with (
        open_store(folder / "towpath.db", durability="normal") as store,
        comfy_farm(store, servers_of(servers), folder / "workflows", rules=rules, timeouts=timeouts) as farm,
        local_adapter(Resources(store, farm)) as local,
        background_tasks() as tasks,
    ):
        yield Engine(store, local, tasks)


def chain_of(folder: Path, graph: Graph, *, attempts: int = 1, name: str = "one") -> ChainFile:
    """A chain of one step, `picture`, that runs a workflow."""
    (folder / "workflows").mkdir(exist_ok=True)
    (folder / "workflows" / f"{name}.json").write_text(json.dumps(graph))
    step = {"id": "picture", "workflow": name, "retry": {"attempts": attempts, "delay": 0.05}}
    return load_chain_from_dict({"name": name, "steps": [step]})


async def until(check: Callable[[], bool], within: float = 20.0) -> None:
    """Wait until it is so."""
    with anyio.fail_after(within):
        while not check():  # noqa: ASYNC110 - what is waited for happens in another process
            await anyio.sleep(0.02)


def code(run: Run) -> str:
    """Why the step failed; "" if it did not."""
    error = run["picture"].error
    return "" if error is None else error.code


def kept(folder: Path) -> list[str]:
    """Everything that the store holds of files: rows, blobs, and what was being written."""
    with closing(sqlite3.connect(folder / "towpath.db")) as database:
        found = [f"row {name}" for (name,) in database.execute("SELECT name FROM artifacts")]
        found += [f"inline {digest}" for (digest,) in database.execute("SELECT sha256 FROM blobs")]
    places = [path for path in folder.glob("*-store/**/*") if path.is_file()]
    return found + [f"file {path.name}" for path in places if path.parent.name != "prompts"]


def execution_log(folder: Path) -> list[dict[str, Any]]:
    """All lines of all execution logs, in order."""
    files = sorted(folder.glob("*-store/prompts/*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def sockets(folder: Path) -> list[str]:
    """How the connections of websockets ended, as the execution logs tell it."""
    return [word for line in execution_log(folder) for word in line.get("sockets", [])]


# ---- a process of its own


def memory(word: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most so far. Elsewhere than on Linux both are the most so far."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(word))


async def _one_run(folder: Path, url: str, limits: Limits) -> dict[str, Any]:
    chain = load_chain_from_dict({"name": "one", "steps": [{"id": "picture", "workflow": "one"}]})
    async with farming(folder, [url], limits=limits, timeouts=Timeouts()) as engine:
        await engine.list_artifacts()  # so that everything a run needs is in memory
        before, began = memory("VmRSS"), time.monotonic()
        run = await engine.run(chain, check=False)
        took, grown = time.monotonic() - began, memory("VmHWM") - before
        files = [[a.size, a.digest] for a in run["picture"].artifacts]
    return {"code": code(run), "files": files, "grown": grown, "seconds": took}


def main() -> None:
    """Run the workflow `one` of a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("--max-file", type=int, default=Limits().size)
    chosen = parser.parse_args()
    print(json.dumps(anyio.run(_one_run, chosen.folder, chosen.url, Limits(chosen.max_file))))


if __name__ == "__main__":
    main()
