# ruff: noqa: PT012 - what a session refuses is told where its block ends
"""What every store must do. A test module takes the suite with `from tests.conformance.store import *` and
gives one fixture, `store`: an open and empty store, which it checks with `fsck` when the test is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
import sqlalchemy as sa

from tests.raw_sql import query
from towpath import store as api
from towpath.errors import Fenced, InputInvalid, RunRefused, StoreFailed
from towpath.events import (
    ChainEnded,
    ChainPaused,
    ChainResumed,
    DecisionApplied,
    Fact,
    LogKept,
    NewApproval,
    NewArtifact,
    StepDropped,
    StepEnded,
    StepReady,
    StepStarted,
)
from towpath.model import ApprovalPolicy, ChainStatus, Plan, StepPlan, StepStatus
from towpath.ports import Lease, NewRun
from towpath.store import Record, RunStore
from towpath.store.backend import Write
from towpath.store.clock import new_id
from towpath.store.tables import artifacts

PLAN = Plan("demo", tuple(StepPlan(name, "python", f"mod:{name}") for name in ("a", "b", "c")))
LAG = 0.1  # seconds that the event loop may stand still, at most


async def a_workflow(store: RunStore, status: str = "executing") -> str:
    """The id of a step's row in a new chain."""
    async with store.session() as session:
        chain = await api.create_chain(session, "demo", "running")
        row = await api.create_workflow(session, "a", chain_id=chain.id, step_id="a", status=status)
    return str(row.id)


async def a_version(store: RunStore, workflow: str, data: bytes = b"x", **more: Any) -> Record:
    """A new version of an output."""
    async with store.session() as session:
        return await api.create_artifact(session, workflow, "x.bin", data=data, **more)


async def a_run(store: RunStore, run_id: str = "", **more: Any) -> Lease:
    """The lease of a new, running run."""
    run_id = run_id or store.new_id()
    assert await store.create_run(NewRun(run_id, PLAN, {}, **more))
    lease = await store.claim(run_id)
    await store.record(lease, [ChainResumed()])
    return lease


async def a_step(store: RunStore, lease: Lease, step: str = "a") -> str:
    """The row of a step that was started."""
    row = store.new_id()
    await store.record(lease, [StepReady(row, step, None, f"mod:{step}", started=True, attempt=1)])
    return row


def ended(row: str, status: StepStatus, step: str = "a", **more: Any) -> StepEnded:
    return StepEnded(row, step, None, status, **more)


async def refused(work: Any, code: str) -> None:
    with pytest.raises((StoreFailed, InputInvalid, RunRefused)) as caught:
        await work
    assert caught.value.code == code


async def count(store: RunStore, table: str) -> int:
    async with store.session() as session:
        rows = await session.fetch_all(sa.select(sa.func.count().label("n")).select_from(sa.table(table)))
    return int(rows[0]["n"])


async def lag_during(work: Callable[[], Awaitable[object]]) -> float:
    """How long the event loop stands still at most while `work` is done, in seconds.

    The best of three rounds: what is busy beside us on the machine is not what is measured.
    """
    rounds: list[float] = []
    while len(rounds) < 3 and (not rounds or rounds[-1] >= LAG):
        longest = 0.0

        async def probe() -> None:
            nonlocal longest
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.002)
                longest = max(longest, time.perf_counter() - before - 0.002)

        probing = asyncio.create_task(probe())
        await work()
        probing.cancel()
        rounds.append(longest)
    return min(rounds)


async def at_once(works: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*works, return_exceptions=True)


# ---- S1: schema


async def test_S1_2_creating_an_artifact_points_at_it_and_reading_is_one_query(store: RunStore) -> None:
    workflow = await a_workflow(store)
    first = await a_version(store, workflow)
    second = await a_version(store, workflow)
    async with store.session() as session:
        row = await api.get_workflow(session, workflow)
        assert row is not None
        assert row.latest_artifact_id == second.id != first.id
    async with store.session() as session:
        found = await api.get_latest_artifact(session, workflow)
        assert session.queries == 1
        by_name = await api.get_latest_artifact(session, workflow, "output")
        assert session.queries == 2
    assert found == by_name
    assert found is not None
    assert (found.id, found.version, found.is_latest) == (second.id, 2, True)


