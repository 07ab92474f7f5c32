"""Limits how many steps run at the same time: one limit per engine, one per run, fair between runs.

A step that runs on a server takes no slot of the engine, because it would hold that slot while it waits for a server.
Such steps wait in queues of their own, one per kind of server, for a slot of a server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from towpath.model import StepPlan

T = TypeVar("T")


class ServerSlots(Protocol):
    """Slots of servers. A farm implements this."""

    def need(self, step: StepPlan) -> Hashable:
        """What the step requires of a server. Steps with equal needs wait in one queue."""
        ...

    def take(self, step: StepPlan, wake: Callable[[], None]) -> Any | None:
        """A slot on a fitting server, or None; then `wake` is called when a slot was set aside."""
        ...

    def give_back(self, slot: Any) -> None: ...

    def settle(self, wake: Callable[[], None], *, wants: bool) -> None:
        """Say whether work still waits; unused slots that were set aside go to others."""
        ...


class Lines(Generic[T]):
    """Steps that wait for servers, in one queue per need."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[T]] = {}

    def __iter__(self) -> Iterator[T]:
        return (waiting for line in self._lines.values() for waiting in line)

    def __bool__(self) -> bool:
        return any(self._lines.values())

    def add(self, need: Hashable, waiting: T) -> None:
        self._lines.setdefault(need, deque()).append(waiting)

    def starting(self, take: Callable[[T], bool]) -> Iterator[T]:
        """Remove and yield steps from the front of each queue, while `take` finds a slot for them."""
        for line in self._lines.values():
            while line and take(line[0]):
                yield line.popleft()

    def clear(self) -> None:
        self._lines.clear()


class Slots:
    """The engine's slots. A freed one goes to the run that has waited longest."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free = limit
        self._waiting: deque[RunSlots] = deque()

    def for_run(self, limit: int | None, wake: Callable[[], None]) -> RunSlots:
        """A run's share. `wake` is called when a slot was set aside for it."""
        return RunSlots(self, limit or self.limit, wake)

    def _wait(self, run: RunSlots) -> None:
        if run not in self._waiting:
            self._waiting.append(run)

    def _put_back(self, giver: RunSlots | None) -> None:
        self.free += 1
        self._share(giver)

    def _share(self, giver: RunSlots | None = None) -> None:
        """Set free slots aside for the runs that wait."""
        while self.free > 0 and self._waiting:
            run = self._waiting[0]
            if run is giver:
                return  # the giver is first in the queue and takes the slot itself
            self._waiting.popleft()
            if run.wants:
                self.free -= 1
                run.granted += 1
                run.wake()

    def _forget(self, run: RunSlots) -> None:
        if run in self._waiting:
            self._waiting.remove(run)


class RunSlots:
    """One run's slots."""

    def __init__(self, slots: Slots, limit: int, wake: Callable[[], None]) -> None:
        self._slots = slots
        self._limit = limit
        self.wake = wake
        self.in_use = 0
        self.granted = 0
        self.wants = False

    def take(self) -> bool:
        """Take a free slot. Without one, return False; `wake` is called when a slot was set aside."""
        if self.in_use >= self._limit:
            return False
        if self.granted:
            self.granted -= 1
        elif self._slots.free > 0:
            self._slots.free -= 1
            self._slots._forget(self)  # it joins the queue again behind the others
        else:
            self.wants = True
            self._slots._wait(self)
            return False
        self.in_use += 1
        return True

    def give_back(self) -> None:
        """Return the slot of a step that has ended."""
        self.in_use -= 1
        self._slots._put_back(self)

    def take_back(self) -> None:
        """Take a slot that was lent, at once and over the limit: a running step cannot wait for one. No other step
        starts until the number of slots in use is below the limit again.
        """
        self._slots.free -= 1
        self.in_use += 1

    def settle(self, *, wants: bool) -> None:
        """Say whether work still waits; unused slots that were set aside go to others."""
        self.wants = wants
        if not wants:
            self._slots._forget(self)
            while self.granted:
                self.granted -= 1
                self._slots._put_back(None)
            self._slots._share()  # only this run may have kept the next one waiting
        elif self._slots.free > 0 and self.in_use < self._limit:
            self._slots._wait(self)

    def close(self) -> None:
        """Return all slots of the run, which has ended."""
        self.settle(wants=False)
        while self.in_use:
            self.in_use -= 1
            self._slots._put_back(None)
