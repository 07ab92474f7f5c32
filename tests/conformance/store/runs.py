"""What an adapter asks of the store: ownership, recording, requests, gates, events."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from tests.conformance.records import PLAN, a_run, a_step, at_once, ended, refused
from tests.raw_sql import query, raw
from towpath import store as api
from towpath.errors import Fenced, StoreFailed
from towpath.events import (
    ChainEnded,
    ChainPaused,
    ChainResumed,
    DecisionApplied,
    LevelReached,
    LogKept,
    NewApproval,
    NewArtifact,
    StepDropped,
    StepReady,
    StepStarted,
    TransferMade,
)
from towpath.model import ApprovalPolicy, ChainStatus, Plan, StepPlan, StepStatus, TransferStatus
from towpath.ports import Lease, NewRun
from towpath.store import RunStore
from towpath.store.backend import write
from towpath.store.listing import Page, list_rows


async def test_a_run_is_recorded_once(store: RunStore) -> None:
    run = NewRun("r1", PLAN, {"text": "ü", "n": 1.5})
    assert sorted(await asyncio.gather(*(store.create_run(run) for _ in range(20)))) == [False] * 19 + [True]
    loaded = await store.load("r1")
    assert (loaded.plan, loaded.inputs, loaded.status) == (PLAN, {"text": "ü", "n": 1.5}, ChainStatus.PENDING)
    await refused(store.load("nothing"), "E_RUN_MISSING")


async def test_one_owner_at_a_time(store: RunStore) -> None:
    lease = await a_run(store)
    await refused(store.claim(lease.run_id), "E_RUN_OWNED")
    await refused(store.claim("nothing"), "E_RUN_MISSING")
    assert await store.renew([lease, Lease(lease.run_id, 99)]) == [lease.run_id]


async def test_released_runs_are_claimed_with_a_new_epoch_and_the_old_one_is_fenced(store: RunStore) -> None:
    old = await a_run(store)
    row = await a_step(store, old)
    await store.release(old)
    new = await store.claim(old.run_id)
    assert new.epoch > old.epoch
    with pytest.raises(Fenced):
        await store.record(old, [ended(row, StepStatus.COMPLETED)])
    assert await store.renew([old]) == [old.run_id]
    await store.release(old)  # does nothing to the new owner
    assert await store.renew([new]) == []
    await store.record(new, [ended(row, StepStatus.FAILED), ChainEnded(ChainStatus.FAILED)])
    await refused(store.claim(new.run_id), "E_RUN_OVER")


async def test_a_step_is_recorded_whole(store: RunStore) -> None:
    lease = await a_run(store)
    row = await a_step(store, lease)
    kept = await store.files.keep(b"z" * 100_000, "big.bin")
    small = await store.files.keep(b"hello", "small.txt")
    made = tuple(
        NewArtifact(store.new_id(), name, 1, k.filename, k.media_type, k.size, k.digest, k.local_path, k.inline)
        for name, k in (("big", kept), ("small", small))
    )
    value = {"files": [{"$artifact": "big"}, {"$artifact": "small"}], "n": 3}
    await store.record(
        lease,
        [
            ended(row, StepStatus.COMPLETED, value=value, artifacts=made),
            LogKept(row, 1, "one line\n"),
            ChainEnded(ChainStatus.COMPLETED),
        ],
    )
    loaded = await store.load(lease.run_id)
    assert (loaded.status, loaded.rows[0].value) == (ChainStatus.COMPLETED, value)
    assert [a.name for a in loaded.rows[0].artifacts] == ["big", "small"]
    assert await store.files.read_bytes(loaded.rows[0].artifacts[0]) == b"z" * 100_000
    assert await store.files.read_bytes(loaded.rows[0].artifacts[1]) == b"hello"
    told = [event["type"] for event in await store.events(lease.run_id)]
    assert told == ["ChainCreated", "ChainStarted", "StepStarted", "StepCompleted", "ChainEnded"]
    assert [line["text"] for line in await store.logs(lease.run_id)] == ["one line\n"]


async def test_a_refused_unit_fails_alone(store: RunStore) -> None:
    """Among many recorded at once: a taken key, a row that is over, a value no database holds, a false owner."""
    lease = await a_run(store)
    done = await a_step(store, lease)
    await store.record(lease, [ended(done, StepStatus.COMPLETED)])

    def ready(i: int, **more: Any) -> StepReady:
        return StepReady(store.new_id(), f"s{i}", None, "mod:a", started=True, attempt=1, **more)

    works = [store.record(lease, [ready(i)]) for i in range(50)]
    works.insert(10, store.record(lease, [ready(100), StepReady(done, "z", None, "mod:a", True, 1)]))
    works.insert(20, store.record(lease, [ready(101), StepStarted(done, "a", None, 2)]))
    works.insert(
        30, store.record(lease, [ready(102), StepDropped(store.new_id(), "t", None, "m", StepStatus.SKIPPED, "\ud800")])
    )
    works.insert(40, store.record(Lease(lease.run_id, 7), [ready(103)]))
    works.insert(50, store.record(lease, [ready(104), StepReady(store.new_id(), "u", 2**70, "mod:a", True, 1)]))
    results = await at_once(works)
    codes = {i: r.code for i, r in enumerate(results) if r is not None}
    assert codes == {10: "E_DB_CONFLICT", 20: "E_TRANSITION", 30: "E_DB_VALUE", 40: "E_FENCED", 50: "E_DB_VALUE"}
    loaded = await store.load(lease.run_id)
    assert {row.step for row in loaded.rows} == {"a", *(f"s{i}" for i in range(50))}


async def test_what_only_the_commit_can_refuse_fails_alone(store: RunStore) -> None:
    """The pointer's foreign key is looked at when the transaction ends."""
    lease = await a_run(store)
    rows = [await a_step(store, lease, step) for step in "abc"]
    taken = NewArtifact(
        store.new_id(),
        "x",
        1,
        "x",
        "text/plain",
        0,
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        inline=b"",
    )
    await store.record(lease, [ended(rows[0], StepStatus.COMPLETED, "a", artifacts=(taken,))])
    point = "UPDATE workflows SET latest_artifact_id = ? WHERE id = ?"
    results = await at_once(
        [
            store.record(lease, [ended(rows[1], StepStatus.COMPLETED, "b")]),
            store.database.submit([write(query(point, taken.id, rows[1]))]),
            store.record(lease, [ended(rows[2], StepStatus.COMPLETED, "c")]),
        ]
    )
    assert [getattr(r, "code", None) for r in results] == [None, "E_DB_REFERENCE", None]


