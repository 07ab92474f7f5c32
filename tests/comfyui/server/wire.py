"""Below HTTP: the connections themselves, so that they can be cut, and bytes that no framework would send."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

Scope = MutableMapping[str, Any]
TRANSPORTS: dict[tuple[str, int], asyncio.Transport] = {}


class Protocol(H11Protocol):
    """HTTP whose connections can be found by the address of the client."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        TRANSPORTS[cast("tuple[str, int]", self.client)] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        TRANSPORTS.pop(cast("tuple[str, int]", self.client), None)


def cut(scope: Scope, *, gently: bool = False) -> None:
    """Close the connection of a request or a websocket; gently: what was written before is still delivered."""
    transport = TRANSPORTS.get(tuple(scope["client"]))
    if transport is not None:
        (transport.close if gently else transport.abort)()


def write_raw(scope: Scope, data: bytes) -> None:
    """Write bytes past all framing."""
    transport = TRANSPORTS.get(tuple(scope["client"]))
    if transport is not None:
        transport.write(data)