async def test_S1_3_a_second_latest_is_refused_by_the_database(store: RunStore) -> None:
    workflow = await a_workflow(store)
    first = await a_version(store, workflow)
    async with store.session() as session:
        row = await session.fetch_one(sa.select(artifacts).where(artifacts.c.id == first.id))
    assert row is not None
    for changed in ({"version": 2}, {"is_latest": 0}):  # two latest; the same version twice

        async def insert(changed: dict[str, Any] = changed) -> None:
            async with store.session() as session:
                await session.execute(sa.insert(artifacts).values({**row, "id": new_id(), **changed}))

        await refused(insert(), "E_DB_CONFLICT")
    assert await count(store, "artifacts") == 1


async def test_S1_3_fifty_concurrent_writers_end_with_one_latest(store: RunStore) -> None:
    workflow = await a_workflow(store)
    made = await asyncio.gather(*(a_version(store, workflow, b"%d" % i) for i in range(50)))
    assert sorted(row.version for row in made) == list(range(1, 51))
    async with store.session() as session:
        rows = await api.get_artifacts_by_workflow(session, workflow, include_old_versions=True)
        pointed = await api.get_latest_artifact(session, workflow)
    assert [row.version for row in rows] == list(range(50, 0, -1))
    assert [row.version for row in rows if row.is_latest] == [50]
    assert pointed == rows[0]


async def test_R09_eight_writers_of_25_versions_each(store: RunStore) -> None:
    workflow = await a_workflow(store)

    async def writer(number: int) -> None:
        for i in range(25):
            await a_version(store, workflow, b"%d %d" % (number, i))

    assert await at_once([writer(n) for n in range(8)]) == [None] * 8
    async with store.session() as session:
        rows = await api.get_artifacts_by_workflow(session, workflow, include_old_versions=True)
    assert [row.version for row in rows] == list(range(200, 0, -1))
    assert [row.version for row in rows if row.is_latest] == [200]


async def test_S1_4_three_outputs_are_three_latest(store: RunStore) -> None:
    workflow = await a_workflow(store)
    names = ("9.images[0]", "9.images[1]", "12.videos[0]")
    made = [await a_version(store, workflow, name=name) for name in names]
    async with store.session() as session:
        listed = await api.get_artifacts_by_workflow(session, workflow)
        for artifact in listed:
            await api.create_transfer(session, artifact.id, workflow, "gpu-1")
        sent = await api.list_transfers(session)
        row = await api.get_workflow(session, workflow)
    assert sorted(a.name for a in listed) == sorted(names)
    assert all(a.is_latest and a.version == 1 for a in listed)
    assert {t.artifact_id for t in sent} == {a.id for a in made}
    assert row is not None
    assert row.latest_artifact_id == made[0].id  # the primary output is the first


async def test_S1_5_lineage_from_any_member_in_one_query(store: RunStore) -> None:
    workflow = await a_workflow(store)
    made = [await a_version(store, workflow)]
    for parent in (0, 1, 1, 0, 3):  # a tree: 1 - 2 - (3, 4 - 6) and 1 - 5
        made.append(await a_version(store, workflow, parent_artifact_id=made[parent].id))
    await a_version(store, workflow, name="other")
    for member in made:
        async with store.session() as session:
            found = await api.get_artifact_versions(session, member.id)
            assert session.queries == 1
        assert [a.id for a in found] == [a.id for a in made]


async def test_S1_6_deleting_a_chain_deletes_all_of_it(store: RunStore) -> None:
    workflow = await a_workflow(store)
    artifact = await a_version(store, workflow)
    async with store.session() as session:
        row = await api.get_workflow(session, workflow)
        assert row is not None
        await api.create_transfer(session, artifact.id, workflow, "gpu-1")
        await api.create_approval(session, workflow, [artifact.id], chain_id=row.chain_id)
        inner = await api.create_chain(session, "inner", parent_workflow_id=workflow)
        await api.create_workflow(session, "x", chain_id=inner.id, step_id="x")
    async with store.session() as session:
        assert await api.delete_chain(session, row.chain_id)
    for table in ("chains", "workflows", "artifacts", "artifact_transfers", "approvals"):
        assert await count(store, table) == 0


async def test_S1_6_deleting_the_latest_promotes_the_one_before(store: RunStore) -> None:
    workflow = await a_workflow(store)
    made = [await a_version(store, workflow) for _ in range(3)]
    other = await a_version(store, workflow, name="other")

    async def delete(artifact: Record) -> tuple[str | None, list[int]]:
        async with store.session() as session:
            assert await api.delete_artifact(session, artifact.id)
            assert not await api.delete_artifact(session, artifact.id)
            row = await api.get_workflow(session, workflow)
            rows = await api.get_artifacts_by_workflow(session, workflow)
        assert row is not None
        return row.latest_artifact_id, [a.version for a in rows if a.name == "output"]

    assert await delete(made[2]) == (made[1].id, [2])
    assert await delete(made[0]) == (made[1].id, [2])
    again = await a_version(store, workflow)
    assert again.version == 4  # a number is never given twice
    await delete(again)
    assert await delete(made[1]) == (other.id, [])
    assert await delete(other) == (None, [])


