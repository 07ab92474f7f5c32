"""The list of runs, the page of one with its picture, its steps, its history; and steering it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.event_feed import shown
from towpath.adapters.http.records import engine_of, records_of
from towpath.adapters.http.shapes import masked
from towpath.model import ChainStatus, Json
from towpath.ports import RunRow, StepRow
from towpath.store import Record
from towpath.store.listing import Condition, Page
from towpath.values import REFERENCE

from .arguments import given
from .contents import Branch, tree_of, with_peeks
from .cursors import cursor_text, read_cursor
from .forms import missing, path
from .reviewing import gates_of, inputs_of
from .run_picture import PAGE, RunPicture, StepLine, chosen, item_line, picture
from .showing import show
from .wording import one_line

RUNS = 50  # on a page
FACTS = 200
STEP_FILES = 60
_FACTS = {
    "ChainCreated": "run recorded",
    "ChainStarted": "run started",
    "ChainResumed": "run goes on",
    "ChainPaused": "run paused",
    "ChainEnded": "run ended",
    "LevelReached": "level reached",
    "StepQueued": "step queued",
    "StepStarted": "step started",
    "StepRetried": "step tried again",
    "StepWaiting": "step waits",
    "StepCompleted": "step completed",
    "StepFailed": "step failed",
    "StepSkipped": "step skipped",
    "StepCancelled": "step cancelled",
    "StepCached": "step taken over",
    "ApprovalRequested": "approval asked",
    "ApprovalTimedOut": "time for approval over",
    "DecisionRecorded": "decision recorded",
    "DecisionApplied": "decision applied",
    "ArtifactEdited": "file edited",
    "PromptSent": "sent to a server",
    "CancelRequested": "cancel asked",
    "PauseRequested": "pause asked",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the table of steps was asked for."""

    text: str = ""
    status: str = ""
    level: int | None = None


async def runs(request: Request) -> Response:
    """Runs, newest first."""
    query = request.query_params
    status = query.get("status", "")
    conditions = [Condition("inner", "eq", False)]
    if status in list(ChainStatus):
        conditions.append(Condition("status", "eq", (status,)))
    after = read_cursor(query.get("after", ""))
    found = await records_of(request).page("chains", Page(conditions, after=after, limit=RUNS))
    return await show(
        request,
        "runs.html",
        section="runs",
        runs=found.rows,
        words=list(ChainStatus),
        chosen=status if len(conditions) > 1 else "",
        after=after is not None,
        next_after=cursor_text(found.next),
        what=_what,
    )


def _what(run: Mapping[str, Any]) -> str:
    reasons = {"approval": "waits for approval", "requested": "paused by somebody", "interrupted": "interrupted"}
    return str(run["error_message"] or reasons.get(run["status_reason"], run["status_reason"]) or "")


async def run(request: Request) -> Response:
    """One run: what is going on, its picture, its steps."""
    engine = engine_of(request)
    seq = await records_of(request).last_event()  # read first: what happens meanwhile is told once more
    recorded = await engine.store.load(path(request, "id"))
    seen = picture(recorded, engine.adapter.progress(recorded.id))
    query = request.query_params
    asked = Asked(query.get("q", "")[:200], query.get("status", ""), _number(query.get("level")))
    lines = [line for line in seen.steps if asked.level in (None, line.level)]
    found = chosen(lines, asked.status, asked.text)
    number, pages, first = _page(query.get("page"), len(found))

    def turn(to: int) -> str:
        kept = {"q": asked.text, "status": asked.status, "level": asked.level, "page": to}
        return f"/runs/{quote(recorded.id)}?" + urlencode({k: v for k, v in kept.items() if v not in ("", None)})

    return await show(
        request,
        "run.html",
        section="runs",
        picture=seen,
        drawing=seen.drawing(_number(query.get("from"))),
        lines={line.id: line for line in seen.steps},
        inputs=masked(recorded.inputs),
        asked=asked,
        page=found[first : first + PAGE],
        first=first,
        found=len(found),
        number=number,
        pages=pages,
        turn=turn,
        steering=_steering(seen),
        parent=await _parent(engine, recorded),
        seq=seq,
    )


def _steering(seen: RunPicture) -> list[tuple[str, str, str]]:
    """(verb, words, look of the button) of what can be done with a run now."""
    status = seen.run.status
    if status.final:
        return [("rerun", "Run the rest again" if status != ChainStatus.COMPLETED else "Run again", "")]
    if status is ChainStatus.PAUSED:
        stopped = seen.run.reason != "approval"
        resume = [("resume", "Resume", "primary")] if stopped else []
        return [*resume, ("cancel", "Cancel", "danger")]
    return [("pause", "Pause", ""), ("cancel", "Cancel", "danger")]


