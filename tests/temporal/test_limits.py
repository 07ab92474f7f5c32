"""Temporal's limits on payloads, history and open children. None of them ends a run or makes it hang."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import DONE, folder, pending, settled
from tests.conformance.chain_steps import PATIENCE
from tests.temporal.dev_server import DevServer, listed, needs_server
from towpath import chain
from towpath import open_engine as open_real_engine
from towpath.adapters.temporal.connection import connect, parse_address

__all__ = ["folder"]

pytestmark = pytest.mark.anyio


async def test_R32_a_result_of_three_megabytes(open_engine: OpenEngine) -> None:
    @chain
    def large():
        made = steps.long_text(3_000_000)
        return steps.length_of(made["text"])

    async with open_engine() as engine:
        run = await engine.run(large)
        assert run.value == 3_000_000
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_R32_many_large_inputs(open_engine: OpenEngine) -> None:
    """Thirty arguments of 300 kB at the same time: 9 MB that are never sent to the server."""

    @chain
    def wide(text: str):
        return [steps.length_of(text).named(f"n{n}") for n in range(30)]

    async with open_engine() as engine:
        run = await engine.run(wide, text="x" * 300_000)
        assert run.value == [300_000] * 30


@pytest.fixture(scope="module")
def forgetful_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """A server that suggests to continue as new after 60 events."""
    needs_server()
    log = tmp_path_factory.mktemp("forgetful") / "server.log"
    server = DevServer(log, settings=("limit.historyCount.suggestContinueAsNew=60",))
    server.start()
    yield server
    server.stop()


async def test_R32_a_long_run_continues_as_new(
    forgetful_server: DevServer, store: Path, clean_environment: None
) -> None:
    """Gates, a fan-out and a line: the run continues over several workflow executions."""

    @chain
    def long():
        wide = steps.double.map(steps.up_to(30))
        gate = steps.read_text(steps.draft("x"))
        at = steps.total(wide)
        for _ in range(25):
            at = steps.add(at, 1)
        return at, gate

    adapter = f"temporal://{forgetful_server.target}/default?task_queue=can-{uuid.uuid4().hex[:8]}&heartbeat=2s"
    async with open_real_engine(f"sqlite:///{store}", adapter=adapter, worker=True) as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(long)
        assert run.status == "paused"
        await engine.approve((await pending(engine, run)).id, by="anna")
        with anyio.fail_after(PATIENCE):
            run = await engine.resume(run.id)
        assert run.value == [870 + 25, "x"]
        assert set((await settled(engine, run)).values()) == {DONE}
        started = [e for e in await engine.store.events(run.id) if e["type"] == "ChainStarted"]
        assert len(started) <= 3, "continuing as new is no resume"
        address = parse_address(adapter)
        client = await connect(address)
        query = f"WorkflowId = '{address.workflow_id(run.id)}'"
        assert len(await listed(client, query, 2)) > 1


@pytest.mark.full
async def test_R32_a_level_wider_than_the_server_allows(open_engine: OpenEngine) -> None:
    """2,100 steps at once: the window keeps open children below the server's 2,000."""

    @chain
    def wide():
        return steps.number.map(steps.up_to(2_100))

    async with open_engine() as engine:
        with anyio.fail_after(600):
            run = await engine.run(wide)
        assert run.value == list(range(2_100))


@pytest.mark.full
async def test_R32_a_history_over_ten_thousand_events(open_engine: OpenEngine) -> None:
    """A line of 2,000 steps, nine events each, with the server's own limits: it continues as new on its way."""

    @chain
    def long():
        at = steps.number(0)
        for _ in range(1_999):
            at = steps.add(at, 1)
        return at

    async with open_engine() as engine:
        with anyio.fail_after(1_200):
            run = await engine.run(long)
        assert run.value == 1_999
        assert set((await settled(engine, run)).values()) == {DONE}
