"""The app: the route table behind the door, and what runs beside the requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import wraps

from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Routed

from towpath.adapters.http.route_table import PREFIX, Endpoint, Page
from towpath.adapters.http.routes import table
from towpath.adapters.task_group import background_tasks, kept_running
from towpath.adapters.wiring import Engine
from towpath.errors import TowpathError

from . import pages
from .background import Background
from .bodies import AT_ONCE
from .doorkeeper import Doorkeeper, Guard, allows
from .event_feed import EventFeed
from .principals import ANYONE, Role
from .queries import check_query
from .records import Records
from .refusals import Refused, echoes, of_http, refusal
from .server_settings import ServerSettings, server_secret
from .webhooks import Webhooks


def create_app(engine: Engine, settings: ServerSettings | None = None) -> Starlette:
    """An ASGI app over an engine that stays open for as long as the app is used.

    `app.state.table` lists every route with the role it needs. The app's lifespan runs the event feed, the webhooks
    and, with `execute`, the runs that nobody works on.

    Raises StoreFailed (E_SERVER_SECRET), InputInvalid (E_URL_… for a webhook).
    """
    settings = settings or ServerSettings()
    records = Records(engine)
    secret = server_secret(engine.store.files.folder)
    door = Doorkeeper(
        hosts=settings.hosts,
        failed_keys=settings.failed_keys,
        changes=settings.changes_a_minute,
        secret=secret,
        records=records,
    )
    known = table(pages.PAGES)
    app = Starlette(
        routes=[_routed(row) for row in known.rows],
        middleware=[Middleware(Guard, door=door)],
        exception_handlers={HTTPException: _refused, TowpathError: _refused},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    door.open_routes = [route for row, route in zip(known.rows, app.routes, strict=True) if row.role == ANYONE]  # type: ignore[misc]
    app.state.engine = engine
    app.state.settings = settings
    app.state.records = records
    app.state.secret = secret
    app.state.door = door
    app.state.table = known
    app.state.parsers = CapacityLimiter(AT_ONCE)
    app.state.feed = EventFeed(records, settings.poll)
    app.state.webhooks = Webhooks(records, settings)
    app.state.background = Background(engine, records, settings.execute)
    app.state.link_page = pages.link_page
    return app


def _routed(row: Page) -> Routed:
    assert row.role == ANYONE or row.role in tuple(Role), f"{row.path} has no role"
    return Routed(row.path, _guarded(row.role, row.endpoint), methods=[row.method])


def _guarded(role: str, endpoint: Endpoint) -> Endpoint:
    """An endpoint that nobody reaches without the role."""

    @wraps(endpoint)
    async def answered(request: Request) -> Response:
        if role != ANYONE:
            allows(request, role)
        check_query(request)
        return await endpoint(request)

    return answered


async def _refused(request: Request, error: Exception) -> Response:
    """A refusal: as a page for people, as JSON for programs."""
    ours = of_http(error) if isinstance(error, HTTPException) and not isinstance(error, Refused) else error
    assert isinstance(ours, Refused | TowpathError)
    if not request.url.path.startswith(PREFIX) and "text/html" in request.headers.get("accept", ""):
        return pages.refusal_page(request, ours)
    return refusal(ours, echo=not echoes(ours) or request.app.state.door.may_echo(request))


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    feed: EventFeed = app.state.feed
    engine: Engine = app.state.engine
    engine.adapter.listeners.append(feed.something_happened)
    try:
        async with background_tasks() as tasks:
            for service in (feed, app.state.webhooks, app.state.background):
                tasks.start_soon(kept_running, service.run, type(service).__name__)
            yield
            feed.close()
    finally:
        engine.adapter.listeners.remove(feed.something_happened)