def soon(queue: Any, *args: Any) -> asyncio.Future[None]:
    """`record_soon` or `record_born`, as something to wait for."""
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    queue(*args, lambda error: told.set_exception(error) if error is not None else told.set_result(None))
    return told


async def test_facts_that_are_queued_are_recorded_in_order_and_each_caller_is_told(store: RunStore) -> None:
    """Those of another owner are refused alone; those behind refused ones of the same owner are refused with them."""
    lease = await a_run(store)
    row = store.new_id()
    ready = StepReady(row, "a", None, "mod:a", started=False, attempt=0)
    works = [
        soon(store.record_soon, lease, [ready]),
        soon(store.record_soon, Lease(lease.run_id, 9), [StepStarted(row, "a", None, 5)]),
        soon(store.record_soon, lease, [StepStarted(row, "a", None, 1), ended(row, StepStatus.COMPLETED)]),
        soon(store.record_soon, lease, [StepStarted(row, "a", None, 2)]),
        soon(store.record_soon, lease, [ChainEnded(ChainStatus.COMPLETED)]),
    ]
    results = await at_once(works)
    assert [getattr(r, "code", None) for r in results] == [None, "E_FENCED", None, "E_TRANSITION", "E_TRANSITION"]
    assert row in str(results[3])
    await soon(store.record_soon, lease, [ChainEnded(ChainStatus.COMPLETED)])
    loaded = await store.load(lease.run_id)
    assert (loaded.status, loaded.rows[0].status) == (ChainStatus.COMPLETED, StepStatus.COMPLETED)
    assert loaded.rows[0].attempt == 1
    told = [event["type"] for event in await store.events(lease.run_id)]
    assert told == ["ChainCreated", "ChainStarted", "StepQueued", "StepStarted", "StepCompleted", "ChainEnded"]


