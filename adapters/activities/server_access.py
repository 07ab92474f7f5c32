"""Which servers there are, and the connection to one of them, shared by everything that uses it at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import anyio
from anyio.lowlevel import RunVar

from towpath.adapters.comfyui.client import ComfyClient
from towpath.adapters.comfyui.configuration import FILE, KEYS, servers_of
from towpath.adapters.comfyui.connection import Connection, Patience
from towpath.adapters.comfyui.downloads import DOWNLOAD_SECONDS, MAX_FILE, Limits
from towpath.adapters.comfyui.pool import Member
from towpath.adapters.comfyui.servers import Server, given_server
from towpath.adapters.settings import Settings, settle
from towpath.errors import InputInvalid, Place

Servers = Sequence[str | Mapping[str, Any]]
"""Addresses, or tables with the keys of `[[servers]]` in `towpath.toml`."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The servers, and how they are treated. `folder` is the store's: execution logs go there as those of chains do."""

    servers: tuple[Server, ...]
    folder: Path
    strategy: str = "least_loaded"
    partial_outputs: bool = False
    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)

    def server(self, address: str) -> Server:
        """The configured server of that name or address, else one of which nothing but the address is known.

        Raises InputInvalid: E_URL_….
        """
        for server in self.servers:
            if server.name == address:
                return server
        given = given_server(address)
        return next((server for server in self.servers if server.url == given.url), given)


def server_settings(servers: Servers | None = None) -> ServerSettings:
    """The servers of `servers`, else of `towpath.toml`. Raises InputInvalid (E_SERVER_CONFIG, E_SETTING, E_URL_…)."""
    settings = settle(servers=servers)
    table = settings.comfyui
    for key, value in table.items():
        if key not in KEYS or not isinstance(value, KEYS[key][0]):
            place = Place(file=FILE, field=f"comfyui.{key}")
            allowed = KEYS[key][1] if key in KEYS else " ".join(KEYS)
            raise InputInvalid("E_SETTING", f"{key} in [comfyui]", place=place, found=value, allowed=allowed)
    return ServerSettings(
        servers_of(settings.servers),
        store_folder(settings),
        table.get("strategy", "least_loaded"),
        table.get("partial_outputs", False),
        Limits(table.get("max_file", MAX_FILE), table.get("download_timeout", DOWNLOAD_SECONDS)),
        Patience(**{wait.name: float(table[wait.name]) for wait in fields(Patience) if wait.name in table}),
    )


def store_folder(settings: Settings) -> Path:
    """The folder of the store's files, whether or not there is a store."""
    return settings.blobs or settings.store.with_name(f"{settings.store.stem}-store")


@dataclass(slots=True)
class _Shared:
    member: Member
    users: int = 0


_Key = tuple[Server, Patience]
_open: RunVar[dict[_Key, _Shared]] = RunVar("towpath_servers")  # of this event loop


@asynccontextmanager
async def reach(address: str, settings: ServerSettings) -> AsyncIterator[Member]:
    """A server with an open connection. Whoever reaches it meanwhile has the same one: its locks hold for all.

    Raises InputInvalid: E_URL_….
    """
    key = (settings.server(address), settings.patience)
    here = _open.get({})
    _open.set(here)
    if key not in here:
        here[key] = _Shared(Member(key[0], ComfyClient(Connection(*key))))
    shared = here[key]
    shared.users += 1
    try:
        yield shared.member
    finally:
        shared.users -= 1
        if not shared.users:
            del here[key]
            with anyio.CancelScope(shield=True):
                await shared.member.connection.close()
