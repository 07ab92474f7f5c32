"""The page of a step, or of one item of a mapped step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.access import engine_of, id_of, records_of
from towpath.adapters.http.news import Key, News, with_figures
from towpath.adapters.http.reading import StepPageView, StepQuery, step_page_view
from towpath.adapters.http.responses import masked
from towpath.adapters.step_times import waited, work_of
from towpath.model import ChainStatus, Json, StepStatus
from towpath.values import REFERENCE

from .contents import Branch, tree_of, with_peeks
from .forms import number
from .previews import preview_of_record
from .rendering import render_page
from .run_picture import PAGE, StepLine, item_counts, recorded_line
from .shown_arguments import shown_arguments


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A page of the items of a mapped step. `before` and `following` are the addresses of the pages beside it."""

    lines: tuple[StepLine, ...]
    status: str
    before: str
    following: str


async def step(request: Request) -> Response:
    """A step, or one item of it: its error, files, value, decisions and logs."""
    engine, query = engine_of(request), _query(request)
    view = await step_page_view(engine, records_of(request), query)
    news = with_figures(view.news, engine.adapter.progress(query.run_id))
    return await render_page(
        request,
        "step.html",
        section="runs",
        run=view.run,
        final=ChainStatus(view.run["status"]).final,
        step=view.step,
        line=_line(view, news),
        waited=0 if view.row is None else waited(view.row, view.gates, int(time.time() * 1e6)),
        items=None if view.items is None else _items(query, view, news),
        files=await with_peeks(engine.store.files, view.files),
        more_files=view.more_files,
        arguments=[] if view.row is None else shown_arguments(view.row["parameters"]),
        inputs={artifact_id: preview_of_record(record) for artifact_id, record in view.inputs.items()},
        result=_result(view.row),
        decisions=view.gates,
        logs=view.logs,
        child=view.child,
        neighbours=view.neighbours,
        seq=view.event,
    )


def _query(request: Request) -> StepQuery:
    status = request.query_params.get("status", "")
    return StepQuery(
        id_of(request),
        request.path_params["step"],
        request.path_params.get("item"),
        status=status if status in tuple(StepStatus) else "",
        start=number(request.query_params.get("from")) or 0,
        items=PAGE,
    )


def _line(view: StepPageView, news: Mapping[Key, News]) -> StepLine:
    row = view.row
    if row is None:
        return recorded_line(view.step, None)
    pending = next((gate["id"] for gate in view.gates if gate["status"] == "pending"), None)
    if row["item_count"] is None:
        work, reported = work_of([(row, view.gates)]), news.get((view.step.id, view.item))
        return recorded_line(view.step, row, approval=pending, news=reported, work=work)
    counts = item_counts(view.counts, row["item_count"])
    # When the items worked, and when they waited for people, is in rows that this page does not read.
    unknown = {"work": None} if view.step.approval is not None else {}
    return recorded_line(view.step, row, approval=pending, counts=counts, files=view.all_files, **unknown)


def _items(query: StepQuery, view: StepPageView, news: Mapping[Key, News]) -> ItemPage:
    rows = list(view.items or ())
    lines = [
        recorded_line(
            view.step,
            row,
            files=row["files"],
            approval=row["approval"],
            work=work_of([(row, view.item_gates.get(row["id"], ()))]),
            news=news.get((view.step.id, row["item_index"])),
        )
        for row in rows[:PAGE]
    ]

    def at(index: int) -> str:
        kept = {"status": query.status, "from": index}
        return "?" + urlencode({name: value for name, value in kept.items() if value})

    # With a status, the index of the page before is not known: the link leads to the first page.
    before = at(0 if query.status else max(0, query.start - PAGE)) if query.start else ""
    return ItemPage(tuple(lines), query.status, before, at(rows[PAGE]["item_index"]) if len(rows) > PAGE else "")


def _result(row: Mapping[str, Any] | None) -> Branch | None:
    """The value of a step, unless it only consists of files, which the page shows anyway."""
    if row is None or not StepStatus(row["status"]).done or row["value"] is None or _only_files(row["value"]):
        return None
    return tree_of(msgspec.json.encode(masked(row["value"])))


def _only_files(value: Json) -> bool:
    if isinstance(value, dict):
        return REFERENCE in value or (bool(value) and all(map(_only_files, value.values())))
    return isinstance(value, list) and all(map(_only_files, value))
