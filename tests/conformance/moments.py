"""A store is read as of one moment. Readers loop beside a writer here, and what they see must fit together.

Taken as the suite in `store/` is: `from tests.conformance.moments import *` beside a fixture `store`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from tests.conformance.records import a_run, a_step
from towpath import store as api
from towpath.events import ChainEnded, Fact, NewApproval, NewArtifact, StepEnded, StepReady
from towpath.model import ApprovalPolicy, ChainStatus, StepStatus
from towpath.ports import Lease, StepRow
from towpath.store import RunStore, lineage, workflows
from towpath.store.sqlite.database import READERS

ROUNDS = 40
Look = Callable[[RunStore, str], Awaitable[None]]


async def _file(store: RunStore, data: bytes) -> NewArtifact:
    kept = await store.files.keep(data, "p.bin")
    return NewArtifact(
        store.new_id(), "output", 1, kept.filename, kept.media_type, kept.size, kept.digest, inline=kept.inline
    )


async def _write(store: RunStore, lease: Lease) -> None:
    """Items that begin, end with a file or wait for a person, each end in one unit; the last ends the run too."""
    await store.record(lease, [StepReady(store.new_id(), "a", None, "m:a", started=True, attempt=1, count=ROUNDS)])
    for n in range(ROUNDS):
        row, made = store.new_id(), await _file(store, b"%d" % n)
        await store.record(lease, [StepReady(row, "a", n, "m:a", started=True, attempt=1)])
        asks = n % 3 == 0
        status = StepStatus.WAITING_APPROVAL if asks else StepStatus.COMPLETED
        gate = NewApproval(store.new_id(), ApprovalPolicy()) if asks else None
        await store.record(lease, [StepEnded(row, "a", n, status, 1, {"$artifact": "output"}, (made,), gate)])
    async with store.session() as session:
        for waiting in await api.get_pending_approvals(session, lease.run_id, 1_000):
            await api.approve(session, waiting.id, "anna")


def _whole(row: StepRow) -> None:
    over = row.status in (StepStatus.COMPLETED, StepStatus.WAITING_APPROVAL)
    assert bool(row.artifacts) == over, f"{row.step}[{row.item}] is {row.status} and has {len(row.artifacts)} files"
    assert row.waits_for_person == (row.status is StepStatus.WAITING_APPROVAL), f"{row.item}: a gate without its row"
    assert over or not row.versions, "a version of a file that is not there"


async def _loaded(store: RunStore, run: str) -> None:
    """All of a run: a row and its files, its gate, its version numbers."""
    for row in (await store.load(run)).rows:
        if row.item is not None:
            _whole(row)


async def _some_rows(store: RunStore, run: str) -> None:
    """Some rows of it, as a worker asks for them."""
    for row in await store.rows_of(run, ["a"]):
        if row.item is not None:
            _whole(row)


async def _some_items(store: RunStore, run: str) -> None:
    """Single items of it."""
    for row in await store.rows_of(run, [], [("a", n) for n in range(ROUNDS)]):
        _whole(row)


async def _details(store: RunStore, run: str) -> None:
    """The chain with its steps and their files, as the API gives them."""
    async with store.session() as session:
        found = await api.get_chain_details(session, run)
    assert found is not None
    for row in found["workflows"]:
        if row["item_index"] is not None:
            assert bool(row["artifacts"]) == (row["status"] in ("completed", "waiting_approval")), row["item_index"]


async def _inbox(store: RunStore, run: str) -> None:
    """What waits for people, with the files to look at."""
    async with store.session() as session:
        waiting = await api.get_pending_approvals(session, run, 1_000)
    assert all(gate["artifacts"] for gate in waiting)


async def _counts(store: RunStore, run: str) -> None:
    """The numbers above a table of items: every item that ended has made one file."""
    async with store.session() as session:
        found, files = await workflows.count_items(session, run, "a")
    assert found.get("completed", 0) + found.get("waiting_approval", 0) == files


async def _calls(store: RunStore, run: str) -> None:
    """Several calls, as a page makes them."""
    async with store.one_moment():
        rows = await store.load(run)
        async with store.session() as session:
            found, _ = await workflows.count_items(session, run, "a")
        files = await store.rows_of(run, ["a"])
    assert sum(found.values()) == len([row for row in rows.rows if row.item is not None])
    assert len(files) == len([row for row in rows.rows if row.step == "a"])


async def _lineage(store: RunStore, run: str) -> None:
    """A file with the row that made it: a step that still works has no file yet."""
    for row in (await store.load(run)).rows[-2:]:
        for artifact in row.artifacts:
            async with store.session() as session:
                known = await lineage.lineage_of(session, artifact.id)
            assert known is not None
            assert known["step"]["status"] in ("completed", "waiting_approval")


@pytest.mark.parametrize(
    "look", [_loaded, _some_rows, _some_items, _details, _inbox, _counts, _calls, _lineage], ids=lambda f: f.__name__
)
async def test_a_reader_beside_a_writer_sees_one_moment(store: RunStore, look: Look) -> None:
    """What is recorded together is seen together, whichever way it is read. A fast writer writes several runs."""
    lease = await a_run(store)
    over = anyio.Event()
    looks = 0

    async def reading() -> None:
        nonlocal looks
        while not over.is_set():
            await look(store, lease.run_id)
            looks += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reading)
        await _write(store, lease)
        while looks <= 5:
            lease = await a_run(store)
            await _write(store, lease)
        over.set()


async def test_a_run_that_is_over_is_never_seen_with_an_open_step(store: RunStore) -> None:
    """The run's end and its last step's are one unit."""
    for _ in range(15):
        lease = await a_run(store)
        row = await a_step(store, lease)
        end: list[Fact] = [StepEnded(row, "a", None, StepStatus.COMPLETED, 1, 1), ChainEnded(ChainStatus.COMPLETED)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.record, lease, end)
            while True:
                found = await store.load(lease.run_id)
                assert found.status.final == all(row.status.final for row in found.rows)
                if found.status.final:
                    break


# ---- one moment over several calls


async def _names(store: RunStore) -> list[str]:
    async with store.session() as session:
        return sorted(row.name for row in await api.list_chains(session))


async def _add(store: RunStore, name: str) -> None:
    async with store.session() as session:
        await api.create_chain(session, name)


async def test_what_is_written_meanwhile_is_seen_behind_the_moment(store: RunStore) -> None:
    """Also what the same task writes: a writing session sees its own writes, the moment does not."""
    await _add(store, "before")
    async with store.one_moment():
        assert await _names(store) == ["before"]
        await _add(store, "own")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_add, store, "other")
        assert await _names(store) == ["before"]
        async with store.one_moment():  # the inner one is the same moment
            assert await _names(store) == ["before"]
        assert await _names(store) == ["before"]
    assert await _names(store) == ["before", "other", "own"]


async def test_a_task_that_outlives_the_moment_reads_what_is_there(store: RunStore) -> None:
    """Tasks started inside see the moment while it lasts, and the present afterwards."""
    async with store.one_moment():
        await _names(store)
        here = contextvars.copy_context()
    await _add(store, "later")
    assert await asyncio.create_task(_names(store), context=here) == ["later"]


async def test_more_moments_than_connections_wait_for_each_other_and_end(store: RunStore) -> None:
    """Readings inside a moment use its own connection, so that none waits for one while it holds one."""

    async def looking() -> None:
        async with store.one_moment():
            await anyio.lowlevel.checkpoint()
            await _names(store)
            async with store.one_moment():
                await _names(store)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(READERS * 10):
                tasks.start_soon(looking)


@pytest.mark.parametrize("after", [0.0, 0.0005, 0.002])
async def test_a_moment_that_is_called_off_gives_its_connection_back(store: RunStore, after: float) -> None:
    """At its beginning, in a read, or between two reads."""

    async def looking() -> None:
        async with store.one_moment():
            while True:
                await _names(store)

    for _ in range(READERS * 3):
        with anyio.move_on_after(after):
            await looking()
    with pytest.raises(ZeroDivisionError):
        async with store.one_moment():
            raise ZeroDivisionError
    await _add(store, "x")
    with anyio.fail_after(60):
        for _ in range(READERS + 1):
            assert await _names(store) == ["x"]


async def test_a_moment_keeps_no_writer_waiting(store: RunStore) -> None:
    """A reader blocks no writer, however long it reads."""
    async with store.one_moment():
        await _names(store)
        with anyio.fail_after(60):
            for n in range(50):
                await _add(store, f"c{n}")
        assert await _names(store) == []
