"""Tasks beside a block of the user's code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Generic, TypeVar

import anyio
import anyio.abc

from towpath.errors import InputInvalid
from towpath.logs import guarded_logger

T = TypeVar("T")

FIRST_PAUSE = 1.0  # seconds before a service that failed is started again; it doubles
LONGEST_PAUSE = 300.0

_log = guarded_logger("towpath")


@asynccontextmanager
async def background_tasks() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group that ends with its block, and out of which an error of the block comes as it is.

    anyio wraps such an error into an ExceptionGroup, because tasks may have failed as well. A user who
    writes `async with open_engine()` has started no tasks and expects their own exception.
    """
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except GeneratorExit:
            raise
        except BaseException as error:
            failure = error  # a cancellation too: the group, being cancelled below, might take it for its own
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def kept_running(service: Callable[[], Awaitable[None]], name: str) -> None:
    """Run a service; one that fails is started again, after pauses that grow, and takes nothing else with it."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await service()
        except Exception:
            _log.exception("%s failed; it is started again in %g s", name, pause)
        await anyio.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 2)


class HeldOpen(Generic[T]):
    """A context manager that lives in a task of its own, so that any task may close it.

    Task groups and cancel scopes must be left by the task that entered them. Fixtures of test runners and the
    cells of a notebook open in one task and close in another. `inside` makes the manager, given our `close`.
    """

    def __init__(self, inside: Callable[[Callable[[], Awaitable[None]]], AbstractAsyncContextManager[T]]) -> None:
        self._inside = inside
        self._closing = anyio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> T:
        try:
            ready: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        except RuntimeError:
            raise InputInvalid("E_SETTING", "towpath needs an asyncio event loop", cure="use asyncio.run") from None
        self._task = asyncio.create_task(self._hold(ready), name="towpath engine")
        try:
            return await asyncio.shield(ready)
        except BaseException:
            self._task.cancel()
            await self._ended()
            raise

    async def _hold(self, ready: asyncio.Future[T]) -> None:
        try:
            async with self._inside(self.close) as value:
                ready.set_result(value)
                await self._closing.wait()
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave the context and wait until that is done; doing it twice is harmless. Raises what went wrong in it."""
        self._closing.set()
        await self._ended()
        if self._task is not None and not self._task.cancelled() and self._task.exception() is not None:
            failed, self._task = self._task, None
            failed.result()

    async def _ended(self) -> None:
        if self._task is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({self._task})
