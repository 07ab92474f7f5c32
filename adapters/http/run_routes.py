"""Routes for runs and their steps: list, start, steer, and follow by events and logs."""

from __future__ import annotations

import re
from functools import partial

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from towpath.model import ChainStatus

from . import reading
from .access import engine_of, id_of, principal_of, records_of
from .authentication import Authenticator
from .bodies import body_of, check_text
from .errors import Refused, existing, safe_text
from .event_feed import EventFeed, event_of
from .principals import Role
from .query_parameters import list_parameters, list_response, number, read_cursor, signed_cursor
from .requests import RerunBody, StartBody
from .responses import (
    ChainFileRow,
    ChainOut,
    ChainRow,
    Definition,
    Event,
    Log,
    PageOut,
    Progress,
    RemovedOut,
    RequestedOut,
    Started,
    WorkflowOut,
    WorkflowRow,
    chain_of,
    definition_of,
    json_response,
    page_type,
    shaped,
    step_of,
)
from .route_table import ApiRoute, QueryParameter
from .start_run import chain_files, request_resume, rerun, start

STREAM = "text/event-stream"
MOST_EVENTS = 1_000
MOST_LOGS = 100
MOST_NEWS = 1_000
MAX_LOG = 256 * 1024  # characters of one log that are kept
_EVENT_ID = re.compile(r"[0-9]{1,18}", re.ASCII)


async def list_chains(request: Request) -> Response:
    return await list_response(request, "chains", ChainRow)


async def start_chain(request: Request) -> Response:
    return json_response(await start(request, await body_of(request, StartBody)), 202)


async def list_chain_files(request: Request) -> Response:
    rows = await run_sync(chain_files, request.app.state.settings.chains)
    return json_response(PageOut(rows=rows))


async def get_chain(request: Request) -> Response:
    return json_response(chain_of(await reading.run_view(records_of(request), id_of(request))))


async def get_definition(request: Request) -> Response:
    return json_response(definition_of((await engine_of(request).store.load(id_of(request))).plan))


async def delete_chain(request: Request) -> Response:
    gone = await engine_of(request).remove(id_of(request), by=_by(request))
    return json_response(RemovedOut(id=gone.id, deleted=True, steps=gone.steps, files=gone.files, bytes=gone.bytes))


async def cancel_chain(request: Request) -> Response:
    status = await engine_of(request).cancel(id_of(request), by=_by(request))
    return json_response(RequestedOut(id=id_of(request), status=status), 202)


async def pause_chain(request: Request) -> Response:
    status = await engine_of(request).pause(id_of(request), by=_by(request))
    return json_response(RequestedOut(id=id_of(request), status=status), 202)


async def resume_chain(request: Request) -> Response:
    status = await request_resume(request, id_of(request))
    return json_response(RequestedOut(id=id_of(request), status=status), 202)


async def rerun_chain(request: Request) -> Response:
    return json_response(await rerun(request, id_of(request), await body_of(request, RerunBody)), 202)


async def get_logs(request: Request) -> Response:
    """Logs in pages: a run of a thousand items has a thousand logs of up to 256 KiB."""
    run_id, given = id_of(request), request.query_params
    existing(await engine_of(request).get_chain(run_id), "run")
    step = check_text(given["step"], limit=500, name="step") if "step" in given else None
    tail = number(given, "tail", MAX_LOG, 1, MAX_LOG)
    limit = number(given, "limit", 20, 1, MOST_LOGS)
    view = f"logs {run_id} {step}"
    after = read_cursor(request, view, given["after"]) if "after" in given else None
    found = await records_of(request).logs_after(run_id, after, step_id=step, limit=limit + 1)
    rows = [shaped(Log, row, text=safe_text(row["text"])[-tail:]) for row in found[:limit]]
    last = found[limit - 1] if len(found) > limit else None
    following = None if last is None else signed_cursor(request, view, (last["attempt"], last["workflow_id"]))
    return json_response(PageOut(rows=rows, next=following))


