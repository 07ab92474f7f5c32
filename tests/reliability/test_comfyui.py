"""Chains over ComfyUI servers while this process, or a server, or what is between them dies."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest

from tests.adapters.conftest import check
from tests.comfyui.chain_fixtures import *  # noqa: F403
from tests.comfyui.chain_fixtures import Farming
from tests.comfyui.chains import (
    came_home,
    events,
    made_of,
    pixels,
    prompts,
    row_of,
    table,
    transfers,
    until,
    uploads,
    write,
)
from tests.comfyui.graphs import EMPTY, inverted, slow, through
from tests.comfyui.running import ComfyServer
from tests.comfyui.server.nodes import render
from tests.comfyui.talking import Client
from tests.conformance.adapter import DONE, FAILED, settled
from tests.reliability.comfyui_victim import POINTS, RUN
from tests.reliability.processes import Program
from towpath import ChainStatus
from towpath import open_engine as open_real_engine

full = pytest.mark.full

FAST = {"attempts": 3, "delay": 0.1}
PICTURE = {"id": "picture", "workflow": "picture", "retry": FAST}
EDIT = {
    "id": "edit",
    "workflow": "edit",
    "server": "two",
    "depends_on": ["picture"],
    "parameters": {"1.image": "{{ picture.output.image }}"},
    "retry": FAST,
}


@pytest.fixture(autouse=True)
def graphs(workflows: Path) -> None:
    write(workflows, picture=through("Sleep", seconds=0.1), edit=inverted("none.png"), slow=slow(0.8), long=slow(30.0))


def answered(server: ComfyServer) -> list[str]:
    """The ids of the prompts that a server took."""
    return [line["body"]["prompt_id"] for line in server.log("/prompt", "POST") if line["status"] == 200]


# ---- this process dies


class Hurt:
    """A folder with a store, two servers, and processes that work there."""

    def __init__(self, folder: Path, one: ComfyServer, two: ComfyServer) -> None:
        self.folder, self.one, self.two = folder, one, two
        self.acknowledged: set[str] = set()

    def victim(self, how: str, *more: str) -> Program:
        command = [sys.executable, "-m", "tests.reliability.comfyui_victim", str(self.folder), how]
        return Program([*command, "--one", self.one.url, "--two", self.two.url, *more])

    def hear(self, lines: list[str]) -> None:
        self.acknowledged |= {line for line in lines if line.startswith("ack ")}

    def resume(self) -> None:
        """Go on in a new process until it is over."""
        with self.victim("resume") as victim:
            assert victim.wait() == 0
            assert victim.lines[-1] == "end completed", victim.lines
            ended = {line for line in victim.lines if line.startswith("ack ")}
            assert not ended & self.acknowledged, "a finished step ran again"

    def check(self, prompts_sent: int = 3) -> None:
        """One prompt a step in the servers' logs, the right bytes, one version of each, a sound store."""
        ids = Counter([*answered(self.one), *answered(self.two)])
        assert len(ids) == prompts_sent, ids
        assert set(ids.values()) == {1}, "a prompt was sent twice"
        anyio.run(self._look)
        check(self.folder / "hurt.db")

    async def _look(self) -> None:
        async with open_real_engine(self.folder / "hurt.db") as engine:
            assert await settled(engine, RUN) == {"picture": DONE, "edit": DONE, "again": DONE}
            run = await engine.snapshot(RUN)
            await came_home(engine, run, self.one, self.two)
            source = render("EmptyImage", EMPTY)
            for name, times in (("picture", 0), ("edit", 1), ("again", 2)):
                expected = source
                for _ in range(times):
                    expected = render("ImageInvert", {}, [expected])
                assert pixels(await run[name].artifact.read_bytes()) == expected
                row = await row_of(engine, RUN, name)
                kept = await engine.get_artifacts_by_workflow(row.id, include_old_versions=True)
                assert [a.version for a in kept] == [1]
            assert [t["status"] for t in await transfers(engine, RUN)] == [DONE] * 2


@pytest.fixture
def hurt(tmp_path: Path, one: ComfyServer, two: ComfyServer) -> Hurt:
    return Hurt(tmp_path, one, two)


