"""A server on a loopback port with a store of the test's own, and a real browser that looks at it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.from_thread
import pytest
import uvicorn

from tests.adapters.conftest import check
from tests.machine import skip_if
from towpath import Engine, Run, open_engine
from towpath.adapters.http.application import create_app
from towpath.adapters.http.principals import key_digest, new_key
from towpath.adapters.http.settings import HttpSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

T = TypeVar("T")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60_000  # milliseconds; only a test that hangs takes so long


def lacking() -> str:
    """Why no browser can be driven here; empty if one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return "" if any(map(shutil.which, BROWSERS)) else "there is no chromium on this machine"


@dataclass
class Site:
    """A server that runs in a thread of its own, and the engine behind it."""

    url: str
    engine: Engine
    portal: anyio.from_thread.BlockingPortal
    app: Any

    def do(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Call an async function of the engine."""
        return self.portal.call(lambda: function(*args, **kwargs))

    def finished(self, run_id: str) -> Run:
        """The run when it has ended: the server resumes it after a decision."""
        return self.portal.call(self._finished, run_id)

    async def _finished(self, run_id: str) -> Run:
        with anyio.fail_after(PATIENCE / 1000):
            while True:
                run = await self.engine.snapshot(run_id)
                if run.status.final:
                    return run
                await anyio.sleep(0.02)

    def key(self, role: str) -> str:
        """A new key of a role. From the first key on, all requests need one."""
        key: str = new_key()
        self.do(self.app.state.records.add_key, f"{role}-{key[3:7]}", role, key_digest(key))
        return key


@asynccontextmanager
async def served(store: Path, **settings: Any):
    """A server over a store: its address, app and engine."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(f"sqlite:///{store}", durability="normal"))
        app = create_app(engine, HttpSettings(**{"execute": True, "poll": 0.05, "keep_free": 0, **settings}))
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(server.serve, [listener])
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await anyio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", app, engine
        finally:
            app.state.feed.close()
            server.should_exit = True


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server over an empty store, which is checked as a whole afterwards."""
    for name in ("TOWPATH_STORE", "TOWPATH_BLOBS", "TOWPATH_ADAPTER", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    store = tmp_path / "towpath.db"
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(store)) as (url, app, engine),
    ):
        yield Site(url, engine, portal, app)
    with ThreadPoolExecutor(1) as aside:
        aside.submit(check, store).result()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium. Without one tests are skipped, and fail where TOWPATH_CI is set.

    It is closed after each module: as long as it is open, this thread has an event loop that is not ours.
    """
    skip_if(lacking())
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Witness:
    """What went on in a browser besides what was asked of it."""

    url: str
    dialogs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    agrees: bool = False  # what is answered to a question

    def watch(self, page: Page) -> None:
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("console", self._line)

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.accept() if self.agrees else dialog.dismiss()

    def _line(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.console.append(message.text)

    def check(self) -> None:
        """Nothing was asked, nothing was fetched from elsewhere, nothing went wrong."""
        assert self.dialogs == []
        assert [url for url in self.requests if not url.startswith(f"{self.url}/")] == []
        assert [line for line in self.console if not any(known in line for known in self.expected)] == []


@dataclass
class Person:
    """A person with a browser."""

    page: Page
    witness: Witness
    site: Site

    def go(self, path: str) -> Page:
        self.page.goto(self.site.url + path)
        return self.page

    def expect(self, *known: str) -> None:
        """These texts may be on the console: answers that are meant to be refusals."""
        self.witness.expected += known


@pytest.fixture
def people(browser: Browser, site: Site) -> Iterator[Callable[..., Person]]:
    """Makes people; afterwards nothing strange may have happened to any of them."""
    there: list[tuple[BrowserContext, Witness]] = []

    def arrive(**options: Any) -> Person:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        context.set_default_timeout(PATIENCE)
        witness = Witness(site.url)
        page = context.new_page()
        witness.watch(page)
        context.on("page", witness.watch)
        there.append((context, witness))
        return Person(page, witness, site)

    yield arrive
    for context, _ in there:
        context.close()
    for _, witness in there:
        witness.check()


@pytest.fixture
def person(people: Callable[..., Person]) -> Person:
    """One of them."""
    return people()
