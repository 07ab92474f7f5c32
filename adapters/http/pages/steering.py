"""Buttons of a run: cancel, pause, resume, run again."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http import start_run
from towpath.adapters.http.access import engine_of, records_of
from towpath.adapters.http.errors import Refused
from towpath.adapters.http.requests import RerunBody
from towpath.errors import RunRefused

from .filters import run_url
from .forms import form_of, path
from .rendering import to
from .visitor import visitor


async def cancel(request: Request) -> Response:
    """Ask for a run to be cancelled."""
    await form_of(request)
    await engine_of(request).cancel(path(request, "id"), by=visitor(request).name)
    return to(_page(request), "cancel")


async def pause(request: Request) -> Response:
    """Ask for a run to start nothing more."""
    await form_of(request)
    await engine_of(request).pause(path(request, "id"), by=visitor(request).name)
    return to(_page(request), "pause")


async def resume(request: Request) -> Response:
    """Go on with a paused run, if this server works on runs."""
    await form_of(request)
    run_id = path(request, "id")
    run = await engine_of(request).store.load(run_id)
    if run.status.final:
        raise RunRefused("E_RUN_OVER", f"run {run_id} is {run.status}")
    if not request.app.state.settings.execute:
        cure = f"`towpath resume {run_id}` where its steps are, or start the server with --execute"
        raise Refused(409, "E_SERVE_IDLE", "this server works on no runs", cure=cure)
    await records_of(request).resume_asked(run_id, visitor(request).name)
    request.app.state.background.go_on(run_id)
    return to(_page(request), "resume")


async def rerun(request: Request) -> Response:
    """A new run of what did not complete, or of everything from one step on."""
    form = await form_of(request)
    step = form.get("from")
    from_steps = [step] if isinstance(step, str) and step else []
    made = await start_run.rerun(request, path(request, "id"), RerunBody(from_steps=from_steps))
    return to(run_url(made.id), "rerun" if made.executing else "rerun-waits")


def _page(request: Request) -> str:
    return run_url(path(request, "id"))
