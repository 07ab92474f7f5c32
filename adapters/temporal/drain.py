"""Draining: a worker that stops waits briefly for its activities in flight.

If a worker stops in the middle of a local activity, it never answers the workflow task. The server waits ten
seconds before it gives that task to another worker. Most local activities need only some milliseconds more.
"""

from __future__ import annotations

from typing import Any

import anyio
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

IDLE = 0.1  # seconds without an activity after which a worker counts as idle
PATIENCE = 1.0  # seconds to wait for that at most; a step that takes longer goes to another worker


class ActivityTracker(Interceptor):
    """Counts the activities in flight on a worker."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._last = float("-inf")

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Count this activity while it runs. Called by the SDK."""
        return _Counted(next, self)

    def touch(self) -> None:
        """Expect activities soon, because a workflow was signalled."""
        self._last = anyio.current_time()

    async def wait_idle(self) -> None:
        """Wait until the worker is idle, at most `PATIENCE` seconds. Ignores cancellation."""
        with anyio.move_on_after(PATIENCE, shield=True):
            while self._in_flight or anyio.current_time() - self._last < IDLE:  # noqa: ASYNC110 - two conditions
                await anyio.sleep(0.01)

    def started(self) -> None:
        """An activity started."""
        self._in_flight += 1

    def ended(self) -> None:
        """An activity ended. Another one often follows at once."""
        self._in_flight -= 1
        self.touch()


class _Counted(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, tracker: ActivityTracker) -> None:  # noqa: A002
        super().__init__(next)
        self._tracker = tracker

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        self._tracker.started()
        try:
            return await super().execute_activity(input)
        finally:
            self._tracker.ended()