@pytest.mark.parametrize(
    ("point", "at"),
    [("recorded", 1), ("queued", 2), ("done", 1), ("downloaded", 2), ("sending", 1), ("sent", 1)]
    + [
        pytest.param(point, at, marks=full)
        for point in POINTS
        for at in (1, 2, 3)
        if (point, at) not in {("recorded", 1), ("queued", 2), ("done", 1), ("downloaded", 2)}
        and not (point in ("sending", "sent") and at != 2)
    ],
)
def test_S5_2_S6_9_R01_killed_at_a_point_and_resumed(hurt: Hurt, point: str, at: int) -> None:
    """Before a file is sent and after it, before the POST, after it, after success, after the download."""
    with hurt.victim("run", "--die", point, "--at", str(at)) as victim:
        assert victim.wait() == -signal.SIGKILL, victim.lines
        hurt.hear(victim.lines)
    hurt.resume()
    hurt.check()


def test_S6_9_killed_while_it_runs(hurt: Hurt) -> None:
    """The prompt goes on without anybody who listens; the next process finds it by its id."""
    write(hurt.folder / "workflows", picture=slow(1.0))
    with hurt.victim("run") as victim, Client(hurt.one) as client, Client(hurt.two) as other:
        deadline = time.monotonic() + 60
        while not [c for c in (client, other) if c.get("/queue").json()["queue_running"]]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        victim.kill()
        hurt.hear(victim.lines)
    hurt.resume()
    hurt.check()


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=full)])
def test_S6_9_R01_killed_at_random(hurt: Hurt, rounds: int) -> None:
    """kill -9 at any moment, resumed, killed again; each step is rendered once, and finished once."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in range(rounds):
        hurt.one.reset()
        hurt.two.reset()
        one_round = Hurt(hurt.folder / str(number), hurt.one, hurt.two)
        one_round.folder.mkdir()
        (one_round.folder / "workflows").symlink_to(hurt.folder / "workflows")
        with one_round.victim("run") as victim:
            victim.wait_for("ready")
            time.sleep(chance.uniform(0.0, 0.9))
            victim.kill()
            one_round.hear(victim.lines)
        if not (one_round.folder / "hurt.db").exists() or not anyio.run(_recorded, one_round.folder / "hurt.db"):
            continue  # a run that was never recorded was never promised
        if not anyio.run(_over, one_round.folder / "hurt.db"):
            one_round.resume()
        one_round.check()


async def _recorded(database: Path) -> bool:
    async with open_real_engine(database) as engine:
        return bool(await engine.list_chains())


async def _over(database: Path) -> bool:
    async with open_real_engine(database) as engine:
        return ChainStatus((await engine.get_chain(RUN)).status).final


@pytest.mark.anyio
async def test_S6_9_an_engine_that_closes_leaves_its_prompt_to_the_next(farming: Farming, one: ComfyServer) -> None:
    """An interruption is no cancel: the run is paused, the prompt goes on, and is found when the run is resumed."""
    async with farming(table(one, "one")) as engine:
        handle = await engine.start(made_of({"id": "slow", "workflow": "slow"}))
        await until(lambda: answered(one))
    async with farming(table(one, "one")) as engine:
        row = await engine.get_chain(handle.id)
        assert (row.status, row.status_reason) == ("paused", "interrupted")
        run = await engine.resume(handle.id)
        assert await settled(engine, run) == {"slow": DONE}
        assert answered(one) == [(await row_of(engine, run, "slow")).prompt_id]
        assert not one.log("/cancel", "POST")


# ---- a server dies


@pytest.mark.anyio
async def test_R22_a_server_that_forgot_everything_gets_the_prompt_again(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """It was killed while the prompt ran, and started again: the same id is sent once more, nothing is called done."""
    async with farming(table(one, "one")) as engine:
        handle = await engine.start(made_of({"id": "slow", "workflow": "slow", "retry": FAST}))
        await until(lambda: answered(one))
        await anyio.sleep(0.2)
        one.kill()
        await anyio.sleep(0.3)
        assert await settled(engine, handle.id) == {"slow": "executing"}
        one.start()
        run = await handle.result()
        assert await settled(engine, run) == {"slow": DONE}
        ids = answered(one)
        assert len(ids) == 2
        assert len(set(ids)) == 1
        (retried,) = [e for e in await events(engine, run) if e["type"] == "StepRetried"]
        assert retried["data"]["error"]["code"] == "E_PROMPT_LOST"
        assert [a.version for a in await engine.list_artifacts()] == [1]


@pytest.mark.anyio
async def test_R22_S7_3_a_lost_prompt_is_noticed_in_seconds(farming: Farming, one: ComfyServer) -> None:
    """Somebody empties the queue: that is told at once, and after the last try the step fails."""
    async with farming(table(one, "one", slots=4)) as engine:
        holder = await engine.start(made_of({"id": "long", "workflow": "long"}))
        await until(lambda: answered(one))
        handle = await engine.start(made_of({**PICTURE, "retry": {"attempts": 1}}))
        await until(lambda: len(answered(one)) == 2)
        with Client(one) as client:
            client.post("/queue", json={"clear": True})
        with anyio.fail_after(60):
            run = await handle.result(check=False)
        assert await settled(engine, run) == {"picture": FAILED}
        assert run["picture"].error is not None
        assert run["picture"].error.code == "E_PROMPT_LOST"
        await holder.cancel()
        await holder.result(check=False)


@pytest.mark.anyio
@pytest.mark.parametrize("times", [1, pytest.param(3, marks=full)])
async def test_R23_no_answer_to_the_prompt(farming: Farming, one: ComfyServer, times: int) -> None:
    """The connection breaks after the prompt was queued: it is found by its id, and sent once."""
    one.control(drop_prompt_answer=times)
    async with farming(table(one, "one")) as engine:
        run = await engine.run(made_of(PICTURE))
        assert await settled(engine, run) == {"picture": DONE}
        assert run["picture"].attempt == 1
        assert len({p["prompt_id"] for p in prompts(one)}) == len(prompts(one)) == 1
        with Client(one) as client:
            assert len(client.get("/history").json()) == 1


@pytest.mark.anyio
async def test_R23_no_connection_for_the_prompt(farming: Farming, one: ComfyServer) -> None:
    """The connection breaks before the prompt is queued: it is sent again under the same id."""
    one.control(refuse_prompt=2)
    async with farming(table(one, "one")) as engine:
        run = await engine.run(made_of(PICTURE))
        assert await settled(engine, run) == {"picture": DONE}
        assert run["picture"].attempt == 1
        assert len({p["prompt_id"] for p in prompts(one)}) == 1
        with Client(one) as client:
            assert len(client.get("/history").json()) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=full)])
async def test_R23_the_server_dies_between_accepting_and_answering(
    farming: Farming,
    one: ComfyServer,
    rounds: int,
) -> None:
    """It comes back and knows nothing: one more prompt under the same id, one version."""
    async with farming(table(one, "one"), timeouts={"unreachable": 15}) as engine:
        for number in range(rounds):
            one.control(prompt_delay=3.0)
            sent = len(prompts(one))
            handle = await engine.start(made_of({**PICTURE, "parameters": {"1.color": number}}))
            await until(lambda: len(prompts(one)) == sent + 1)  # noqa: B023
            await anyio.sleep(0.05)
            one.kill()
            one.start()
            run = await handle.result()
            assert await settled(engine, run) == {"picture": DONE}
            new = [p["prompt_id"] for p in prompts(one)[sent:]]
            assert (len(new), len(set(new))) == (2, 1)
            row = await row_of(engine, run, "picture")
            kept = await engine.get_artifacts_by_workflow(row.id, include_old_versions=True)
            assert [a.version for a in kept] == [1]


# ---- transfers


@pytest.mark.anyio
@pytest.mark.parametrize("after", [0, 100, 5_000_000])
async def test_R25_an_upload_that_is_cut_is_sent_again(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
    workflows: Path,
    after: int,
) -> None:
    """At its beginning, in its middle, near its end: at last the whole file is there, once, and so is one row."""
    size = 6 << 20
    large = {"1": {"class_type": "SaveBytes", "inputs": {"size": size, "seed": 3, "extension": "mp4"}}}
    film = {
        "1": {"class_type": "LoadVideo", "inputs": {"video": "none.mp4"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    write(workflows, picture=large, edit=film)
    two.control(upload_cuts=2, upload_cut_after=after)
    chain = made_of(PICTURE, {**EDIT, "parameters": {"1.video": "{{ picture.output.video }}"}})
    async with farming(table(one, "one"), table(two, "two")) as engine:
        run = await engine.run(chain)
        assert await settled(engine, run) == {"picture": DONE, "edit": DONE}
        (transfer,) = await transfers(engine, run)
        assert (transfer["status"], transfer["bytes"]) == (DONE, size)
        there = two.folder / "input" / transfer["target_name"]
        assert there.read_bytes() == await run["picture"].artifact.read_bytes()
        assert len(prompts(two)) == 1


@pytest.mark.anyio
async def test_R25_a_target_that_is_down_is_waited_for(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
) -> None:
    """It dies while it takes the file and comes back: sent again, recorded once."""
    two.control(only_path="/upload", answer_delay=30.0)
    async with farming(table(one, "one"), table(two, "two"), timeouts={"unreachable": 15}) as engine:
        handle = await engine.start(made_of(PICTURE, EDIT))
        await until(lambda: two.log("/upload", "POST"))
        two.kill()
        await anyio.sleep(0.3)
        two.start()
        run = await handle.result()
        assert await settled(engine, run) == {"picture": DONE, "edit": DONE}
        assert [t["status"] for t in await transfers(engine, run)] == [DONE]
        assert len(uploads(two)) == 1


@pytest.mark.anyio
async def test_R25_a_target_that_stays_away(farming: Farming, one: ComfyServer, two: ComfyServer) -> None:
    """The step fails with the server's name; nothing is left pending, nothing is called done."""
    two.stop()
    async with farming(table(one, "one"), table(two, "two"), timeouts={"unreachable": 0.3}) as engine:
        run = await engine.run(made_of(PICTURE, {**EDIT, "retry": {"attempts": 2, "delay": 0.05}}), check=False)
        assert await settled(engine, run) == {"picture": DONE, "edit": FAILED}
        assert run["edit"].error is not None
        assert run["edit"].error.code == "E_SERVER_UNREACHABLE"
        assert "server two" in run["edit"].error.message
        assert {t["status"] for t in await transfers(engine, run)} <= {FAILED}


