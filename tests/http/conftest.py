"""What tests of the server share: an engine on a store of the test's own, an app over it, and clients with keys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import httpx
import pytest
from starlette.applications import Starlette

from tests.adapters.conftest import check
from towpath import Engine, open_engine
from towpath.adapters.http.application import create_app
from towpath.adapters.http.principals import key_digest, new_key
from towpath.adapters.http.settings import HttpSettings

from .serving import PATIENCE

HOST = "http://127.0.0.1:8700"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True, slots=True)
class Site:
    """A running app (without a socket), its engine, and a key for every role."""

    app: Starlette
    engine: Engine
    keys: dict[str, str]

    def client(self, role: str | None = None, **options: Any) -> httpx.AsyncClient:
        """A program with the key of a role, or with none."""
        headers = {"Authorization": f"Bearer {self.keys[role]}"} if role else {}
        headers.update(options.pop("headers", {}))
        address = options.pop("address", "127.0.0.1")
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(address, 1234))
        return httpx.AsyncClient(transport=transport, base_url=HOST, headers=headers, **options)

    async def get(self, path: str, role: str | None = "viewer", **options: Any) -> httpx.Response:
        async with self.client(role) as client:
            return await client.get(path, **options)

    async def post(self, path: str, role: str | None = "admin", **options: Any) -> httpx.Response:
        async with self.client(role) as client:
            return await client.post(path, **options)


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What came back to a request as it was written."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of the error."""
        return str(json.loads(self.body)["error"]["code"])


async def raw(
    app: Starlette,
    method: str,
    path: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
    chunks: Sequence[bytes] = (b"",),
    query: bytes = b"",
) -> RawAnswer:
    """Send what no proper client would send, straight to the app. `Host` is added unless it is given or `b""`."""
    if not any(name == b"host" for name, _ in headers):
        headers = [*headers, (b"host", b"127.0.0.1:8700")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(name, value) for name, value in headers if value or name != b"host"],
        "client": ("127.0.0.1", 4711),
        "server": ("127.0.0.1", 8700),
        "state": {},
    }
    left = chunks if isinstance(chunks, list) else list(chunks)  # a list tells how much of it was taken
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}
        await anyio.sleep(3600)
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    with anyio.fail_after(PATIENCE):
        await app(scope, receive, send)
    shown = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return RawAnswer(sent[0]["status"], shown, b"".join(m.get("body", b"") for m in sent[1:]))


OpenSite = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The database file of the test."""
    return tmp_path / "towpath.db"


@pytest.fixture
def open_site(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenSite]:
    """Opens an app over the test's store: `keys=False` makes no keys, other options are `HttpSettings`.

    The store is checked after the test.
    """
    for name in ("TOWPATH_STORE", "TOWPATH_BLOBS", "TOWPATH_ADAPTER", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)

    @asynccontextmanager
    async def opened(*, keys: bool = True, **options: Any) -> AsyncIterator[Site]:
        async with open_engine(f"sqlite:///{store}", durability="normal") as engine:
            app = create_app(
                engine, HttpSettings(**{"poll": 0.02, "changes_a_minute": 100_000, "keep_free": 0, **options})
            )
            made = {role: new_key() for role in ("viewer", "operator", "approver", "admin")} if keys else {}
            for role, key in made.items():
                if await app.state.records.key_of_digest(key_digest(key)) is None:
                    await app.state.records.add_key(f"{role}-{len(key)}-{key[3:9]}", role, key_digest(key))
            async with app.router.lifespan_context(app):
                yield Site(app, engine, made)

    yield opened
    if store.exists():
        check(store)


@pytest.fixture
async def site(open_site: OpenSite) -> AsyncIterator[Site]:
    """An app with a key for every role."""
    async with open_site() as opened:
        yield opened
