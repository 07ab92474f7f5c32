"""The store of runs: fills the engine's `Store` port over SQLite, one transaction per method."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from towpath.errors import Fenced, RunRefused, StoreFailed, TowpathError
from towpath.events import ChainEnded, ChainPaused, Fact
from towpath.model import ArtifactRow, ChainStatus, ErrorInfo, Json, Plan
from towpath.ports import Lease, NewRun, Request, RunRow, RunStatus, StepRow

from . import crashes, definitions, gates, listing, owners, parts, rows, sqlite_file
from .batch import Write
from .blobs import FileBlobs
from .clock import new_id, now
from .files import StoredFiles
from .journal import end_tree, guard, writes
from .owners import LEASE_SECONDS, Owner, parse, this_process
from .parts import step_row
from .schema import init_schema
from .server_facts import SENT_BEFORE
from .session import Database, Row, Session, Statement, fetch
from .session import value_of as b
from .tables import artifact_deletions, artifacts, chains, events, step_logs, workflows

_RUN = Statement(sa.select(chains).where(chains.c.id == b("run")))
_NEW_RUN = Statement(
    sa.insert(chains).values(
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
    )
)
_CREATED = Statement(sa.insert(events).values(chain_id=b("run"), type="ChainCreated", at=b("at"), data=b("data")))
_STEPS = Statement(sa.select(workflows).where(workflows.c.chain_id == b("run")).order_by(workflows.c.id))
_FILES = Statement(
    sa.select(artifacts)
    .join(workflows, workflows.c.id == artifacts.c.workflow_id)
    .where(workflows.c.chain_id == b("run"), artifacts.c.is_latest == 1)
    .order_by(artifacts.c.id)
)
_ABOVE = Statement(
    sa.select(chains.c.id, chains.c.parent_workflow_id)
    .join(workflows, workflows.c.chain_id == chains.c.id)
    .where(workflows.c.id == b("row"))
)
_LATEST = Statement(
    sa.select(artifacts).where(artifacts.c.workflow_id == b("row"), artifacts.c.is_latest == 1).order_by(artifacts.c.id)
)
_GIVEN = sa.union_all(
    *(sa.select(t.c.workflow_id, t.c.name, t.c.version) for t in (artifacts, artifact_deletions))
).subquery()
_VERSIONS = Statement(
    sa.select(_GIVEN.c.name, sa.func.max(_GIVEN.c.version).label("highest"))
    .where(_GIVEN.c.workflow_id == b("row"))
    .group_by(_GIVEN.c.name)
)
_VERSIONS_OPEN = Statement(
    sa.select(_GIVEN.c.workflow_id, _GIVEN.c.name, sa.func.max(_GIVEN.c.version).label("highest"))
    .join(workflows, workflows.c.id == _GIVEN.c.workflow_id)
    .where(workflows.c.chain_id == b("run"), workflows.c.completed_at.is_(None))
    .group_by(_GIVEN.c.workflow_id, _GIVEN.c.name)
)
_CHILDREN = Statement(
    sa.select(chains.c.id, chains.c.parent_workflow_id)
    .join(workflows, workflows.c.id == chains.c.parent_workflow_id)
    .where(workflows.c.chain_id == b("run"))
    .order_by(sa.select(sa.func.min(events.c.seq)).where(events.c.chain_id == chains.c.id).scalar_subquery())
)
_EVENTS = Statement(
    sa.select(events.c.seq, events.c.workflow_id, events.c.type, events.c.at, events.c.data)
    .where(events.c.chain_id == b("run"), events.c.seq > b("after"))
    .order_by(events.c.seq)
    .limit(b("most"))
)
_LOGS = Statement(
    sa.select(
        workflows.c.step_id,
        workflows.c.item_index,
        step_logs.c.attempt,
        step_logs.c.text,
        step_logs.c.updated_at,
    )
    .join(workflows, workflows.c.id == step_logs.c.workflow_id)
    .where(workflows.c.chain_id == b("run"))
    .order_by(workflows.c.id, step_logs.c.attempt)
)
FOREVER = 2**62  # microseconds: a service's lease does not run out
_owned_here: set[tuple[Path, str]] = set()
"""Runs that drivers of this process work on now: a lease of ours that is not among them was left behind."""


class RunStore:
    """Runs and their artifacts in one SQLite file with its blobs beside it."""

    def __init__(self, database: Database, files: StoredFiles, lease_seconds: float = LEASE_SECONDS) -> None:
        self.database = database
        self.files = files
        self.lease_seconds = lease_seconds
        self._me = this_process()

    # ---- rows of tables, for people and for the seed's functions

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A transaction for the functions of `towpath.store`."""
        async with self.database.session(self.files) as session:
            yield session

    @asynccontextmanager
    async def one_moment(self) -> AsyncIterator[None]:
        """Whatever this task reads of the store inside is of one moment. Keep it short, see `Database`."""
        async with self.database.one_moment():
            yield

    @property
    def broken(self) -> TowpathError | None:
        """What ended all writing; None while it goes on."""
        return self.database.broken

    def new_id(self) -> str:
        return new_id()

    # ---- a run's life

    async def create_run(self, run: NewRun) -> bool:
        """Record a run with its whole definition; False if its id is there already."""
        at = now()
        definition, large = definitions.kept(run.plan)
        insert = _NEW_RUN(
            run=run.id,
            name=run.plan.name,
            description=run.plan.description or None,
            at=at,
            definition=definition,
            hash=definitions.definition_hash(run.plan),
            inputs=rows.encode(run.inputs),
            parent_workflow=run.parent_workflow_id,
            parent_run=run.parent_run_id,
            regenerated_from=run.regenerated_from_step_id,
        )
        event = _CREATED(run=run.id, at=at, data=rows.encode({"name": run.plan.name, **_by(run.by)}))
        try:
            await self.database.submit([*large, Write(*insert), Write(*event), *writes(run.id, run.facts, at)])
        except StoreFailed as error:
            if error.code == "E_DB_CONFLICT" and await self.database.rows(_RUN(run=run.id)):
                return False
            raise
        return True

    async def claim(self, run_id: str, service: str = "") -> Lease:
        """Become the owner of a run that nobody alive owns. Gates in it whose time is over are closed.

        With `service` that one owns it, not this process: its lease does not run out, and it may claim again.

        Raises:
            RunRefused: E_RUN_MISSING, E_RUN_OVER, E_RUN_OWNED.
        """
        claimer = owners.service(service) if service else self._me
        answer = await self.database.write(lambda c: self._claim(c, run_id, claimer))
        if isinstance(answer, RunRefused):
            raise answer
        if not service:
            _owned_here.add((self.database.path, run_id))
        return Lease(run_id, answer)

    def _claim(self, connection: sqlite3.Connection, run_id: str, claimer: Owner) -> int | RunRefused:
        asked = "SELECT status, owner, lease_until, epoch FROM chains WHERE id = ?"
        found = connection.execute(asked, (run_id,)).fetchone()
        if found is None:
            return missing(run_id)
        status, owner, until, epoch = found[0], parse(found[1]), found[2] or 0, int(found[3])
        if rows.word(ChainStatus, status, "chains", run_id, "status").final:
            return RunRefused("E_RUN_OVER", f"run {run_id} is {status}", cure="`towpath rerun` makes a new run of it")
        at = now()
        if owner is not None and owner.service and owner != claimer:
            return _owned(run_id, owner)
        if owner is not None and not owner.service and self._alive(owner, run_id, until, at):
            if until > self._until(at):
                # A clock ahead of ours wrote this lease. From now on it lasts as long as any other.
                connection.execute("UPDATE chains SET lease_until = ? WHERE id = ?", (self._until(at), run_id))
            return _owned(run_id, owner, owner.left(min(until, self._until(at)), at))
        if owner is not None and not owner.service and not owner.dead:
            # It stood still for longer than its lease, or left without a word: it did not die on a step.
            _event(connection, run_id, crashes.RELEASED, at, {})
        # A service has no clock that jumps: its claim does not run out.
        written = claimer if claimer.service else claimer.leased(self.lease_seconds)
        connection.execute(
            "UPDATE chains SET owner = ?, epoch = ?, lease_until = ?, pause_requested_at = NULL, updated_at = ?"
            " WHERE id = ?",
            (written.to_json(), epoch + 1, FOREVER if claimer.service else self._until(at), at, run_id),
        )
        gates.expire(connection, gates.expired(connection, [run_id], at), at)
        return epoch + 1

    def _alive(self, owner: Owner, run_id: str, until: int, at: int) -> bool:
        if owner == self._me:
            return (self.database.path, run_id) in _owned_here
        return owner.left(until, at) >= 0

    def _until(self, at: int) -> int:
        return at + int(self.lease_seconds * 1e6)

    async def renew(self, leases: Sequence[Lease]) -> list[str]:
        """Keep owning; the ids of runs that are ours no longer."""
        return await self.database.write(lambda c: self._renew(c, leases))

    def _renew(self, connection: sqlite3.Connection, leases: Sequence[Lease]) -> list[str]:
        at, me = now(), self._me.leased(self.lease_seconds).to_json()
        lost = []
        for lease in leases:
            changed = connection.execute(
                # One that has just ended, or paused, stays without an owner: it was let go, not lost.
                "UPDATE chains SET owner = CASE WHEN owner IS NULL THEN NULL ELSE ? END, lease_until = ?"
                " WHERE id = ? AND epoch = ?",
                (me, self._until(at), lease.run_id, lease.epoch),
            )
            if changed.rowcount != 1:
                lost.append(lease.run_id)
                _owned_here.discard((self.database.path, lease.run_id))
        return lost

    async def release(self, lease: Lease) -> None:
        """Stop owning without ending the run; nothing happens if it is ours no longer."""
        _owned_here.discard((self.database.path, lease.run_id))
        sql = "UPDATE chains SET owner = NULL, lease_until = NULL WHERE id = ? AND epoch = ?"
        let_go = Write(*crashes.LET_GO(run=lease.run_id, epoch=lease.epoch, at=now()))
        await self.database.submit([Write(sql, (lease.run_id, lease.epoch)), let_go])

    async def leaving(self, lease: Lease) -> None:
        """Say that this process is about to stop working on the run, before its steps have ended."""
        await self.database.submit([Write(*crashes.LET_GO(run=lease.run_id, epoch=lease.epoch, at=now()))])

    async def lost_attempts(self, run_id: str) -> dict[str, int]:
        """By row that is executing: how often the process that tried it died on it, since its last outcome."""
        return crashes.lost_attempts(await self.database.rows(crashes.STARTS(run=run_id)))

    async def record(self, lease: Lease, facts: Sequence[Fact]) -> None:
        """Record facts as one whole; back when they are durable. Raises Fenced, StoreFailed."""
        try:
            await self.database.submit(writes(lease.run_id, facts, now()), guard(lease))
        except Fenced:
            _owned_here.discard((self.database.path, lease.run_id))
            raise
        if any(isinstance(fact, ChainEnded | ChainPaused) for fact in facts):
            _owned_here.discard((self.database.path, lease.run_id))

    # ---- reading

    async def load(self, run_id: str) -> RunRow:
        """All that is recorded of a run, as of one moment.

        Raises RunRefused (E_RUN_MISSING), StoreFailed (E_DB_VALUE).
        """
        found = await self.database.read(lambda c: _recorded(c, run_id))
        if found is None:
            raise missing(run_id)
        return _run_row(run_id, found)

    async def status_of(self, run_id: str) -> RunStatus:
        """How a run stands now, in one short look. Raises RunRefused (E_RUN_MISSING)."""
        found = await self.database.read(lambda c: parts.status_of(c, run_id))
        if found is None:
            raise missing(run_id)
        return found

    async def rows_of(self, run_id: str, steps: Sequence[str], items: Sequence[tuple[str, int]] = ()) -> list[StepRow]:
        """What is recorded of some steps with all their items, and of some items, as of one moment."""
        return await self.database.read(lambda c: parts.rows_of(c, run_id, steps, items))

    async def runs_with_requests(self) -> dict[str, int]:
        """The runs (and those around them) of which something is asked, or late gates and since when."""
        return await self.database.read(lambda c: parts.asked(c, now()))

    async def cancelled_among(self, run_ids: Sequence[str]) -> list[str]:
        """Those of these runs whose end, or the end of a run around them, is asked for."""
        return await self.database.read(lambda c: parts.cancelled_among(c, run_ids))

    async def running_in(self, service: str) -> list[str]:
        """The running runs that a service owns, those inside steps left out."""
        return await self.database.read(lambda c: parts.running_in(c, owners.service(service)))

    async def latest_artifacts(self, row_id: str) -> list[ArtifactRow]:
        """The latest version of each output of a row, as people may have left it."""
        return [rows.artifact(row) for row in await self.database.rows(_LATEST(row=row_id))]

    async def sent_before(self, server: str, digest: str) -> str | None:
        """The name under which a server got these bytes in an earlier completed transfer."""
        found = await self.database.rows(SENT_BEFORE(server=server, digest=digest))
        return found[0]["target_name"] if found else None

    async def versions(self, row_id: str) -> dict[str, int]:
        """The highest version number ever given to each output of a row, deleted versions included."""
        return {row["name"]: row["highest"] for row in await self.database.rows(_VERSIONS(row=row_id))}

    async def find_ids(self, what: str, part: str) -> list[str]:
        """The ids among `chains`, `artifacts` or `approvals` that `part` may stand for, in one query."""
        async with self.session() as session:
            return await listing.find_ids(session, what, part)

    async def events(self, run_id: str, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """The recorded facts of a run with `seq` above `after`, in order."""
        found = await self.database.rows(_EVENTS(run=run_id, after=after, most=limit))
        return [{**row, "data": rows.decode(row["data"])} for row in found]

    async def logs(self, run_id: str) -> list[Row]:
        """Log lines of all steps of a run: step_id, item_index, attempt, text, updated_at."""
        return await self.database.rows(_LOGS(run=run_id))

    # ---- what people ask for

    async def requests(self, run_ids: Sequence[str]) -> list[Request]:
        """What was asked of these runs and not yet done. Gates in them whose time is over are closed first."""
        late = await self.database.read(lambda c: gates.expired(c, run_ids, now()))
        if late:
            await self.database.write(lambda c: gates.expire(c, late, now()))
        return await self.database.read(lambda c: _requests(c, run_ids))

    async def edits(self, run_ids: Sequence[str], after: int) -> tuple[int, list[Request]]:
        """Rows of these runs whose files people replaced since event `after`, and the event up to which was looked."""
        return await self.database.read(lambda c: parts.edits(c, run_ids, after))

    async def request(self, run_id: str, kind: str, by: str = "") -> ChainStatus:
        """Ask for `cancel` or `pause`. A run that nobody alive owns obeys at once. `by` stands in the audit trail.

        Raises RunRefused: E_RUN_MISSING, E_RUN_OVER.
        """
        return await self.database.write(lambda c: self._request(c, run_id, kind, by))

    def _request(self, connection: sqlite3.Connection, run_id: str, kind: str, by: str) -> ChainStatus:
        found = connection.execute("SELECT status, owner, lease_until FROM chains WHERE id = ?", (run_id,)).fetchone()
        if found is None:
            raise missing(run_id)
        status = rows.word(ChainStatus, found[0], "chains", run_id, "status")
        if status.final:
            raise RunRefused("E_RUN_OVER", f"run {run_id} is {status} already")
        at, owner = now(), parse(found[1])
        column = "cancel_requested_at" if kind == "cancel" else "pause_requested_at"
        connection.execute(f"UPDATE chains SET {column} = ?, updated_at = ? WHERE id = ?", (at, at, run_id))  # noqa: S608 - two fixed names
        _event(connection, run_id, "CancelRequested" if kind == "cancel" else "PauseRequested", at, _by(by))
        owned = owner is not None and owner.left(found[2] or 0, at) >= 0
        if owned:
            return status
        if kind == "cancel":
            _cancel_unowned(connection, run_id, at)
            return ChainStatus.CANCELLED
        paused = (
            "UPDATE chains SET status = 'paused', status_reason = 'requested', pause_requested_at = NULL,"
            " owner = NULL, lease_until = NULL, epoch = epoch + 1 WHERE id = ?"
        )
        connection.execute(paused, (run_id,))
        return ChainStatus.PAUSED


def _event(connection: sqlite3.Connection, run_id: str, kind: str, at: int, data: dict[str, Json]) -> None:
    values = (run_id, kind, at, rows.encode(data))
    connection.execute("INSERT INTO events (chain_id, type, at, data) VALUES (?, ?, ?, ?)", values)


def _by(name: str) -> dict[str, Json]:
    """Who asked, where somebody did; a script's own doing has no name."""
    return {"by": name} if name else {}


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The rows of a run as they are in the tables, all of one moment."""

    chain: Row
    definition: str
    steps: list[Row]
    files: list[Row]
    versions: list[Row]
    gates: list[Row]
    children: list[Row]
    root: str


def _recorded(connection: sqlite3.Connection, run_id: str) -> _Recorded | None:
    found = fetch(connection, _RUN(run=run_id))
    if not found:
        return None
    (chain,) = found
    return _Recorded(
        chain=chain,
        definition=_definition(connection, chain),
        steps=fetch(connection, _STEPS(run=run_id)),
        files=fetch(connection, _FILES(run=run_id)),
        versions=fetch(connection, _VERSIONS_OPEN(run=run_id)),
        gates=fetch(connection, gates.OF_RUN(run=run_id)),
        children=fetch(connection, _CHILDREN(run=run_id)),
        root=_root(connection, run_id, chain["parent_workflow_id"]),
    )


def _definition(connection: sqlite3.Connection, chain: Row) -> str:
    """The JSON of a run's plan, from its row or from where large ones are."""
    digest = definitions.elsewhere(chain["chain_definition"])
    if digest is None:
        return chain["chain_definition"] or ""
    found = fetch(connection, definitions.FIND(sha256=digest))
    return found[0]["definition"] if found else ""


def _root(connection: sqlite3.Connection, run_id: str, parent: str | None) -> str:
    """The outermost run around a run."""
    while parent is not None:
        (above,) = fetch(connection, _ABOVE(row=parent))
        run_id, parent = above["id"], above["parent_workflow_id"]
    return run_id


def _run_row(run_id: str, found: _Recorded) -> RunRow:
    chain, pasts = found.chain, gates.pasts(found.gates)
    files: dict[str, list[ArtifactRow]] = {}
    for row in found.files:
        files.setdefault(row["workflow_id"], []).append(rows.artifact(row))
    given: dict[str, dict[str, int]] = {}
    for row in found.versions:
        given.setdefault(row["workflow_id"], {})[row["name"]] = row["highest"]
    return RunRow(
        id=run_id,
        plan=_plan(chain, found.definition),
        status=rows.word(ChainStatus, chain["status"], "chains", run_id, "status"),
        inputs=rows.decode(chain["inputs"]) or {},
        rows=tuple(
            step_row(row, tuple(files.get(row["id"], ())), given.get(row["id"], {}), pasts.get(row["id"]))
            for row in found.steps
        ),
        reason=chain["status_reason"] or "",
        level=chain["current_level"],
        error=ErrorInfo(chain["error_code"], chain["error_message"] or "") if chain["error_code"] else None,
        parent_workflow_id=chain["parent_workflow_id"],
        parent_run_id=chain["parent_run_id"],
        started_at=chain["started_at"],
        completed_at=chain["completed_at"],
        cancel_requested=chain["cancel_requested_at"] is not None,
        pause_requested=chain["pause_requested_at"] is not None,
        children=gates.runs_inside(found.children, pasts),
        root=found.root,
    )


def _cancel_unowned(connection: sqlite3.Connection, run_id: str, at: int) -> None:
    """End a run, and the runs inside it, that no process works on."""
    for write in end_tree(run_id, at):
        connection.execute(write.sql, write.values)


def _requests(connection: sqlite3.Connection, run_ids: Sequence[str]) -> list[Request]:
    found: list[Request] = []
    for run_id in run_ids:
        asked = connection.execute(
            "SELECT cancel_requested_at, pause_requested_at FROM chains WHERE id = ?", (run_id,)
        ).fetchone()
        if asked is None:
            continue
        if asked[0] is not None:
            found.append(Request(run_id, "cancel"))
        elif asked[1] is not None:
            found.append(Request(run_id, "pause"))
    return found + gates.undelivered(connection, frozenset(run_ids))


def _plan(chain: Row, definition: str) -> Plan:
    try:
        return msgspec.json.decode(definition, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise StoreFailed(
            "E_DB_VALUE",
            f"chains.chain_definition of row {chain['id']} holds no plan",
            found=chain["chain_definition"],
            cure="a chain made by `create_chain` alone is a record, not something to run",
        ) from None


def _owned(run_id: str, owner: Owner, left: float | None = None) -> RunRefused:
    return RunRefused(
        "E_RUN_OWNED",
        f"run {run_id} is worked on by {owner}",
        found="" if left is None else f"a lease for {left:.0f} s more",
        cure=f"wait for it, or `towpath cancel {run_id}`"
        if owner.service
        else "wait for it, or end that process: its run can then be taken over at once",
        retryable=True,
    )


def missing(run_id: str) -> RunRefused:
    return RunRefused("E_RUN_MISSING", f"there is no run {run_id}", cure="`towpath ls` lists the runs of a store")


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
    """Open (and on first use make) a store; opening it never starts work.

    With `readonly` a store that is there is only looked at: it may be on a disk that cannot be written, and
    no lock is waited for. `blobs` is the folder for larger files and people's copies, default `<name>-store`
    beside the file.
    Raises StoreFailed: E_DB_…, E_SCHEMA_….
    """
    folder = blobs or path.with_name(f"{path.stem}-store")
    readonly = readonly and sqlite_file.there(path)
    database = Database(path, durability=durability, busy_timeout=busy_timeout, readonly=readonly)
    await database.open()
    try:
        await init_schema(database)
        blob_store = FileBlobs(folder / "blobs", durable=durability == "full")
        yield RunStore(database, StoredFiles(database, blob_store, folder), lease_seconds)
    finally:
        await database.close()
