"""Reads for the API and the pages. Each view is read as of one snapshot.

The API and the pages take the same views, so that they cannot disagree. A view holds rows as recorded: what may be
shown of them is decided by `responses` and by the pages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from towpath.adapters.step_times import Row, gates_of
from towpath.adapters.wiring import Engine
from towpath.errors import StoreFailed
from towpath.model import ArtifactRow, ChainStatus, Plan, StepPlan
from towpath.store import Record, Session, approvals, artifacts, chains, event_log, lineage, rows, unattended, workflows
from towpath.store.listing import MAX_PAGE, Condition, Page, Rows, list_rows

from .access import ServerRecords
from .errors import missing
from .news import Key, News, by_key, with_figures

Cursor = tuple[Any, str]
"""Where the next page of a list begins: the sort value and the id of the last row that was read."""

MOST_GATES = 10_000  # gates of a run in one query
MOST_INPUTS = 24  # files given to a step that its page shows
MOST_ROUNDS = 200
MOST_VERSIONS = 200
MOST_UPLOADS = 50
MOST_LOGS = 20  # attempts whose log the page of a step shows


# ---- runs


@dataclass(frozen=True, slots=True)
class ParentStep:
    """The step that a run was started by, for a run inside another one."""

    run: str
    name: str


async def run_news(engine: Engine, records: ServerRecords, run_id: str, step: str | None, most: int) -> dict[Key, News]:
    """What the executing steps of a run report: as of now if this process executes them, else as recorded last."""
    async with records.snapshot() as session:
        await _chain(session, run_id)
        found = by_key(await event_log.latest_news(session, run_id, step_id=step, limit=most))
    return with_figures(found, engine.adapter.progress(run_id))


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with the rows of its steps and items, each with its latest `artifacts`.

    `gates` are all its gates by the row, oldest first. `event` is the number of the last audit line in the snapshot.
    """

    chain: Record
    steps: tuple[Record, ...]
    gates: Mapping[str, Sequence[Row]]
    parent: ParentStep | None
    event: int
    news: Mapping[Key, News] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.chain["id"])

    @property
    def status(self) -> ChainStatus:
        """Raises StoreFailed (E_DB_VALUE) for an unknown word."""
        return rows.word(ChainStatus, self.chain["status"], "chains", self.id, "status")

    @property
    def plan(self) -> Plan:
        """The chain as it was when the run was recorded. Raises StoreFailed (E_DB_VALUE) if the row has none."""
        try:
            return msgspec.convert(self.chain["chain_definition"], Plan)
        except msgspec.ValidationError:
            raise StoreFailed("E_DB_VALUE", f"chains.chain_definition of row {self.id} has no plan") from None


async def run_view(records: ServerRecords, run_id: str) -> RunView:
    """A run. Raises Refused (404 E_RUN_MISSING)."""
    async with records.snapshot() as session:
        chain = await chains.get_chain_details(session, run_id)
        if chain is None:
            raise missing("run")
        parent = await _parent(session, chain["parent_workflow_id"])
        gates = await _gates_of_run(session, run_id)
        event = await event_log.last_event(session)
        news = by_key(await event_log.latest_news(session, run_id))
        return RunView(chain, tuple(chain["workflows"]), gates, parent, event, news)


async def _gates_of_run(session: Session, run_id: str) -> Mapping[str, Sequence[Row]]:
    found: list[Record] = []
    while len(found) % MOST_GATES == 0:
        more = await approvals.list_approvals(session, chain_id=run_id, limit=MOST_GATES, offset=len(found))
        if not more:
            break
        found += more
    return gates_of(found)


async def _parent(session: Session, step_id: str | None) -> ParentStep | None:
    step = None if step_id is None else await workflows.get_workflow(session, step_id)
    chain = None if step is None or step["chain_id"] is None else await chains.get_chain(session, step["chain_id"])
    return None if step is None or chain is None else ParentStep(chain["id"], f"{chain['name']}, {step['step_id']}")


@dataclass(frozen=True, slots=True)
class RunHistory:
    """A part of a run's audit trail."""

    chain: Record
    events: tuple[Record, ...]


async def run_history(records: ServerRecords, run_id: str, after: int, limit: int) -> RunHistory:
    """Up to `limit` audit lines with a number above `after`. Raises Refused (404 E_RUN_MISSING)."""
    async with records.snapshot() as session:
        chain = await _chain(session, run_id)
        return RunHistory(chain, tuple(await event_log.events_after(session, after, chain_id=run_id, limit=limit)))


