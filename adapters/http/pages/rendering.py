"""Renders templates, with the headers and the navigation of every page."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from towpath.adapters import wording
from towpath.adapters.http import csrf
from towpath.adapters.http.access import records_of, visitor_of
from towpath.adapters.http.errors import safe_text
from towpath.adapters.http.reading import count_pending

from . import filters
from .run_filters import tag_url

CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would send forms with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
COUNTED = 100  # gates that the navigation counts; more are shown as 99+
STATIC_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@cache
def environment() -> Environment:
    """The templates of this package. Every value is escaped."""
    found = Environment(
        loader=PackageLoader("towpath.adapters.http.pages"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters.update(
        moment=filters.moment,
        iso=filters.iso,
        size=wording.size_text,
        short=filters.short,
        counted=wording.counted,
        one_line=filters.one_line,
        prose=filters.prose,
        safe_text=safe_text,
    )
    found.globals.update(
        status_of=filters.status,
        lasted=wording.lasted,
        duration=wording.duration,
        place=wording.place,
        run_url=filters.run_url,
        tag_url=tag_url,
        step_url=filters.step_url,
        static=static_url,
    )
    return found


def render(
    request: Request, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **data: Any
) -> HTMLResponse:
    """A page without the navigation. Templates get `me` (the visitor), `now` (UTC microseconds), `ago`, `done`."""
    at = time.time_ns() // 1000
    html = (
        environment()
        .get_template(template)
        .render(
            request=request,
            me=visitor_of(request),
            now=at,
            ago=lambda moment: filters.ago(moment, at),
            done=NOTICES.get(request.query_params.get("done", "")),
            **data,
        )
    )
    return HTMLResponse(html, status, {**HEADERS, **(headers or {})})


async def render_page(
    request: Request, template: str, *, section: str = "", status: int = 200, **data: Any
) -> HTMLResponse:
    """A page with the navigation: the visitor, the number of waiting gates, and the token for its forms."""
    return render(
        request,
        template,
        status=status,
        section=section,
        waiting_count=await count_pending(records_of(request), COUNTED),
        csrf=csrf.token(request),
        signed_in=bool(getattr(request.state, "signed_in", False)),
        **data,
    )


NOTICES = {
    "approved": ("ok", "Approved", "The chain continues with these versions."),
    "stop": ("bad", "Rejected", "The chain stops. Steps in progress finish."),
    "skip": ("idle", "Rejected", "The step and all steps that depend on it are skipped."),
    "regenerate": ("run", "Rejected", "The step runs again, and then waits for a new decision."),
    "edited": ("run", "New version kept", "The gate now lists this version. It still waits for a decision."),
    "version": (
        "run",
        "New version kept",
        "It is now the latest version. Steps that have started or ended are not affected.",
    ),
    "edited-approved": ("ok", "New version kept and approved", "The chain continues with this version."),
    "cancel": ("idle", "Cancelled", "Steps in progress are stopped, and no other step starts."),
    "pause": ("wait", "Pausing", "Steps in progress finish, and no other step starts."),
    "resume": ("run", "Resumed", "The run continues."),
    "removed": ("idle", "Removed", "The run is gone. The audit trail says who removed it."),
    "rerun": ("run", "Run again", "This is the new run. It reuses all completed steps of the old one."),
    "rerun-waits": (
        "wait",
        "Recorded",
        "This server does not execute runs. Start the run with `towpath resume`, where its steps are.",
    ),
}
"""The notice on a page after a form was sent, by the word `done` in its address. Only fixed texts."""


def redirect(path: str, done: str) -> RedirectResponse:
    """Show a page of this server after a form was sent, with one of `NOTICES`."""
    return RedirectResponse(f"{path}?done={done}", 303)


def _static_folder() -> Traversable:
    return resources.files("towpath.adapters.http.pages") / "static"


@cache
def _static_bytes(name: str) -> bytes | None:
    found = _static_folder() / name
    return found.read_bytes() if found.is_file() else None


@cache
def _version() -> str:
    """One version for all files, so that scripts which import each other always fit together."""
    digest = hashlib.sha256()
    for file in sorted(_static_folder().iterdir(), key=lambda file: file.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@cache
def static_url(name: str) -> str:
    """The address of a static file. It changes with the content, so that browsers may cache it for ever."""
    assert _static_bytes(name) is not None, name
    return f"/static/{_version()}/{name}"


async def static_file(request: Request) -> Response:
    """A static file of the pages. It needs no key."""
    name = request.path_params["name"]
    suffix = name[name.rfind(".") :]
    data = _static_bytes(name) if suffix in STATIC_TYPES and "/" not in name else None
    if data is None:
        return Response("not found", 404, media_type="text/plain")
    current = request.path_params["version"] == _version()
    kept = "public, max-age=31536000, immutable" if current else "no-cache"
    headers = {"Cache-Control": kept, "X-Content-Type-Options": "nosniff"}
    return Response(data, headers=headers, media_type=STATIC_TYPES[suffix])
