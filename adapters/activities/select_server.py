"""Which server gets the next workflow."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.lowlevel import RunVar

from towpath.adapters.comfyui.client import ComfyClient
from towpath.adapters.comfyui.connection import Connection, Patience, Rest
from towpath.adapters.comfyui.pool import Member, Need, ServerPool
from towpath.adapters.comfyui.servers import Server

from .server_access import Servers, ServerSettings, server_settings


async def select_best_server(
    strategy: str = "least_loaded",
    server_name: str | None = None,
    *,
    servers: Servers | None = None,
    tags: Collection[str] = (),
) -> str:
    """The address of a server that answers now: `least_loaded`, `round_robin` or `random`, or the one of that name.

    A selection counts as load for half a minute, so that many at once are spread; all selections of a thread
    of this process count. A server that does not answer within 5 s is passed over, also if it was named.

    Raises:
        ServerFailed: E_SERVER_NONE if no server fits or none of them answers. InputInvalid: E_STRATEGY,
            E_SERVER_CONFIG, E_SETTING, E_URL_….
    """
    settings = server_settings(servers)
    async with _pool(settings) as pool:
        server = await pool.pick(strategy, Need(server_name, frozenset(tags)))
    return server.url


@dataclass(slots=True, eq=False)
class _Candidate(Member):
    """A server that is asked once for all who select at the same time."""

    answered: anyio.Event | None = None

    async def look(self) -> None:
        while self.answered is not None:
            await self.answered.wait()
            if self.health is not None or self.trouble:
                return
        self.answered = anyio.Event()
        # A selection asks now. Trouble of an earlier one is nothing to wait for: it would look like silence.
        self.connection.rest = Rest()
        self.health, self.trouble = None, ""
        try:
            await Member.look(self)
        finally:
            answered, self.answered = self.answered, None
            answered.set()


class _Picks:
    """The servers of one configuration. What was picked is remembered; connections are open while somebody picks."""

    def __init__(self, settings: ServerSettings) -> None:
        self.pool = ServerPool((), settings.strategy, settings.patience)
        self.pool.members = [_Candidate(s, _client(s, settings.patience)) for s in settings.servers]
        self._users = 0
        self._loop: object = None

    def enter(self, loop: object) -> None:
        if not self._users or self._loop is not loop:  # a loop that is gone took its connections along
            self._loop, self._users = loop, 0
            for member in self.pool.members:
                assert isinstance(member, _Candidate)
                member.client, member.answered = _client(member.server, self.pool.patience), None
        self._users += 1

    async def leave(self) -> None:
        self._users -= 1
        if self._users:
            return
        connections = [member.connection for member in self.pool.members]
        with anyio.CancelScope(shield=True):
            for connection in connections:
                await connection.close()


def _client(server: Server, patience: Patience) -> ComfyClient:
    return ComfyClient(Connection(server, patience))


_loop: RunVar[object] = RunVar("towpath_selections")  # stands for the event loop that runs
_picks: dict[tuple[int, tuple[Server, ...], Patience], _Picks] = {}


@asynccontextmanager
async def _pool(settings: ServerSettings) -> AsyncIterator[ServerPool]:
    """The pool of this thread for these servers."""
    key = (threading.get_ident(), settings.servers, settings.patience)
    picks = _picks.get(key) or _picks.setdefault(key, _Picks(settings))
    loop = _loop.get(object())
    _loop.set(loop)
    picks.enter(loop)
    try:
        yield picks.pool
    finally:
        await picks.leave()
