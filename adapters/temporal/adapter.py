"""The Temporal adapter: it starts and signals the workflows of runs, and waits for what workers record.

The store has the truth. A signal only says that there is a request; the workflow reads the request from the store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from towpath.adapters.limits import refuse_unknown_limits
from towpath.adapters.run_facts import first_error
from towpath.adapters.step_executor import Resources, abandon_left, with_resources
from towpath.adapters.task_group import background_tasks
from towpath.errors import Place, RunRefused, ServerFailed, StepNotRegistered
from towpath.events import ChainEnded, ChainPaused, ChainResumed, Fact
from towpath.ledger import restored_ledger
from towpath.logs import guarded_logger
from towpath.model import ChainStatus, ErrorInfo, Plan, StepPlan
from towpath.ports import Ended, NewRun, RunRow, RunStatus
from towpath.step_names import cure_of
from towpath.steps import Step

from . import messages
from .connection import TemporalAddress, connect, parse_address, unreachable
from .failures import reason_of
from .supervision import pause_if_orphaned, signal_run, warn_without_worker
from .worker import RunWorker, running_worker

SHORT, LONG = 0.02, 0.25  # seconds between two polls of a run's status
UNCLAIMED = 4.0  # seconds until a run without a worker is logged
REASON = 3.0  # seconds in which a failing workflow reports its error

_log = guarded_logger("towpath")


class TemporalAdapter:
    """Executes runs on Temporal. Implements the engine's `Adapter` port."""

    def __init__(self, resources: Resources, client: Client, address: TemporalAddress) -> None:
        self.client = client
        self.address = address
        self.worker: RunWorker | None = None
        self.listeners = resources.listeners
        self.listeners.append(self._notice)
        self._resources = resources
        self._store = resources.store
        self._executing: dict[str, int] = {}
        self._changed: dict[str, anyio.Event] = {}
        self._reported: set[str] = set()  # runs whose end was reported to a caller in this process

    # ---- before a run

    def with_resources(self, plan: Plan) -> Plan:
        """The plan of a new run with its ComfyUI workflows. Raises ChainInvalid, FeatureMissing, InputInvalid."""
        refuse_unknown_limits(plan, self._resources.limits)
        return with_resources(plan, self._resources.farm)

    def resolve_steps(self, plan: Plan, given: Mapping[str, Step[..., Any]]) -> Mapping[str, Step[..., Any]]:
        """Check that a worker can import every step by its name. Raises StepNotRegistered."""
        for step in _python_steps(plan):
            module, _, name = step.target.partition(":")
            if "<" in name or module in ("__main__", "builtins"):
                raise StepNotRegistered(
                    "E_STEP_NOT_IMPORTABLE",
                    f"a worker cannot import {step.target}: it has no name of its own in a module",
                    place=Place(step=step.id),
                    cure=cure_of(name)
                    or "move the function to the top level of a module, or of a script that is a file",
                )
        return given

    def keep(self, run_id: str, functions: Mapping[str, Step[..., Any]]) -> None:
        """Does nothing: workers find functions by their names."""

    def kept(self, run_id: str) -> Mapping[str, Step[..., Any]]:
        """Always empty: workers find functions by their names."""
        return {}

    # ---- executing

    async def execute(self, run_id: str, on_claimed: Callable[[], None] | None = None) -> Ended:
        """Start the run's workflow, and wait until the run is over or paused.

        A cancelled call (Ctrl-C) leaves the run to the workers.

        Raises RunRefused (E_RUN_MISSING, E_RUN_OVER), ServerFailed (E_TEMPORAL_…).
        """
        before = await self._store.status_of(run_id)
        if before.status.final:
            raise RunRefused("E_RUN_OVER", f"run {run_id} is {before.status}", cure="`rerun` makes a new run of it")
        self._executing[run_id] = self._executing.get(run_id, 0) + 1
        try:
            await self._start(run_id, before)
            if on_claimed is not None and self.worker is None:
                on_claimed()
            left = await self._wait(run_id, before, on_claimed or (lambda: None))
        finally:
            self._executing[run_id] -= 1
            if not self._executing[run_id]:
                del self._executing[run_id]
                self._changed.pop(run_id, None)
        if left.status.final:
            self._reported.add(run_id)
        row = await self._store.load(run_id)
        ledger = await restored_ledger(self._store, row) if left.status.final else None
        return Ended(left.status, left.reason, _full_error(row), ledger)

    async def _start(self, run_id: str, before: RunStatus) -> None:
        """Start the run's workflow. If the run is not `running`, send a resume signal with it."""
        running = before.status is ChainStatus.RUNNING
        address, spans = self.address, self._resources.spans
        start = messages.ChainStart(
            run_id,
            address.task_queue,
            heartbeat=address.heartbeat,
            granularity=address.granularity,
            trace="" if spans is None else spans.here(),
        )
        try:
            await self.client.start_workflow(
                messages.CHAIN,
                start,
                id=address.workflow_id(run_id),
                task_queue=address.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                start_signal=None if running else messages.RESUME,
                start_signal_args=[] if running else [before.epoch],
            )
        except (RPCError, RuntimeError) as error:
            raise unreachable(address, error) from error

    async def _wait(self, run_id: str, before: RunStatus, on_claimed: Callable[[], None]) -> RunStatus:
        """Wait until the run is over, or paused after `before`. Raises ServerFailed if its workflow fails."""
        failures: list[Exception] = []
        async with background_tasks() as tasks:
            tasks.start_soon(self._follow, run_id, failures)
            warn_at = anyio.current_time() + UNCLAIMED
            interval = SHORT
            while True:
                failed = list(failures)  # read before the status: a failed workflow may have recorded the run's end
                now = await self._store.status_of(run_id)
                if now.status is ChainStatus.RUNNING:
                    on_claimed()
                if now.status.final or _has_paused(now, before):
                    if now.reason == "interrupted":
                        await self._raise_reason(failures)
                    return now
                if failed:
                    raise failed[0]
                if anyio.current_time() >= warn_at and now.epoch == before.epoch and not now.owned:
                    warn_at = float("inf")
                    tasks.start_soon(warn_without_worker, self.client, self.address, run_id)
                await self._wait_for_change(run_id, interval)
                interval = min(interval * 1.2, LONG)

    async def _raise_reason(self, failures: list[Exception]) -> None:
        """Wait for the error of the workflow that interrupted a run, and raise it. Returns if there is none."""
        until = anyio.current_time() + REASON
        while anyio.current_time() < until:
            if failures:
                raise failures[0]
            await anyio.sleep(SHORT)

    async def _follow(self, run_id: str, failures: list[Exception]) -> None:
        """Wait for the end of the run's workflow. A failed workflow records nothing, so its error is kept here."""
        handle = self.client.get_workflow_handle(self.address.workflow_id(run_id))
        while not failures:
            try:
                await handle.result()
                return
            except WorkflowFailureError as error:
                await pause_if_orphaned(self._store, self.client, self.address, run_id)
                failures.append(
                    ServerFailed(
                        "E_TEMPORAL_WORKFLOW",
                        f"the workflow of run {run_id} failed: {reason_of(error.cause)}",
                        cure=f"`towpath resume {run_id}` continues from the recorded rows",
                    )
                )
            except RPCError as error:
                _log.warning("the Temporal server does not answer, waiting for it: %s", error)
                await anyio.sleep(1)

    async def _wait_for_change(self, run_id: str, at_most: float) -> None:
        event = self._changed.setdefault(run_id, anyio.Event())
        with anyio.move_on_after(at_most):
            await event.wait()

    def _notice(self, run_id: str, fact: Fact) -> None:
        if isinstance(fact, ChainEnded | ChainPaused | ChainResumed) and run_id in self._changed:
            self._changed.pop(run_id).set()

    # ---- runs in progress

    def working(self, run_id: str) -> bool:
        """Does this process wait for the run?"""
        return run_id in self._executing

    def finishes_alone(self, run_id: str) -> bool:
        """True at the first call for a run, unless its end was reported before: a run continues without a `resume`."""
        reported = run_id in self._reported
        self._reported.add(run_id)
        return not reported

    def progress(self, run_id: str) -> dict[tuple[str, int | None], tuple[float, float | None]]:
        """The progress that steps report on the worker of this process: (done, total) by step and item."""
        return {} if self.worker is None else self.worker.progress(run_id)

    async def deliver_requests(self) -> None:
        """Signal the workflows of runs with pending requests. If a signal fails, a worker sends it later."""
        for run_id in await self._store.runs_with_requests():
            if await signal_run(self.client, self.address, run_id) and self.worker is not None:
                self.worker.tracker.touch()

    def adopt(self, new: NewRun) -> bool:
        """Always False: a workflow finds its run in the store."""
        return False

    async def abandon(self, run_id: str) -> None:
        """Cancel the prompts that a run without an owner has left at servers."""
        await abandon_left(self._store, self._resources.farm, run_id)


