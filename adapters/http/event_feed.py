"""New lines of the audit trail as server-sent events: one reader per process for all watchers.

The number of a line is its position in the stream (`Last-Event-ID`). A client that reconnects gets exactly the lines
after its last one: first from the store, then from the feed. A line that both have is sent once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec

from towpath.errors import TowpathError
from towpath.logs import guarded_logger
from towpath.store import Record

from .access import ServerRecords
from .responses import Event, redacted_data

_log = guarded_logger("towpath.http")

BACKLOG = 2_000  # lines that wait for a slow client before it is disconnected
RETRY = 1_000  # milliseconds until a disconnected client reconnects
BURST = 0.02  # seconds to wait for more lines of the same burst, so that one read finds all of them


class Watcher:
    """The bounded queue of one client."""

    def __init__(self, chain_id: str | None) -> None:
        self.chain_id = chain_id
        self.lines: deque[Record] = deque()
        self.dropped = False
        self._woken = anyio.Event()

    def push(self, line: Record) -> None:
        """Add a line, unless it is of another run. A client that is too slow is dropped."""
        if self.dropped or self.chain_id not in (None, line["chain_id"]):
            return
        if len(self.lines) >= BACKLOG:
            self.dropped = True
            self.lines.clear()
        else:
            self.lines.append(line)
        self._woken.set()

    def wake(self) -> None:
        self._woken.set()

    async def wait(self, seconds: float) -> bool:
        """Was anything pushed within this time?"""
        with anyio.move_on_after(seconds):
            await self._woken.wait()
            self._woken = anyio.Event()
            return True
        return False


class EventFeed:
    """Reads new lines while there are watchers, and gives them to all watchers."""

    def __init__(self, records: ServerRecords, poll: float) -> None:
        self._records = records
        self._poll = poll
        self._watchers: set[Watcher] = set()
        self._last: int | None = None  # the last line that was pushed; None without watchers
        self._starting = anyio.Lock()
        self._wanted = anyio.Event()
        self._woken = anyio.Event()
        self.closing = False

    @property
    def watcher_count(self) -> int:
        """The number of watchers."""
        return len(self._watchers)

    def close(self) -> None:
        """End all streams: the server is about to stop."""
        self.closing = True
        for watcher in self._watchers:
            watcher.wake()

    def wake(self, *_: Any) -> None:
        """Read now, without waiting for the next poll. Also a listener of the engine."""
        self._woken.set()

    @asynccontextmanager
    async def watch(self, chain_id: str | None) -> AsyncIterator[Watcher]:
        """Watch one run, or all. No line that is committed from now on is missed."""
        watcher = Watcher(chain_id)
        self._watchers.add(watcher)
        try:
            async with self._starting:  # decide where the feed begins before the watcher reads older lines
                if self._last is None:
                    self._last = await self._records.last_event()
            self._wanted.set()
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._last = None

    async def run(self) -> None:
        """Read until cancelled. Errors of the store are retried."""
        while True:
            if self._last is None:
                self._wanted = anyio.Event()
                await self._wanted.wait()
            try:
                await self._push_new()
            except TowpathError as error:
                _log.warning("the store does not answer, retrying: %s", error.code)
            with anyio.move_on_after(self._poll):
                await self._woken.wait()
                self._woken = anyio.Event()
                await anyio.sleep(BURST)

    async def _push_new(self) -> None:
        while (last := self._last) is not None and (lines := await self._records.events_after(last)):
            for line in lines:
                for watcher in self._watchers:
                    watcher.push(line)
            if self._last is not None:
                self._last = max(self._last, lines[-1]["seq"])

    async def stream(
        self,
        chain_id: str | None,
        after: int,
        *,
        ended: str,
        heartbeat: float,
        still_valid: Callable[[], Awaitable[bool]],
    ) -> AsyncGenerator[bytes, None]:
        """Server-sent events after line `after`, until the run ends, the server stops, or the key is revoked.

        `ended` is the status of a run that has ended already: then recorded lines are sent, and the stream ends.
        `heartbeat` is the number of seconds between comments that keep the connection open.
        """
        yield f"retry: {RETRY}\n\n".encode()
        async with self.watch(chain_id) as watcher:
            while lines := await self._records.events_after(after, chain_id=chain_id):
                for line in lines:
                    yield as_event(line)
                    ended = ended or _end_status(chain_id, line)
                after = lines[-1]["seq"]
            checked = time.monotonic()
            while not (ended or self.closing or watcher.dropped):
                while watcher.lines:
                    line = watcher.lines.popleft()
                    if line["seq"] > after:
                        after = line["seq"]
                        yield as_event(line)
                        ended = ended or _end_status(chain_id, line)
                woken = bool(ended) or await watcher.wait(heartbeat)
                if time.monotonic() - checked >= heartbeat:  # also on a busy stream
                    if not await still_valid():
                        return
                    checked = time.monotonic()
                if not woken:
                    yield b": beat\n\n"
        if ended:
            # A reconnect after the end gets 204, so browsers stop.
            yield f"event: end\ndata: {msgspec.json.encode({'status': ended}).decode()}\n\n".encode()


def _end_status(chain_id: str | None, line: Record) -> str:
    """The final status in this line if it ended the watched run, else ""."""
    if chain_id is None or line["type"] != "ChainEnded" or not isinstance(line["data"], dict):
        return ""
    return str(line["data"].get("status", ""))


def event_of(line: Mapping[str, Any]) -> Event:
    """A line as a response: without secrets and folders of this machine."""
    data = redacted_data(line["data"])
    return Event(**{**{name: line[name] for name in Event.__struct_fields__ if name != "data"}, "data": data})


def as_event(line: Record) -> bytes:
    """A line as one server-sent event. The id is its number; its type is in the data."""
    return f"id: {line['seq']}\ndata: {msgspec.json.encode(event_of(line)).decode()}\n\n".encode()