async def _chain(session: Session, run_id: str) -> Record:
    chain = await chains.get_chain(session, run_id)
    if chain is None:
        raise missing("run")
    return chain


async def outer_runs(
    records: ServerRecords, filters: Iterable[tuple[str, str, Any]], *, text: str, after: Cursor | None, limit: int
) -> Rows:
    """Runs that are not inside a step of another run, newest first. A filter is a field, an operator and a value."""
    conditions = [Condition("inner", "eq", False), *(Condition(*one) for one in filters)]
    return await records.page("chains", Page(conditions, search=text, after=after, limit=limit))


async def unattended_runs(records: ServerRecords) -> list[str]:
    """Ids of top-level runs that may need to be resumed, oldest first."""
    async with records.session() as session:
        return await unattended.unattended_runs(session)


# ---- steps


@dataclass(frozen=True, slots=True)
class StepView:
    """The row of a step, or of an item of a mapped step, with the latest version of each output."""

    row: Record
    artifacts: tuple[Record, ...]


async def step_view(records: ServerRecords, row_id: str) -> StepView:
    """A step by the id of its row. Raises Refused (404 E_WORKFLOW_MISSING)."""
    async with records.snapshot() as session:
        row = await workflows.get_workflow(session, row_id)
        if row is None:
            raise missing("workflow")
        return StepView(row, tuple(await artifacts.get_artifacts_by_workflow(session, row_id)))


@dataclass(frozen=True, slots=True)
class StepQuery:
    """Which step (or item) of a run is wanted, and which part of the lists on its page."""

    run_id: str
    step: str
    item: int | None = None
    status: str = ""
    start: int = 0
    files: int = 60
    files_of_mapped: int = 12
    items: int = 100


@dataclass(frozen=True, slots=True)
class StepPageView:
    """A step of a run, or one item of a mapped step, with all that its page shows. Its size is bounded.

    `row` is None before the step starts. `counts` and `all_files` are of all items of a mapped step. `items` holds one
    row more than the query asks for if there are more. `neighbours` are the indexes of the items before and after this
    one.
    """

    run: Record
    step: StepPlan
    item: int | None
    row: Record | None
    gates: tuple[Record, ...] = ()
    files: tuple[ArtifactRow, ...] = ()
    more_files: bool = False
    inputs: Mapping[str, Record] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    all_files: int = 0
    items: tuple[Record, ...] | None = None
    item_gates: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    neighbours: tuple[int | None, int | None] = (None, None)
    logs: tuple[Record, ...] = ()
    child: str | None = None
    event: int = 0
    news: Mapping[Key, News] = field(default_factory=dict)


async def step_page_view(engine: Engine, records: ServerRecords, query: StepQuery) -> StepPageView:
    """A step of a run with what its page shows. Raises Refused: 404 E_RUN_MISSING, E_STEP_MISSING, E_ITEM_MISSING."""
    async with records.snapshot() as session:
        event = await event_log.last_event(session)
        run = await _chain(session, query.run_id)
        step = _planned(run, query.step)
        row = await _row(session, query)
        if row is None:
            return StepPageView(run, step, query.item, None, event=event)
        mapped = row["item_count"] is not None
        counts, all_files = await workflows.count_items(session, run["id"], step.id) if mapped else ({}, 0)
        files = await _latest_files(session, query, row)
        return StepPageView(
            run,
            step,
            query.item,
            row,
            gates=tuple(await _gates(session, row["id"])) if step.approval is not None else (),
            files=tuple(map(artifact_row, files.rows)),
            more_files=files.next is not None,
            inputs=await _inputs(session, row["parameters"]),
            counts=counts,
            all_files=all_files,
            items=await _items(session, query) if mapped else None,
            item_gates=await _gates_of_run(session, run["id"]) if mapped and step.approval is not None else {},
            neighbours=await _neighbours(session, query),
            logs=await _logs(session, row),
            child=await _child(engine, row) if step.kind == "chain" else None,
            event=event,
            news=by_key(await event_log.latest_news(session, run["id"], step_id=step.id)),
        )


def _planned(run: Record, name: str) -> StepPlan:
    try:
        plan = msgspec.convert(run["chain_definition"], Plan)
    except msgspec.ValidationError:  # a record of a chain that cannot be executed
        plan = Plan(run["name"], ())
    found = next((step for step in plan.steps if step.id == name), None)
    if found is None:
        raise missing("step")
    return found


