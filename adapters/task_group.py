"""Background tasks: groups that end with a block, services that restart, contexts that any task may close."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context, copy_context
from types import TracebackType
from typing import Generic, TypeVar

import anyio
import anyio.abc

from towpath.errors import InputInvalid, TowpathError
from towpath.logs import guarded_logger

T = TypeVar("T")

FIRST_PAUSE = 1.0  # seconds before a failed service restarts; doubled after each failure
LONGEST_PAUSE = 300.0

_log = guarded_logger("towpath")


def callback_context() -> Context:
    """A copy of the context variables of this task, for callbacks of the event loop that use anyio.

    Where sniffio is installed, anyio asks it which library runs. In a callback there is no task, so sniffio knows it
    only from its variable.
    """
    context = copy_context()
    sniffio = sys.modules.get("sniffio")  # anyio has imported it, if it is there
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


@asynccontextmanager
async def background_tasks() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group that is cancelled at the end of its block, and raises an error of the block unchanged.

    anyio wraps such an error into an ExceptionGroup, because tasks may have failed too. The user of
    `async with open_engine()` started no tasks, and expects the exception that their code raised.
    """
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except GeneratorExit:
            raise
        except BaseException as error:
            failure = error  # also a cancellation: the group, cancelled below, could swallow it
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a task group. Errors of towpath come before their consequences."""
    found: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        at = todo.pop(0)
        if isinstance(at, BaseExceptionGroup):
            todo.extend(at.exceptions)
        else:
            found.append(at)
    return next((e for e in found if isinstance(e, TowpathError)), found[0])


async def kept_running(service: Callable[[], Awaitable[None]], name: str) -> None:
    """Run a service. If it fails, log the error and restart it after a pause, which doubles up to `LONGEST_PAUSE`."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await service()
        except Exception:
            _log.exception("%s failed; it restarts in %g s", name, pause)
        await anyio.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 2)


class HeldOpen(Generic[T]):
    """Holds a context manager open in a task of its own, so that any task may close it.

    Task groups and cancel scopes must be left by the task that entered them. Test fixtures and notebook cells open in
    one task and close in another. `inside` makes the context manager; its argument is the `close` of this object.
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
        """Leave the context, and wait for that. A second call does nothing. Raises the error of the context, if any."""
        self._closing.set()
        await self._ended()
        if self._task is not None and not self._task.cancelled() and self._task.exception() is not None:
            failed, self._task = self._task, None
            failed.result()

    async def _ended(self) -> None:
        if self._task is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({self._task})
