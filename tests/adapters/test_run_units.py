"""Units: what of a run is recorded together, and what happens when a unit is refused."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import PATIENCE
from towpath import ChainStatus, StoreFailed, chain, open_engine, step
from towpath.adapters.run_units import LARGEST, UNIT, RunUnits
from towpath.events import ChainEnded, Fact, LevelReached
from towpath.ports import Lease
from towpath.store.backend import Unit
from towpath.store.group_commit import GroupCommit
from towpath.store.sqlite import database
from towpath.store.sqlite.batch import record_batch
from towpath.store.sqlite.errors import busy

pytestmark = pytest.mark.anyio

LEASE = Lease("r", 1)


class Recorder:
    """A store that says when a unit is recorded, as late as it is told to."""

    def __init__(self) -> None:
        self.units: list[Sequence[Fact]] = []
        self.done: list[Callable[[Exception | None], None]] = []

    def record_soon(self, lease: Lease, facts: Sequence[Fact], done: Callable[[Exception | None], None]) -> None:
        self.units.append(list(facts))
        self.done.append(done)


class Driver:
    """What a run is told."""

    def __init__(self) -> None:
        self.store = Recorder()
        self.durable: list[Fact] = []
        self.failed: list[BaseException] = []
        self.units = RunUnits(self.store, LEASE, None, self._on_durable, self.failed.append)  # type: ignore[arg-type]

    def _on_durable(self, facts: Sequence[Fact], starting: Sequence[Any]) -> None:
        self.durable += facts


def facts(count: int, first: int = 0) -> list[Fact]:
    return [LevelReached(first + n) for n in range(count)]


END = ChainEnded(ChainStatus.COMPLETED)


async def test_what_follows_in_one_turn_of_the_loop_is_one_unit() -> None:
    driver = Driver()
    driver.units.add(facts(2), [])
    driver.units.add(facts(3, 2), [])
    assert driver.store.units == []
    await asyncio.sleep(0)
    assert driver.store.units == [facts(5)]


@pytest.mark.parametrize("error", [RuntimeError("a fault"), StoreFailed("E_DB_CLOSED", "closed")])
async def test_a_unit_that_cannot_be_handed_over_ends_the_run(error: Exception) -> None:
    """Also in a turn of the loop that nobody awaits; and no later fact is recorded without it."""
    driver = Driver()
    record_soon = driver.store.record_soon

    def refuse(lease: Lease, facts: Sequence[Fact], done: Callable[[Exception | None], None]) -> None:
        driver.store.record_soon = record_soon  # type: ignore[method-assign]
        raise error

    driver.store.record_soon = refuse  # type: ignore[method-assign]
    driver.units.add(facts(1), [])
    await asyncio.sleep(0)
    driver.units.add(facts(UNIT, 1), [])
    await asyncio.sleep(0)
    assert driver.failed == [error]
    assert driver.store.units == []


@pytest.mark.parametrize("count", [UNIT - 1, UNIT, LARGEST, LARGEST + 1, 3 * LARGEST + 7])
async def test_no_unit_is_too_large(count: int) -> None:
    """Many facts go at once; more than a transaction may hold go one unit after the other, in order."""
    driver = Driver()
    driver.units.add(facts(count), [])
    for _ in range(10):
        await asyncio.sleep(0)
        for done in driver.store.done[:]:
            driver.store.done.remove(done)
            done(None)
    assert max(map(len, driver.store.units)) <= LARGEST
    assert [fact for unit in driver.store.units for fact in unit] == facts(count)
    assert driver.durable == facts(count)


@pytest.mark.parametrize("refused", [False, True])
async def test_the_end_is_not_recorded_before_all_else_is(refused: bool) -> None:
    """A unit that is refused takes the end of the run with it: the run stays as it is recorded."""
    driver = Driver()
    driver.units.add(facts(UNIT), [])
    driver.units.add([END], [], now=True)
    await asyncio.sleep(0)
    assert driver.store.units == [facts(UNIT)]
    error = StoreFailed("E_DB", "refused")
    driver.store.done[0](error if refused else None)
    await asyncio.sleep(0)
    assert driver.store.units == [facts(UNIT)] + ([] if refused else [[END]])
    assert driver.failed == ([error] if refused else [])
    driver.units.add(facts(UNIT), [])
    assert len(driver.store.units) == (1 if refused else 3)


async def test_six_thousand_steps_need_no_large_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are ready at once: their rows and starts are recorded in units of at most 5,000 statements."""
    sizes: list[int] = []
    queue = GroupCommit.queue

    def counted(self: GroupCommit, unit: Unit) -> None:
        sizes.append(len(unit.writes))
        queue(self, unit)

    monkeypatch.setattr(GroupCommit, "queue", counted)

    @chain
    def wide():
        return [steps.number(n) for n in range(6_000)]

    async with open_engine(tmp_path / "s.db", durability="normal") as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(wide)
    assert run.value == list(range(6_000))
    assert 100 < max(sizes) <= 5_000


async def test_a_run_whose_birth_is_not_recorded_never_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`start` and `run` raise what the store says, no function is called, and there is no run."""
    called: list[int] = []
    monkeypatch.setattr(steps.number, "function", called.append)

    @chain
    def one():
        return steps.number(1)

    async with open_engine(tmp_path / "s.db") as engine:
        await engine.run(one)
        called.clear()
        broken = StoreFailed("E_DISK_IO", "the disk is gone")
        engine.store.database._commits.fail(broken)  # type: ignore[attr-defined]
        for begin in (engine.run, engine.start):
            with pytest.raises(StoreFailed) as failed:
                await begin(one)
            assert failed.value.code == "E_DISK_IO"
    assert not called
    async with open_engine(tmp_path / "s.db") as engine:
        assert len(await engine.list_chains()) == 1


async def test_what_follows_from_a_unit_that_was_not_recorded_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of another process ends the wait for one batch and lets the next one through: the run can be resumed."""
    batches: list[Sequence[Unit]] = []
    second, on_its_way = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def late(connection: sqlite3.Connection, units: Sequence[Unit], path: Path) -> Sequence[Exception | None]:
        batches.append(units)
        if len(batches) != 2:
            return record_batch(connection, units, path)
        loop.call_soon_threadsafe(on_its_way.set)  # the end of `first`
        second.wait(PATIENCE)
        raise busy(path)

    monkeypatch.setattr(database, "record_batch", late)

    @step
    async def first() -> int:
        return 1

    @step
    async def then() -> int:
        await on_its_way.wait()
        loop.call_later(0.05, second.set)  # when the end of this step is queued
        return 2

    @chain
    def both():
        return steps.total([first(), then()])

    async with open_engine(tmp_path / "s.db") as engine:
        with anyio.fail_after(PATIENCE), pytest.raises(StoreFailed, match="E_DB_BUSY"):
            await engine.run(both)
        (run,) = await engine.list_chains()
        left = {row.step_id: row.status for row in await engine.list_workflows(chain_id=run.id)}
        assert left == {"first": "executing", "then": "executing"}
        with anyio.fail_after(PATIENCE):
            assert (await engine.resume(run.id)).value == 3
