"""A worker: it runs the workflows and activities, and polls the store for requests."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import CodeType
from typing import Any

import anyio
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from towpath.adapters.attempt_news import figures_of, record_all_the_time
from towpath.adapters.step_executor import Resources
from towpath.adapters.task_group import background_tasks
from towpath.adapters.watchdog import Watchdog
from towpath.errors import StepNotRegistered, TowpathError
from towpath.logs import guarded_logger
from towpath.steps import find_step, known_steps

from . import messages
from .connection import TemporalAddress, connect, parse_address
from .drain import ActivityTracker
from .failures import as_application_errors
from .run_activities import RunActivities
from .supervision import OrphanWatch, SignalSender
from .workflows import WORKFLOWS

POLL = 0.5  # seconds between two polls for requests
CACHED = 1_000  # workflows kept in memory; with 0 every task replays its workflow from the beginning
STICKY = timedelta(seconds=3)  # how long a task waits for the worker that has its workflow in memory

_log = guarded_logger("towpath")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

Functions = Mapping[str, Callable[..., Awaitable[Any]]]


@dataclass(frozen=True, slots=True)
class Registered:
    """The names that a worker registers at the server."""

    workflows: tuple[str, ...]
    activities: tuple[str, ...]


class RunWorker:
    """A running worker of this process. `where` is its server and task queue, for people."""

    def __init__(
        self,
        activities: RunActivities,
        signals: SignalSender,
        orphans: OrphanWatch,
        tracker: ActivityTracker,
        where: str,
        registered: Registered,
    ) -> None:
        self.tracker = tracker
        self.where = where
        self.registered = registered
        self._activities = activities
        self._signals = signals
        self._orphans = orphans

    def progress(self, run_id: str) -> dict[tuple[str, int | None], tuple[float, float | None]]:
        """The progress that steps of a run report on this worker: (done, total) by step and item."""
        attempts = [attempt for attempt in self._activities.steps.active if attempt.task.run == run_id]
        return figures_of(attempt.work for attempt in attempts if attempt.work is not None)

    async def record_news(self) -> None:
        """Record what attempts on this worker log and how far they are, until cancelled."""
        await record_all_the_time(self._activities.steps.record_news)

    async def poll(self) -> None:
        """Poll for requests, orphaned runs and cancelled steps, until cancelled."""
        while True:
            try:
                await self._signals.poll()
                await self._orphans.poll()
                await self._activities.steps.poll()
            except TowpathError as error:
                _log.warning("%s", error)
            await anyio.sleep(POLL)


@asynccontextmanager
async def temporal_worker(
    resources: Resources, url: str, *, metrics_port: int | None = None, **settings: Any
) -> AsyncIterator[RunWorker]:
    """A worker alone, with a client of its own; `settings` are those of `running_worker`.

    Raises InputInvalid (E_SETTING), ServerFailed (E_TEMPORAL_UNREACHABLE).
    """
    address = parse_address(url)
    client = await connect(address, lazy=False, metrics_port=metrics_port)
    async with running_worker(resources, client, address, **settings) as worker:
        yield worker


@asynccontextmanager
async def running_worker(
    resources: Resources,
    client: Client,
    address: TemporalAddress,
    *,
    concurrency: int = 256,
    grace: float = 0.0,
    functions: Functions | None = None,
) -> AsyncIterator[RunWorker]:
    """A worker for as long as the block lasts. Then steps get `grace` seconds to end, or go to other workers.

    `concurrency` limits its activities. `functions` are further activities by name.
    """
    activities, tracker, functions = RunActivities(resources), ActivityTracker(), functions or {}
    callables = [*activities.all, *(_activity(name, function) for name, function in functions.items())]
    worker = _sdk_worker(client, address, callables, tracker, concurrency, grace)
    where = f"{address.target or 'the configured server'}, task queue {address.task_queue}"
    registered = Registered((messages.CHAIN, messages.STEP), (*messages.ACTIVITIES, *sorted(functions)))
    signals = SignalSender(resources.store, client, address)
    orphans = OrphanWatch(resources.store, client, address)
    running = RunWorker(activities, signals, orphans, tracker, where, registered)
    async with background_tasks() as tasks, worker:
        tasks.start_soon(running.poll)
        tasks.start_soon(running.record_news)
        with Watchdog(_step_code):
            try:
                yield running
            finally:
                await tracker.wait_idle()


def _sdk_worker(
    client: Client,
    address: TemporalAddress,
    activities: list[Callable[..., Any]],
    tracker: ActivityTracker,
    concurrency: int,
    grace: float,
) -> Worker:
    heartbeat_interval = timedelta(seconds=max(address.heartbeat / 3, 0.1))
    return Worker(
        client,
        task_queue=address.task_queue,
        workflows=WORKFLOWS,
        activities=activities,
        # Workflow code is only towpath's own and imports no user code: workflows can share modules.
        workflow_runner=SandboxedWorkflowRunner(
            restrictions=SandboxRestrictions.default.with_passthrough_all_modules()
        ),
        max_cached_workflows=CACHED,
        # Without a cache, a second task would evict the first during its local activities.
        max_concurrent_workflow_tasks=None if CACHED else 1,
        max_concurrent_activities=concurrency,
        sticky_queue_schedule_to_start_timeout=STICKY,
        max_heartbeat_throttle_interval=heartbeat_interval,
        default_heartbeat_throttle_interval=heartbeat_interval,
        graceful_shutdown_timeout=timedelta(seconds=grace),
        interceptors=[tracker],
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(maximum=100),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(maximum=100),
    )


def _activity(name: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """An async function as an activity. Keyword-only parameters keep their defaults."""

    async def call(*given: Any) -> Any:
        return await function(*given)

    signature = inspect.signature(function)
    positional = [
        # Arguments arrive as JSON, and the function checks them itself.
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
        if p.kind in _POSITIONAL
    ]
    wrapped = as_application_errors(call)
    wrapped.__signature__ = signature.replace(parameters=positional)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {}
    wrapped.__name__, wrapped.__doc__ = name, function.__doc__
    return activity.defn(name=name)(wrapped)


def _step_code() -> dict[CodeType, str]:
    """The code of known steps. The watchdog names the step that blocks the event loop, and with it all heartbeats."""
    codes = {}
    for name in known_steps():
        with suppress(StepNotRegistered):  # two functions have this name, so neither is called
            function = find_step(name).function
            if hasattr(function, "__code__"):
                codes[function.__code__] = name
    return codes
