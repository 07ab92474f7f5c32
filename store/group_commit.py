"""Group commit: units that all running steps have queued become one transaction, and each caller is told when its unit
is recorded. This module knows no driver.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from towpath.errors import TowpathError

from .backend import Counts, Told, Unit

ENOUGH = 4_000  # statements: the unit that reaches this number is the last of its batch

Results = Sequence[Exception | None]
"""What became of the units of a batch: None, or the error of each."""


class Turn:
    """Whose turn it is to write: one at a time, in the order in which they asked. For one event loop.

    Unlike a lock of asyncio it belongs to no task, so that a queue without a task can wait for it too.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def wanted(self) -> bool:
        """Does anybody wait for it?"""
        return bool(self._waiting)

    def ask(self, begin: Callable[[], None]) -> None:
        """Call `begin` when it is the caller's turn: now, or when all who asked before have ended theirs."""
        if self._taken:
            self._waiting.append(begin)
        else:
            self._taken = True
            begin()

    def end(self) -> None:
        """The turn is over; the next begins."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._taken = False

    async def __aenter__(self) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def begin() -> None:
            if given.done():  # the caller was cancelled
                self.end()
            else:
                given.set_result(None)

        self.ask(begin)
        try:
            await given
        except BaseException:
            if given.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(begin)
            else:
                self.end()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.end()


class GroupCommit:
    """A queue of units. The backend records all that is queued, batch after batch, while it is the queue's turn.

    `work` is called in the event loop with the first batch. The backend records it in a thread of its choice, reports
    it with `recorded`, and goes on with `next_batch` until that is empty.
    """

    def __init__(self, work: Callable[[list[Unit]], None], turn: Turn, counts: Counts) -> None:
        self.broken: TowpathError | None = None
        self._work = work
        self._turn = turn
        self._counts = counts
        self._queue: deque[Unit] = deque()
        self._working = False  # units are being recorded, or wait for the turn
        self._rested: asyncio.Event | None = None  # somebody waits until all is recorded

    def queue(self, unit: Unit) -> None:
        """Queue a unit for the next batch. What is queued in the same turn of the event loop is one batch."""
        self._queue.append(unit)
        if not self._working:
            self._working = True
            asyncio.get_running_loop().call_soon(self._turn.ask, self._begin)

    async def close(self) -> None:
        """Wait until what is queued is recorded. No unit may be queued after this call."""
        if self._working:
            self._rested = asyncio.Event()
            await self._rested.wait()

    def fail(self, error: TowpathError) -> None:
        """Record no more units; those in the queue get this error."""
        self.broken = error
        queued = [self._queue.popleft() for _ in range(len(self._queue))]
        _tell(queued, [error] * len(queued))

    # ---- for the backend

    def next_batch(self) -> list[Unit]:
        """The units to record next; none if nothing is queued or others wait for their turn. For any thread."""
        return [] if self._turn.wanted else self._take()

    def recorded(self, units: Sequence[Unit], results: Results, *, resting: bool) -> None:
        """Tell the callers of a batch; with `resting` the queue's turn is over. In the event loop."""
        if None in results:
            self._counts.commits += 1
            self._counts.units += len(units)
        if resting:
            self._rest()
        _tell(units, results)

    def _begin(self) -> None:
        units = self._take()
        if units:
            self._work(units)
        else:  # writing has failed meanwhile, and the queue is empty
            self._rest()

    def _take(self) -> list[Unit]:
        units: list[Unit] = []
        statements = 0
        with suppress(IndexError):  # the queue is empty
            while statements < ENOUGH:
                unit = self._queue.popleft()
                statements += len(unit.writes)
                units.append(unit)
        return units

    def _rest(self) -> None:
        self._turn.end()
        if self._queue:
            self._turn.ask(self._begin)
            return
        self._working = False
        if self._rested is not None:
            self._rested.set()


def waiting() -> tuple[asyncio.Future[None], Told]:
    """A future, and the callback that resolves it. If its caller was cancelled, the unit is still recorded."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def told(error: Exception | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    return done, told


def _tell(units: Sequence[Unit], results: Results) -> None:
    for unit, error in zip(units, results, strict=True):
        try:
            unit.told(error)
        except Exception as fault:  # the other callers must be told too
            said = {"message": "a caller failed when it was told of its commit", "exception": fault}
            asyncio.get_running_loop().call_exception_handler(said)
