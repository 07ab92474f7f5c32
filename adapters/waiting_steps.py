"""The work of one run that waits for a slot: of the engine, of a ComfyUI server, or the one for suspects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator

from towpath.model import StepPlan

from .limits import Limits, Place
from .slots import Lines, RunSlots, ServerSlots
from .step_executor import Work

_Key = tuple[str | None, int | None, str]
"""Names the limits of a step. Steps with the same key wait in one line."""


class Items:
    """The items of a mapped step that have not started, of which only the next one is made."""

    __slots__ = ("_next", "_stop", "step")

    def __init__(self, step: StepPlan, start: int, stop: int) -> None:
        self.step = step
        self._next = start
        self._stop = stop

    def take(self) -> int | None:
        """The next item; None after the last."""
        if self._next >= self._stop:
            return None
        self._next += 1
        return self._next - 1


class _Line:
    """Entries that wait under the same limits, and their place in the queue of the process."""

    def __init__(self) -> None:
        self.entries: deque[Work | Items] = deque()
        self.place: Place | None = None


class WaitingSteps:
    """Gives out work in the order in which it came, as slots become free.

    `make` makes the work of an item; it returns None for one that failed at once. `came` is called when another run
    gave up a slot, which is set aside for this run.
    """

    def __init__(
        self,
        slots: RunSlots,
        alone: RunSlots,
        farm: ServerSlots | None,
        limits: Limits,
        make: Callable[[StepPlan, int], Work | None],
        came: Callable[[], None],
    ) -> None:
        self.quarantine: set[str] = set()  # rows of suspects: no other function starts until they have ended
        self._slots = slots
        self._alone = alone
        self._farm = farm
        self._limits = limits
        self._limited: dict[_Key, _Line] = {}
        self._make = make
        self._came = came
        self._waiting: deque[Work | Items] = deque()
        self._suspects: deque[Work] = deque()
        self._lines: Lines[Work] = Lines()

    # ---- waiting

    def add(self, work: Work) -> None:
        """The work waits from now on."""
        if work.suspect:
            self._suspects.append(work)
        elif (key := _limits_of(work.step)) is not None:
            self._limited.setdefault(key, _Line()).entries.append(work)
        elif work.step.kind == "workflow" and self._farm is not None:
            self._lines.add(self._farm.need(work.step), work)
        else:
            self._waiting.append(work)

    def add_items(self, items: Items) -> None:
        """The items wait from now on. They have no rows yet."""
        key = _limits_of(items.step)
        (self._waiting if key is None else self._limited.setdefault(key, _Line()).entries).append(items)

    def started(self) -> Iterator[Work]:
        """Remove and yield the work that may start now; it has its slot."""
        while (work := self._head(self._waiting)) is not None and self._take(work):
            self._waiting.popleft()
            yield work
        for line in list(self._limited.values()):
            yield from self._started_of(line)
        if self._suspects and self._take(self._suspects[0]):
            yield self._suspects.popleft()
        if self._lines:
            yield from self._lines.starting(self._take)

    def _started_of(self, line: _Line) -> Iterator[Work]:
        while (work := self._head(line.entries)) is not None:
            line.place = line.place or self._limits.ask(work.step, self._came)
            if not line.place.granted or not self._take(work):
                return
            line.place, work.counted = None, True
            line.entries.popleft()
            yield work
        self._leave(line)

    def _leave(self, line: _Line) -> None:
        place, line.place = line.place, None
        if place is not None:
            self._limits.withdraw(place)

    def settle(self, *, pausing: bool) -> None:
        """Say which slots are still wanted; others that were set aside go to other runs."""
        granted = False
        for line in self._limited.values():
            if pausing:
                self._leave(line)
            granted = granted or (line.place is not None and line.place.granted)
        self._alone.settle(wants=bool(self._suspects) and not pausing)
        self._slots.settle(wants=bool(self._waiting or granted) and not pausing and not self.quarantine)
        if self._farm is not None:
            self._farm.settle(self._came, wants=(bool(self._lines) or granted) and not pausing)

    def clear(self) -> tuple[list[Work], list[tuple[str, int]]]:
        """Remove all that waits: work, and items that have no work yet."""
        waiting = [*self._waiting, *(entry for line in self._limited.values() for entry in line.entries)]
        made = [entry for entry in waiting if isinstance(entry, Work)]
        made += [*self._suspects, *self._lines]
        items = [(entry.step.id, item) for entry in waiting if isinstance(entry, Items) for item in _rest(entry)]
        for line in self._limited.values():
            self._leave(line)
        self._limited.clear()
        self._waiting.clear()
        self._suspects.clear()
        self._lines.clear()
        return made, items

    def _head(self, entries: deque[Work | Items]) -> Work | None:
        """The work that has waited longest. That of an item is made now."""
        while entries:
            first = entries[0]
            if isinstance(first, Work):
                return first
            item = first.take()
            if item is None:
                entries.popleft()
                continue
            work = self._make(first.step, item)
            if work is None:
                continue
            if work.step.kind == "workflow" and entries is self._waiting:
                self.add(work)
            else:
                entries.appendleft(work)
        return None

    # ---- slots

    def take_slot(self, work: Work) -> bool:
        """Take a slot for work that has not waited, and its place under limits. False if there is none."""
        key = None if work.suspect else _limits_of(work.step)
        if key is None:
            return self._take(work)
        if (key in self._limited and self._limited[key].entries) or not self._limits.take(work.step):
            return False
        work.counted = self._take(work)
        if not work.counted:
            self._limits.give_back(work.step)
        return work.counted

    def _take(self, work: Work) -> bool:
        if work.step.kind == "chain":
            return True  # it needs none: otherwise it would wait for its own steps, and they for its slot
        if work.suspect:
            work.is_alone = self._alone.take()
            return work.is_alone
        if self.quarantine and work.step.kind == "python":
            return False
        if work.step.kind == "workflow":
            assert self._farm is not None
            work.seat = self._farm.take(work.step, self._came)
            return work.seat is not None
        work.has_slot = self._slots.take()
        return work.has_slot

    def give_back(self, work: Work) -> None:
        """Return what work that has ended has: its slot, and its place under limits."""
        self._leave_limits(work)
        self._return_slots(work)

    def lend(self, work: Work) -> None:
        """Return the slot of work that waits for a run. It keeps its place under limits."""
        if work.counted and not work.idle:
            work.idle = True
            self._limits.hold_idle(work.step, 1)
        self._return_slots(work)

    def _leave_limits(self, work: Work) -> None:
        self._work_on(work)
        if work.counted:
            work.counted = False
            self._limits.give_back(work.step)

    def _work_on(self, work: Work) -> None:
        if work.idle:
            work.idle = False
            self._limits.hold_idle(work.step, -1)

    def _return_slots(self, work: Work) -> None:
        if work.has_slot:
            work.has_slot = False
            self._slots.give_back()
        if work.is_alone:
            work.is_alone = False
            self._alone.give_back()
        if work.seat is not None and self._farm is not None:
            seat, work.seat = work.seat, None
            self._farm.give_back(seat)

    def take_back(self, work: Work) -> None:
        """Take a slot that was lent, at once and over the limit."""
        self._work_on(work)
        (self._alone if work.suspect else self._slots).take_back()
        work.is_alone, work.has_slot = work.suspect, not work.suspect

    def close(self, working: Collection[Work]) -> None:
        """Return all slots: the run is over, or this process leaves it."""
        for work in working:
            self._leave_limits(work)
        self._slots.close()
        self._alone.close()
        if self._farm is not None:
            self._farm.settle(self._came, wants=False)
            for work in working:
                if work.seat is not None:
                    self._return_slots(work)


def _rest(items: Items) -> Iterator[int]:
    while (item := items.take()) is not None:
        yield item


def _limits_of(step: StepPlan) -> _Key | None:
    if step.limit is None and step.concurrency is None:
        return None
    return step.limit, step.concurrency, step.target if step.concurrency is not None else ""
