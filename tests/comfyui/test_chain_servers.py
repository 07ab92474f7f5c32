"""Which server a step gets, and what happens when servers are in trouble."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.comfyui.chain_fixtures import *  # noqa: F403
from tests.comfyui.chain_fixtures import Farming
from tests.comfyui.chains import events, made_of, prompts, row_of, table, until, write
from tests.comfyui.graphs import EMPTY, node, painted, slow, through
from tests.comfyui.running import ComfyServer
from tests.conformance.adapter import DONE, settled
from towpath import ChainInvalid, ChainStatus
from towpath.adapters.comfyui import pool

pytestmark = pytest.mark.anyio

FAST = {"attempts": 3, "delay": 0.1}
PICTURE = {"id": "picture", "workflow": "painted", "retry": FAST}


@pytest.fixture(autouse=True)
def graphs(workflows: Path) -> None:
    write(workflows, painted=painted(), slow=slow(0.4))


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        place.listen(64)
        yield f"http://127.0.0.1:{place.getsockname()[1]}"


def pictures(count: int, **more: Any) -> Any:
    """A chain of steps that need nothing of each other."""
    return made_of(*({**PICTURE, "id": f"p{n}", "parameters": {"1.color": n}, **more} for n in range(count)))


# ---- choosing


async def test_S4_2_work_is_spread(farming: Farming, one: ComfyServer, two: ComfyServer) -> None:
    """Twenty ready steps over two idle servers: half of them each."""
    async with farming(table(one, "one", slots=10), table(two, "two", slots=10)) as engine:
        run = await engine.run(pictures(20))
        assert run.status is ChainStatus.COMPLETED, run.error
        assert (len(prompts(one)), len(prompts(two))) == (10, 10)


async def test_S4_2_a_server_by_name_and_by_tags(farming: Farming, one: ComfyServer, two: ComfyServer) -> None:
    """A pin is kept, however busy that server is; tags are all wanted."""
    chain = made_of(
        *({**PICTURE, "id": f"pinned{n}", "server": "two", "parameters": {"1.color": n}} for n in range(4)),
        {**PICTURE, "id": "tagged", "requires": {"tags": ["a100", "fast"]}, "parameters": {"1.color": 9}},
    )
    servers = table(one, "one", tags=["a100", "fast"]), table(two, "two", tags=["a100"])
    async with farming(*servers) as engine:
        run = await engine.run(chain)
        assert run.status is ChainStatus.COMPLETED, run.error
        assert [(await row_of(engine, run, f"pinned{n}")).server_address for n in range(4)] == ["two"] * 4
        assert (await row_of(engine, run, "tagged")).server_address == "one"


async def test_S4_2_wrong_servers_are_refused_before_anything_starts(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """An unknown name and tags that nobody has: both are told, nothing is recorded or sent."""
    chain = made_of(
        PICTURE,
        {**PICTURE, "id": "pinned", "server": "gpu-7"},
        {**PICTURE, "id": "tagged", "requires": {"tags": ["h100"]}},
    )
    async with farming(table(one, "one", tags=["a100"])) as engine:
        with pytest.raises(ChainInvalid) as refused:
            await engine.run(chain)
        found = [(p.code, p.place.step, p.place.field) for p in refused.value.problems]
        assert found == [("E_SERVER_UNKNOWN", "pinned", "server"), ("E_SERVER_NONE", "tagged", "requires")]
        assert "gpu-7" in str(refused.value)
        assert "h100" in str(refused.value)
        assert await engine.list_chains() == []
    assert prompts(one) == []


# ---- trouble


async def test_S4_2_a_dead_server_is_skipped(farming: Farming, one: ComfyServer, two: ComfyServer) -> None:
    """Steps that got a slot of a server that is down go to the other one at once."""
    one.stop()
    async with farming(table(one, "one", slots=4), table(two, "two", slots=4)) as engine:
        with anyio.fail_after(40):
            run = await engine.run(pictures(6))
        assert run.status is ChainStatus.COMPLETED, run.error
        assert len(prompts(two)) == 6
        assert {run[f"p{n}"].attempt for n in range(6)} == {1}


async def test_S4_2_a_silent_server_is_skipped(
    farming: Farming, one: ComfyServer, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes connections and answers nothing costs the time of a probe, not minutes."""
    monkeypatch.setattr(pool, "PROBE", 2.0)
    async with farming({"name": "silent", "url": silent, "slots": 4}, table(one, "one", slots=4)) as engine:
        with anyio.fail_after(40):
            run = await engine.run(pictures(4))
        assert run.status is ChainStatus.COMPLETED, run.error
        assert len(prompts(one)) == 4


