"""Cancelling an operation at its n-th suspension, in whichever of its tasks that is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio

_counting: ContextVar[Suspensions | None] = ContextVar("counting", default=None)


class Suspensions:
    """Counts suspensions of an operation's tasks and calls `stop` at the n-th."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.seen = 0
        self.stop: Callable[[], Any] = bool

    def suspended(self) -> None:
        """One task is about to wait."""
        self.seen += 1
        if self.seen == self.n:
            self.stop()


class _Driven:
    """A coroutine driven by hand."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], counter: Suspensions) -> None:
        self._coroutine = coroutine
        self._counter = counter

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        go = partial(steps.send, None)
        while True:
            try:
                waits_for = go()
            except StopIteration as done:
                return done.value
            self._counter.suspended()
            try:
                go = partial(steps.send, (yield waits_for))
            except BaseException as error:  # a cancellation, or what it waited for failed
                go = partial(steps.throw, error)


async def _driven(coroutine: Coroutine[Any, Any, Any], counter: Suspensions) -> Any:
    return await _Driven(coroutine, counter)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    counter = _counting.get()
    if counter is not None:
        coroutine = _driven(coroutine, counter)
    return asyncio.Task(coroutine, loop=loop, **options)


async def cancelled_at(n: int, operation: Callable[[], Awaitable[Any]], *, natively: bool) -> bool:
    """Cancel the operation at its n-th suspension; False if it was over before.

    `natively` is `task.cancel()` once, as asyncio itself does it; else an anyio scope, which insists.
    """
    asyncio.get_running_loop().set_task_factory(_make_task)
    counter = Suspensions(n)

    async def go() -> None:
        if natively:
            await operation()
            return
        with anyio.CancelScope() as scope:
            counter.stop = scope.cancel
            await operation()

    before = _counting.set(counter)
    task = asyncio.get_running_loop().create_task(go())
    _counting.reset(before)
    if natively:
        counter.stop = task.cancel
    with suppress(asyncio.CancelledError):
        await task
    return counter.seen >= n