@pytest.mark.anyio
async def test_R25_a_file_that_the_server_lost_is_sent_again(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
) -> None:
    """What was sent for one step is looked for before the next one relies on it."""
    hold = {"id": "hold", "python": "tests.comfyui.chains:told", "parameters": {"value": 1}, "requires_approval": True}
    second = {**EDIT, "id": "second", "depends_on": ["picture", "edit", "hold"]}
    chain = made_of(PICTURE, EDIT, {**hold, "depends_on": ["edit"]}, second)
    async with farming(table(one, "one"), table(two, "two")) as engine:
        run = await engine.run(chain)
        assert run.status is ChainStatus.PAUSED
        (sent,) = await transfers(engine, run)
        (two.folder / "input" / sent["target_name"]).unlink()
        (gate,) = await engine.approvals(run.id)
        await engine.approve(gate.id, by="somebody")
        run = await engine.resume(run.id)
        assert await settled(engine, run) == {"picture": DONE, "edit": DONE, "hold": DONE, "second": DONE}
        assert [t["bytes"] > 0 for t in await transfers(engine, run)] == [True, True]
        assert len(uploads(two)) == 2
        await came_home(engine, run, one, two)


@pytest.mark.anyio
async def test_R25_a_target_that_has_it_already(farming: Farming, one: ComfyServer, two: ComfyServer) -> None:
    """Two steps want the same file on the same server at the same moment: it is sent once, both have a row."""
    chain = made_of(PICTURE, *({**EDIT, "id": f"edit{n}"} for n in range(3)))
    async with farming(table(one, "one"), table(two, "two", slots=3)) as engine:
        run = await engine.run(chain)
        assert await settled(engine, run) == {"picture": DONE, **{f"edit{n}": DONE for n in range(3)}}
        found = await transfers(engine, run)
        assert sorted(t["bytes"] > 0 for t in found) == [False, False, True]
        assert len(uploads(two)) == 1
        assert len({t["target_workflow_id"] for t in found}) == 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "code"), [(413, "E_UPLOAD_TOO_LARGE"), pytest.param(500, "E_SERVER_STATUS", marks=full)]
)
async def test_R25_a_target_that_refuses(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
    status: int,
    code: str,
) -> None:
    """A refusal is a failed transfer with its reason; trying again helps only where it may."""
    two.control(upload_status=status, upload_status_times=100)
    async with farming(table(one, "one"), table(two, "two")) as engine:
        run = await engine.run(made_of(PICTURE, EDIT), check=False)
        assert await settled(engine, run) == {"picture": DONE, "edit": FAILED}
        assert run["edit"].error is not None
        assert run["edit"].error.code == code
        (transfer,) = await transfers(engine, run)
        assert transfer["status"] == FAILED
        assert "server two" in transfer["error_message"]
        assert prompts(two) == []