async def test_the_only_version_is_the_latest_whatever_is_asked(store: RunStore) -> None:
    workflow = await a_workflow(store)
    first = await a_version(store, workflow, is_latest=False)
    assert first.is_latest
    second = await a_version(store, workflow, is_latest=False)
    assert not second.is_latest
    async with store.session() as session:
        await api.update_artifact_latest_flag(session, second.id, True)
        await api.update_artifact_latest_flag(session, second.id, False)
        assert (await api.get_latest_artifact(session, workflow)) == await api.get_artifact(session, first.id)
    async with store.session() as session:
        await api.delete_artifact(session, second.id)
        with pytest.raises(StoreFailed, match="E_ARTIFACT_LATEST"):
            await api.update_artifact_latest_flag(session, first.id, False)


async def test_the_pointer_takes_only_an_own_latest_version(store: RunStore) -> None:
    mine, other = await a_workflow(store), await a_workflow(store)
    old = await a_version(store, mine)
    new = await a_version(store, mine)
    strange = await a_version(store, other)

    async def point(artifact: str) -> Record | None:
        async with store.session() as session:
            return await api.update_workflow_latest_artifact(session, mine, artifact)

    for wrong in (old.id, strange.id, "nothing"):
        await refused(point(wrong), "E_DB_REFERENCE")
    pointed = await point(new.id)
    assert pointed is not None
    assert pointed.latest_artifact_id == new.id
    async with store.session() as session:
        assert await api.update_workflow_latest_artifact(session, "nothing", new.id) is None


FINAL_STEPS = ("completed", "failed", "skipped", "cancelled", "cached")
FINAL_CHAINS = ("completed", "partial", "failed", "cancelled")


@pytest.mark.parametrize("final", FINAL_STEPS)
async def test_S1_7_a_final_step_stays_as_it_is(store: RunStore, final: str) -> None:
    workflow = await a_workflow(store, final)
    for word in StepStatus:
        async with store.session() as session:
            if word == final:
                assert await api.update_workflow_status(session, workflow, word)
                continue
            with pytest.raises(StoreFailed, match="E_TRANSITION"):
                await api.update_workflow_status(session, workflow, word)


@pytest.mark.parametrize("final", FINAL_CHAINS)
async def test_S1_7_a_final_chain_stays_as_it_is(store: RunStore, final: str) -> None:
    async with store.session() as session:
        chain = await api.create_chain(session, "demo")
        await api.update_chain_status(session, chain.id, final)
        for word in ChainStatus:
            if word != final:
                with pytest.raises(StoreFailed, match="E_TRANSITION"):
                    await api.update_chain_status(session, chain.id, word)


async def test_S1_7_unknown_words_are_refused_by_function_and_by_database(store: RunStore) -> None:
    workflow = await a_workflow(store)
    async with store.session() as session:
        for word in ("executing_level_2", "", "COMPLETED", "done"):
            with pytest.raises(InputInvalid, match="E_STATUS"):
                await api.update_workflow_status(session, workflow, word)
            with pytest.raises(InputInvalid, match="E_STATUS"):
                await api.create_chain(session, "demo", word)

    async def past() -> None:
        async with store.session() as session:
            await session.execute(sa.text("UPDATE workflows SET status = 'executing_level_2'"))

    await refused(past(), "E_DB_VALUE")


async def test_S1_7_the_level_is_a_column(store: RunStore) -> None:
    async with store.session() as session:
        chain = await api.create_chain(session, "demo", "initializing")  # the seed's word for pending
        assert (chain.status, chain.current_level) == ("pending", 0)
        changed = await api.update_chain_status(session, chain.id, "running", current_level=2)
    assert changed is not None
    assert (changed.status, changed.current_level) == ("running", 2)


# ---- S2: functions


async def test_S2_2_an_error_leaves_no_row(store: RunStore) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.session() as session:
            chain = await api.create_chain(session, "demo")
            row = await api.create_workflow(session, "a", chain_id=chain.id, step_id="a")
            await api.create_artifact(session, row.id, "x", data=b"x")
            raise ZeroDivisionError
    for table in ("chains", "workflows", "artifacts", "blobs"):
        assert await count(store, table) == 0


