"""The store of runs: implements the engine's store ports. Every method is one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from towpath.errors import Fenced, RunRefused, StoreFailed, TowpathError
from towpath.events import ChainEnded, ChainPaused, ChainResumed, Fact, LevelReached
from towpath.model import ArtifactRow, ChainStatus
from towpath.ports import Birth, Done, Lease, NewRun, Removed, Request, RunRow, RunStatus, StepRow

from . import claims, crashes, definitions, gates, owners, removal, requests, rows, run_rows
from .backend import Backend, Line, Row, Told, Write, add, write
from .blobs import FileBlobs
from .clock import new_id, now
from .core import sa, t
from .event_log import log_event
from .files import StoredFiles
from .group_commit import waiting
from .journal import guard, writes
from .levels import Levels
from .owners import LEASE_SECONDS, this_process
from .server_facts import SENT_BEFORE
from .session import Session
from .sqlite.database import SqliteDatabase
from .sqlite.file import there
from .statements import Phase, Statement, word_of
from .statements import param as b
from .versions import given, highest

_NEW_RUN = Statement(
    lambda: sa.insert(t.chains).values(
        id=b("run"),
        name=b("name"),
        description=b("description"),
        status=ChainStatus.PENDING,
        current_level=0,
        epoch=0,
        started_at=b("at"),
        chain_definition=b("definition"),
        definition_hash=b("hash"),
        inputs=b("inputs"),
        parent_workflow_id=b("parent_workflow"),
        parent_run_id=b("parent_run"),
        regenerated_from_step_id=b("regenerated_from"),
        created_at=b("at"),
        updated_at=b("at"),
        run_name=b("run_name"),
        tags=b("tags"),
    )
)
_LET_GO = {ChainEnded, ChainPaused}  # after these, the run has no owner
_BORN = Statement(
    lambda: sa.insert(t.chains).values(
        id=b("run"),
        name=b("name"),
        description=b("description"),
        status=word_of(ChainStatus.RUNNING),
        current_level=sa.literal_column("0"),
        epoch=sa.literal_column("1"),
        owner=b("owner"),
        lease_until=b("until"),
        started_at=b("at"),
        chain_definition=b("definition"),
        definition_hash=b("hash"),
        inputs=b("inputs"),
        parent_run_id=b("parent_run"),
        regenerated_from_step_id=b("regenerated_from"),
        created_at=b("at"),
        updated_at=b("at"),
        run_name=b("run_name"),
        tags=b("tags"),
    ),
    "run name description owner until at definition hash inputs parent_run regenerated_from run_name tags",
    Phase.RUN_BORN,
)
_IS_THERE = Statement(lambda: sa.select(t.chains.c.id).where(t.chains.c.id == b("run")))
_LATEST = Statement(
    lambda: (
        sa.select(t.artifacts)
        .where(t.artifacts.c.workflow_id == b("row"), t.artifacts.c.is_latest == 1)
        .order_by(t.artifacts.c.id)
    )
)
_VERSIONS = Statement(lambda: highest(given().c.workflow_id == b("row")))
_EVENTS = Statement(
    lambda: (
        sa.select(t.events.c.seq, t.events.c.workflow_id, t.events.c.type, t.events.c.at, t.events.c.data)
        .where(t.events.c.chain_id == b("run"), t.events.c.seq > b("after"))
        .order_by(t.events.c.seq)
        .limit(b("most"))
    )
)
_LOGS = Statement(
    lambda: (
        sa.select(
            t.workflows.c.step_id,
            t.workflows.c.item_index,
            t.step_logs.c.attempt,
            t.step_logs.c.text,
            t.step_logs.c.updated_at,
        )
        .join(t.workflows, t.workflows.c.id == t.step_logs.c.workflow_id)
        # A row without a text only has figures.
        .where(t.workflows.c.chain_id == b("run"), t.step_logs.c.updated_at >= b("since"), t.step_logs.c.text != "")
        .order_by(t.workflows.c.id, t.step_logs.c.attempt)
    )
)
_FIGURES = Statement(
    lambda: (
        sa.select(t.workflows.c.step_id, t.workflows.c.item_index, t.step_logs.c.done, t.step_logs.c.total)
        .join(
            t.step_logs,
            sa.and_(t.step_logs.c.workflow_id == t.workflows.c.id, t.step_logs.c.attempt == t.workflows.c.attempt),
        )
        .where(t.workflows.c.chain_id == b("run"), t.workflows.c.status == "executing", t.step_logs.c.done.is_not(None))
    )
)
_owned_here: set[tuple[str, str]] = set()
"""The runs that this process works on now, by database. If it has a lease on any other run, the lease is stale."""


class _Mark:
    """Marks a run in `_owned_here` within the transaction that claims it: another claim may follow it at once."""

    def __init__(self, here: tuple[str, str]) -> None:
        self._here = here
        self._is_set = self._given_up = False

    def works_here(self) -> bool:
        """Does this process work on the run? The answer is about other claims than this one."""
        return not self._is_set and self._here in _owned_here

    def claimed(self) -> None:
        """Called in the thread of the connection."""
        self._is_set = True
        _owned_here.add(self._here)
        if self._given_up:
            _owned_here.discard(self._here)

    def give_up(self) -> None:
        """The caller has gone, or the transaction failed. It may still be under way."""
        self._given_up = True
        if self._is_set:
            _owned_here.discard(self._here)


class RunStore:
    """Runs and their artifacts in one database, with larger files beside it."""

    def __init__(self, database: Backend, files: StoredFiles, lease_seconds: float = LEASE_SECONDS) -> None:
        self.database = database
        self.files = files
        self.lease_seconds = lease_seconds
        self._me = this_process()
        self._levels = Levels()
        self._lines: dict[Lease, Line] = {}  # of the units of the runs that this process drives

    # ---- rows of tables, for people and for the functions of `towpath.store`

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A transaction for the functions of `towpath.store`: commits at the end, rolls back on any error.

        Keep it short, with no network inside. The write lock is taken with the first writing statement.
        """
        async with self.database.transaction() as transaction:
            yield Session(self.database, transaction, self.files)

    @asynccontextmanager
    async def one_moment(self) -> AsyncIterator[None]:
        """One snapshot for all reads of this task inside the block. Keep it short, see `Backend`."""
        async with self.database.one_moment():
            yield

    @property
    def broken(self) -> TowpathError | None:
        """The error that ended all writing, or None."""
        return self.database.broken

    def new_id(self) -> str:
        return new_id()

    # ---- a run's life

    async def create_run(self, run: NewRun) -> bool:
        """Record a run with its whole definition; False if its id is there already."""
        at = now()
        kept = definitions.kept(run.plan)
        insert = _NEW_RUN(
            run=run.id,
            name=run.plan.name,
            description=run.plan.description or None,
            at=at,
            definition=kept.column,
            hash=kept.sha256,
            inputs=rows.encode(run.inputs),
            parent_workflow=run.parent_workflow_id,
            parent_run=run.parent_run_id,
            regenerated_from=run.regenerated_from_step_id,
            run_name=run.label.name,
            tags=rows.encode_tags(run.label.tags),
        )
        out = [*kept.large, write(insert)]
        log_event(out, run.id, None, "ChainCreated", at, {"name": run.plan.name, **claims.asked_by(run.by)})
        try:
            await self.database.submit([*out, *writes(run.id, run.facts, at)])
        except StoreFailed as error:
            if error.code == "E_DB_CONFLICT" and await self.database.fetch(_IS_THERE(run=run.id)):
                return False
            raise
        return True

    async def claim(self, run_id: str, service: str = "") -> Lease:
        """Become the owner of a run without a living owner. Gates in it whose timeout is over are closed.

        With `service` that service owns the run, not this process: its lease never expires, and it may claim again.

        Raises:
            RunRefused: E_RUN_MISSING, E_RUN_OVER, E_RUN_OWNED.
        """
        mark = _Mark(self._here(run_id))
        try:
            answer = await self.database.write(claims.claim, run_id, self._claimer(service), self._me, mark)
        except BaseException:
            mark.give_up()
            raise
        if isinstance(answer, RunRefused):
            raise answer
        return Lease(run_id, answer)

    def _claimer(self, service: str = "") -> claims.Claimer:
        return claims.Claimer(owners.service(service) if service else self._me, self.lease_seconds)

    def _here(self, run_id: str) -> tuple[str, str]:
        return self.database.identity, run_id

    async def renew(self, leases: Sequence[Lease]) -> list[str]:
        """Renew leases; returns the ids of runs that another owner has taken over."""
        lost = await self.database.write(claims.renew, leases, self._claimer(), self._levels.of)
        for run_id in lost:
            self._forget(run_id)
        return lost

    async def release(self, lease: Lease) -> None:
        """Give up ownership without ending the run. Does nothing if another owner has taken it over."""
        level = self._forget(lease.run_id)
        self._lines.pop(lease, None)
        unit = writes(lease.run_id, [LevelReached(level)] if level else [], now())
        let_go = claims.RELEASE(run=lease.run_id, lease_epoch=lease.epoch)
        await self.database.submit([*unit, write(let_go), _released(lease)])

    async def leaving(self, lease: Lease) -> None:
        """Record that this process is about to leave the run, before its steps have ended."""
        await self.database.submit([_released(lease)])

    async def lost_attempts(self, run_id: str) -> dict[str, int]:
        """For each executing row: how many processes died during an attempt of it, since its last outcome."""
        return crashes.lost_attempts(await self.database.fetch(crashes.STARTS(run=run_id)))

    async def record(self, lease: Lease, facts: Sequence[Fact]) -> None:
        """Record facts in one transaction; returns when they are durable. Raises Fenced, StoreFailed."""
        done, told = waiting()
        self._record(lease, facts, told, None)
        await done

    def record_soon(self, lease: Lease, facts: Sequence[Fact], done: Done) -> None:
        """Queue facts for the next commit; `done` is called with None when they are durable, or with the error.

        If facts that were queued so before are not recorded, these are not either.
        """
        self._record(lease, facts, done, self._line(lease))

    def _record(self, lease: Lease, facts: Sequence[Fact], done: Done, line: Line | None) -> None:
        kept, level = self._held_back(lease, facts)
        told = self._told(lease, facts, level, done, line)
        self.database.queue(writes(lease.run_id, kept, now()), guard(lease), told, line)

    def _line(self, lease: Lease) -> Line:
        line = self._lines.get(lease)
        if line is None:
            line = self._lines[lease] = Line()
        return line

    def _held_back(self, lease: Lease, facts: Sequence[Fact]) -> tuple[Sequence[Fact], int]:
        ours = self._here(lease.run_id) in _owned_here
        return self._levels.held_back(lease.run_id, facts) if ours else (facts, 0)

    def _forget(self, run_id: str) -> int:
        """This process works on the run no longer. Returns the level that it reached."""
        _owned_here.discard(self._here(run_id))
        return self._levels.forget(run_id)

    def newborn(self, new: NewRun) -> tuple[Lease, RunRow, Birth]:
        """A new run as `create_run`, `claim` and `load` would give it. Nothing is recorded before `record_born`."""
        assert not new.facts
        assert new.parent_workflow_id is None
        lease, at = Lease(new.id, 1), now()
        _owned_here.add(self._here(new.id))
        return lease, run_rows.newborn(new, at), Birth(lease, new, at)

    def record_born(self, birth: Birth, facts: Sequence[Fact], done: Done) -> None:
        """Record a newborn run, and its first facts, in one transaction; `done` as in `record_soon`."""
        run_id, out = birth.lease.run_id, self._born(birth)
        kept, level = self._held_back(birth.lease, facts)
        later = [fact for fact in kept if not isinstance(fact, ChainResumed)]
        line = self._line(birth.lease)
        told = self._told(birth.lease, facts, level, done, line)
        self.database.queue([*out, *writes(run_id, later, now())], None, told, line)

    def _told(self, lease: Lease, facts: Sequence[Fact], level: int, done: Done, line: Line | None) -> Told:
        """What is done when a unit of these facts is recorded or refused."""
        lets_go = not _LET_GO.isdisjoint(map(type, facts))

        def told(error: Exception | None) -> None:
            if (lets_go or error is not None) and line is not None and self._lines.get(lease) is line:
                del self._lines[lease]  # the caller knows now
            if isinstance(error, Fenced) or (error is None and lets_go):
                self._forget(lease.run_id)
            elif level and self._here(lease.run_id) in _owned_here:
                self._levels.ended(lease.run_id, level, recorded=error is None)
            done(error)

        return told

    def _born(self, birth: Birth) -> list[Write]:
        new, claimer = birth.new, self._claimer()
        kept = definitions.kept(new.plan)
        out = list(kept.large)
        add(
            out,
            _BORN(
                run=new.id,
                name=new.plan.name,
                description=new.plan.description or None,
                owner=claimer.row,
                until=claimer.until(now()),
                at=birth.at,
                definition=kept.column,
                hash=kept.sha256,
                inputs=rows.encode(new.inputs),
                parent_run=new.parent_run_id,
                regenerated_from=new.regenerated_from_step_id,
                run_name=new.label.name,
                tags=rows.encode_tags(new.label.tags),
            ),
        )
        log_event(out, new.id, None, "ChainCreated", birth.at, {"name": new.plan.name, **claims.asked_by(new.by)})
        log_event(out, new.id, None, "ChainStarted", birth.at)
        return out

    # ---- reading

    async def load(self, run_id: str) -> RunRow:
        """The whole run as recorded, in one snapshot.

        Raises RunRefused (E_RUN_MISSING), StoreFailed (E_DB_VALUE).
        """
        found = await self.database.read(run_rows.recorded, run_id)
        if found is None:
            raise run_rows.missing(run_id)
        if self._here(run_id) in _owned_here:  # taken over from a process that died: its level may not be written
            self._levels.ended(run_id, found.level, recorded=True)
        return run_rows.run_row(run_id, found)

    async def status_of(self, run_id: str) -> RunStatus:
        """The status of a run now. Raises RunRefused (E_RUN_MISSING)."""
        return await self.database.read(run_rows.status_of, run_id)

    async def rows_of(self, run_id: str, steps: Sequence[str], items: Sequence[tuple[str, int]] = ()) -> list[StepRow]:
        """The rows of some steps with all their items, and of some items, in one snapshot."""
        return await self.database.read(run_rows.rows_of, run_id, steps, items)

    async def latest_artifacts(self, row_id: str) -> list[ArtifactRow]:
        """The latest version of each output of a row, as people may have left it."""
        return [rows.artifact(row) for row in await self.database.fetch(_LATEST(row=row_id))]

    async def sent_before(self, server: str, digest: str) -> str | None:
        """The name under which a server got these bytes in an earlier completed transfer."""
        found = await self.database.fetch(SENT_BEFORE(server=server, digest=digest))
        return found[0]["target_name"] if found else None

    async def versions(self, row_id: str) -> dict[str, int]:
        """The highest version number ever given to each output of a row, deleted versions included."""
        return {row["name"]: row["highest"] for row in await self.database.fetch(_VERSIONS(row=row_id))}

    async def find_ids(self, what: str, part: str) -> list[str]:
        """The ids among `chains`, `artifacts` or `approvals` that `part` may mean, in one query."""
        from . import listing  # noqa: PLC0415 - columns and filters, which a run needs not

        async with self.session() as session:
            return await listing.find_ids(session, what, part)

    async def events(self, run_id: str, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """The recorded facts of a run with `seq` above `after`, in order."""
        found = await self.database.fetch(_EVENTS(run=run_id, after=after, most=limit))
        return [{**row, "data": rows.decode(row["data"])} for row in found]

    async def logs(self, run_id: str, since: int = 0) -> list[Row]:
        """Log lines of all steps of a run: step_id, item_index, attempt, text, updated_at. Only those that were
        recorded at or after `since`.
        """
        return await self.database.fetch(_LOGS(run=run_id, since=since))

    async def figures(self, run_id: str) -> list[Row]:
        """The progress that executing steps and items of a run reported: step_id, item_index, done, total."""
        return await self.database.fetch(_FIGURES(run=run_id))

    # ---- requests

    async def request(self, run_id: str, kind: str, by: str = "") -> ChainStatus:
        """Request `cancel` or `pause`; returns the run's status. `by` is written to the audit trail.

        Without a living owner, the run changes at once. Raises RunRefused: E_RUN_MISSING, E_RUN_OVER.
        """
        return await self.database.write(claims.request, run_id, kind, by)

    async def remove(self, run_id: str, by: str = "") -> Removed:
        """Delete a run that is over with all that belongs to it, the copies for people too.

        Raises RunRefused: E_RUN_MISSING, E_RUN_ACTIVE, E_RUN_INSIDE.
        """
        removed = await self.database.write(removal.remove, run_id, by)
        if removed is None:
            raise run_rows.missing(run_id)
        await self.files.remove_copies(removed.runs)
        return removed

    async def requests(self, run_ids: Sequence[str]) -> list[Request]:
        """The open requests of these runs. Gates in them whose timeout is over are closed first."""
        late, found = await self.database.read(requests.requests, run_ids, now())
        if late:
            await self.database.write(gates.expire, late, now())
            _, found = await self.database.read(requests.requests, run_ids, now())
        return found

    async def edits(self, run_ids: Sequence[str], after: int) -> tuple[int, list[Request]]:
        """Rows of these runs whose files people replaced since event `after`, and the last event there is."""
        return await self.database.read(requests.edits, run_ids, after)

    async def runs_with_requests(self) -> dict[str, int]:
        """The runs (and those around them) with open requests or with gates whose timeout is over, and since when."""
        return await self.database.read(requests.runs_with_requests, now())

    async def cancelled_among(self, run_ids: Sequence[str]) -> list[str]:
        """The runs among these for which cancel is requested, for them or for a run around them."""
        return await self.database.read(requests.cancelled_among, run_ids)

    async def running_in(self, service: str) -> list[str]:
        """The running runs that a service owns, without those inside steps."""
        return await self.database.read(requests.running_in, owners.service(service))


def _released(lease: Lease) -> Write:
    return write(crashes.LET_GO(run=lease.run_id, epoch=lease.epoch, at=now()))


@asynccontextmanager
async def open_store(
    path: Path,
    *,
    blobs: Path | None = None,
    durability: str = "full",
    busy_timeout: float = 30.0,
    lease_seconds: float = LEASE_SECONDS,
    readonly: bool = False,
) -> AsyncIterator[RunStore]:
    """Open (and on first use make) a store. Opening it never starts work.

    With `readonly` an existing store is only read: it may be on a read-only disk, and no lock is waited for. `blobs` is
    the folder for larger files and copies for people, by default `<name>-store` beside the file.

    Raises StoreFailed: E_DB_…, E_SCHEMA_….
    """
    folder = blobs or path.with_name(f"{path.stem}-store")
    readonly = readonly and there(path)
    database = SqliteDatabase(path, durability=durability, busy_timeout=busy_timeout, readonly=readonly)
    await database.open()
    try:
        blob_store = FileBlobs(folder / "blobs", durable=durability == "full")
        yield RunStore(database, StoredFiles(database, blob_store, folder), lease_seconds)
    finally:
        await database.close()
