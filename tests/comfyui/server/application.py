"""The server put together, and its door: what happens to every request before a route sees it.

At the door a request is logged, meets the faults that hold for all, and has to show the token, if there is one.
The routes below /test/ belong to the tests alone; nothing of that applies to them.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.comfyui.server.answers import Json, crash, nothing_there
from tests.comfyui.server.faults import Faults
from tests.comfyui.server.files import Folders
from tests.comfyui.server.queue import Queue
from tests.comfyui.server.routes import Routes
from tests.comfyui.server.sockets import Sockets
from tests.comfyui.server.visits import LOG, ConnectionCut, RequestLog, TooBig, Visit
from tests.comfyui.server.worker import Worker

LOGIN = "<!DOCTYPE html><html><head><title>Login</title></head><body><form method=post>Password</form></body></html>"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def application(
    folder: Path,
    *,
    version: str = "0.33.0",
    token: str = "",
    max_upload: int = 100 << 20,
    prefix: str = "",
    keep_cache: bool = False,
) -> ASGIApp:
    """A server on a folder. With a prefix it has no other paths; with a token everything wants it."""
    age = tuple(int(part) for part in version.split("."))
    faults, folders = Faults(), Folders(folder)
    folders.open()
    queue = Queue(faults)
    sockets = Sockets(faults, queue)
    sockets.features["max_upload_size"] = max_upload
    sockets.features["assets"] = False
    queue.changed = sockets.send_status
    worker = Worker(queue, sockets, folders, faults, age, keep_cache)
    routes = Routes(queue, worker, sockets, folders, faults, version, max_upload)

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_work, worker)
            yield
            tasks.cancel_scope.cancel()

    async def not_there(scope: Scope, receive: Receive, send: Send) -> None:
        await nothing_there()(scope, receive, send)

    site = Router(routes.all(), redirect_slashes=False, default=not_there, lifespan=lifespan)
    return Door(site, worker, RequestLog(folder / LOG), token, prefix.rstrip("/"), max_upload)


async def _work(worker: Worker) -> None:
    """A worker that crashes takes the process with it: a test should not wait for one that is gone."""
    try:
        await worker.work()
    except Exception:
        traceback.print_exc()
        os._exit(70)


class Door:
    """What every request goes through."""

    def __init__(
        self, site: ASGIApp, worker: Worker, log: RequestLog, token: str, prefix: str, max_upload: int
    ) -> None:
        self.site, self.worker, self.log = site, worker, log
        self.token, self.prefix, self.max_upload = token, prefix, max_upload
        self.faults = worker.faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.site(scope, receive, send)
        elif scope["path"].startswith("/test/"):
            answer = await self.for_tests(Request(scope, receive))
            await answer(scope, receive, send)
        else:
            queued = self.worker.queue.ids
            await self.enter(scope, Visit(self.log, scope, receive, send, self.faults, self.max_upload, queued))

    async def enter(self, scope: Scope, visit: Visit) -> None:
        """Let a request in, if nothing is against it."""
        faults, concerned = self.faults, self.faults.concerns(scope["path"])
        if concerned and faults.answer_delay:
            await anyio.sleep(faults.answer_delay)
        if concerned and faults.take("cut_requests"):
            await visit.cut()
        elif concerned and faults.refuses():
            headers = {"retry-after": faults.retry_after} if faults.retry_after else None
            await visit.answer(PlainTextResponse("busy", faults.answer_status, headers))
        elif self.token and not self.knows(HTTPConnection(scope)):
            await visit.answer(HTMLResponse(LOGIN, 401))
        elif _from_elsewhere(HTTPConnection(scope)):
            await visit.answer(Response(status_code=403))
        elif not self.leads_somewhere(scope["path"]):
            await visit.answer(nothing_there())
        elif visit.too_big():
            await visit.refuse_size()
        else:
            await self.pass_on({**scope, "path": scope["path"].removeprefix(self.prefix)}, visit)

    async def pass_on(self, scope: Scope, visit: Visit) -> None:
        """Give a request to its route; a crash there is a 500, as in the original."""
        try:
            await self.site(scope, visit.receive, visit.send)
        except ConnectionCut:
            await visit.cut()
        except TooBig:
            await visit.refuse_size()
        except Exception:
            traceback.print_exc()
            if scope["type"] == "http" and not visit.started:
                await visit.answer(crash())

    def leads_somewhere(self, path: str) -> bool:
        """Whether the routes may see a path."""
        hidden = not self.faults.jobs_route and path.startswith(f"{self.prefix}/api/jobs")
        return path.startswith(f"{self.prefix}/") and not hidden

    def knows(self, connection: HTTPConnection) -> bool:
        """Whether a request shows the token."""
        shown = connection.query_params.get("token")
        return shown == self.token or connection.headers.get("authorization") == f"Bearer {self.token}"

    async def for_tests(self, request: Request) -> Response:
        """The routes below /test/."""
        match request.method, request.url.path:
            case "GET", "/test/faults":
                return Json(self.faults.shown())
            case "POST", "/test/faults":
                try:
                    self.faults.change(await request.json())
                except KeyError as unknown:
                    return PlainTextResponse(f"there is no fault {unknown}", 400)
                return Json(self.faults.shown())
            case "GET", "/test/log":
                return Json(self.log.lines())
            case "POST", "/test/reset":
                self.faults.clear()
                await self.worker.sockets.forget()
                await self.worker.forget()
                self.worker.folders.forget()
                self.log.clear()
                return Json({})
        return nothing_there()


def _from_elsewhere(connection: HTTPConnection) -> bool:
    """Whether a browser sends this for another site: a loopback server refuses that."""
    if connection.headers.get("sec-fetch-site") == "cross-site":
        return True
    host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
    return origin is not None and urlsplit(f"//{host}").hostname in LOOPBACK and urlsplit(origin).netloc != host
