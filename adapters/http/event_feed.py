"""The audit trail as it grows, for everybody who watches: one reader per process, however many watch.

A line's number is its place in the stream (`Last-Event-ID`). Whoever comes back gets exactly the lines after the
last one that they saw: first from the store, then from the feed, those that both had only once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec

from towpath.errors import TowpathError
from towpath.logs import guarded_logger
from towpath.store import Record

from .access import Records
from .responses import Event, told

_log = guarded_logger("towpath.http")

BACKLOG = 2_000  # lines that wait for a slow client before it is sent away to come again
RETRY = 1_000  # milliseconds after which it may
SWARM = 0.02  # seconds; facts come in swarms, and one look finds all of them


class Watcher:
    """One who watches: a bounded queue of lines."""

    def __init__(self, chain_id: str | None) -> None:
        self.chain_id = chain_id
        self.lines: deque[Record] = deque()
        self.dropped = False
        self._news = anyio.Event()

    def tell(self, line: Record) -> None:
        """One more line, unless it is about another run. Whoever is too slow gets nothing more."""
        if self.dropped or self.chain_id not in (None, line["chain_id"]):
            return
        if len(self.lines) >= BACKLOG:
            self.dropped = True
            self.lines.clear()
        else:
            self.lines.append(line)
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """Is there news within this time?"""
        with anyio.move_on_after(seconds):
            await self._news.wait()
            self._news = anyio.Event()
            return True
        return False


class EventFeed:
    """Reads new lines while somebody watches, and hands them round."""

    def __init__(self, records: Records, poll: float) -> None:
        self._records = records
        self._poll = poll
        self._watchers: set[Watcher] = set()
        self._last: int | None = None  # the last line handed round; None while nobody watches
        self._starting = anyio.Lock()
        self._wanted = anyio.Event()
        self._news = anyio.Event()
        self.closing = False

    @property
    def watching(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    def close(self) -> None:
        """End all streams: the server is about to stop."""
        self.closing = True
        for watcher in self._watchers:
            watcher.wake()

    def something_happened(self, *_: Any) -> None:
        """Look now, not at the next turn. May be an engine's listener."""
        self._news.set()

    @asynccontextmanager
    async def watch(self, chain_id: str | None) -> AsyncIterator[Watcher]:
        """Watch one run, or all. What is committed from now on is not missed."""
        watcher = Watcher(chain_id)
        self._watchers.add(watcher)
        try:
            async with self._starting:  # nobody reads the past before it is settled where the feed begins
                if self._last is None:
                    self._last = await self._records.last_event()
            self._wanted.set()
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._last = None

    async def run(self) -> None:
        """Read for ever. Trouble with the store is waited out."""
        while True:
            if self._last is None:
                self._wanted = anyio.Event()
                await self._wanted.wait()
            try:
                await self._look()
            except TowpathError as error:
                _log.warning("the store does not answer, trying again: %s", error.code)
            with anyio.move_on_after(self._poll):
                await self._news.wait()
                self._news = anyio.Event()
                await anyio.sleep(SWARM)

    async def _look(self) -> None:
        while (last := self._last) is not None and (lines := await self._records.events_after(last)):
            for line in lines:
                for watcher in self._watchers:
                    watcher.tell(line)
            if self._last is not None:
                self._last = max(self._last, lines[-1]["seq"])

    async def stream(
        self,
        chain_id: str | None,
        after: int,
        *,
        over: str,
        heartbeat: float,
        still_good: Callable[[], Awaitable[bool]],
    ) -> AsyncGenerator[bytes, None]:
        """Server-sent events from `after` on, until the run is over, the server stops, or the key is no good.

        `over` is the status of a run that was over before: what is recorded is told, and nothing is waited for.
        """
        yield f"retry: {RETRY}\n\n".encode()
        async with self.watch(chain_id) as watcher:
            while lines := await self._records.events_after(after, chain_id=chain_id):
                for line in lines:
                    yield as_event(line)
                    over = over or _over(chain_id, line)
                after = lines[-1]["seq"]
            checked = time.monotonic()
            while not (over or self.closing or watcher.dropped):
                while watcher.lines:
                    line = watcher.lines.popleft()
                    if line["seq"] > after:
                        after = line["seq"]
                        yield as_event(line)
                        over = over or _over(chain_id, line)
                news = bool(over) or await watcher.wait(heartbeat)
                if time.monotonic() - checked >= heartbeat:  # however busy it is
                    if not await still_good():
                        return
                    checked = time.monotonic()
                if not news:
                    yield b": beat\n\n"
        if over:
            # Whoever comes again is answered 204, which browsers take for the end.
            yield f"event: end\ndata: {msgspec.json.encode({'status': over}).decode()}\n\n".encode()


def _over(chain_id: str | None, line: Record) -> str:
    """The status with which this line ended the run that is watched, or nothing."""
    if chain_id is None or line["type"] != "ChainEnded" or not isinstance(line["data"], dict):
        return ""
    return str(line["data"].get("status", ""))


def shown(line: Record) -> Event:
    """A line as it is told outside: without the folders of this machine."""
    data = told(line["data"])
    return Event(**{**{name: line[name] for name in Event.__struct_fields__ if name != "data"}, "data": data})


def as_event(line: Record) -> bytes:
    """A line as one server-sent event; its number is the id, its type is in the data."""
    return f"id: {line['seq']}\ndata: {msgspec.json.encode(shown(line)).decode()}\n\n".encode()
