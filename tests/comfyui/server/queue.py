"""What waits, what runs and what is over. All of it is in memory: a restart knows nothing of it."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import anyio

from tests.comfyui.server.faults import Faults

HISTORY_SIZE = 10_000  # the oldest goes without a word


@dataclass(frozen=True, slots=True)
class Prompt:
    """One entry of the queue."""

    number: float
    prompt_id: str
    graph: dict[str, Any]
    extra_data: dict[str, Any]
    outputs: list[str]  # the output nodes to run

    @property
    def client_id(self) -> str | None:
        """The client that gets the messages; None: some go to everybody, most to nobody."""
        found: str | None = self.extra_data.get("client_id")
        return found

    def told(self) -> list[Any]:
        """As in queue and history."""
        return [self.number, self.prompt_id, self.graph, self.extra_data, self.outputs]


@dataclass(slots=True)
class Ended:
    """A prompt that is over, and how."""

    prompt: Prompt
    outputs: dict[str, Any]
    meta: dict[str, Any]
    status: dict[str, Any]
    visible_at: float = 0.0  # fault: unknown until then
    reads_until_visible: int = 0  # fault: unknown for so many reads

    def told(self) -> dict[str, Any]:
        """As in /history."""
        return {"prompt": self.prompt.told(), "outputs": self.outputs, "status": self.status, "meta": self.meta}

    def visible(self) -> bool:
        """Whether lists know of it."""
        return time.monotonic() >= self.visible_at and self.reads_until_visible == 0


@dataclass(slots=True)
class Queue:
    """The queue and the history of one server."""

    faults: Faults
    changed: Callable[[], None] = lambda: None
    waiting: list[tuple[float, str, int, Prompt]] = field(default_factory=list)
    running: Prompt | None = None
    ended: dict[str, Ended] = field(default_factory=dict)
    node: str | None = None  # that runs now
    number: int = 0  # of the next prompt; starts from 0 with the server
    _serial: int = 0
    _news: anyio.Event = field(default_factory=anyio.Event)
    _idle: anyio.Event = field(default_factory=anyio.Event)

    def put(self, prompt: Prompt) -> None:
        """Let it wait for its turn; an id that is known already is no obstacle."""
        self._serial += 1
        heapq.heappush(self.waiting, (prompt.number, prompt.prompt_id, self._serial, prompt))
        self._news.set()
        self.changed()

    async def get(self) -> Prompt:
        """The next one, which runs from now on."""
        while not self.waiting:
            self._news = anyio.Event()
            await self._news.wait()
        self.running = heapq.heappop(self.waiting)[3]
        self._idle = anyio.Event()
        self.changed()
        return self.running

    def done(self, ended: Ended) -> None:
        """It left the worker. Queue and history change in one step."""
        self.running = self.node = None
        self._idle.set()
        if not self.faults.history_never:
            ended.visible_at = time.monotonic() + self.faults.history_gap
            ended.reads_until_visible = self.faults.history_late_reads
            while len(self.ended) >= HISTORY_SIZE:
                del self.ended[next(iter(self.ended))]
            self.ended[ended.prompt.prompt_id] = ended
        self.changed()

    def remaining(self) -> int:
        """How many wait or run."""
        return len(self.waiting) + (self.running is not None)

    def ids(self) -> list[str]:
        """Those that wait or run."""
        return [p.prompt_id for p in [*self.pending(), *([self.running] if self.running else [])]]

    def status(self) -> dict[str, Any]:
        """The data of a `status` message."""
        return {"status": {"exec_info": {"queue_remaining": self.remaining()}}}

    async def idle(self) -> None:
        """Wait until nothing runs."""
        if self.running is not None:
            await self._idle.wait()

    def pending(self) -> list[Prompt]:
        """Those that wait; in the order of a heap, which is not the order in which they will run."""
        return [entry[3] for entry in self.waiting]

    def remove(self, ids: Collection[str]) -> bool:
        """Take prompts out that wait; nothing is left of them. Whether there were any."""
        kept = [entry for entry in self.waiting if entry[1] not in ids]
        found = len(kept) < len(self.waiting)
        if found:
            self.waiting = kept
            heapq.heapify(self.waiting)
            self.changed()
        return found

    def clear(self) -> None:
        """Take out all that wait."""
        self.waiting.clear()
        self.changed()

    def found(self, prompt_id: str) -> Ended | None:
        """An ended prompt, if a reader may know of it already."""
        ended = self.ended.get(prompt_id)
        if ended is None or ended.visible():
            return ended
        ended.reads_until_visible = max(0, ended.reads_until_visible - 1)
        return None

    def history(self) -> dict[str, Ended]:
        """Everything that is over, oldest first."""
        return {key: ended for key, ended in self.ended.items() if ended.visible()}