@pytest.mark.parametrize("pause", [False, True], ids=["run", "paused run"])
async def test_a_run_that_is_born_is_as_one_that_was_created_claimed_and_loaded(store: RunStore, pause: bool) -> None:
    """Its row, its lease, its lines, its first facts: all as `create_run`, `claim` and `record` leave them."""
    kept = await a_run(store)

    def new() -> NewRun:
        return NewRun(store.new_id(), PLAN, {"n": [1, {"x": None}]}, parent_run_id=kept.run_id, by="Ada")

    usual, born = new(), new()
    assert await store.create_run(usual)
    first = await store.claim(usual.id)
    loaded = await store.load(usual.id)
    second, row, birth = store.newborn(born)
    assert second == replace(first, run_id=born.id)
    assert row == replace(loaded, id=born.id, root=born.id, started_at=row.started_at)

    def facts() -> list[Any]:
        after = [ChainPaused("requested")] if pause else [ChainEnded(ChainStatus.COMPLETED)]
        return [ChainResumed(), StepDropped(store.new_id(), "a", None, "m", StepStatus.SKIPPED, "why"), *after]

    begun = [store.record(first, facts()[:2]), soon(store.record_born, birth, facts()[:2])]
    assert await at_once(begun) == [None, None]
    await refused(store.claim(born.id), "E_RUN_OWNED")
    assert await store.renew([first, second]) == []
    assert await _as_recorded(store, born.id) == await _as_recorded(store, usual.id)
    ends = [soon(store.record_soon, lease, facts()[2:]) for lease in (first, second)]
    assert await at_once(ends) == [None, None]
    assert await _as_recorded(store, born.id) == await _as_recorded(store, usual.id)


async def _as_recorded(store: RunStore, run: str) -> Any:
    """A run's row, rows and lines, without ids and times."""
    async with store.session() as session:
        chain = await api.get_chain(session, run)
        rows = await api.get_workflows_by_chain(session, run)
    assert chain is not None
    lines = [(line["type"], line["data"]) for line in await store.events(run)]
    return _timeless(chain), [_timeless(row) for row in rows], lines


def _timeless(row: Any) -> dict[str, Any]:
    timeless = {name: value for name, value in row.items() if name not in ("id", "chain_id")}
    if isinstance(timeless.get("owner"), dict):
        timeless["owner"] = {**timeless["owner"], "steady_until": 1}
    return {name: 1 if isinstance(value, int) and value > 10**12 else value for name, value in timeless.items()}


async def test_facts_may_follow_a_birth_that_is_not_recorded_yet(store: RunStore) -> None:
    lease, _, birth = store.newborn(NewRun(store.new_id(), PLAN, {}))
    works = [
        soon(store.record_born, birth, [ChainResumed()]),
        soon(store.record_soon, lease, [StepDropped(store.new_id(), "a", None, "m", StepStatus.SKIPPED, "")]),
        soon(store.record_soon, lease, [ChainEnded(ChainStatus.COMPLETED)]),
    ]
    assert await at_once(works) == [None] * 3
    assert (await store.load(lease.run_id)).status is ChainStatus.COMPLETED


async def test_a_newborn_run_that_is_given_up_leaves_nothing(store: RunStore) -> None:
    lease, _, _ = store.newborn(NewRun(store.new_id(), PLAN, {}))
    await store.release(lease)
    await refused(store.load(lease.run_id), "E_RUN_MISSING")
    assert await store.create_run(NewRun(lease.run_id, PLAN, {}))
    assert (await store.claim(lease.run_id)).epoch == 1


async def test_a_birth_that_is_refused_leaves_nothing_of_it(store: RunStore) -> None:
    lease = await a_run(store)
    new = replace(NewRun(store.new_id(), PLAN, {}), parent_run_id="nothing")
    _, _, birth = store.newborn(new)
    works = [
        soon(store.record_born, birth, [ChainResumed()]),
        soon(store.record_soon, lease, [ChainEnded(ChainStatus.COMPLETED)]),
    ]
    assert [getattr(r, "code", None) for r in await at_once(works)] == ["E_DB_REFERENCE", None]
    await refused(store.load(new.id), "E_RUN_MISSING")
    with pytest.raises(StoreFailed, match="E_DB_VALUE"):
        store.newborn(NewRun(store.new_id(), PLAN, {"text": "\ud800"}))


