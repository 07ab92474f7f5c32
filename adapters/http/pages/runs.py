"""The list of runs, the page of one with its picture and its steps, and its history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.access import engine_of, records_of
from towpath.adapters.http.event_feed import shown
from towpath.adapters.http.responses import masked
from towpath.model import ChainStatus, Json
from towpath.ports import RunRow
from towpath.store import Record
from towpath.store.listing import Condition, Page

from .cursors import cursor_text, read_cursor
from .filters import one_line, run_url
from .forms import missing, number, path
from .run_picture import PAGE, RunPicture, chosen, picture
from .showing import show

RUNS = 50  # on a page
FACTS = 200
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
    "TransferPending": "file to be sent",
    "TransferUploading": "file is being sent",
    "TransferCompleted": "file arrived",
    "TransferFailed": "file not sent",
    "LogKept": "log kept",
    "CancelRequested": "cancel asked",
    "PauseRequested": "pause asked",
    "ResumeRequested": "going on asked",
    "LinkMade": "link made",
    "ArtifactDeleted": "file deleted",
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
    text = query.get("q", "")[:200].strip()
    after = read_cursor(query.get("after", ""))
    found = await records_of(request).page("chains", Page(conditions, search=text, after=after, limit=RUNS))
    return await show(
        request,
        "runs.html",
        section="runs",
        runs=found.rows,
        words=list(ChainStatus),
        chosen=status if len(conditions) > 1 else "",
        text=text,
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
    async with engine.store.one_moment():
        seq = await records_of(request).last_event()
        recorded = await engine.store.load(path(request, "id"))
        parent = await _parent(engine, recorded)
    seen = picture(recorded, engine.adapter.progress(recorded.id))
    query = request.query_params
    asked = Asked(query.get("q", "")[:200], query.get("status", ""), number(query.get("level")))
    lines = [line for line in seen.steps if asked.level in (None, line.level)]
    found = chosen(lines, asked.status, asked.text)
    page, pages, first = _page(query.get("page"), len(found))

    def turn(to: int) -> str:
        kept = {"q": asked.text, "status": asked.status, "level": asked.level, "page": to}
        return f"{run_url(recorded.id)}?" + urlencode({k: v for k, v in kept.items() if v not in ("", None)})

    return await show(
        request,
        "run.html",
        section="runs",
        picture=seen,
        drawing=seen.drawing(number(query.get("from"))),
        lines={line.id: line for line in seen.steps},
        inputs=masked(recorded.inputs),
        asked=asked,
        page=found[first : first + PAGE],
        first=first,
        found=len(found),
        number=page,
        pages=pages,
        turn=turn,
        steering=_steering(seen),
        parent=parent,
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


async def history(request: Request) -> Response:
    """The audit trail of a run."""
    engine, run_id = engine_of(request), path(request, "id")
    chain = await engine.get_chain(run_id)
    if chain is None:
        raise missing("run", run_id)
    after = number(request.query_params.get("after")) or 0
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
    file = data.pop("artifact") if isinstance(data.get("artifact"), str) else None
    if data.get("attempt") == 1:
        del data["attempt"]
    about = "; ".join(f"{name} {_said(value)}" for name, value in data.items() if name != "approval")
    words = _FACTS.get(event.type, event.type)
    return {
        "seq": event.seq,
        "at": event.at,
        "words": words,
        "step": step_id,
        "item": item,
        "file": file,
        "about": about,
    }


def _said(value: Json) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        more = f" and {len(value) - 8} more" if len(value) > 8 else ""
        return ", ".join(value[:8]) + more
    return one_line(value)[:300]


def _page(text: str | None, found: int) -> tuple[int, int, int]:
    """(page, pages, index of its first row); a page that is not there is the last one."""
    pages = max(1, -(-found // PAGE))
    page = min(max(1, number(text) or 1), pages)
    return page, pages, (page - 1) * PAGE