async def _row(session: Session, query: StepQuery) -> Record | None:
    item = query.item
    known = item is None or item < 2**63
    row = await workflows.get_workflow_by_step(session, query.run_id, query.step, item) if known else None
    if row is None and item is not None:
        raise missing("item")
    return row


async def _latest_files(session: Session, query: StepQuery, row: Record) -> Rows:
    conditions = [Condition("is_latest", "eq", True)]
    if row["item_count"] is None:
        conditions.append(Condition("workflow_id", "eq", row["id"]))
    else:
        conditions += [Condition("chain_id", "eq", query.run_id), Condition("step_id", "eq", query.step)]
    most = query.files if row["item_count"] is None else query.files_of_mapped
    return await list_rows(session, "artifacts", Page(conditions, descending=False, limit=most))


async def _items(session: Session, query: StepQuery) -> tuple[Record, ...]:
    before, most = query.start - 1, query.items + 1
    found = await workflows.list_items(
        session, query.run_id, query.step, status=query.status or None, after=before, limit=most
    )
    return tuple(found)


async def _neighbours(session: Session, query: StepQuery) -> tuple[int | None, int | None]:
    if query.item is None:
        return None, None
    near = await workflows.list_items(session, query.run_id, query.step, after=max(-1, query.item - 2), limit=3)
    there = {row["item_index"] for row in near}
    before, following = (at if at in there else None for at in (query.item - 1, query.item + 1))
    return before, following


async def _logs(session: Session, row: Record) -> tuple[Record, ...]:
    """The logs of the attempts of this row, oldest first."""
    found = await event_log.logs_after(
        session, row["chain_id"], (-1, row["id"]), step_id=row["step_id"], limit=MOST_LOGS
    )
    return tuple(log for log in found if log["workflow_id"] == row["id"])


async def _child(engine: Engine, row: Record) -> str | None:
    """The run inside a step that is a chain. A run that a regeneration replaces is not meant."""
    run = await engine.store.load(row["chain_id"])  # the same task reads, so it is the same snapshot
    return run.children.get(row["id"])


async def _inputs(session: Session, parameters: Any) -> dict[str, Record]:
    """The files that a step was called with, by id, the first few."""
    found = [await artifacts.get_artifact(session, one) for one in lineage.references(parameters)[:MOST_INPUTS]]
    return {record["id"]: record for record in found if record is not None}


# ---- gates


@dataclass(frozen=True, slots=True)
class GateView:
    """A gate, and `versions`: all versions of the outputs of its step, by name, newest first."""

    gate: Record
    versions: tuple[Record, ...]

    @property
    def listed(self) -> list[Record]:
        """The versions that the gate lists, in its order, without deleted ones."""
        by_id = {record["id"]: record for record in self.versions}
        return [by_id[one] for one in self.gate["artifact_ids"] if one in by_id]


async def gate_view(records: ServerRecords, gate_id: str) -> GateView:
    """A gate by its id. Raises Refused (404 E_APPROVAL_MISSING)."""
    async with records.snapshot() as session:
        return await _gate_view(session, await _gate(session, gate_id))


async def gate_views(records: ServerRecords, page: Page) -> tuple[list[GateView], Cursor | None]:
    """A page of a list of gates, and where the next page begins."""
    async with records.snapshot() as session:
        found = await list_rows(session, "approvals", page)
        return [await _gate_view(session, gate) for gate in found.rows], found.next


async def _gate(session: Session, gate_id: str) -> Record:
    gate = await approvals.get_approval(session, gate_id)
    if gate is None:
        raise missing("approval")
    return gate


async def _gate_view(session: Session, gate: Record) -> GateView:
    versions = await artifacts.get_artifacts_by_workflow(session, gate["workflow_id"], include_old_versions=True)
    return GateView(gate, tuple(versions))


@dataclass(frozen=True, slots=True)
class ReviewView:
    """A gate of a run with what a person needs to decide it.

    `rounds` are all gates behind the same step, oldest first. `inputs` are the files the step was called with, by id.
    `following` is the oldest other gate that waits.
    """

    gate: GateView
    run: Record
    step: Record
    rounds: tuple[Record, ...]
    inputs: Mapping[str, Record]
    following: Record | None


