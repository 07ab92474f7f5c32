"""Runs of chains and their steps over HTTP: look, start, steer, follow."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from towpath.errors import RunRefused
from towpath.model import ChainStatus

from .answering import answer, definition, listed, principal_of, there
from .asked import RerunBody, StartBody
from .background import Background
from .bodies import body_of, check_text
from .doorkeeper import Doorkeeper
from .event_feed import EventFeed, shown
from .principals import Role
from .queries import list_parameters, number, sealed, unsealed
from .records import engine_of, records_of
from .refusals import Refused, safe_text
from .route_table import Parameter, Route
from .shapes import (
    ArtifactRow,
    Asked,
    Chain,
    ChainFileRow,
    ChainRow,
    Definition,
    Deleted,
    Event,
    Log,
    Page,
    Started,
    Workflow,
    WorkflowRow,
    page_type,
    shaped,
)
from .starting import chain_files, rerun, start

STREAM = "text/event-stream"
MOST_EVENTS = 1_000
MOST_LOGS = 100
MAX_LOG = 256 * 1024  # characters of one log that are kept
_EVENT_ID = re.compile(r"[0-9]{1,18}", re.ASCII)


async def list_chains(request: Request) -> Response:
    return await listed(request, "chains", ChainRow)


async def start_chain(request: Request) -> Response:
    return answer(await start(request, await body_of(request, StartBody)), 202)


async def list_chain_files(request: Request) -> Response:
    rows = await run_sync(chain_files, request.app.state.settings.chains)
    return answer(Page(rows=rows))


async def get_chain(request: Request) -> Response:
    row = there(await engine_of(request).get_chain_details(_id(request)), "E_RUN_MISSING", "run")
    steps = [s for s in row["workflows"] if s["item_index"] is None]
    waiting = [s["id"] for s in row["workflows"] if s["status"] == "waiting_approval"]
    return answer(shaped(Chain, row, steps=[_workflow(step) for step in steps], waiting=waiting))


async def get_definition(request: Request) -> Response:
    return answer(definition((await engine_of(request).store.load(_id(request))).plan))


async def delete_chain(request: Request) -> Response:
    run_id = _id(request)
    engine = engine_of(request)
    row = there(await engine.get_chain(run_id), "E_RUN_MISSING", "run")
    if not ChainStatus(row["status"]).final:
        raise RunRefused("E_RUN_ACTIVE", f"run {run_id} is {row['status']}, not over", cure="cancel it first")
    return answer(Deleted(id=run_id, deleted=await records_of(request).delete_chain(run_id, _by(request))))


async def cancel_chain(request: Request) -> Response:
    return answer(Asked(id=_id(request), status=await engine_of(request).cancel(_id(request), by=_by(request))), 202)


async def pause_chain(request: Request) -> Response:
    return answer(Asked(id=_id(request), status=await engine_of(request).pause(_id(request), by=_by(request))), 202)


async def resume_chain(request: Request) -> Response:
    run_id, engine = _id(request), engine_of(request)
    run = await engine.store.load(run_id)
    if run.status.final:
        raise RunRefused("E_RUN_OVER", f"run {run_id} is {run.status}", cure="`rerun` makes a new run of it")
    background = _background(request, run_id)
    await records_of(request).resume_asked(run_id, _by(request))
    background.go_on(run_id)
    return answer(Asked(id=run_id, status=run.status), 202)


async def rerun_chain(request: Request) -> Response:
    return answer(await rerun(request, _id(request), await body_of(request, RerunBody)), 202)


async def get_logs(request: Request) -> Response:
    """Page by page: a run of a thousand items has a thousand logs of up to 256 KiB."""
    run_id, given = _id(request), request.query_params
    there(await engine_of(request).get_chain(run_id), "E_RUN_MISSING", "run")
    step = check_text(given["step"], limit=500, name="step") if "step" in given else None
    tail = number(given, "tail", MAX_LOG, 1, MAX_LOG)
    limit = number(given, "limit", 20, 1, MOST_LOGS)
    view = f"logs {run_id} {step}"
    after = unsealed(request, view, given["after"]) if "after" in given else None
    found = await records_of(request).logs_after(run_id, after, step_id=step, limit=limit + 1)
    rows = [shaped(Log, row, text=safe_text(row["text"])[-tail:]) for row in found[:limit]]
    last = found[limit - 1] if len(found) > limit else None
    following = None if last is None else sealed(request, view, (last["attempt"], last["workflow_id"]))
    return answer(Page(rows=rows, next=following))


async def get_chain_events(request: Request) -> Response:
    row = there(await engine_of(request).get_chain(_id(request)), "E_RUN_MISSING", "run")
    over = row["status"] if ChainStatus(row["status"]).final else ""
    return await _events(request, row["id"], over)


async def get_events(request: Request) -> Response:
    return await _events(request, None, "")


async def _events(request: Request, chain_id: str | None, over: str) -> Response:
    records, settings = records_of(request), request.app.state.settings
    after = await _after(request, chain_id)
    if STREAM not in request.headers.get("accept", ""):
        limit = number(request.query_params, "limit", 200, 1, MOST_EVENTS)
        lines = await records.events_after(after, chain_id=chain_id, limit=limit)
        following = str(lines[-1]["seq"]) if len(lines) == limit else None
        return answer(Page(rows=[shown(line) for line in lines], next=following))
    if request.method == "HEAD":
        return Response(media_type=STREAM)
    after = min(after, await records.last_event())  # a number of another store would keep its stream silent
    if over and "last-event-id" in request.headers and not await _more(request, chain_id, after):
        return Response(status_code=204)
    feed: EventFeed = request.app.state.feed
    door: Doorkeeper = request.app.state.door
    still_good = partial(door.still_good, request.state.principal, request)
    stream = feed.stream(chain_id, after, over=over, heartbeat=settings.heartbeat, still_good=still_good)
    return StreamingResponse(stream, headers={"X-Accel-Buffering": "no"}, media_type=STREAM)


async def _more(request: Request, chain_id: str | None, after: int) -> bool:
    return bool(await records_of(request).events_after(after, chain_id=chain_id, limit=1))


async def _after(request: Request, chain_id: str | None) -> int:
    """The number of the last line that the caller has. A stream of all runs begins now if it has none."""
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    if text is None:
        streamed = STREAM in request.headers.get("accept", "")
        return await records_of(request).last_event() if chain_id is None and streamed else 0
    if not _EVENT_ID.fullmatch(text):
        raise Refused(422, "E_PARAM_TYPE", "the number of an event", found=text)
    return int(text)


async def list_workflows(request: Request) -> Response:
    return await listed(request, "workflows", WorkflowRow)


async def get_workflow(request: Request) -> Response:
    engine = engine_of(request)
    async with engine.store.one_moment():
        found = there(await engine.get_workflow(_id(request)), "E_WORKFLOW_MISSING", "workflow")
        row = {**found, "artifacts": await engine.get_artifacts_by_workflow(found["id"])}
    return answer(_workflow(row))


# ---- parts


def _id(request: Request) -> str:
    found: str = request.path_params["id"]
    return found


def _by(request: Request) -> str:
    return principal_of(request).name


def _workflow(row: Any) -> Workflow:
    artifacts = [
        shaped(ArtifactRow, {**a, **{name: row[name] for name in ("chain_id", "step_id", "item_index")}})
        for a in row["artifacts"]
    ]
    return shaped(Workflow, row, artifacts=artifacts)


def _background(request: Request, run_id: str) -> Background:
    if not request.app.state.settings.execute:
        raise Refused(
            409,
            "E_SERVE_IDLE",
            "this server works on no runs",
            cure=f"`towpath resume {run_id}` where its steps are, or start the server with --execute",
        )
    background: Background = request.app.state.background
    return background


_AFTER = Parameter("after", {"type": "integer", "minimum": 0}, "number of the last event that you have")
_LIMIT = Parameter("limit", {"type": "integer", "minimum": 1, "maximum": MOST_EVENTS, "default": 200})
_LOGS = (
    Parameter("step", {"type": "string", "maxLength": 500}, "only this step"),
    Parameter("tail", {"type": "integer", "minimum": 1, "maximum": MAX_LOG}, "only so many last characters of each"),
    Parameter("limit", {"type": "integer", "minimum": 1, "maximum": MOST_LOGS, "default": 20}, "tries of a page"),
    Parameter("after", {"type": "string"}, "`next` of the page before"),
)
_ALSO = "As server-sent events with `Accept: text/event-stream`; `Last-Event-ID` goes on after an interruption."

ROUTES = (
    Route(
        "GET",
        "/chains",
        Role.VIEWER,
        list_chains,
        "Runs, newest first.",
        answer=page_type(ChainRow),
        listing="chains",
        parameters=list_parameters("chains"),
    ),
    Route(
        "POST",
        "/chains",
        Role.OPERATOR,
        start_chain,
        "Start a run.",
        body=StartBody,
        answer=Started,
        status=202,
        errors=(404, 409),
    ),
    Route("GET", "/chain-files", Role.VIEWER, list_chain_files, "Chains to start.", answer=page_type(ChainFileRow)),
    Route("GET", "/chains/{id}", Role.VIEWER, get_chain, "A run with its steps.", answer=Chain, errors=(404,)),
    Route(
        "DELETE",
        "/chains/{id}",
        Role.ADMIN,
        delete_chain,
        "Delete a run that is over.",
        answer=Deleted,
        errors=(404, 409),
    ),
    Route(
        "GET",
        "/chains/{id}/definition",
        Role.VIEWER,
        get_definition,
        "The chain as it was when the run began.",
        answer=Definition,
        errors=(404, 500),
    ),
    Route(
        "GET",
        "/chains/{id}/events",
        Role.VIEWER,
        get_chain_events,
        f"The audit trail of a run. {_ALSO}",
        answer=page_type(Event),
        parameters=(_AFTER, _LIMIT),
        errors=(404,),
    ),
    Route(
        "GET",
        "/chains/{id}/logs",
        Role.VIEWER,
        get_logs,
        "What the steps of a run logged, oldest first.",
        answer=page_type(Log),
        parameters=_LOGS,
        errors=(404,),
    ),
    Route(
        "POST",
        "/chains/{id}/cancel",
        Role.OPERATOR,
        cancel_chain,
        "End a run.",
        answer=Asked,
        status=202,
        errors=(404, 409),
    ),
    Route(
        "POST",
        "/chains/{id}/pause",
        Role.OPERATOR,
        pause_chain,
        "Let a run start nothing more.",
        answer=Asked,
        status=202,
        errors=(404, 409),
    ),
    Route(
        "POST",
        "/chains/{id}/resume",
        Role.OPERATOR,
        resume_chain,
        "Go on with a run.",
        answer=Asked,
        status=202,
        errors=(404, 409),
    ),
    Route(
        "POST",
        "/chains/{id}/rerun",
        Role.OPERATOR,
        rerun_chain,
        "A new run that takes over what was completed.",
        body=RerunBody,
        answer=Started,
        status=202,
        errors=(404, 409),
    ),
    Route(
        "GET",
        "/events",
        Role.VIEWER,
        get_events,
        f"The audit trail of all runs. {_ALSO}",
        answer=page_type(Event),
        parameters=(_AFTER, _LIMIT),
    ),
    Route(
        "GET",
        "/workflows",
        Role.VIEWER,
        list_workflows,
        "Steps of runs, newest first.",
        answer=page_type(WorkflowRow),
        listing="workflows",
        parameters=list_parameters("workflows"),
    ),
    Route("GET", "/workflows/{id}", Role.VIEWER, get_workflow, "A step of a run.", answer=Workflow, errors=(404,)),
)