async def test_S2_2_a_failed_statement_spoils_its_session_even_if_caught(store: RunStore) -> None:
    workflow = await a_workflow(store)
    await a_version(store, workflow)
    with pytest.raises(StoreFailed, match="E_SESSION_FAILED"):
        async with store.session() as session:
            await api.create_chain(session, "before")
            with pytest.raises(StoreFailed, match="E_DB_REFERENCE"):
                await api.create_artifact(session, "no such workflow", data=b"x")
            with pytest.raises(StoreFailed, match="E_SESSION_FAILED"):
                await api.get_chain(session, "x")
    assert await count(store, "chains") == 1
    assert (await a_version(store, workflow)).version == 2  # the store works on


async def test_S2_2_a_cancelled_statement_spoils_its_session_even_if_caught(store: RunStore) -> None:
    workflow = await a_workflow(store)
    with pytest.raises(StoreFailed, match="E_SESSION_FAILED"):
        async with store.session() as session:
            await api.create_chain(session, "before")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await api.create_artifact(session, workflow, data=b"x", name="new")
            await session.begin()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await api.create_chain(session, "cancelled")
    assert await count(store, "chains") == 1


async def test_S2_2_wrong_arguments_write_nothing(store: RunStore) -> None:
    workflow = await a_workflow(store)
    first = await a_version(store, workflow)
    other = await a_version(store, workflow, name="other")
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("E_STATUS", {"approval_status": "perhaps"}),
        ("E_ARTIFACT_VERSION", {"version": 1}),
        ("E_ARTIFACT_VERSION", {"version": 3}),
        ("E_ARTIFACT_PARENT", {"parent_artifact_id": "nothing"}),
        ("E_ARTIFACT_PARENT", {"parent_artifact_id": other.id, "name": "output"}),
        ("E_ARTIFACT_SOURCE", {"data": None}),
    ]
    async with store.session() as session:
        await session.begin()
        for code, options in wrong:
            with pytest.raises(InputInvalid, match=code):
                await api.create_artifact(session, workflow, **{"data": b"y", **options})
    async with store.session() as session:
        assert await api.get_latest_artifact(session, workflow) == first
        assert (await api.create_artifact(session, workflow, data=b"y", version=2)).version == 2


async def test_S2_3_times(store: RunStore) -> None:
    workflow = await a_workflow(store, "queued")
    async with store.session() as session:
        started = await api.update_workflow_status(session, workflow, "executing")
        again = await api.update_workflow_status(session, workflow, "executing")
        waiting = await api.update_workflow_status(session, workflow, "waiting_approval")
        done = await api.update_workflow_status(session, workflow, "completed")
        chain = await api.create_chain(session, "demo")
        running = await api.update_chain_status(session, chain.id, "running")
        over = await api.update_chain_status(session, chain.id, "failed", error_message="why")
    assert started is not None
    assert again is not None
    assert waiting is not None
    assert done is not None
    assert running is not None
    assert over is not None
    assert started.started_at == again.started_at == done.started_at
    assert started.completed_at is waiting.completed_at is running.completed_at is None
    assert done.completed_at >= done.started_at >= done.queued_at
    assert (over.completed_at >= over.started_at, over.error_message) == (True, "why")


@pytest.mark.parametrize("steps", [10, 1000])
async def test_S2_4_a_chain_with_all_steps_is_three_queries(store: RunStore, steps: int) -> None:
    lease = await a_run(store)
    facts: list[Fact] = []
    for i in range(steps):
        row = store.new_id()
        made = NewArtifact(store.new_id(), "output", 1, "x", "text/plain", 1, "a" * 64, inline=b"x")
        facts.append(StepReady(row, f"s{i}", None, "mod:a", started=True, attempt=1))
        facts.append(StepEnded(row, f"s{i}", None, StepStatus.COMPLETED, 1, artifacts=(made,)))
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"
    facts = [_with_digest(fact, digest) for fact in facts]
    await store.record(lease, facts)
    async with store.session() as session:
        found = await api.get_chain_details(session, lease.run_id)
        assert session.queries == 3
        assert await api.get_chain_details(session, "nothing") is None
    assert found is not None
    assert len(found.workflows) == steps
    assert all(len(row["artifacts"]) == 1 for row in found.workflows)


def _with_digest(fact: Fact, digest: str) -> Fact:
    if not isinstance(fact, StepEnded):
        return fact
    return replace(fact, artifacts=tuple(replace(a, digest=digest) for a in fact.artifacts))


