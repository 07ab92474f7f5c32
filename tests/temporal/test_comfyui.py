"""ComfyUI steps on Temporal: the tests of chains on stand-in servers, and workers that die while a prompt runs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from tests.comfyui.chain_fixtures import Farming, farming, one, two, workflows
from tests.comfyui.chains import QUICK, came_home, made_of, pixels, row_of, table, transfers, until, write
from tests.comfyui.graphs import EMPTY, inverted, painted, slow, through
from tests.comfyui.running import ComfyServer
from tests.comfyui.server.nodes import render
from tests.comfyui.talking import Client
from tests.comfyui.test_chain_cancel import (
    test_S6_8_a_server_that_is_down_holds_no_cancel_up,
    test_S6_8_a_step_that_takes_too_long_leaves_nothing_behind,
    test_S6_8_cancel_while_a_file_is_on_its_way,
    test_S6_8_cancel_while_it_runs_and_while_it_waits_there,
    test_S6_8_cancel_while_it_waits_for_a_slot,
)
from tests.comfyui.test_chain_outputs import (
    test_D1_workflows_and_functions_in_one_chain,
    test_S7_1_files_are_linked_to_their_step,
    test_S7_3_a_refused_prompt_is_not_sent_again,
)
from tests.comfyui.test_chains import (
    test_F1_the_flow_of_a_chain,
    test_F2_T5_the_source_server_may_be_gone,
    test_S5_5_same_names_to_one_server,
    test_S6_4_prompt_and_server_are_recorded_before_the_server_hears_of_them,
    test_S6_5_inputs_are_sent_together_and_once,
    test_T1_to_T8_what_is_recorded,
)
from tests.conformance.adapter import CANCELLED, DONE, settled
from tests.conformance.chain_steps import PATIENCE
from tests.reliability.processes import Program
from tests.reliability.test_comfyui import (
    answered,
    test_R22_a_server_that_forgot_everything_gets_the_prompt_again,
    test_R23_no_answer_to_the_prompt,
    test_R23_no_connection_for_the_prompt,
    test_R23_the_server_dies_between_accepting_and_answering,
)

__all__ = [
    "farming",
    "one",
    "test_D1_workflows_and_functions_in_one_chain",
    "test_F1_the_flow_of_a_chain",
    "test_F2_T5_the_source_server_may_be_gone",
    "test_R22_a_server_that_forgot_everything_gets_the_prompt_again",
    "test_R23_no_answer_to_the_prompt",
    "test_R23_no_connection_for_the_prompt",
    "test_R23_the_server_dies_between_accepting_and_answering",
    "test_S5_5_same_names_to_one_server",
    "test_S6_4_prompt_and_server_are_recorded_before_the_server_hears_of_them",
    "test_S6_5_inputs_are_sent_together_and_once",
    "test_S6_8_a_server_that_is_down_holds_no_cancel_up",
    "test_S6_8_a_step_that_takes_too_long_leaves_nothing_behind",
    "test_S6_8_cancel_while_a_file_is_on_its_way",
    "test_S6_8_cancel_while_it_runs_and_while_it_waits_there",
    "test_S6_8_cancel_while_it_waits_for_a_slot",
    "test_S7_1_files_are_linked_to_their_step",
    "test_S7_3_a_refused_prompt_is_not_sent_again",
    "test_T1_to_T8_what_is_recorded",
    "two",
    "workflows",
]

pytestmark = pytest.mark.anyio

full = pytest.mark.full

CHAIN = made_of(
    {"id": "picture", "workflow": "picture", "server": "one"},
    {
        "id": "edit",
        "workflow": "edit",
        "depends_on": ["picture"],
        "parameters": {"1.image": "{{ picture.output.image }}"},
        "server": "two",
    },
)


@pytest.fixture
def heartbeat() -> str:
    """Workers die here: their steps go to another worker soon."""
    return "2s"


@pytest.fixture(autouse=True)
def graphs(workflows: Path) -> None:
    write(
        workflows,
        painted=painted(),
        inverted=inverted("none.png"),
        slow=slow(0.8),
        long=slow(30.0),
        picture=through("Sleep", seconds=0.1),
        edit=inverted("none.png"),
    )


class Farm:
    """A folder with settings for workers: two servers, workflows, short patience."""

    def __init__(self, folder: Path, adapter: str, one: ComfyServer, two: ComfyServer) -> None:
        self.folder, self.adapter, self.one, self.two = folder, adapter, one, two
        lines = ["[comfyui]", *(f"{key} = {json.dumps(value)}" for key, value in QUICK.items())]
        for name, server in (("one", one), ("two", two)):
            lines += ["[[servers]]", f'name = "{name}"', f'url = "{server.url}"']
        (folder / "towpath.toml").write_text("\n".join(lines) + "\n")

    def worker(self, *armed: object) -> Program:
        """A worker process; `armed` with a point and how many times it comes there, it dies."""
        command = [sys.executable, "-m", "tests.temporal.comfyui_victim", str(self.folder), self.adapter]
        return Program([*command, *map(str, armed)])

    @property
    def sent(self) -> Counter[str]:
        """How often each prompt was taken by a server."""
        return Counter([*answered(self.one), *answered(self.two)])

    async def check(self, engine: Any, run: Any) -> None:
        """Each step rendered once, its bytes as they must be, one version, one transfer."""
        assert await settled(engine, run) == {"picture": DONE, "edit": DONE}
        await came_home(engine, run, self.one, self.two)
        source = render("EmptyImage", EMPTY)
        for name, expected in (("picture", source), ("edit", render("ImageInvert", {}, [source]))):
            assert pixels(await run[name].artifact.read_bytes()) == expected
            kept = await engine.get_artifacts_by_workflow((await row_of(engine, run, name)).id)
            assert [a.version for a in kept] == [1]
        assert [t["status"] for t in await transfers(engine, run)] == [DONE]
        assert len(self.sent) == 2
        assert set(self.sent.values()) == {1}, "a prompt was sent twice"


@pytest.fixture
def farm(tmp_path: Path, adapter: str, one: ComfyServer, two: ComfyServer, monkeypatch: pytest.MonkeyPatch) -> Farm:
    monkeypatch.chdir(tmp_path)
    return Farm(tmp_path, adapter, one, two)


@pytest.mark.parametrize(
    ("point", "at"),
    [("queued", 1), ("recorded", 2), ("sent", 1), ("done", 2)]
    + [
        pytest.param(point, at, marks=full)
        for point in ("recorded", "queued", "done", "downloaded")
        for at in (1, 2)
        if (point, at) not in {("queued", 1), ("recorded", 2), ("done", 2)}
    ],
)
async def test_R28_S6_9_a_worker_killed_beside_a_prompt(
    farm: Farm, open_engine: OpenEngine, point: str, at: int
) -> None:
    """Before the POST, after it, after success, after a file was sent: the next worker finds the prompt by its id."""
    async with open_engine(worker=False) as engine:
        handle = await engine.start(CHAIN)
        with farm.worker(point, at) as victim:
            assert await anyio.to_thread.run_sync(victim.wait) == -9, victim.errors[-5:]
        with farm.worker():
            with anyio.fail_after(PATIENCE):
                run = await handle.result()
        await farm.check(engine, run)


async def test_R28_S6_9_a_worker_killed_while_a_prompt_runs(
    farm: Farm, open_engine: OpenEngine, workflows: Path
) -> None:
    """The prompt keeps running. The next worker finds it; it is not sent again and not cancelled."""
    write(workflows, picture=slow(2.0))
    async with open_engine(worker=False) as engine:
        handle = await engine.start(CHAIN)
        with farm.worker() as victim, Client(farm.one) as client:
            await until(lambda: client.get("/queue").json()["queue_running"])
            victim.kill()
        with farm.worker():
            with anyio.fail_after(PATIENCE):
                run = await handle.result()
        assert await settled(engine, run) == {"picture": DONE, "edit": DONE}
        assert (await row_of(engine, run, "picture")).attempt == 2
        assert set(farm.sent.values()) == {1}
        assert len(farm.sent) == 2
        assert not farm.one.log("/interrupt", "POST") + farm.one.log("/cancel", "POST")


async def test_S6_8_cancel_while_the_worker_is_dead(farm: Farm, open_engine: OpenEngine) -> None:
    """The cancel is recorded at once. The next worker cancels the prompt by its id."""
    async with open_engine(worker=False) as engine:
        handle = await engine.start(made_of({"id": "long", "workflow": "long", "server": "one"}))
        with Client(farm.one) as client:
            with farm.worker() as victim:
                await until(lambda: client.get("/queue").json()["queue_running"])
                victim.kill()
            with anyio.fail_after(PATIENCE):
                await engine.cancel(handle.id)
            with farm.worker():
                with anyio.fail_after(PATIENCE):
                    run = await handle.result(check=False)
                assert await settled(engine, run) == {"long": CANCELLED}
                await until(lambda: not client.get("/queue").json()["queue_running"])


async def test_S6_8_cancelled_on_temporals_pages(
    farming: Farming, adapter: str, temporal_server: Any, one: ComfyServer
) -> None:
    """A cancel on Temporal's pages cancels the run and its prompt."""
    from temporalio.client import Client as Operator

    from towpath.adapters.temporal.connection import parse_address

    async with farming(table(one, "one")) as engine:
        handle = await engine.start(made_of({"id": "long", "workflow": "long"}))
        with Client(one) as client:
            await until(lambda: client.get("/queue").json()["queue_running"])
            operator = await Operator.connect(temporal_server.target)
            await operator.get_workflow_handle(parse_address(adapter).workflow_id(handle.id)).cancel()
            with anyio.fail_after(PATIENCE):
                run = await handle.result(check=False)
            assert await settled(engine, run) == {"long": CANCELLED}
            assert not client.get("/queue").json()["queue_running"]


async def test_S6_9_a_worker_that_stops_leaves_its_prompt_to_the_next(farming: Farming, one: ComfyServer) -> None:
    """A stopping worker does not cancel its prompts."""
    async with farming(table(one, "one"), worker=False) as engine:
        handle = await engine.start(made_of({"id": "slow", "workflow": "slow"}))
        async with farming(table(one, "one")):
            await until(lambda: answered(one))
        async with farming(table(one, "one")):
            with anyio.fail_after(PATIENCE):
                run = await handle.result()
        assert await settled(engine, run) == {"slow": DONE}
        assert answered(one) == [(await row_of(engine, run, "slow")).prompt_id]
        assert not one.log("/cancel", "POST") + one.log("/interrupt", "POST")