async def _parent(engine: Any, recorded: RunRow) -> dict[str, str] | None:
    if recorded.parent_workflow_id is None:
        return None
    row = await engine.get_workflow(recorded.parent_workflow_id)
    if row is None or row["chain_id"] is None:
        return None
    return {"run": row["chain_id"], "name": f"{(await engine.get_chain(row['chain_id']))['name']}, {row['step_id']}"}


async def step(request: Request) -> Response:
    """One step, or one item of it: why it failed, what it made, what it logged."""
    engine, records = engine_of(request), records_of(request)
    seq = await records.last_event()
    recorded = await engine.store.load(path(request, "id"))
    name, item = path(request, "step"), request.path_params.get("item")
    planned = next((one for one in recorded.plan.steps if one.id == name), None)
    if planned is None:
        raise missing("step", name)
    seen = picture(recorded, engine.adapter.progress(recorded.id))
    row = _row(recorded, name, item)
    line = next(line for line in seen.steps if line.id == name) if item is None else None
    if line is None:
        if row is None:
            raise missing("item", f"{name}[{item}]")
        line = item_line(planned, row)
    asked = request.query_params.get("status", "")
    items = _items(recorded, line, asked)
    number, pages, first = _page(request.query_params.get("page"), len(items))
    arguments = given(row.parameters) if row is not None else []
    files = [artifact for r in recorded.rows if r.step == name and item in (None, r.item) for artifact in r.artifacts]

    def turn(to: int) -> str:
        return "?" + urlencode({k: v for k, v in {"status": asked, "page": to}.items() if v})

    return await show(
        request,
        "step.html",
        section="runs",
        run=recorded,
        step=planned,
        line=line,
        items=[item_line(planned, one) for one in items[first : first + PAGE]],
        asked=asked,
        number=number,
        pages=pages,
        turn=turn,
        files=await with_peeks(engine.store.files, files[:STEP_FILES]),
        more_files=len(files) > STEP_FILES,
        arguments=arguments,
        inputs=await inputs_of(engine, arguments),
        result=_result(row),
        decisions=await gates_of(records, row.id) if row is not None and planned.approval is not None else [],
        logs=[
            log for log in await engine.store.logs(recorded.id) if (log["step_id"], log["item_index"]) == (name, item)
        ],
        child=recorded.children.get(row.id) if row is not None else None,
        seq=seq,
    )


def _row(recorded: RunRow, step_id: str, item: int | None) -> StepRow | None:
    return next((row for row in recorded.rows if row.step == step_id and row.item == item), None)


def _items(recorded: RunRow, line: StepLine, asked: str) -> list[StepRow]:
    if line.items is None:
        return []
    found = [row for row in recorded.rows if row.step == line.id and row.item is not None]
    found.sort(key=lambda row: row.item or 0)
    return [row for row in found if not asked or row.status == asked]


def _result(row: StepRow | None) -> Branch | None:
    """The value of a step, unless it is nothing but the files that are shown anyway."""
    if row is None or not row.status.done or row.value is None or _only_files(row.value):
        return None
    return tree_of(msgspec.json.encode(masked(row.value)))


def _only_files(value: Json) -> bool:
    if isinstance(value, dict):
        return REFERENCE in value or (bool(value) and all(map(_only_files, value.values())))
    return isinstance(value, list) and all(map(_only_files, value))


async def history(request: Request) -> Response:
    """The audit trail of a run."""
    engine, run_id = engine_of(request), path(request, "id")
    chain = await engine.get_chain(run_id)
    if chain is None:
        raise missing("run", run_id)
    after = _number(request.query_params.get("after")) or 0
    found = await records_of(request).events_after(after, chain_id=run_id, limit=FACTS + 1)
    return await show(
        request,
        "history.html",
        section="runs",
        id=run_id,
        name=chain["name"],
        events=[_fact(event) for event in found[:FACTS]],
        after=after,
        next_after=found[FACTS - 1]["seq"] if len(found) > FACTS else None,
    )


def _fact(line: Record) -> dict[str, Any]:
    event = shown(line)
    data = dict(event.data) if isinstance(event.data, dict) else {}
    step_id, item = data.pop("step", None), data.pop("item", None)
    if data.get("attempt") == 1:
        del data["attempt"]
    about = "; ".join(f"{name} {_said(value)}" for name, value in data.items() if name != "approval")
    words = _FACTS.get(event.type, event.type)
    return {"seq": event.seq, "at": event.at, "words": words, "step": step_id, "item": item, "about": about}


def _said(value: Json) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        more = f" and {len(value) - 8} more" if len(value) > 8 else ""
        return ", ".join(value[:8]) + more
    return one_line(value)[:300]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None


def _page(text: str | None, found: int) -> tuple[int, int, int]:
    """(page, pages, index of its first row); a page that is not there is the last one."""
    pages = max(1, -(-found // PAGE))
    number = min(max(1, _number(text) or 1), pages)
    return number, pages, (number - 1) * PAGE
