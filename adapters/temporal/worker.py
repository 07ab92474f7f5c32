"""A worker: the workflows, the activities, and what goes on beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from types import CodeType
from typing import Any

import anyio
from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from towpath.adapters.step_executor import Farm
from towpath.adapters.task_group import background_tasks
from towpath.adapters.telemetry import Spans
from towpath.adapters.watchdog import Watchdog
from towpath.errors import StepNotRegistered, TowpathError
from towpath.logs import guarded_logger
from towpath.ports import EngineStore, Listener
from towpath.steps import find_step, known_steps

from .activities import RunActivities
from .connection import TemporalAddress
from .minding import Minder
from .registering import Registered, as_activities, registered
from .settling import Bustle
from .waking import Waker
from .workflows import WORKFLOWS

POLL = 0.5  # seconds between looks for what people asked
CACHED = 1_000  # workflows kept between their tasks; 0 replays each from its beginning every time
STICKY = timedelta(seconds=3)  # how long tasks wait for a worker that may be dead

_log = guarded_logger("towpath")


class RunWorker:
    """A running worker of this process."""

    def __init__(
        self,
        activities: RunActivities,
        waker: Waker,
        minder: Minder,
        bustle: Bustle,
        where: str,
        registered: Registered,
    ) -> None:
        self.bustle = bustle
        self.where = where
        self.registered = registered
        self._activities = activities
        self._waker = waker
        self._minder = minder

    def progress(self, run_id: str) -> dict[str, tuple[float, float | None]]:
        """How far steps of a run that work here say they are: (done, total) by step."""
        told = [
            (trying.step.id, trying.work.context)
            for trying in self._activities.steps.in_hand
            if trying.task.run == run_id and trying.work is not None and trying.work.context is not None
        ]
        return {step: (at.done, at.total) for step, at in told if at.total is not None}

    async def keep_in_touch(self) -> None:
        """Look, again and again, for what people ask of runs and of the steps in hand."""
        while True:
            try:
                await self._waker.look()
                await self._minder.look()
                await self._activities.steps.look_at_work()
            except TowpathError as error:
                _log.warning("%s", error)
            await anyio.sleep(POLL)


@asynccontextmanager
async def running_worker(  # noqa: PLR0913
    store: EngineStore,
    client: Client,
    address: TemporalAddress,
    *,
    farm: Farm | None = None,
    concurrency: int = 256,
    threads: int = 40,
    grace: float = 0.0,
    listeners: list[Listener] | None = None,
    functions: Mapping[str, Callable[..., Awaitable[Any]]] | None = None,
    spans: Spans | None = None,
) -> AsyncIterator[RunWorker]:
    """A worker for as long as the block lasts. At its end steps get `grace` seconds, then go to other workers."""
    activities = RunActivities(store, farm, threads, listeners, spans)
    bustle = Bustle()
    worker = Worker(
        client,
        task_queue=address.task_queue,
        workflows=WORKFLOWS,
        activities=[*activities.all, *as_activities(functions or {})],
        # Workflow code is ours alone and imports nothing of the user's: modules need no copy per workflow.
        workflow_runner=SandboxedWorkflowRunner(
            restrictions=SandboxRestrictions.default.with_passthrough_all_modules()
        ),
        max_cached_workflows=CACHED,
        # Without a cache, a second task would evict the first while its local activities run.
        max_concurrent_workflow_tasks=None if CACHED else 1,
        max_concurrent_activities=concurrency,
        sticky_queue_schedule_to_start_timeout=STICKY,
        max_heartbeat_throttle_interval=timedelta(seconds=max(address.heartbeat / 3, 0.1)),
        default_heartbeat_throttle_interval=timedelta(seconds=max(address.heartbeat / 3, 0.1)),
        graceful_shutdown_timeout=timedelta(seconds=grace),
        interceptors=[bustle],
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(maximum=100),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(maximum=100),
    )
    where = f"{address.target or 'the configured server'}, task queue {address.task_queue}"
    waker, minder = Waker(store, client, address), Minder(store, client, address)
    running = RunWorker(activities, waker, minder, bustle, where, registered(functions or {}))
    async with background_tasks() as tasks, worker:
        tasks.start_soon(running.keep_in_touch)
        with Watchdog(_codes):
            try:
                yield running
            finally:
                await bustle.rest()


def _codes() -> dict[CodeType, str]:
    """The functions of known steps: the watchdog names the one that holds everything up, heartbeats too."""
    codes = {}
    for name in known_steps():
        with suppress(StepNotRegistered):  # two functions go by this name: none of them runs
            function = find_step(name).function
            if hasattr(function, "__code__"):
                codes[function.__code__] = name
    return codes