def _has_paused(now: RunStatus, before: RunStatus) -> bool:
    """Is this a pause that began after `before`?"""
    paused = now.status is ChainStatus.PAUSED and not now.owned
    return paused and (now.epoch > before.epoch or before.status is ChainStatus.RUNNING)


def _full_error(row: RunRow) -> ErrorInfo | None:
    """The run's error. The run's row has only its code and message; the row of the step has all of it."""
    cause = first_error(row.plan, row.rows)
    return cause if row.error is not None and cause is not None and cause.message == row.error.message else row.error


def _python_steps(plan: Plan) -> Iterator[StepPlan]:
    for step in plan.steps:
        if step.kind == "python":
            yield step
        elif step.chain is not None:
            yield from _python_steps(step.chain)


@asynccontextmanager
async def temporal_adapter(
    resources: Resources,
    url: str,
    *,
    client: Client | None = None,
    worker: bool = False,
    concurrency: int = 256,
) -> AsyncIterator[TemporalAdapter]:
    """The adapter for an address. `client`: the caller's, else a new one. `worker`: run a worker in this process.

    Raises InputInvalid (E_SETTING), ServerFailed (E_TEMPORAL_UNREACHABLE).
    """
    address = parse_address(url)
    client = client or await connect(address, lazy=not worker)
    adapter = TemporalAdapter(resources, client, address)
    if not worker:
        yield adapter
        return
    async with running_worker(resources, client, address, concurrency=concurrency) as adapter.worker:
        yield adapter
