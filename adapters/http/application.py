"""The ASGI app: routes behind authentication, and the background tasks of the server."""

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
from starlette.routing import Route

from towpath.adapters.http.route_table import PREFIX, Endpoint, PageRoute
from towpath.adapters.http.routes import route_table
from towpath.adapters.task_group import background_tasks, kept_running
from towpath.adapters.wiring import Engine
from towpath.errors import TowpathError

from . import pages
from .access import ServerRecords
from .authentication import Authenticator, AuthMiddleware, allows
from .bodies import AT_ONCE
from .errors import Refused, echoes, error_response, from_framework
from .event_feed import EventFeed
from .principals import ANYONE, Role
from .query_parameters import check_query
from .settings import HttpSettings, server_secret
from .unattended import UnattendedRunner
from .webhooks import Webhooks


def create_app(engine: Engine, settings: HttpSettings | None = None) -> Starlette:
    """An ASGI app over an engine. The engine must stay open as long as the app is used.

    `app.state.table` lists every route with its role. The app's lifespan runs the event feed, the webhooks and, with
    `execute`, unattended runs.

    Raises StoreFailed (E_SERVER_SECRET), InputInvalid (E_URL_… for a webhook).
    """
    settings = settings or HttpSettings()
    records = ServerRecords(engine)
    secret = server_secret(engine.store.files.folder)
    authenticator = Authenticator(
        hosts=settings.hosts,
        failed_keys=settings.failed_keys,
        changes=settings.changes_a_minute,
        secret=secret,
        records=records,
    )
    table = route_table(pages.PAGES)
    app = Starlette(
        routes=[_route(row) for row in table.rows],
        middleware=[Middleware(AuthMiddleware, authenticator=authenticator)],
        exception_handlers={HTTPException: _refused, TowpathError: _refused},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    authenticator.open_routes = [route for row, route in zip(table.rows, app.routes, strict=True) if row.role == ANYONE]  # type: ignore[misc]
    app.state.engine = engine
    app.state.settings = settings
    app.state.records = records
    app.state.secret = secret
    app.state.authenticator = authenticator
    app.state.table = table
    app.state.parsers = CapacityLimiter(AT_ONCE)
    app.state.feed = EventFeed(records, settings.poll)
    app.state.webhooks = Webhooks(records, settings)
    app.state.unattended = UnattendedRunner(engine, records, settings.execute)
    app.state.link_page = pages.link_page
    return app


def _route(row: PageRoute) -> Route:
    assert row.role == ANYONE or row.role in tuple(Role), f"{row.path} has no role"
    return Route(row.path, _guarded(row.role, row.endpoint), methods=[row.method])


def _guarded(role: str, endpoint: Endpoint) -> Endpoint:
    """The endpoint, behind a check of the role and of the query."""

    @wraps(endpoint)
    async def checked(request: Request) -> Response:
        if role != ANYONE:
            allows(request, role)
        check_query(request)
        return await endpoint(request)

    return checked


async def _refused(request: Request, error: Exception) -> Response:
    """An error as a page for browsers, as JSON for programs."""
    known = from_framework(error) if isinstance(error, HTTPException) and not isinstance(error, Refused) else error
    assert isinstance(known, Refused | TowpathError)
    if not request.url.path.startswith(PREFIX) and "text/html" in request.headers.get("accept", ""):
        return pages.refusal_page(request, known)
    echo = not echoes(known) or request.app.state.authenticator.may_echo(request)
    return error_response(known, echo=echo)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    feed: EventFeed = app.state.feed
    engine: Engine = app.state.engine
    engine.adapter.listeners.append(feed.wake)
    try:
        async with background_tasks() as tasks:
            for service in (feed, app.state.webhooks, app.state.unattended):
                tasks.start_soon(kept_running, service.run, type(service).__name__)
            yield
            feed.close()
    finally:
        engine.adapter.listeners.remove(feed.wake)
