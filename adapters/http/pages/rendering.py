"""Templates into answers: one environment, one set of headers, the same for every page."""

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

from towpath.adapters.http.errors import safe_text

from . import filters
from .visitor import visitor

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
    "Referrer-Policy": "same-origin",  # with no-referrer, forms would come from nowhere (Origin: null)
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATIC_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@cache
def environment() -> Environment:
    """The templates of this package; every value is escaped unless a template says otherwise, and none does."""
    made = Environment(
        loader=PackageLoader("towpath.adapters.http.pages"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        moment=filters.moment,
        iso=filters.iso,
        size=filters.size_text,
        short=filters.short,
        counted=filters.counted,
        one_line=filters.one_line,
        prose=filters.prose,
        safe_text=safe_text,
    )
    made.globals.update(
        status_of=filters.status,
        lasted=filters.lasted,
        place=filters.place,
        run_url=filters.run_url,
        step_url=filters.step_url,
        static=static_url,
    )
    return made


def render(
    request: Request, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **data: Any
) -> HTMLResponse:
    """A page. Templates get `me` (who looks), `now` (UTC microseconds), `ago(time)` and `said` (a notice or None)."""
    at = time.time_ns() // 1000
    html = (
        environment()
        .get_template(template)
        .render(
            request=request,
            me=visitor(request),
            now=at,
            ago=lambda moment: filters.ago(moment, at),
            said=NOTICES.get(request.query_params.get("said", "")),
            **data,
        )
    )
    return HTMLResponse(html, status, {**HEADERS, **(headers or {})})


NOTICES = {
    "approved": ("ok", "Approved", "The chain goes on with these versions."),
    "stop": ("bad", "Rejected", "The chain stops here; steps that run are finished."),
    "skip": ("idle", "Rejected", "The step is skipped, and what depends on it."),
    "regenerate": ("run", "Rejected", "The step makes it again and then asks anew."),
    "edited": ("run", "New version kept", "The gate lists it now. It still waits for a decision."),
    "version": ("run", "New version kept", "It is the latest one now. What runs already, or is over, does not change."),
    "edited-approved": ("ok", "New version kept and approved", "The chain goes on with it."),
    "cancel": ("idle", "Cancelled", "Steps that run are stopped, nothing new starts."),
    "pause": ("wait", "Pausing", "Steps that run are finished, nothing new starts."),
    "resume": ("run", "Going on", "The run was resumed."),
    "rerun": ("run", "Run again", "This is the new run; what was completed is taken over."),
    "rerun-waits": (
        "wait",
        "Recorded",
        "This server works on no runs: `towpath resume` begins it where its steps are.",
    ),
}
"""What a page says after a form was sent, by the word in its address. Fixed texts only."""


def to(path: str, said: str = "") -> RedirectResponse:
    """Go and look at a page of ours after a form was sent."""
    return RedirectResponse(f"{path}{'&' if '?' in path else '?'}said={said}" if said else path, 303)


def _static_folder() -> Traversable:
    return resources.files("towpath.adapters.http.pages") / "static"


@cache
def _static_bytes(name: str) -> bytes | None:
    found = _static_folder() / name
    return found.read_bytes() if found.is_file() else None


@cache
def _version() -> str:
    """Changes with every file, so that modules that import each other are of one make."""
    digest = hashlib.sha256()
    for file in sorted(_static_folder().iterdir(), key=lambda file: file.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@cache
def static_url(name: str) -> str:
    """The address of a static file; it changes with its content, so that it may be kept for ever."""
    assert _static_bytes(name) is not None, name
    return f"/static/{_version()}/{name}"


async def static_file(request: Request) -> Response:
    """A file of ours. Anyone may have them: they hold no data."""
    name = request.path_params["name"]
    suffix = name[name.rfind(".") :]
    data = _static_bytes(name) if suffix in STATIC_TYPES and "/" not in name else None
    if data is None:
        return Response("not found", 404, media_type="text/plain")
    current = request.path_params["version"] == _version()
    kept = "public, max-age=31536000, immutable" if current else "no-cache"
    headers = {"Cache-Control": kept, "X-Content-Type-Options": "nosniff"}
    return Response(data, headers=headers, media_type=STATIC_TYPES[suffix])
