"""The servers of these functions: which there are, a connection to one of them, and the choice of the next one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.lowlevel import RunVar

from towpath.adapters.comfyui.configuration import ComfySettings, servers_of, settings_of
from towpath.adapters.comfyui.connection import Backoff
from towpath.adapters.comfyui.pool import Member, Need, Picks, ServerPool
from towpath.adapters.comfyui.servers import Server, given_server
from towpath.adapters.settings import Settings, settle

Servers = Sequence[str | Mapping[str, Any]]
"""Addresses, or tables with the keys of `[[servers]]` in `towpath.toml`."""


@dataclass(frozen=True, slots=True)
class KnownServers:
    """The configured servers and the table `[comfyui]`. `folder` is the store's: execution logs are written there."""

    servers: tuple[Server, ...]
    folder: Path
    comfy: ComfySettings

    def server(self, address: str) -> Server:
        """The configured server of that name or address, else a server with this address and no other setting.

        Raises InputInvalid: E_URL_….
        """
        for server in self.servers:
            if server.name == address:
                return server
        given = given_server(address)
        return next((server for server in self.servers if server.url == given.url), given)


def known_servers(servers: Servers | None = None) -> KnownServers:
    """The servers of `servers`, else of `towpath.toml`.

    Raises InputInvalid: E_SERVER_CONFIG, E_SETTING, E_STRATEGY, E_URL_….
    """
    settings = settle(servers=servers)
    return KnownServers(servers_of(settings.servers), store_folder(settings), settings_of(settings.comfyui))


def store_folder(settings: Settings) -> Path:
    """The folder of the store's files, whether or not the store exists."""
    return settings.blobs or settings.store.with_name(f"{settings.store.stem}-store")


@asynccontextmanager
async def reach(address: str, known: KnownServers) -> AsyncIterator[Member]:
    """A server with an open connection, which all functions of this event loop share while they use that server.

    Raises InputInvalid: E_URL_….
    """
    server, timeouts = known.server(address), known.comfy.timeouts
    async with _shared(("reach", server, timeouts), lambda: ServerPool((server,), timeouts=timeouts)) as pool:
        yield pool.members[0]


async def select_best_server(
    strategy: str = "least_loaded",
    server_name: str | None = None,
    *,
    servers: Servers | None = None,
    tags: Collection[str] = (),
) -> str:
    """The address of a server that answers now: `least_loaded`, `round_robin` or `random`, or the one of that name.

    A selection counts as load for 30 s, so that many selections at once are spread over the servers; all selections
    of this process count. A server that does not answer within 5 s is passed over, also if it was named.

    Raises:
        ServerFailed: E_SERVER_NONE if no server fits or none of them answers. InputInvalid: E_STRATEGY,
            E_SERVER_CONFIG, E_SETTING, E_URL_….
    """
    known = known_servers(servers)
    async with _shared(("select", known.servers, known.comfy.timeouts), lambda: _candidates(known)) as pool:
        server = await pool.pick(strategy, Need(server_name, frozenset(tags)))
    return server.url


@dataclass(slots=True, eq=False)
class _Candidate(Member):
    """A server that answers once for all selections that wait for it at the same time."""

    answered: anyio.Event | None = None

    async def check_health(self) -> None:
        while self.answered is not None:
            await self.answered.wait()
            if self.health is not None or self.trouble:
                return
        self.answered = anyio.Event()
        self.connection.backoff = Backoff()  # ask now; waiting for an earlier backoff would look like silence
        self.health, self.trouble = None, ""
        try:
            await Member.check_health(self)
        finally:
            answered, self.answered = self.answered, None
            answered.set()


_picks: dict[Server, Picks] = {}  # earlier selections of this process


def _candidates(known: KnownServers) -> ServerPool:
    pool = ServerPool(known.servers, timeouts=known.comfy.timeouts)
    pool.members = [_Candidate(m.server, m.client, _picks.setdefault(m.server, Picks())) for m in pool.members]
    return pool


@dataclass(slots=True)
class _Shared:
    pool: ServerPool
    users: int = 0


_open: RunVar[dict[Hashable, _Shared]] = RunVar("towpath_servers")  # of this event loop


@asynccontextmanager
async def _shared(key: Hashable, make: Callable[[], ServerPool]) -> AsyncIterator[ServerPool]:
    """The pool of this key in this event loop: made for its first user, closed after its last."""
    here = _open.get({})
    _open.set(here)
    if key not in here:
        here[key] = _Shared(make())
    shared = here[key]
    shared.users += 1
    try:
        yield shared.pool
    finally:
        shared.users -= 1
        if not shared.users:
            del here[key]
            with anyio.CancelScope(shield=True):
                await shared.pool.close()
