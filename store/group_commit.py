"""Group commit: units queued by all running steps become one transaction, and each caller waits for the commit of its
unit. Knows no driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import anyio

from towpath.errors import StoreFailed, TowpathError

from .backend import Counts, Guard, Unit, Write

MAX_BATCH = 2_000

Record = Callable[[Sequence[Unit]], Awaitable[Sequence[Exception | None]]]
"""Records units in one transaction; one result per unit. Raises TowpathError if nothing of it was recorded."""


class GroupCommit:
    """A queue of units, and the task that records them: all queued units together.

    `lock` is held while a batch is recorded; other writers on the same connection take it too.
    """

    def __init__(self, record: Record, lock: anyio.Lock, counts: Counts) -> None:
        self.broken: TowpathError | None = None
        self._record = record
        self._lock = lock
        self._counts = counts
        self._queue: list[Unit] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="towpath writer")

    async def close(self) -> None:
        """Record what is queued, and end. No unit may be submitted after this call."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def submit(self, writes: Sequence[Write], guard: Guard | None) -> asyncio.Future[None]:
        """Queue a unit. The result is set when its commit is done, or holds its error."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(Unit(writes, guard, done))
        self._wake.set()
        return done

    def fail(self, error: TowpathError) -> None:
        """Record no more units; those in the queue get this error."""
        self.broken = error
        queue, self._queue = self._queue, []
        _answer(queue, [error] * len(queue))

    async def _run(self) -> None:
        try:
            while self._queue or not self._closing:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    async with self._lock:
                        units, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
                        await self._commit(units)
                    await asyncio.sleep(0)
        except BaseException as error:
            self.fail(StoreFailed("E_DB_WRITER", f"the writer stopped: {error!r}"))
            raise

    async def _commit(self, units: Sequence[Unit]) -> None:
        results: Sequence[Exception | None] = [StoreFailed("E_DB_WRITER", "the writer stopped")] * len(units)
        try:
            results = await self._record(units)
            self._counts.commits += 1
            self._counts.units += len(units)
        except TowpathError as error:
            results = [error] * len(units)
        finally:
            _answer(units, results)


def _answer(units: Sequence[Unit], results: Sequence[Exception | None]) -> None:
    """Set the result of each unit whose caller still waits."""
    for unit, error in zip(units, results, strict=True):
        if unit.done.done():
            continue  # the caller was cancelled; its unit is recorded anyway
        if error is None:
            unit.done.set_result(None)
        else:
            unit.done.set_exception(error)
