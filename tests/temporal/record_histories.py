# ruff: noqa: ASYNC240 - a script without other tasks
"""Records Temporal histories of chains of every shape: `python -m tests.temporal.record_histories [FOLDER]`.

Run it once per release, after workflow code has changed. Keep the files of earlier releases: their runs may still wait
for a person. `test_histories.py` replays every file with the code of today.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
from temporalio.client import Client

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import began
from tests.temporal import cheap_steps as cheap
from tests.temporal.dev_server import DevServer
from towpath import Engine, Run, chain, open_engine

HISTORIES = Path(__file__).with_name("histories")
SUGGESTED = 60  # events after which the server wants a workflow to continue as new
CHILDREN = 6  # of each run; the workflows of all steps are alike


@chain
def line():
    return steps.echo(steps.double(steps.number(1)))


@chain
def diamond():
    top = steps.number(1)
    return steps.add(steps.double(top).named("left"), steps.double(top).named("right"))


@chain
def mapped():
    return steps.total(steps.double.map(steps.up_to(4)))


@chain
def gated():
    return steps.read_text(steps.draft("x")), steps.number(1)


@chain
def retried(folder: str):
    return steps.echo(steps.third_time(folder))


@chain
def failing():
    bad = steps.boom()
    return steps.echo(bad), steps.number(5).named("instead").when("boom.status == 'failed'").after(bad)


@chain
def cancelled(folder: str):
    return steps.echo(steps.hold(folder, "held")), steps.number(1)


@chain
def inside(n: int):
    return steps.echo(n)


@chain
def nested():
    return inside(n=steps.number(3))


@chain
def long():
    at = steps.number(0)
    for _ in range(16):
        at = steps.add(at, 1)
    return at


@chain
def auto():
    at = cheap.plus(1)
    for _ in range(4):
        at = cheap.plus(at)
    return cheap.total(cheap.plus.map(steps.up_to(3))), steps.double(at)


async def _gated(engine: Engine, folder: str) -> Run:
    run = await engine.run(gated, run_id="gated")
    (gate,) = await engine.approvals(run.id)
    await engine.approve(gate, by="anna")
    return await engine.resume(run.id, check=False)


async def _cancelled(engine: Engine, folder: str) -> Run:
    handle = await engine.start(cancelled, run_id="cancelled", folder=folder)
    await began(folder, "held", within=60)
    await handle.cancel()
    return await handle.result(check=False)


async def _paused(engine: Engine, folder: str) -> Run:
    handle = await engine.start(cancelled, run_id="paused", folder=folder)
    await began(folder, "held", within=60)
    await handle.pause()
    steps.let_go(folder, "held")
    await handle.result(check=False)
    return await engine.resume(handle.id, check=False)


def _plain(made: Any, **inputs: str) -> Callable[[Engine, str], Awaitable[Run]]:
    async def run(engine: Engine, folder: str) -> Run:
        given = {"folder": folder} if "folder" in inputs else {}
        return await engine.run(made, run_id=made.plan.name, inputs=given, check=False)

    return run


SHAPES: dict[str, tuple[Callable[[Engine, str], Awaitable[Run]], str]] = {
    "line": (_plain(line), "completed"),
    "diamond": (_plain(diamond), "completed"),
    "mapped": (_plain(mapped), "completed"),
    "gated": (_gated, "completed"),
    "retried": (_plain(retried, folder=""), "completed"),
    "failing": (_plain(failing), "partial"),
    "cancelled": (_cancelled, "cancelled"),
    "paused": (_paused, "completed"),
    "nested": (_plain(nested), "completed"),
    "long": (_plain(long), "completed"),
    "auto": (_plain(auto), "completed"),
}


async def record(folder: Path) -> None:
    """Run every shape and keep the histories of its workflows."""
    with tempfile.TemporaryDirectory() as scratch:
        server = DevServer(
            Path(scratch, "server.log"), settings=(f"limit.historyCount.suggestContinueAsNew={SUGGESTED}",)
        )
        await anyio.to_thread.run_sync(server.start)
        try:
            # A fixed identity: else histories contain process ids and host names.
            client = await Client.connect(server.target, identity="recorder")
            for shape, (play, status) in SHAPES.items():
                place = Path(scratch, shape)
                place.mkdir()
                how = "&granularity=auto" if shape == "auto" else ""
                adapter = f"temporal://{server.target}/default?task_queue={shape}{how}"
                async with open_engine(
                    f"sqlite:///{place}/towpath.db", adapter=adapter, temporal=client, worker=True
                ) as engine:
                    run = await play(engine, str(place))
                assert run.status == status, (shape, run.status, run.error)
                kept = [await _history(client, *found) for found in await _workflows(client, shape)]
                assert kept, shape
                text = "[\n" + ",\n".join(json.dumps(history, separators=(",", ":")) for history in kept) + "\n]\n"
                assert os.uname().nodename not in text, "a history names this host"
                assert scratch not in text, "a history names a folder"
                folder.mkdir(exist_ok=True)
                (folder / f"{version('towpath')}-{shape}.json").write_text(text)
                print(f"{shape}: {len(kept)} workflows, {len(text) // 1000} kB")
        finally:
            server.stop()


async def _workflows(client: Client, queue: str) -> list[tuple[str, str]]:
    """The workflows of a shape (id, run id): all chains, some steps."""
    await anyio.sleep(1.5)  # visibility follows
    found: dict[str, list[tuple[str, str]]] = {"Chain": [], "Step": []}
    async for each in client.list_workflows(f"TaskQueue = '{queue}'"):
        found[each.workflow_type].append((each.id, each.run_id))
    return sorted(found["Chain"]) + sorted(found["Step"])[:CHILDREN]


async def _history(client: Client, workflow_id: str, run_id: str) -> dict[str, Any]:
    history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    return {"id": workflow_id, "history": _without_traces(history.to_json_dict())}


def _without_traces(data: Any) -> Any:
    """Tracebacks contain folder names, and a replay does not read them."""
    if isinstance(data, dict):
        return {key: _without_traces(value) for key, value in data.items() if key != "stackTrace"}
    return [_without_traces(each) for each in data] if isinstance(data, list) else data


if __name__ == "__main__":
    anyio.run(record, Path(sys.argv[1]) if len(sys.argv) > 1 else HISTORIES)