async def get_progress(request: Request) -> Response:
    """What executing steps report, for a look now and then: it is no list with pages."""
    given = request.query_params
    step = check_text(given["step"], limit=500, name="step") if "step" in given else None
    limit = number(given, "limit", MOST_NEWS, 1, MOST_NEWS)
    found = await reading.run_news(engine_of(request), records_of(request), id_of(request), step, limit)
    rows = [
        Progress(
            step_id=key[0],
            item_index=key[1],
            attempt=news.attempt,
            status=news.status,
            done=news.done,
            total=news.total,
            line=news.line,
            updated_at=news.at,
        )
        for key, news in found.items()
    ]
    return json_response(PageOut(rows=rows))


async def get_chain_events(request: Request) -> Response:
    row = existing(await engine_of(request).get_chain(id_of(request)), "run")
    ended = row["status"] if ChainStatus(row["status"]).final else ""
    return await _events(request, row["id"], ended)


async def get_events(request: Request) -> Response:
    return await _events(request, None, "")


async def _events(request: Request, chain_id: str | None, ended: str) -> Response:
    records, settings = records_of(request), request.app.state.settings
    after = await _after(request, chain_id)
    if STREAM not in request.headers.get("accept", ""):
        limit = number(request.query_params, "limit", 200, 1, MOST_EVENTS)
        lines = await records.events_after(after, chain_id=chain_id, limit=limit)
        following = str(lines[-1]["seq"]) if len(lines) == limit else None
        return json_response(PageOut(rows=[event_of(line) for line in lines], next=following))
    if request.method == "HEAD":
        return Response(media_type=STREAM)
    after = min(after, await records.last_event())  # a number from another store would be too high for ever
    if ended and "last-event-id" in request.headers and not await _more(request, chain_id, after):
        return Response(status_code=204)
    feed: EventFeed = request.app.state.feed
    authenticator: Authenticator = request.app.state.authenticator
    still_valid = partial(authenticator.still_valid, request.state.principal, request)
    stream = feed.stream(chain_id, after, ended=ended, heartbeat=settings.heartbeat, still_valid=still_valid)
    return StreamingResponse(stream, headers={"X-Accel-Buffering": "no"}, media_type=STREAM)


async def _more(request: Request, chain_id: str | None, after: int) -> bool:
    return bool(await records_of(request).events_after(after, chain_id=chain_id, limit=1))


async def _after(request: Request, chain_id: str | None) -> int:
    """The number of the last line that the caller has read. Without one, a stream of all runs begins now."""
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    if text is None:
        streamed = STREAM in request.headers.get("accept", "")
        return await records_of(request).last_event() if chain_id is None and streamed else 0
    if not _EVENT_ID.fullmatch(text):
        raise Refused(422, "E_PARAM_TYPE", "an event is named by its number", found=text)
    return int(text)


async def list_workflows(request: Request) -> Response:
    return await list_response(request, "workflows", WorkflowRow)


async def get_workflow(request: Request) -> Response:
    return json_response(step_of(await reading.step_view(records_of(request), id_of(request))))


def _id(request: Request) -> str:
    found: str = request.path_params["id"]
    return found


def _by(request: Request) -> str:
    return principal_of(request).name


_AFTER = QueryParameter("after", {"type": "integer", "minimum": 0}, "number of the last event that you have read")
_LIMIT = QueryParameter("limit", {"type": "integer", "minimum": 1, "maximum": MOST_EVENTS, "default": 200})
_LOGS = (
    QueryParameter("step", {"type": "string", "maxLength": 500}, "only this step"),
    QueryParameter(
        "tail", {"type": "integer", "minimum": 1, "maximum": MAX_LOG}, "only the last characters of each log"
    ),
    QueryParameter("limit", {"type": "integer", "minimum": 1, "maximum": MOST_LOGS, "default": 20}, "logs in a page"),
    QueryParameter("after", {"type": "string"}, "the `next` of the page before"),
)
_NEWS = (
    QueryParameter("step", {"type": "string", "maxLength": 500}, "only this step, and its items"),
    QueryParameter("limit", {"type": "integer", "minimum": 1, "maximum": MOST_NEWS, "default": MOST_NEWS}),
)
_ALSO = "Sent as server-sent events with `Accept: text/event-stream`; `Last-Event-ID` continues after an interruption."