async def review_view(records: ServerRecords, gate_id: str) -> ReviewView:
    """A gate of a run. Raises Refused (404 E_APPROVAL_MISSING), also for a gate outside of runs."""
    async with records.snapshot() as session:
        gate = await _gate(session, gate_id)
        step = await workflows.get_workflow(session, gate["workflow_id"])
        if gate["chain_id"] is None or step is None:
            raise missing("approval")
        pending = await approvals.get_pending_approvals(session, None, 2)
        return ReviewView(
            await _gate_view(session, gate),
            await _chain(session, gate["chain_id"]),
            step,
            tuple(await _gates(session, step["id"])),
            await _inputs(session, step["parameters"]),
            next((other for other in pending if other["id"] != gate_id), None),
        )


async def _gates(session: Session, row_id: str) -> list[Record]:
    """All gates behind a row, oldest first."""
    page = Page((Condition("workflow_id", "eq", row_id),), limit=MOST_ROUNDS)
    return (await list_rows(session, "approvals", page)).rows


@dataclass(frozen=True, slots=True)
class InboxView:
    """Gates that wait, oldest first, each with its `artifacts`. `names` are the names of their runs by id."""

    gates: tuple[Record, ...]
    more: bool
    names: Mapping[str, str]
    event: int


async def inbox_view(records: ServerRecords, most: int) -> InboxView:
    """The first `most` gates that wait for a person."""
    async with records.snapshot() as session:
        event = await event_log.last_event(session)
        found = await approvals.get_pending_approvals(session, None, most + 1)
        runs = {gate["chain_id"] for gate in found[:most]} - {None}
        names = {run: (await _chain(session, run))["name"] for run in runs}
        return InboxView(tuple(found[:most]), len(found) > most, names, event)


async def count_pending(records: ServerRecords, most: int) -> int:
    """How many gates wait for a decision; counting stops at `most`."""
    return len((await records.page("approvals", Page((Condition("status", "eq", ("pending",)),), limit=most))).rows)


async def every_gate(records: ServerRecords) -> AsyncIterator[Record]:
    """All gates, oldest first, read page by page."""
    after: Cursor | None = None
    while True:
        found = await records.page("approvals", Page(after=after, limit=MAX_PAGE))
        for gate in found.rows:
            yield gate
        after = found.next
        if after is None:
            return


# ---- files


@dataclass(frozen=True, slots=True)
class FileView:
    """One version of a file: what made it, its versions, and where it went.

    `step` is the row of the step that made it, as of its last attempt. `sent` are transfers to that step, each with the
    row of the file (None if it was deleted). `waiting` is the gate that waits for this version. `beside` are the ids of
    the outputs before and after this one in the step.
    """

    artifact: Record
    chain: Record | None
    step: Record
    versions: tuple[Record, ...]
    inputs: Mapping[str, Record]
    used_by: tuple[Record, ...]
    transfers: tuple[Record, ...]
    sent: tuple[tuple[Record | None, Record], ...]
    waiting: str | None
    beside: tuple[str | None, str | None]

    @property
    def parameters(self) -> Any:
        """What the step was called with in that attempt; an edited version was made from what the step had made."""
        own = self.artifact["parameters"]
        return self.step["parameters"] if own is None else own

    @property
    def of_last_attempt(self) -> bool:
        """Was it made by the attempt that the step's row describes? Rows outside of runs count no attempts."""
        return bool(self.artifact["attempt"] == max(1, self.step["attempt"]))


async def file_view(records: ServerRecords, artifact_id: str) -> FileView:
    """A version of a file. Raises Refused (404 E_ARTIFACT_MISSING)."""
    async with records.snapshot() as session:
        known = await lineage.lineage_of(session, artifact_id)
        artifact = None if known is None else known["artifact"]
        step = None if artifact is None else await workflows.get_workflow(session, artifact["workflow_id"])
        if known is None or artifact is None or step is None:
            raise missing("artifact")
        parameters = step["parameters"] if artifact["parameters"] is None else artifact["parameters"]
        return FileView(
            artifact,
            known["chain"],
            step,
            await _versions(session, artifact),
            await _inputs(session, parameters),
            tuple(known["used_by"]),
            tuple(known["transfers"]),
            await _sent(session, step),
            await _waiting(session, artifact),
            await _beside(session, artifact),
        )


