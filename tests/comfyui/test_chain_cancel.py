"""Cancelling chains of workflow steps: prompts go away by their id, and nobody else's is touched."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.comfyui.chain_fixtures import *  # noqa: F403
from tests.comfyui.chain_fixtures import Farming
from tests.comfyui.chains import ROOT, made_of, prompts, row_of, table, transfers, until, write
from tests.comfyui.graphs import inverted, painted, slow
from tests.comfyui.running import ComfyServer
from tests.comfyui.talking import Client
from tests.conformance.adapter import CANCELLED, DONE, FAILED, settled
from towpath import ChainStatus

pytestmark = pytest.mark.anyio

LONG = {"id": "long", "workflow": "long"}


@pytest.fixture(autouse=True)
def graphs(workflows: Path) -> None:
    write(workflows, long=slow(30.0), painted=painted(), inverted=inverted("none.png"))


def at(server: ComfyServer) -> tuple[list[str], list[str]]:
    """The ids of the prompts that run at a server, and of those that wait there."""
    with Client(server) as client:
        queue = client.get("/queue").json()
    return [e[1] for e in queue["queue_running"]], [e[1] for e in queue["queue_pending"]]


async def prompt_of(engine: Any, run_id: str, step_id: str = "long") -> str:
    """The prompt of a step, as soon as it is recorded."""
    found: list[str] = []

    async def known() -> bool:
        row = await row_of(engine, run_id, step_id)
        found[:] = [row.prompt_id] if row is not None and row.prompt_id else []
        return bool(found)

    await until(known)
    return found[0]


async def test_S6_8_cancel_while_it_runs_and_while_it_waits_there(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """Three chains and a stranger at one server: cancelling the second and then the first leaves the others alone."""
    async with farming(table(one, "one", slots=4)) as engine:
        first = await engine.start(made_of(LONG))
        running = await prompt_of(engine, first.id)
        await until(lambda: at(one)[0] == [running])
        with Client(one) as stranger:
            theirs = stranger.queue(slow(0.3, seed=1))
        second = await engine.start(made_of(LONG, {**LONG, "id": "after", "depends_on": ["long"]}))
        waiting = await prompt_of(engine, second.id)
        third = await engine.start(made_of({"id": "painted", "workflow": "painted"}))
        other = await prompt_of(engine, third.id, "painted")
        await until(lambda: set(at(one)[1]) == {theirs, waiting, other})

        await second.cancel()
        ended = await second.result(check=False)
        assert ended.status is ChainStatus.CANCELLED
        assert await settled(engine, ended) == {"long": CANCELLED, "after": CANCELLED}
        assert at(one) == ([running], at(one)[1])
        assert set(at(one)[1]) == {theirs, other}

        await first.cancel()
        ended = await first.result(check=False)
        assert await settled(engine, ended) == {"long": CANCELLED}
        done = await third.result()
        assert await settled(engine, done) == {"painted": DONE}
        with Client(one) as stranger:
            assert stranger.ended(theirs)["status"]["status_str"] == "success"
            assert stranger.ended(running)["status"]["messages"][-1][0] == "execution_interrupted"
        assert not [line for line in one.log("/interrupt", "POST") if not (line["body"] or {}).get("prompt_id")]


async def test_S6_8_cancel_while_it_waits_for_a_slot(farming: Farming, one: ComfyServer) -> None:
    """The step never reaches the server; the chain that has the slot goes on."""
    async with farming(table(one, "one", slots=1)) as engine:
        holder = await engine.start(made_of(LONG))
        running = await prompt_of(engine, holder.id)
        waiter = await engine.start(made_of({"id": "painted", "workflow": "painted"}))

        async def queued() -> bool:
            row = await row_of(engine, waiter.id, "painted")
            return row is not None and row.status == "queued"

        await until(queued)
        await waiter.cancel()
        ended = await waiter.result(check=False)
        assert await settled(engine, ended) == {"painted": CANCELLED}
        await until(lambda: at(one)[0] == [running])
        assert len(prompts(one)) == 1
        await holder.cancel()
        assert (await holder.result(check=False)).status is ChainStatus.CANCELLED
        assert at(one) == ([], [])
        again = await engine.run(made_of({"id": "painted", "workflow": "painted"}))
        assert again.status is ChainStatus.COMPLETED  # every slot was given back


async def test_S6_8_cancel_while_a_file_is_on_its_way(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
) -> None:
    """The transfer is closed, no prompt is sent."""
    chain = made_of(
        {"id": "picture", "workflow": "painted", "server": "one"},
        {
            "id": "edit",
            "workflow": "inverted",
            "server": "two",
            "depends_on": ["picture"],
            "parameters": {"1.image": "{{ picture.output.image }}"},
        },
    )
    async with farming(table(one, "one"), table(two, "two")) as engine:
        two.control(only_path="/upload", answer_delay=60.0)
        handle = await engine.start(chain)
        await until(lambda: two.log("/upload", "POST"))
        with anyio.fail_after(40):
            await handle.cancel()
            run = await handle.result(check=False)
        assert await settled(engine, run) == {"picture": DONE, "edit": CANCELLED}
        assert [t["status"] for t in await transfers(engine, run)] == [FAILED]
        assert prompts(two) == []


async def test_S6_8_a_step_that_takes_too_long_leaves_nothing_behind(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """A timeout is a cancel of the prompt as well."""
    async with farming(table(one, "one")) as engine:
        run = await engine.run(made_of({**LONG, "timeout": 0.7, "retry": {"attempts": 1}}), check=False)
        assert await settled(engine, run) == {"long": FAILED}
        assert run["long"].error is not None
        assert run["long"].error.code == "E_STEP_TIMEOUT"
        await until(lambda: at(one) == ([], []), 5)


async def test_S6_8_cancel_a_run_that_nobody_owns(
    farming: Farming,
    one: ComfyServer,
    store: Path,
    workflows: Path,
) -> None:
    """Its process was killed; its prompt still runs at the server, and is gone after the cancel of another process."""
    script = """
        import asyncio, sys
        from towpath import open_engine
        from towpath.chain_file import load_chain_from_dict
        async def main(store, url, workflows):
            chain = load_chain_from_dict({"steps": [{"id": "long", "workflow": "long"}]})
            async with open_engine(store, servers=[{"name": "one", "url": url}], workflows=workflows) as engine:
                await engine.run(chain, run_id="lost")
        asyncio.run(main(*sys.argv[1:]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(store), one.url, str(workflows)]
    async with await anyio.open_process(command, cwd=ROOT) as process:
        await until(lambda: at(one)[0])
        os.kill(process.pid, signal.SIGKILL)
    async with farming(table(one, "one")) as engine:
        assert await engine.cancel("lost") is ChainStatus.CANCELLED
        assert at(one) == ([], [])
        assert await settled(engine, "lost") == {"long": CANCELLED}


async def test_S6_8_a_server_that_is_down_holds_no_cancel_up(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """It cannot be told; the chain is cancelled all the same, within the grace time."""
    async with farming(table(one, "one")) as engine:
        handle = await engine.start(made_of(LONG))
        await prompt_of(engine, handle.id)
        await until(lambda: at(one)[0])
        one.kill()
        with anyio.fail_after(40):
            await handle.cancel()
            run = await handle.result(check=False)
        assert await settled(engine, run) == {"long": CANCELLED}
        with pytest.raises(httpx.ConnectError):
            at(one)