async def test_S4_2_a_pinned_server_that_is_down_is_waited_for(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
) -> None:
    """It does not go elsewhere; when the server is back the step completes."""
    one.stop()
    async with farming(table(one, "one"), table(two, "two"), timeouts={"unreachable": 60}) as engine:
        handle = await engine.start(made_of({**PICTURE, "server": "one"}))
        await anyio.sleep(1.5)
        assert (await row_of(engine, handle.id, "picture")).status == "executing"
        one.start()
        run = await handle.result()
        assert await settled(engine, run) == {"picture": DONE}
        assert (len(prompts(one)), prompts(two)) == (1, [])


async def test_S4_2_all_servers_down_then_one_of_them_up(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
) -> None:
    """All steps wait; they complete on whichever comes back, also those that had a slot of the other."""
    one.stop()
    two.stop()
    async with farming(table(one, "one"), table(two, "two"), timeouts={"unreachable": 60}) as engine:
        handle = await engine.start(pictures(6))
        await anyio.sleep(1.0)
        two.start()
        with anyio.fail_after(50):
            run = await handle.result()
        assert run.status is ChainStatus.COMPLETED, run.error
        assert len(prompts(two)) == 6


async def test_S4_2_down_for_too_long_is_a_failure_that_names_the_server(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """After its patience and its tries the step fails."""
    one.stop()
    async with farming(table(one, "one"), timeouts={"unreachable": 0.3}) as engine:
        run = await engine.run(made_of({**PICTURE, "retry": {"attempts": 2, "delay": 0.1}}), check=False)
        assert run.status is ChainStatus.FAILED
        error = run["picture"].error
        assert error is not None
        assert error.code == "E_SERVER_UNREACHABLE"
        assert "server one" in error.message
        assert run["picture"].attempt == 2


# ---- tries


async def test_node_failures_are_not_tried_again_but_full_memory_is(
    farming: Farming,
    one: ComfyServer,
    workflows: Path,
) -> None:
    """A node's own error would come again; memory may be free the next time, and the server is asked to free it."""
    write(workflows, failing=through("Fail", message="wrong"), full=through("OutOfMemory", times=1, key="k"))
    chain = made_of(
        {"id": "failing", "workflow": "failing", "retry": FAST}, {"id": "full", "workflow": "full", "retry": FAST}
    )
    async with farming(table(one, "one")) as engine:
        run = await engine.run(chain, check=False)
        assert await settled(engine, run) == {"failing": "failed", "full": DONE}
        assert (run["failing"].attempt, run["full"].attempt) == (1, 2)
        ids = [p["prompt_id"] for p in prompts(one)]
        assert len(ids) == len(set(ids)) == 3  # a prompt that ended is not gone on with
        assert len(one.log("/free", "POST")) == 1
        retried = [e for e in await events(engine, run) if e["type"] == "StepRetried"]
        assert [e["data"]["step"] for e in retried] == ["full"]
        kept = await engine.get_artifacts_by_workflow((await row_of(engine, run, "full")).id, include_old_versions=True)
        assert [(a.version, a.attempt) for a in kept] == [(1, 2)]


async def test_a_busy_server_is_no_failure(farming: Farming, one: ComfyServer) -> None:
    """503 for a while costs time, not a try."""
    async with farming(table(one, "one")) as engine:
        one.control(answer_status_seconds=1.2)
        run = await engine.run(made_of(PICTURE))
        assert (run.status, run["picture"].attempt) == (ChainStatus.COMPLETED, 1)
        assert len(prompts(one)) == 1


async def test_S4_3_one_log_per_prompt(farming: Farming, one: ComfyServer, workflows: Path) -> None:
    """What happened to a prompt is in one file, whether it succeeded, failed or was cancelled."""
    write(workflows, failing=through("Fail", message="wrong"), long=slow(30.0))
    write(workflows, large={"1": node("SaveBytes", size=3000, extension="mp4"), "2": node("EmptyImage", **EMPTY)})
    chain = made_of(
        {"id": "good", "workflow": "slow"},
        {"id": "failing", "workflow": "failing"},
        {"id": "large", "workflow": "large"},
    )
    async with farming(table(one, "one")) as engine:
        await engine.run(chain, check=False)
        handle = await engine.start(made_of({"id": "long", "workflow": "long"}))
        await until(lambda: len([line for line in one.log("/prompt", "POST") if line["status"] == 200]) == 4)
        await anyio.sleep(0.2)
        await handle.cancel()
        await handle.result(check=False)
        logs = list((engine.store.files.folder / "prompts").glob("*.jsonl"))
        told = {}
        for path in logs:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert {line["prompt_id"] for line in lines} == {path.stem.rpartition("_")[2]}
            assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
            told[lines[0]["step"]] = [line["event"] for line in lines if line["event"] != "node.executing"]
        begun = ["server.selected", "workflow.submitted", "workflow.queued"]
        good = [*begun, "history.complete", "workflow.success", "images.downloaded"]
        assert len(logs) == 4
        assert told == {
            "good": good,
            "large": good,
            "failing": [*begun, "history.complete", "workflow.failed"],
            "long": [*begun, "workflow.cancelled"],
        }
