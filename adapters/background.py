"""Tasks beside a block of the user's code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc


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
