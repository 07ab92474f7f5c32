"""The page of one step, or of one item of a mapped one. What it reads does not grow with the number of items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.access import Records, engine_of, records_of
from towpath.adapters.http.responses import masked
from towpath.model import ArtifactRow, ChainStatus, Json, Plan, StepPlan, StepStatus
from towpath.store import Record, workflows
from towpath.store.listing import Condition, Page
from towpath.store.rows import artifact as artifact_row
from towpath.values import REFERENCE

from .contents import Branch, tree_of, with_peeks
from .forms import missing, number, path
from .reviewing import gates_of, inputs_of
from .run_picture import PAGE, StepLine, item_counts, recorded_line
from .showing import show
from .shown_arguments import given

FILES = 60  # on the page of a step or an item
FILES_OF_MAPPED = 12  # above them comes the table of items
LOGS = 20  # tries whose log is shown


@dataclass(frozen=True, slots=True)
class Place:
    """A step of a run, or one item of it, with its row if it has one yet."""

    run: Mapping[str, Any]
    step: StepPlan
    item: int | None
    row: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Items:
    """A page of the items of a mapped step; `before` and `following` are the addresses of the pages beside it."""

    lines: tuple[StepLine, ...]
    asked: str
    before: str
    following: str


async def step(request: Request) -> Response:
    """One step, or one item of it: why it failed, what it made, what it logged."""
    engine, records = engine_of(request), records_of(request)
    async with engine.store.one_moment():
        seq = await records.last_event()
        place = await _place(request)
        row = place.row
        decisions = await gates_of(records, row["id"]) if row is not None and place.step.approval is not None else []
        line = await _line(request, place, decisions)
        arguments = given(row["parameters"]) if row is not None else []
        files, more_files = await _files(request, place, line)
        inputs = await inputs_of(engine, arguments)
        items = await _items(request, place) if line.items is not None else None
        logs = await _logs(records, place)
        child = await _child(engine, place)
        before, following = await _beside(request, place)
    return await show(
        request,
        "step.html",
        section="runs",
        run=place.run,
        final=ChainStatus(place.run["status"]).final,
        step=place.step,
        line=line,
        items=items,
        files=await with_peeks(engine.store.files, files),
        more_files=more_files,
        arguments=arguments,
        inputs=inputs,
        result=_result(row),
        decisions=decisions,
        logs=logs,
        child=child,
        before=before,
        following=following,
        seq=seq,
    )


async def _place(request: Request) -> Place:
    engine, run_id = engine_of(request), path(request, "id")
    name, item = path(request, "step"), request.path_params.get("item")
    run = await engine.get_chain(run_id)
    if run is None:
        raise missing("run", run_id)
    planned = next((one for one in _plan(run).steps if one.id == name), None)
    if planned is None:
        raise missing("step", name)
    row = await engine.get_workflow_by_step(run_id, name, item) if item is None or item < 2**63 else None
    if row is None and item is not None:
        raise missing("item", f"{name}[{item}]")
    return Place(run, planned, item, row)


def _plan(run: Mapping[str, Any]) -> Plan:
    try:
        return msgspec.convert(run["chain_definition"], Plan)
    except msgspec.ValidationError:  # a record of a chain that was never meant to run
        return Plan(run["name"], ())


async def _line(request: Request, place: Place, decisions: list[Record]) -> StepLine:
    row, run_id = place.row, place.run["id"]
    if row is None:
        return recorded_line(place.step, None)
    pending = next((gate["id"] for gate in decisions if gate["status"] == "pending"), None)
    if row["item_count"] is None:
        done, total = engine_of(request).adapter.progress(run_id).get(place.step.id, (0.0, None))
        share = min(1.0, done / total) if total and place.item is None else None
        return recorded_line(place.step, row, approval=pending, share=share)
    async with records_of(request).session() as session:
        found, files = await workflows.count_items(session, run_id, place.step.id)
    return recorded_line(place.step, row, approval=pending, counts=item_counts(found, row["item_count"]), files=files)


async def _items(request: Request, place: Place) -> Items:
    """Items from an index on, of one status if that was asked for."""
    query = request.query_params
    asked = query.get("status", "") if query.get("status") in tuple(StepStatus) else ""
    start = number(query.get("from")) or 0
    async with records_of(request).session() as session:
        found = await workflows.list_items(
            session, place.run["id"], place.step.id, status=asked or None, after=start - 1, limit=PAGE + 1
        )
    lines = tuple(recorded_line(place.step, row, files=row["files"], approval=row["approval"]) for row in found[:PAGE])

    def at(index: int) -> str:
        kept = {"status": asked, "from": index}
        return "?" + urlencode({name: value for name, value in kept.items() if value})

    # Items of one status have no known distance: from there it goes back to the first of them.
    before = at(0 if asked else max(0, start - PAGE)) if start else ""
    return Items(lines, asked, before, at(found[PAGE]["item_index"]) if len(found) > PAGE else "")


async def _files(request: Request, place: Place, line: StepLine) -> tuple[list[ArtifactRow], bool]:
    """The latest files, the first of them, and whether there are more."""
    if place.row is None:
        return [], False
    conditions = [Condition("is_latest", "eq", True)]
    if line.items is None:
        conditions.append(Condition("workflow_id", "eq", place.row["id"]))
    else:
        conditions += [Condition("chain_id", "eq", place.run["id"]), Condition("step_id", "eq", place.step.id)]
    most = FILES if line.items is None else FILES_OF_MAPPED
    found = await records_of(request).page("artifacts", Page(conditions, descending=False, limit=most))
    return [artifact_row(row) for row in found.rows], found.next is not None


async def _beside(request: Request, place: Place) -> tuple[str, str]:
    """The pages of the items before and after this one."""
    if place.item is None:
        return "", ""
    async with records_of(request).session() as session:
        near = await workflows.list_items(
            session, place.run["id"], place.step.id, after=max(-1, place.item - 2), limit=3
        )
    there = {row["item_index"] for row in near}
    before, following = (str(at) if at in there else "" for at in (place.item - 1, place.item + 1))
    return before, following


async def _logs(records: Records, place: Place) -> list[Record]:
    """What the tries of this row logged, oldest first."""
    if place.row is None:
        return []
    own = place.row["id"]
    found = await records.logs_after(place.run["id"], (-1, own), step_id=place.step.id, limit=LOGS)
    return [log for log in found if log["workflow_id"] == own]


async def _child(engine: Any, place: Place) -> str | None:
    """The run inside a step that is a chain."""
    if place.row is None or place.step.kind != "chain":
        return None
    run = await engine.store.load(place.run["id"])
    found: str | None = run.children.get(place.row["id"])
    return found


def _result(row: Mapping[str, Any] | None) -> Branch | None:
    """The value of a step, unless it is nothing but the files that are shown anyway."""
    if row is None or not StepStatus(row["status"]).done or row["value"] is None or _only_files(row["value"]):
        return None
    return tree_of(msgspec.json.encode(masked(row["value"])))


def _only_files(value: Json) -> bool:
    if isinstance(value, dict):
        return REFERENCE in value or (bool(value) and all(map(_only_files, value.values())))
    return isinstance(value, list) and all(map(_only_files, value))