async def test_S2_5_every_create_with_a_known_key_returns_the_first_row(store: RunStore) -> None:
    workflow = await a_workflow(store)
    artifact = await a_version(store, workflow)
    creates = {
        "chains": lambda s: api.create_chain(s, "demo", idempotency_key="k"),
        "workflows": lambda s: api.create_workflow(s, "w", idempotency_key="k"),
        "artifacts": lambda s: api.create_artifact(s, workflow, data=b"k", idempotency_key="k"),
        "artifact_transfers": lambda s: api.create_transfer(s, artifact.id, workflow, "gpu", idempotency_key="k"),
        "approvals": lambda s: api.create_approval(s, workflow, [artifact.id], idempotency_key="k"),
    }
    for table, create in creates.items():
        before = await count(store, table)

        async def once(create: Any = create) -> str:
            async with store.session() as session:
                return str((await create(session)).id)

        ids = await asyncio.gather(*(once() for _ in range(10)))
        assert len(set(ids)) == 1, table
        assert await count(store, table) == before + 1, table


# ---- S3: sessions


async def test_S3_3_a_rollback_is_not_committed_by_another_session(store: RunStore) -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    async def failing() -> None:
        with pytest.raises(ZeroDivisionError):
            async with store.session() as session:
                await api.create_chain(session, "lost")
                inside.set()
                await go_on.wait()
                raise ZeroDivisionError

    async def writing() -> None:
        await inside.wait()
        async with store.session() as session:
            assert await api.list_chains(session) == []  # what is not committed is not seen
        go_on.set()
        async with store.session() as session:
            await api.create_chain(session, "kept")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(failing)
        tasks.start_soon(writing)
    async with store.session() as session:
        assert [chain.name for chain in await api.list_chains(session)] == ["kept"]


async def test_S3_3_a_session_sees_its_own_writes(store: RunStore) -> None:
    async with store.session() as session:
        chain = await api.create_chain(session, "demo")
        assert await api.get_chain(session, chain.id) == chain


async def test_S3_4_the_loop_turns_during_a_thousand_writes(store: RunStore) -> None:
    lease = await a_run(store)

    async def writer() -> None:
        for _ in range(9):
            await store.record(lease, [StepDropped(store.new_id(), store.new_id(), None, "m", StepStatus.SKIPPED, "")])
        await a_workflow(store)

    async def all_of_them() -> None:
        await asyncio.gather(*(writer() for _ in range(100)))
        assert await count(store, "workflows") % 1000 == 0

    assert await lag_during(all_of_them) < LAG


async def test_a_write_inside_a_writing_session_is_refused_not_deadlocked(store: RunStore) -> None:
    lease = await a_run(store)
    with anyio.fail_after(5):
        async with store.session() as session:
            await api.create_chain(session, "demo")
            for work in (store.record(lease, [LogKept("x", 1, "")]), store.claim(lease.run_id), a_workflow(store)):
                await refused(work, "E_SESSION_NESTED")
        await a_workflow(store)


@pytest.mark.parametrize("way", ["session", "record"])
async def test_R17_cancelled_four_hundred_times(store: RunStore, way: str) -> None:
    """In one long-lived task; whatever was cancelled is there whole or not at all, and the store works on."""
    lease = await a_run(store)
    cancelled = 0
    for i in range(400):
        with anyio.move_on_after(i % 20 * 0.0002) as scope:
            if way == "session":
                async with store.session() as session:
                    chain = await api.create_chain(session, "pair")
                    await api.create_workflow(session, "pair", chain_id=chain.id, step_id="a")
            else:
                one, two = store.new_id(), store.new_id()
                await store.record(
                    lease,
                    [
                        StepReady(one, f"{i}", 0, "pair", started=True, attempt=1),
                        StepReady(two, f"{i}", 1, "pair", started=True, attempt=1),
                    ],
                )
        cancelled += scope.cancelled_caught
        if i % 20 == 0:
            await a_workflow(store)
    assert cancelled > 20
    async with store.session() as session:
        await session.begin()  # after everything that was queued
        chains = await session.fetch_all(sa.text("SELECT id FROM chains WHERE name = 'pair'"))
        rows = await session.fetch_all(sa.text("SELECT id FROM workflows WHERE workflow_name = 'pair'"))
    if way == "session":
        assert len(rows) == len(chains)
    else:
        assert len(rows) % 2 == 0


# ---- runs


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
            store.database.submit([Write(*query(point, taken.id, rows[1]))]),
            store.record(lease, [ended(rows[2], StepStatus.COMPLETED, "c")]),
        ]
    )
    assert [getattr(r, "code", None) for r in results] == [None, "E_DB_REFERENCE", None]


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