async def test_a_finished_run_records_nothing_more(store: RunStore) -> None:
    lease = await a_run(store)
    await store.record(lease, [ChainEnded(ChainStatus.COMPLETED)])
    for fact in (ChainResumed(), ChainPaused("requested"), ChainEnded(ChainStatus.FAILED)):
        await refused(store.record(lease, [fact]), "E_TRANSITION")
    await refused(store.request(lease.run_id, "cancel"), "E_RUN_OVER")
    assert [e["type"] for e in await store.events(lease.run_id)][-1] == "ChainEnded"


async def test_wishes_of_others_reach_the_owner(store: RunStore) -> None:
    lease = await a_run(store)
    assert await store.request(lease.run_id, "pause") == ChainStatus.RUNNING
    assert [w.kind for w in await store.requests([lease.run_id, "nothing"])] == ["pause"]
    assert await store.request(lease.run_id, "cancel") == ChainStatus.RUNNING
    assert [w.kind for w in await store.requests([lease.run_id])] == ["cancel"]
    await store.record(lease, [ChainEnded(ChainStatus.CANCELLED)])


async def test_a_run_that_nobody_owns_is_cancelled_with_all_inside_and_says_so(store: RunStore) -> None:
    outer = await a_run(store)
    row = await a_step(store, outer)
    inner = await a_run(store, parent_workflow_id=row)
    below = await a_step(store, inner)
    for lease in (inner, outer):
        await store.release(lease)
    assert await store.request(outer.run_id, "cancel") == ChainStatus.CANCELLED
    for lease, step in ((outer, row), (inner, below)):
        loaded = await store.load(lease.run_id)
        assert (loaded.status, loaded.rows[0].status) == (ChainStatus.CANCELLED, StepStatus.CANCELLED)
        told = [(e["type"], e["workflow_id"]) for e in await store.events(lease.run_id)][-2:]
        assert told == [("StepCancelled", step), ("ChainEnded", None)]
        with pytest.raises(Fenced):
            await store.record(lease, [ChainResumed()])


async def test_a_gate_is_asked_decided_once_and_delivered(store: RunStore) -> None:
    lease = await a_run(store)
    row = await a_step(store, lease)
    kept = await store.files.keep(b"picture", "p.png")
    made = NewArtifact(
        store.new_id(), "output", 1, kept.filename, kept.media_type, kept.size, kept.digest, inline=kept.inline
    )
    gate = NewApproval(store.new_id(), ApprovalPolicy())
    await store.record(lease, [ended(row, StepStatus.WAITING_APPROVAL, artifacts=(made,), approval=gate)])
    async with store.session() as session:
        assert [a.id for a in await api.get_pending_approvals(session)] == [gate.id]
        await api.approve(session, gate.id, "anna", seen=[made.id])
    (request,) = await store.requests([lease.run_id])
    assert (request.kind, request.approval, request.decision, request.by) == ("decision", gate.id, "approved", "anna")
    await store.record(
        lease, [DecisionApplied(row, "a", None, gate.id, StepStatus.COMPLETED), ChainEnded(ChainStatus.COMPLETED)]
    )
    assert await store.requests([lease.run_id]) == []
    loaded = await store.load(lease.run_id)
    assert loaded.rows[0].artifacts[0].approval_status == "approved"


async def test_events_come_in_order_and_in_pages(store: RunStore) -> None:
    lease = await a_run(store)
    for i in range(30):
        await store.record(lease, [StepDropped(store.new_id(), f"s{i}", None, "m", StepStatus.SKIPPED, "")])
    all_of_them = await store.events(lease.run_id)
    paged: list[dict[str, Any]] = []
    while page := await store.events(lease.run_id, after=paged[-1]["seq"] if paged else 0, limit=7):
        paged += page
    assert paged == all_of_them
    assert len(paged) == 32


