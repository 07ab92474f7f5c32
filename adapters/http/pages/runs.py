"""The list of runs, the page of one run with its picture and steps, its history, and its buttons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http import start_run
from towpath.adapters.http.access import engine_of, id_of, principal_of, records_of
from towpath.adapters.http.event_feed import event_of
from towpath.adapters.http.news import with_figures
from towpath.adapters.http.query_parameters import cursor_from, next_cursor
from towpath.adapters.http.reading import outer_runs, run_history, run_view
from towpath.adapters.http.requests import RerunBody
from towpath.adapters.http.responses import masked
from towpath.model import ChainStatus, Json

from .filters import one_line, run_url
from .forms import form_of, number
from .rendering import redirect, render_page
from .run_filters import RunFilter
from .run_picture import PAGE, RunPicture, chosen, picture

RUNS = 50  # on a page
FACTS = 200
_CURSOR = "page of runs"
_FACTS = {
    "ChainCreated": "run recorded",
    "ChainStarted": "run started",
    "ChainResumed": "run resumed",
    "ChainPaused": "run paused",
    "ChainEnded": "run ended",
    "LevelReached": "level reached",
    "StepQueued": "step queued",
    "StepStarted": "step started",
    "StepRetried": "step retried",
    "StepWaiting": "step waits for a decision",
    "StepCompleted": "step completed",
    "StepFailed": "step failed",
    "StepSkipped": "step skipped",
    "StepCancelled": "step cancelled",
    "StepCached": "step reused",
    "ApprovalRequested": "approval requested",
    "ApprovalTimedOut": "approval timed out",
    "DecisionRecorded": "decision recorded",
    "DecisionApplied": "decision applied",
    "ArtifactEdited": "file edited",
    "PromptSent": "sent to a server",
    "TransferPending": "file transfer planned",
    "TransferUploading": "file transfer started",
    "TransferCompleted": "file arrived",
    "TransferFailed": "file not sent",
    "LogKept": "log kept",
    "CancelRequested": "cancel requested",
    "PauseRequested": "pause requested",
    "ResumeRequested": "resume requested",
    "LinkMade": "link made",
    "ArtifactDeleted": "file deleted",
}


@dataclass(frozen=True, slots=True)
class StepFilter:
    """The filter of the table of steps."""

    text: str = ""
    status: str = ""
    level: int | None = None


async def runs(request: Request) -> Response:
    """Runs, newest first."""
    wanted = RunFilter.of(request.query_params)
    after = cursor_from(request, _CURSOR)
    found = await outer_runs(records_of(request), wanted.conditions(), text=wanted.text, after=after, limit=RUNS)
    return await render_page(
        request,
        "runs.html",
        section="runs",
        runs=found.rows,
        words=list(ChainStatus),
        wanted=wanted,
        after=after is not None,
        next_after=next_cursor(request, _CURSOR, found.next),
        what=_what,
    )


def _what(run: Mapping[str, Any]) -> str:
    reasons = {"approval": "waits for approval", "requested": "paused by a person", "interrupted": "interrupted"}
    return str(run["error_message"] or reasons.get(run["status_reason"], run["status_reason"]) or "")


async def run(request: Request) -> Response:
    """The page of a run."""
    view = await run_view(records_of(request), id_of(request))
    seen = picture(view, with_figures(view.news, engine_of(request).adapter.progress(view.id)))
    query = request.query_params
    wanted = StepFilter(query.get("q", "")[:200], query.get("status", ""), number(query.get("level")))
    lines = [line for line in seen.steps if wanted.level in (None, line.level)]
    found = chosen(lines, wanted.status, wanted.text)
    page, pages, first = _page(query.get("page"), len(found))

    def turn(to: int) -> str:
        kept = {"q": wanted.text, "status": wanted.status, "level": wanted.level, "page": to}
        return f"{run_url(view.id)}?" + urlencode({k: v for k, v in kept.items() if v not in ("", None)})

    return await render_page(
        request,
        "run.html",
        section="runs",
        run=view.chain,
        final=view.status.final,
        picture=seen,
        drawing=seen.drawing(number(query.get("from"))),
        lines={line.id: line for line in seen.steps},
        inputs=masked(view.chain["inputs"] or {}),
        wanted=wanted,
        page=found[first : first + PAGE],
        first=first,
        found=len(found),
        number=page,
        pages=pages,
        turn=turn,
        buttons=_buttons(seen),
        parent=view.parent,
        seq=view.event,
    )


def _buttons(seen: RunPicture) -> list[tuple[str, str, str]]:
    """(verb, words, look) of each button that fits the status of the run."""
    status = seen.run.status
    if status.final:
        return [("rerun", "Run the rest again" if status != ChainStatus.COMPLETED else "Run again", "")]
    if status is ChainStatus.PAUSED:
        waits = seen.run.chain["status_reason"] == "approval"
        resume = [] if waits else [("resume", "Resume", "primary")]
        return [*resume, ("cancel", "Cancel", "danger")]
    return [("pause", "Pause", ""), ("cancel", "Cancel", "danger")]


def _page(text: str | None, found: int) -> tuple[int, int, int]:
    """(page, pages, index of its first row). A page after the last one is the last one."""
    pages = max(1, -(-found // PAGE))
    page = min(max(1, number(text) or 1), pages)
    return page, pages, (page - 1) * PAGE


# ---- history


async def history(request: Request) -> Response:
    """The audit trail of a run."""
    after = number(request.query_params.get("after")) or 0
    view = await run_history(records_of(request), id_of(request), after, FACTS + 1)
    return await render_page(
        request,
        "history.html",
        section="runs",
        id=view.chain["id"],
        name=view.chain["name"],
        events=[_fact(line) for line in view.events[:FACTS]],
        after=after,
        next_after=view.events[FACTS - 1]["seq"] if len(view.events) > FACTS else None,
    )


def _fact(line: Mapping[str, Any]) -> dict[str, Any]:
    event = event_of(line)
    data = dict(event.data) if isinstance(event.data, dict) else {}
    step_id, item = data.pop("step", None), data.pop("item", None)
    file = data.pop("artifact") if isinstance(data.get("artifact"), str) else None
    if data.get("attempt") == 1:
        del data["attempt"]
    about = "; ".join(f"{name} {_value_words(value)}" for name, value in data.items() if name != "approval")
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


def _value_words(value: Json) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        more = f" and {len(value) - 8} more" if len(value) > 8 else ""
        return ", ".join(value[:8]) + more
    return one_line(value)[:300]


# ---- buttons


async def cancel(request: Request) -> Response:
    """Request that a run is cancelled."""
    await form_of(request)
    await engine_of(request).cancel(id_of(request), by=principal_of(request).name)
    return redirect(run_url(id_of(request)), "cancel")


async def ask_to_remove(request: Request) -> Response:
    """The question before a run is removed. It needs no script."""
    view = await run_view(records_of(request), id_of(request))
    seen = picture(view, {})
    return await render_page(
        request,
        "remove.html",
        section="runs",
        run=view.chain,
        steps=len(seen.steps),
        files=seen.files,
    )


async def remove(request: Request) -> Response:
    """Remove a run that is over."""
    await form_of(request)
    await engine_of(request).remove(id_of(request), by=principal_of(request).name)
    return redirect("/runs", "removed")


async def pause(request: Request) -> Response:
    """Request that a run is paused."""
    await form_of(request)
    await engine_of(request).pause(id_of(request), by=principal_of(request).name)
    return redirect(run_url(id_of(request)), "pause")


async def resume(request: Request) -> Response:
    """Resume a paused run, if this server executes runs."""
    await form_of(request)
    await start_run.request_resume(request, id_of(request))
    return redirect(run_url(id_of(request)), "resume")


async def rerun(request: Request) -> Response:
    """A new run of the steps that did not complete, or of one step and all that depend on it."""
    form = await form_of(request)
    step = form.get("from")
    from_steps = [step] if isinstance(step, str) and step else []
    started = await start_run.rerun(request, id_of(request), RerunBody(from_steps=from_steps))
    return redirect(run_url(started.id), "rerun" if started.executing else "rerun-waits")