async def _versions(session: Session, artifact: Record) -> tuple[Record, ...]:
    """All versions of the same output, newest first; of very many the newest and this one."""
    conditions = [Condition("workflow_id", "eq", artifact["workflow_id"]), Condition("name", "eq", artifact["name"])]
    page = Page(conditions, sort="version", descending=True, limit=MOST_VERSIONS)
    found = (await list_rows(session, "artifacts", page)).rows
    return (*found,) if any(one["id"] == artifact["id"] for one in found) else (*found, artifact)


async def _sent(session: Session, step: Record) -> tuple[tuple[Record | None, Record], ...]:
    if step["prompt_id"] is None:
        return ()
    page = Page((Condition("target_workflow_id", "eq", step["id"]),), descending=False, limit=MOST_UPLOADS)
    found = (await list_rows(session, "transfers", page)).rows
    return tuple([(await artifacts.get_artifact(session, one["artifact_id"]), one) for one in found])


async def _waiting(session: Session, artifact: Record) -> str | None:
    conditions = [
        Condition("workflow_id", "eq", artifact["workflow_id"]),
        Condition("status", "eq", ("pending",)),
    ]
    found = (await list_rows(session, "approvals", Page(conditions, limit=1))).rows
    return found[0]["id"] if found and artifact["id"] in found[0]["artifact_ids"] else None


async def _beside(session: Session, artifact: Record) -> tuple[str | None, str | None]:
    outputs = await artifacts.get_artifacts_by_workflow(session, artifact["workflow_id"])
    names = [output["name"] for output in outputs]
    if artifact["name"] not in names:
        return None, None
    at = names.index(artifact["name"])
    before = outputs[at - 1]["id"] if at else None
    return before, outputs[at + 1]["id"] if at + 1 < len(outputs) else None


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """Two versions of files, the step of the first one, and its versions. `waiting` is a gate that waits for either."""

    sides: tuple[Record, Record]
    step: Record
    versions: tuple[Record, ...]
    waiting: str | None


async def comparison_view(records: ServerRecords, left: str, right: str) -> ComparisonView:
    """Two versions of files. Raises Refused (404 E_ARTIFACT_MISSING)."""
    async with records.snapshot() as session:
        one, other = [await artifacts.get_artifact(session, side) for side in (left, right)]
        step = None if one is None else await workflows.get_workflow(session, one["workflow_id"])
        if one is None or other is None or step is None:
            raise missing("artifact")
        waiting = await _waiting(session, other) or await _waiting(session, one)
        return ComparisonView((one, other), step, await _versions(session, one), waiting)


@dataclass(frozen=True, slots=True)
class GalleryQuery:
    """Which files a gallery shows. "" is any; `chain_id` None is all runs."""

    chain_id: str | None = None
    kind: str = ""
    step: str = ""
    all_versions: bool = False


@dataclass(frozen=True, slots=True)
class GalleryView:
    """A page of files. `chain` is the run that they are of, if it is one run."""

    chain: Record | None
    files: Rows


async def gallery_view(records: ServerRecords, query: GalleryQuery, after: Cursor | None, limit: int) -> GalleryView:
    """Files: those of all runs newest first, those of one run oldest first. Raises Refused (404 E_RUN_MISSING)."""
    wanted = {"chain_id": query.chain_id, "file_type": query.kind, "step_id": query.step}
    conditions = [Condition(name, "eq", value) for name, value in wanted.items() if value]
    if not query.all_versions:
        conditions.append(Condition("is_latest", "eq", True))
    page = Page(conditions, descending=query.chain_id is None, after=after, limit=limit)
    async with records.snapshot() as session:
        chain = None if query.chain_id is None else await _chain(session, query.chain_id)
        return GalleryView(chain, await list_rows(session, "artifacts", page))


async def artifact(records: ServerRecords, artifact_id: str) -> Record:
    """The row of a version. Raises Refused (404 E_ARTIFACT_MISSING)."""
    async with records.session() as session:
        found = await artifacts.get_artifact(session, artifact_id)
    if found is None:
        raise missing("artifact")
    return found


async def artifact_rows(records: ServerRecords, ids: Collection[str]) -> dict[str, ArtifactRow]:
    """Versions by id, without those that do not exist."""
    async with records.snapshot() as session:
        found = [await artifacts.get_artifact(session, one) for one in ids]
    return {record["id"]: artifact_row(record) for record in found if record is not None}


def artifact_row(record: Mapping[str, Any]) -> ArtifactRow:
    """A row of `artifacts` as the engine's noun."""
    return rows.artifact(record)
