"""How many steps work at the same time: one limit for the engine, one per run, fair between runs.

Steps that run on a server take no slot of the engine: they would keep it from other steps while they wait for
a server. They wait in lines of their own, one per kind of server they need, for a slot of such a server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from towpath.model import StepPlan

T = TypeVar("T")


class ServerSlots(Protocol):
    """Slots of servers, as a farm gives them out."""

    def need(self, step: StepPlan) -> Hashable:
        """Steps with the same need wait in one line."""
        ...

    def take(self, step: StepPlan, wake: Callable[[], None]) -> Any | None:
        """A slot on a fitting server, or None; then `wake` is called when one was set aside for it."""
        ...

    def give_back(self, seat: Any) -> None: ...

    def settle(self, wake: Callable[[], None], *, wants: bool) -> None:
        """Say whether work still waits; slots set aside for nothing go to others."""
        ...


class Lines(Generic[T]):
    """What waits for servers, in one line per need."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[T]] = {}

    def __iter__(self) -> Iterator[T]:
        return (waiting for line in self._lines.values() for waiting in line)

    def __bool__(self) -> bool:
        return any(self._lines.values())

    def add(self, need: Hashable, waiting: T) -> None:
        self._lines.setdefault(need, deque()).append(waiting)

    def starting(self, take: Callable[[T], bool]) -> Iterator[T]:
        """The first of each line for as long as `take` finds a slot for it; they wait no more."""
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
                return  # it takes the slot itself, in the same breath
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
        """Take a slot if there is one; else the run is woken when one is set aside for it."""
        if self.in_use >= self._limit:
            return False
        if self.granted:
            self.granted -= 1
        elif self._slots.free > 0:
            self._slots.free -= 1
            self._slots._forget(self)  # it had its turn; for more it queues up behind the others
        else:
            self.wants = True
            self._slots._wait(self)
            return False
        self.in_use += 1
        return True

    def give_back(self) -> None:
        """A step of this run is over."""
        self.in_use -= 1
        self._slots._put_back(self)

    def take_back(self) -> None:
        """Take a slot that was lent, at once: what runs already cannot wait for one. Nothing more starts until
        there are as many as there should be.
        """
        self._slots.free -= 1
        self.in_use += 1

    def settle(self, *, wants: bool) -> None:
        """Say whether work still waits; slots set aside for nothing go to others."""
        self.wants = wants
        if not wants:
            self._slots._forget(self)
            while self.granted:
                self.granted -= 1
                self._slots._put_back(None)
            self._slots._share()  # the next in line may have been held up by this run alone
        elif self._slots.free > 0 and self.in_use < self._limit:
            self._slots._wait(self)

    def close(self) -> None:
        """The run is over: everything it holds goes back."""
        self.settle(wants=False)
        while self.in_use:
            self.in_use -= 1
            self._slots._put_back(None)
