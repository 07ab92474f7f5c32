"""Several requests to one server at the same time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

S = TypeVar("S")
T = TypeVar("T")


async def map_all(function: Callable[[S], Awaitable[T]], items: Sequence[S], at_once: int) -> list[T]:
    """The results of `function` for all items, in their order; at most `at_once` calls run at the same time.

    The first error cancels the other calls and is raised.
    """
    results: dict[int, T] = {}
    limiter = anyio.CapacityLimiter(at_once)

    async def call(index: int) -> None:
        async with limiter:
            results[index] = await function(items[index])

    async with one_error(), anyio.create_task_group() as tasks:
        for index in range(len(items)):
            tasks.start_soon(call, index)
    return [results[index] for index in range(len(items))]


@asynccontextmanager
async def one_error() -> AsyncGenerator[None, None]:
    """Raise the first error of a task group in place of the exception group around it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