ROUTES = (
    ApiRoute(
        "GET",
        "/chains",
        Role.VIEWER,
        list_chains,
        "Runs, newest first.",
        answer=page_type(ChainRow),
        listing="chains",
        parameters=list_parameters("chains"),
    ),
    ApiRoute(
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
    ApiRoute(
        "GET",
        "/chain-files",
        Role.VIEWER,
        list_chain_files,
        "Chain files that can be started.",
        answer=page_type(ChainFileRow),
    ),
    ApiRoute("GET", "/chains/{id}", Role.VIEWER, get_chain, "A run with its steps.", answer=ChainOut, errors=(404,)),
    ApiRoute(
        "DELETE",
        "/chains/{id}",
        Role.ADMIN,
        delete_chain,
        "Delete a run that has ended.",
        answer=RemovedOut,
        errors=(404, 409),
    ),
    ApiRoute(
        "GET",
        "/chains/{id}/definition",
        Role.VIEWER,
        get_definition,
        "The chain as it was when the run was recorded.",
        answer=Definition,
        errors=(404, 500),
    ),
    ApiRoute(
        "GET",
        "/chains/{id}/events",
        Role.VIEWER,
        get_chain_events,
        f"The audit trail of a run. {_ALSO}",
        answer=page_type(Event),
        parameters=(_AFTER, _LIMIT),
        errors=(404,),
    ),
    ApiRoute(
        "GET",
        "/chains/{id}/logs",
        Role.VIEWER,
        get_logs,
        "The logs of a run's steps, oldest first.",
        answer=page_type(Log),
        parameters=_LOGS,
        errors=(404,),
    ),
    ApiRoute(
        "GET",
        "/chains/{id}/progress",
        Role.VIEWER,
        get_progress,
        "The progress and the last log line of the steps that execute now.",
        answer=page_type(Progress),
        parameters=_NEWS,
        errors=(404,),
    ),
    ApiRoute(
        "POST",
        "/chains/{id}/cancel",
        Role.OPERATOR,
        cancel_chain,
        "Cancel a run.",
        answer=RequestedOut,
        status=202,
        errors=(404, 409),
    ),
    ApiRoute(
        "POST",
        "/chains/{id}/pause",
        Role.OPERATOR,
        pause_chain,
        "Pause a run: steps in progress finish, no other step starts.",
        answer=RequestedOut,
        status=202,
        errors=(404, 409),
    ),
    ApiRoute(
        "POST",
        "/chains/{id}/resume",
        Role.OPERATOR,
        resume_chain,
        "Resume a run.",
        answer=RequestedOut,
        status=202,
        errors=(404, 409),
    ),
    ApiRoute(
        "POST",
        "/chains/{id}/rerun",
        Role.OPERATOR,
        rerun_chain,
        "Record a new run that reuses what the old run completed.",
        body=RerunBody,
        answer=Started,
        status=202,
        errors=(404, 409),
    ),
    ApiRoute(
        "GET",
        "/events",
        Role.VIEWER,
        get_events,
        f"The audit trail of all runs. {_ALSO}",
        answer=page_type(Event),
        parameters=(_AFTER, _LIMIT),
    ),
    ApiRoute(
        "GET",
        "/workflows",
        Role.VIEWER,
        list_workflows,
        "Steps of runs, newest first.",
        answer=page_type(WorkflowRow),
        listing="workflows",
        parameters=list_parameters("workflows"),
    ),
    ApiRoute(
        "GET", "/workflows/{id}", Role.VIEWER, get_workflow, "A step of a run.", answer=WorkflowOut, errors=(404,)
    ),
)
