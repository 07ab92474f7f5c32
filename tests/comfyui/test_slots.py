"""Slots of servers: never more prompts at a server than it has slots, and nobody else is held up by the wait."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.comfyui.chain_fixtures import *  # noqa: F403
from tests.comfyui.chain_fixtures import Farming
from tests.comfyui.chains import BREATHES, TOLD, made_of, prompts, row_of, table, until, write
from tests.comfyui.graphs import painted, slow
from tests.comfyui.running import ComfyServer
from tests.conformance.adapter import CANCELLED, DONE, settled
from towpath import ChainStatus
from towpath.adapters.comfyui import pool as pool_of_servers
from towpath.adapters.comfyui.pool import Need, ServerPool
from towpath.adapters.comfyui.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def graphs(workflows: Path) -> None:
    write(workflows, painted=painted(), slow=slow(0.5), long=slow(30.0))


def in_flight(server: ComfyServer) -> list[int]:
    """How many prompts were at a server after each request to it: sent, and their file not fetched yet.

    One that was cancelled is there until the server has let go of it; its file is not fetched.
    """
    open_now: set[str] = set()
    cancelled: set[str] = set()
    found: list[int] = []
    for line in server.log():
        queued = {_short(prompt_id) for prompt_id in line["queued"]}
        if line["method"] == "POST" and line["path"] == "/prompt" and line["body"]:
            open_now.add(_short(line["body"]["prompt_id"]))
        elif line["path"] == "/view":
            open_now.discard(line["query"]["subfolder"].rpartition("/")[2])
        elif line["method"] == "POST" and line["path"].endswith("/cancel"):
            cancelled.add(_short(line["path"].split("/")[-2]))
        open_now -= cancelled - queued
        found.append(len(open_now | queued))
    return found


def _short(prompt_id: str) -> str:
    """As in the subfolder of its files."""
    return prompt_id.replace("-", "")[:16]


def spread(numbers: Iterable[int], **more: Any) -> Any:
    """A mapped workflow step, and Python steps that need nothing of it."""
    return made_of(
        {"id": "numbers", "python": TOLD, "parameters": {"value": list(numbers)}},
        {
            "id": "pictures",
            "workflow": "painted",
            "depends_on": ["numbers"],
            "foreach": "{{ numbers.output }}",
            "parameters": {"1.color": "{{ item }}"},
            **more,
        },
        {
            "id": "beside",
            "python": TOLD,
            "depends_on": ["numbers"],
            "foreach": "{{ numbers.output }}",
            "parameters": {"value": "{{ item }}"},
        },
    )


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.full)])
async def test_S6_7_ready_steps_over_two_servers_with_two_slots(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
    count: int,
) -> None:
    """Never more than two in flight at either; as many Python steps beside them are done long before."""
    ends: list[str] = []

    def events(_: str, fact: Any) -> None:
        if type(fact).__name__ == "StepEnded" and fact.item is not None:
            ends.append(fact.step)

    async with farming(table(one, "one", slots=2), table(two, "two", slots=2), listener=events) as engine:
        run = await engine.run(spread(range(count)))
        assert run.status is ChainStatus.COMPLETED, run.error
        for server in (one, two):
            assert max(in_flight(server)) == 2
            assert len(prompts(server)) > count / 4
        assert len({p["prompt_id"] for s in (one, two) for p in prompts(s)}) == count
        last_beside = max(place for place, step in enumerate(ends) if step == "beside")
        assert ends[: last_beside + 1].count("pictures") < count / 4, "the functions waited for the servers"
        assert len({item.artifact.digest for item in run["pictures"].items}) == count


async def test_S6_7_steps_without_a_server_are_not_held_up_by_those_that_wait(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """The engine has one slot of its own; prompts take none of it."""
    chain = made_of(
        *({"id": f"long{n}", "workflow": "long"} for n in range(3)),
        {"id": "first", "python": TOLD, "parameters": {"value": 1}},
        {"id": "second", "python": TOLD, "depends_on": ["first"], "parameters": {"value": 2}},
    )
    async with farming(table(one, "one", slots=1), concurrency=1) as engine:
        handle = await engine.start(chain)

        async def done() -> bool:
            row = await row_of(engine, handle.id, "second")
            return row is not None and row.status == DONE

        await until(done, 5)
        await until(lambda: prompts(one))
        assert len(prompts(one)) == 1
        await handle.cancel()
        run = await handle.result(check=False)
        assert run["long2"].status == CANCELLED


async def test_S6_7_slots_hold_across_chains_and_come_back(farming: Farming, one: ComfyServer) -> None:
    """Eight chains share two slots; failures, retries and cancels give theirs back."""
    async with farming(table(one, "one", slots=2)) as engine:
        handles = [await engine.start(spread(range(n, n + 5), timeout=20)) for n in range(0, 40, 5)]
        await handles[3].cancel()
        runs = [await handle.result(check=False) for handle in handles]
        assert max(in_flight(one)) <= 2
        assert [run.status for run in runs] == [
            ChainStatus.CANCELLED if n == 3 else ChainStatus.COMPLETED for n in range(8)
        ]
        again = await engine.run(spread(range(50, 54)))
        assert again.status is ChainStatus.COMPLETED


async def test_S6_7_a_paused_chain_does_not_keep_a_slot_from_others(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """It waits for the same server, and is asked to pause while it does: the next in line gets the slot at once."""
    slowly = {"workflow": "slow", "server": "one"}
    async with farming(table(one, "one", slots=1)) as engine:
        holder = await engine.start(made_of({"id": "held", **slowly}))
        await until(lambda: prompts(one))
        paused = await engine.start(
            made_of(
                {"id": "a", **slowly},
                {"id": "waits", "python": BREATHES, "parameters": {"seconds": 2.5}},
            )
        )
        await until(lambda: _queued(engine, paused.id, "a"))
        third = await engine.start(made_of({"id": "third", "workflow": "painted", "server": "one"}))
        await until(lambda: _queued(engine, third.id, "third"))
        await paused.pause()
        began = anyio.current_time()
        run = await third.result()
        assert run.status is ChainStatus.COMPLETED
        assert anyio.current_time() - began < 2.5, "the slot lay idle"
        assert (await holder.result()).status is ChainStatus.COMPLETED
        left = await paused.result()
        assert await settled(engine, left) == {"a": "queued", "waits": DONE}
        resumed = await engine.resume(left.id)
        assert resumed.status is ChainStatus.COMPLETED


async def _queued(engine: Any, run_id: str, step_id: str) -> bool:
    row = await row_of(engine, run_id, step_id)
    return row is not None and row.status == "queued"


async def test_S4_2_a_hundred_picks_at_once_are_spread(
    one: ComfyServer, two: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two idle servers share them half and half, although none of them has been sent anything yet."""
    monkeypatch.setattr(pool_of_servers, "PROBE", 60.0)  # on a busy machine none of them is called silent
    servers = Server(name="one", url=one.url), Server(name="two", url=two.url)
    picked: list[str] = []
    async with ServerPool(servers) as pool, anyio.create_task_group() as tasks:

        async def pick() -> None:
            picked.append((await pool.pick()).name)

        for _ in range(100):
            tasks.start_soon(pick)
    assert (picked.count("one"), picked.count("two")) == (50, 50)


