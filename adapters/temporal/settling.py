"""The end of a worker: what is under way is let come to rest first.

A workflow task whose local activities a stopping worker breaks off is not answered, and the server waits ten
seconds before it gives the task to another worker. Most of them need some milliseconds more.
"""

from __future__ import annotations

from typing import Any

import anyio
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

REST = 0.1  # seconds without an activity after which nothing follows at once
PATIENCE = 1.0  # seconds to wait for that; a step that works longer goes to another worker


class Bustle(Interceptor):
    """Knows whether activities are under way on a worker."""

    def __init__(self) -> None:
        self._under_way = 0
        self._last = float("-inf")

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Count the activities of a worker."""
        return _Counted(next, self)

    def stir(self) -> None:
        """Something is about to follow: a workflow was told to look."""
        self._last = anyio.current_time()

    async def rest(self) -> None:
        """Wait until nothing has been under way for a moment, but not long. Not to be cancelled."""
        with anyio.move_on_after(PATIENCE, shield=True):
            while self._under_way or anyio.current_time() - self._last < REST:  # noqa: ASYNC110 - it comes and goes
                await anyio.sleep(0.01)

    def begins(self) -> None:
        self._under_way += 1

    def ends(self) -> None:
        self._under_way -= 1
        self.stir()


class _Counted(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, bustle: Bustle) -> None:  # noqa: A002
        super().__init__(next)
        self._bustle = bustle

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        self._bustle.begins()
        try:
            return await super().execute_activity(input)
        finally:
            self._bustle.ends()