async def test_a_transfer_that_failed_is_pending_again_when_its_step_is_tried_again(store: RunStore) -> None:
    """And completed at once, if the server has the file: the next try does not send what the first one sent."""
    lease = await a_run(store)
    row = await a_step(store, lease)
    async with store.session() as session:
        file = await api.create_artifact(session, (await api.create_workflow(session, "w")).id, data=b"x", name="x")
    sent = TransferMade(store.new_id(), row, "a", None, file.id, file.workflow_id, "s", TransferStatus.PENDING)
    seen = []
    for status, name in (
        ("pending", None),
        ("uploading", None),
        ("failed", None),
        ("pending", None),
        ("completed", "x"),
    ):
        await store.record(lease, [structs.replace(sent, status=TransferStatus(status), name=name)])
        async with store.session() as session:
            (found,) = await api.list_transfers(session)
        seen.append((found.status, found.attempt, found.target_name))
    assert seen == [
        ("pending", 0, None),
        ("uploading", 1, None),
        ("failed", 1, None),
        ("pending", 1, None),
        ("completed", 1, "x"),
    ]
    await store.record(lease, [structs.replace(sent, status=TransferStatus.PENDING)])
    async with store.session() as session:
        assert (await api.list_transfers(session))[0].status == "completed", "what is completed stays so"


async def test_the_level_of_a_run_is_seen_while_it_runs_and_kept_when_it_stops(store: RunStore) -> None:
    """However it is looked at, by whoever has the store open; and after its owner is gone without a word."""
    plan = Plan("demo", tuple(StepPlan(name, "python", f"mod:{name}", level=n) for n, name in enumerate("abc")))

    async def began(run: str) -> Lease:
        assert await store.create_run(NewRun(run, plan, {}))
        lease = await store.claim(run)
        await store.record(lease, [ChainResumed()])
        for level, step in enumerate("abc"):
            ready = StepReady(store.new_id(), step, None, f"mod:{step}", started=True, attempt=1)
            await store.record(lease, [LevelReached(level), ready])
            assert await levels(run) == {level}
        return lease

    async def levels(run: str) -> set[int]:
        async with store.session() as session:
            chain = await api.get_chain(session, run)
            (listed,) = [found for found in await api.list_chains(session) if found.id == run]
            (row,) = [found for found in (await list_rows(session, "chains", Page())).rows if found.id == run]
        assert chain is not None
        return {chain.current_level, listed.current_level, row.current_level, (await store.load(run)).level}

    paused, renewed, released, over = [await began(store.new_id()) for _ in range(4)]
    await store.record(paused, [ChainPaused("requested")])
    assert await store.renew([renewed]) == []
    await store.release(released)
    await store.record(over, [ChainEnded(ChainStatus.FAILED)])
    for lease in (paused, renewed, released, over):
        assert await levels(lease.run_id) == {2}
        (row,) = await raw(store, "SELECT current_level FROM chains WHERE id = ?", lease.run_id)
        assert row["current_level"] == 2


@pytest.mark.parametrize("kind", ["cancel", "pause"])
async def test_the_level_of_a_run_whose_process_died_is_kept_when_it_is_stopped(store: RunStore, kind: str) -> None:
    plan = Plan("demo", tuple(StepPlan(name, "python", f"mod:{name}", level=n) for n, name in enumerate("ab")))
    run = store.new_id()
    assert await store.create_run(NewRun(run, plan, {}))
    lease = await store.claim(run)
    ready = StepReady(store.new_id(), "b", None, "mod:b", started=True, attempt=1)
    await store.record(lease, [ChainResumed(), LevelReached(1), ready])
    await raw(store, "UPDATE chains SET owner = NULL, lease_until = NULL WHERE id = ?", run)
    await store.request(run, kind)
    (row,) = await raw(store, "SELECT current_level FROM chains WHERE id = ?", run)
    assert row["current_level"] == 1


async def test_the_level_of_a_refused_unit_is_not_reached(store: RunStore) -> None:
    """Neither for the next renewal, nor when the run is released or pauses."""
    for let_go in ("renew", "release", "pause"):
        lease = await a_run(store)
        row = await a_step(store, lease)
        await store.record(lease, [LevelReached(1), ended(row, StepStatus.FAILED)])
        with pytest.raises(StoreFailed, match="E_TRANSITION"):
            await store.record(lease, [LevelReached(5), ended(row, StepStatus.COMPLETED)])
        if let_go == "renew":
            await store.renew([lease])
        elif let_go == "release":
            await store.release(lease)
        else:
            await store.record(lease, [ChainPaused("requested")])
        (found,) = await raw(store, "SELECT current_level FROM chains WHERE id = ?", lease.run_id)
        assert found["current_level"] == 1, let_go
