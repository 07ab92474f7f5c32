"""What a batch leaves is what its units leave one by one; whose turn it is to write."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.records import PLAN, a_run, a_step, at_once, ended
from tests.raw_sql import query
from towpath.errors import Fenced, StoreFailed
from towpath.events import (
    ChainEnded,
    ChainPaused,
    ChainResumed,
    Fact,
    LevelReached,
    LogKept,
    NewArtifact,
    StepDropped,
    StepEnded,
    StepReady,
    StepRetried,
    StepStarted,
)
from towpath.model import ChainStatus, ErrorInfo, Plan, StepStatus
from towpath.ports import Lease, NewRun
from towpath.store import RunStore
from towpath.store import definitions as plans
from towpath.store.backend import Unit, write
from towpath.store.group_commit import Turn
from towpath.store.journal import guard, writes
from towpath.store.schema import definitions
from towpath.store.sqlite.batch import record_batch
from towpath.store.sqlite.dialect import DIALECT

pytestmark = pytest.mark.anyio
TABLES = ("chains", "workflows", "artifacts", "events", "step_logs")
Given = tuple[str, int, list[Fact]]  # the run, the epoch, the facts of a unit


def _tables() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in definitions(DIALECT.spelling.core):
        connection.execute(statement)
    connection.execute("PRAGMA foreign_keys=ON")
    for run in ("r0", "r1"):
        columns = "id, name, status, started_at, epoch, created_at, updated_at"
        connection.execute(f"INSERT INTO chains ({columns}) VALUES ('{run}', 'demo', 'running', 1, 3, 1, 1)")
    return connection


def _left(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES}


def _record(connection: sqlite3.Connection, units: Sequence[Given]) -> list[str | None]:
    made = [
        Unit(writes(run, facts, n), guard(Lease(run, epoch)), lambda error: None)
        for n, (run, epoch, facts) in enumerate(units)
    ]
    return [None if error is None else str(error) for error in record_batch(connection, made, Path("s.db"))]


def _one_by_one(connection: sqlite3.Connection, units: Sequence[Given]) -> list[str | None]:
    results: list[str | None] = []
    for n, (run, epoch, facts) in enumerate(units):
        unit = Unit(writes(run, facts, n), guard(Lease(run, epoch)), lambda error: None)
        (error,) = record_batch(connection, [unit], Path("s.db"))
        results.append(None if error is None else str(error))
    return results


def _life(row: str, chance: random.Random) -> list[Fact]:
    """What may happen to a row, and sometimes what may not."""
    step, item = chance.choice([(row, None), ("many", int(row[1:]))])
    made = NewArtifact(f"a-{row}", "x", 1, "x", "text/plain", 1, "0" * 64, inline=b"x")
    error = ErrorInfo("E", "wrong")
    end = chance.choice(
        [
            StepEnded(row, step, item, StepStatus.COMPLETED, 1, {"n": 1}),
            StepEnded(row, step, item, StepStatus.COMPLETED, 1, {"$artifact": "x"}, (made,)),
            StepEnded(row, step, item, StepStatus.FAILED, 1, error=error),
            StepEnded(row, step, item, StepStatus.COMPLETED, 1, reason="why"),
        ]
    )
    started = StepStarted(row, step, item, 1, {"p": row})
    life: list[Fact] = [
        chance.choice([StepReady(row, step, item, "m:f", False, 0), StepReady(row, step, item, "m:f", True, 1)]),
        started,
        end,
    ]
    if chance.random() < 0.3:
        life.insert(2, StepRetried(row, step, item, 1, error, 0.5))
    if chance.random() < 0.2:
        life.insert(2, LogKept(row, 1, "a line"))
    if chance.random() < 0.15:
        life.append(started)  # after its end: refused
    if chance.random() < 0.1:
        life.append(end)
    if chance.random() < 0.1:
        life = [StepDropped(row, step, item, "m:f", StepStatus.SKIPPED, "no")]
    return life


def _units(seed: int) -> list[Given]:
    """Units of two runs, with several facts each, that follow each other as they come."""
    chance = random.Random(seed)
    lives = [(chance.choice(["r0", "r1"]), _life(f"w{n}", chance)) for n in range(chance.randrange(2, 25))]
    units: list[Given] = []
    while any(life for _, life in lives):
        run, epoch = chance.choice(["r0", "r1"]), 3 if chance.random() < 0.97 else 2
        facts: list[Fact] = []
        for of, life in lives:
            if of == run and life and chance.random() < 0.5:
                facts.append(life.pop(0))
        facts += [LevelReached(len(units))] if chance.random() < 0.2 else []
        facts += [ChainPaused("requested"), ChainResumed()] if chance.random() < 0.1 else []
        units += [(run, epoch, facts)] if facts else []
    return [*units, ("r0", 3, [ChainEnded(ChainStatus.COMPLETED)])]


@pytest.mark.parametrize("seed", range(60))
def test_a_batch_leaves_what_its_units_leave_one_by_one(seed: int) -> None:
    """Rows, lines in their order, and whose unit is refused with which words; whatever was written together."""
    units = _units(seed)
    with closing(_tables()) as alone, closing(_tables()) as together:
        expected = _one_by_one(alone, units)
        assert _record(together, units) == expected
        assert _left(together) == _left(alone)


async def test_a_row_that_starts_again_after_its_end_is_refused_in_the_same_batch(store: RunStore) -> None:
    """Starts are written before ends: the order of these two must not be lost."""
    lease = await a_run(store)
    row = await a_step(store, lease)
    works = [
        store.record(lease, [ended(row, StepStatus.COMPLETED, value=1)]),
        store.record(lease, [StepStarted(row, "a", None, 2)]),
        store.record(lease, [ChainEnded(ChainStatus.COMPLETED)]),
    ]
    results = await at_once(works)
    assert [getattr(r, "code", None) for r in results] == [None, "E_TRANSITION", None]
    assert f"workflow {row} cannot go" in str(results[1])
    (loaded,) = (await store.load(lease.run_id)).rows
    assert (loaded.status, loaded.attempt) == (StepStatus.COMPLETED, 1)


async def test_units_of_a_line_are_recorded_only_behind_recorded_ones(store: RunStore) -> None:
    """In one batch or in several; when the caller is told, a new line begins. Other runs are not concerned."""
    lease, other = await a_run(store), await a_run(store)
    row = await a_step(store, lease)
    again = StepReady(row, "a", None, "m", started=True, attempt=1)  # this row is there already
    told: list[tuple[str, str | None]] = []

    def soon(lease: Lease, name: str, fact: Fact) -> None:
        def done(error: Exception | None) -> None:
            told.append((name, getattr(error, "code", None)))
            if name == "refused":
                soon(lease, "after it", ended(row, StepStatus.FAILED))

        store.record_soon(lease, [fact], done)

    def dropped(name: str) -> StepDropped:
        return StepDropped(store.new_id(), name, None, "m", StepStatus.SKIPPED, "")

    soon(lease, "before", dropped("b"))
    soon(lease, "refused", again)
    soon(lease, "behind", ended(row, StepStatus.COMPLETED))
    soon(other, "another", dropped("c"))
    await asyncio.sleep(0)
    soon(lease, "behind, later", dropped("d"))
    await asyncio.sleep(0.2)
    codes = dict(told)
    assert codes["before"] is codes["another"] is codes["after it"] is None
    assert codes["refused"] == codes["behind"] == codes["behind, later"] == "E_DB_CONFLICT"
    assert {step.step: step.status for step in (await store.load(lease.run_id)).rows} == {
        "a": StepStatus.FAILED,
        "b": StepStatus.SKIPPED,
    }


async def test_a_caller_that_fails_when_it_is_told_keeps_nobody_else_waiting(store: RunStore) -> None:
    lease = await a_run(store)
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))

    def fails(error: Exception | None) -> None:
        raise ZeroDivisionError

    store.record_soon(lease, [StepDropped(store.new_id(), "a", None, "m", StepStatus.SKIPPED, "")], fails)
    await store.record(lease, [ChainEnded(ChainStatus.COMPLETED)])
    assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError]


async def test_units_are_recorded_between_two_sessions(store: RunStore) -> None:
    """A session that waits for its turn gets it after the batch that is being recorded, and the queue gets it back."""
    lease = await a_run(store)
    order: list[str] = []

    async def session(name: str) -> None:
        async with store.session() as one:
            await one.begin()
            order.append(name)

    async def unit(name: str) -> None:
        await store.database.submit([write(query("UPDATE chains SET description = ?", name))], guard(lease))
        order.append(name)

    async with asyncio.TaskGroup() as tasks:
        for work in (session("s1"), unit("u1"), session("s2")):
            tasks.create_task(work)
    assert sorted(order) == ["s1", "s2", "u1"]
    assert order[0] == "s1"


async def test_what_is_queued_for_a_run_that_was_taken_over_is_refused_at_once_for_all(store: RunStore) -> None:
    old = await a_run(store)
    await store.release(old)
    await store.claim(old.run_id)
    works = [
        store.record(old, [StepDropped(store.new_id(), f"s{n}", None, "m", StepStatus.SKIPPED, "")]) for n in range(20)
    ]
    assert {type(result) for result in await at_once(works)} == {Fenced}
    assert (await store.load(old.run_id)).rows == ()


async def test_a_plan_is_encoded_once_for_all_runs_of_it(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    encoded = plans._kept

    def counted(plan: Plan) -> plans.Kept:
        made.append(plan)
        return encoded(plan)

    monkeypatch.setattr(plans, "_kept", counted)
    monkeypatch.setattr(plans, "_recent", deque[Any](maxlen=8))
    for _ in range(5):
        assert await store.create_run(NewRun(store.new_id(), PLAN, {}))
    assert made == [PLAN]


async def test_a_store_that_cannot_write_says_so_at_once(store: RunStore) -> None:
    lease = await a_run(store)
    lease_of_birth, _, birth = store.newborn(NewRun(store.new_id(), PLAN, {}))
    del lease_of_birth
    broken = StoreFailed("E_DISK_IO", "the disk")
    told: list[Exception | None] = []
    soon: list[Callable[[], None]] = [
        lambda: store.record_soon(lease, [LogKept("x", 1, "x")], told.append),
        lambda: store.record_born(birth, [ChainResumed()], told.append),
    ]
    store.database._commits.fail(broken)  # type: ignore[attr-defined]
    for queue in soon:
        with pytest.raises(StoreFailed, match="E_DISK_IO"):
            queue()
    assert told == []
    store.database._commits.broken = None  # type: ignore[attr-defined]


# ---- turns


async def test_turns_are_given_in_order_and_a_cancelled_caller_passes_its_turn_on() -> None:
    turn, order = Turn(), list[str]()

    async def takes(name: str) -> None:
        async with turn:
            order.append(name)
            await asyncio.sleep(0)

    def queue() -> None:
        order.append("queue")
        turn.end()

    turn.ask(lambda: order.append("first"))
    waiting = [asyncio.ensure_future(takes(name)) for name in ("gone", "given up", "second")]
    await asyncio.sleep(0)
    turn.ask(queue)
    assert turn.wanted
    waiting[0].cancel()
    await asyncio.sleep(0)
    turn.end()
    waiting[1].cancel()  # it has its turn, and has not noticed yet
    await at_once(waiting)
    assert order == ["first", "second", "queue"]
    assert not turn.wanted
    async with turn:
        pass