async def test_S6_7_a_long_chain_does_not_starve_others(farming: Farming, one: ComfyServer) -> None:
    """A chain of one step that comes after one of fifty has its turn next, not last."""
    async with farming(table(one, "one", slots=1)) as engine:
        long = await engine.start(spread(range(50)))
        await until(lambda: len(prompts(one)) >= 3)
        short = await engine.run(made_of({"id": "short", "workflow": "painted", "parameters": {"1.color": 999}}))
        assert short.status is ChainStatus.COMPLETED
        place = [p["prompt"]["1"]["inputs"]["color"] for p in prompts(one)].index(999)
        assert place < 10
        assert (await long.result()).status is ChainStatus.COMPLETED


async def test_slots_of_a_pool_are_set_aside_in_order(one: ComfyServer, two: ComfyServer) -> None:
    """Taken, given back, waited for: whoever has waited longest for such a server gets it, used or passed on."""
    told: list[str] = []

    def waiter(name: str) -> Any:
        return lambda: told.append(name)

    first, second, third = waiter("first"), waiter("second"), waiter("third")
    servers = Server(name="one", url=one.url, slots=1), Server(name="two", url=two.url, slots=1)
    async with ServerPool(servers) as pool:
        ones, twos = Need("one"), Need("two")
        held, other = pool.take(ones, first), pool.take(twos, first)
        assert held is not None
        assert other is not None
        assert [pool.take(need, who) for need, who in ((ones, second), (twos, third), (ones, third))] == [None] * 3
        pool.give_back(held)
        assert told == ["second"]
        assert pool.take(ones, first) is None  # it is set aside
        pool.settle(second, wants=False)  # and not wanted any more
        assert told == ["second", "third"]
        slot = pool.take(ones, third)
        assert slot is not None
        pool.give_back(other)
        assert told == ["second", "third", "third"]
        assert pool.take(twos, third) is not None
        pool.give_back(slot)
        assert told[3:] == ["first"]
        pool.settle(first, wants=False)
        assert [m.in_flight for m in pool.members] == [0, 1]
