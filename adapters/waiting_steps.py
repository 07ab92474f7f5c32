"""The work of one run that waits for a slot: of the engine, of a ComfyUI server, or the one for suspects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from towpath.model import StepPlan

from .slots import Lines, RunSlots, ServerSlots
from .step_executor import Work


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
        make: Callable[[StepPlan, int], Work | None],
        came: Callable[[], None],
    ) -> None:
        self.quarantine: set[str] = set()  # rows of suspects: nothing else starts until they have ended
        self._slots = slots
        self._alone = alone
        self._farm = farm
        self._make = make
        self._came = came
        self._waiting: deque[Work | Items] = deque()
        self._suspects: deque[Work] = deque()
        self._lines: Lines[Work] = Lines()

    # ---- waiting

    def add(self, work: Work) -> None:
        """The work waits from now on."""
        if work.step.kind == "workflow" and self._farm is not None:
            self._lines.add(self._farm.need(work.step), work)
        elif work.suspect:
            self._suspects.append(work)
        else:
            self._waiting.append(work)

    def add_items(self, items: Items) -> None:
        """The items wait from now on. They have no rows yet."""
        self._waiting.append(items)

    def started(self) -> Iterator[Work]:
        """Remove and yield the work that may start now; it has its slot."""
        while (work := self._head()) is not None and self.take_slot(work):
            self._waiting.popleft()
            yield work
        if self._suspects and self.take_slot(self._suspects[0]):
            yield self._suspects.popleft()
        if self._lines:
            yield from self._lines.starting(self.take_slot)

    def settle(self, *, pausing: bool) -> None:
        """Say which slots are still wanted; others that were set aside go to other runs."""
        self._alone.settle(wants=bool(self._suspects) and not pausing)
        self._slots.settle(wants=bool(self._waiting) and not pausing and not self.quarantine)
        if self._farm is not None:
            self._farm.settle(self._came, wants=bool(self._lines) and not pausing)

    def clear(self) -> tuple[list[Work], list[tuple[str, int]]]:
        """Remove all that waits: work, and items that have no work yet."""
        made = [entry for entry in self._waiting if isinstance(entry, Work)]
        made += [*self._suspects, *self._lines]
        items = [(entry.step.id, item) for entry in self._waiting if isinstance(entry, Items) for item in _rest(entry)]
        self._waiting.clear()
        self._suspects.clear()
        self._lines.clear()
        return made, items

    def _head(self) -> Work | None:
        """The work that has waited longest for a slot of the engine. That of an item is made now."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, Work):
                return first
            item = first.take()
            if item is None:
                self._waiting.popleft()
                continue
            work = self._make(first.step, item)
            if work is None:
                continue
            if work.step.kind == "workflow":
                self.add(work)
            else:
                self._waiting.appendleft(work)
        return None

    # ---- slots

    def take_slot(self, work: Work) -> bool:
        """Take a slot for the work. False if there is none."""
        if work.step.kind == "chain":
            return True  # it needs none: else it would wait for its own steps, and they for its slot
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
        """Return the slot of work that has ended or waits, if it has one."""
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
        (self._alone if work.suspect else self._slots).take_back()
        work.is_alone, work.has_slot = work.suspect, not work.suspect

    def close(self, working: Iterable[Work]) -> None:
        """Return all slots: the run is over, or this process leaves it."""
        self._slots.close()
        self._alone.close()
        if self._farm is not None:
            self._farm.settle(self._came, wants=False)
            for work in working:
                if work.seat is not None:
                    self.give_back(work)


def _rest(items: Items) -> Iterator[int]:
    while (item := items.take()) is not None:
        yield item
