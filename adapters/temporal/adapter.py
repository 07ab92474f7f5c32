"""The Temporal adapter: starts and wakes the workflows of runs, and waits for what workers record.

The rows are the truth. Temporal is told that something was asked, never what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import anyio
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from towpath.adapters.run_facts import first_error
from towpath.adapters.step_executor import Farm, abandon_left, with_resources
from towpath.adapters.task_group import background_tasks
from towpath.adapters.telemetry import Spans
from towpath.errors import Place, RunRefused, ServerFailed, StepNotRegistered
from towpath.events import ChainEnded, ChainPaused, ChainResumed, Fact
from towpath.ledger import restored_ledger
from towpath.logs import guarded_logger
from towpath.model import ChainStatus, ErrorInfo, Plan, StepPlan
from towpath.ports import Ended, EngineStore, Listener, RunRow, RunStatus
from towpath.step_names import cure_of
from towpath.steps import Step

from . import messages as m
from .connection import TemporalAddress, unreachable
from .minding import leave_if_gone, warn_without_worker
from .waking import wake
from .worker import RunWorker

SHORT, LONG = 0.02, 0.25  # seconds between looks at a run that workers are busy with
UNCLAIMED = 4.0  # seconds until a run that no worker has taken is told of
REASON = 3.0  # seconds for a failing workflow to tell why

_log = guarded_logger("towpath")


class TemporalAdapter:
    """Executes runs on Temporal. Fills the engine's `Adapter` port."""

    def __init__(
        self,
        store: EngineStore,
        client: Client,
        address: TemporalAddress,
        farm: Farm | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.farm = farm
        self._spans = spans
        self.client = client
        self.address = address
        self.listeners: list[Listener] = [self._noticed]
        self.worker: RunWorker | None = None
        self._store = store
        self._executing: dict[str, int] = {}
        self._changed: dict[str, anyio.Event] = {}
        self._told: set[str] = set()  # runs whose end somebody here was told of

    # ---- before a run

    def with_resources(self, plan: Plan) -> Plan:
        """The plan of a new run with its workflows in it. Raises ChainInvalid, FeatureMissing."""
        return with_resources(plan, self.farm)

    def resolve_steps(self, plan: Plan, given: Mapping[str, Step[..., Any]]) -> Mapping[str, Step[..., Any]]:
        """Every step must have a name under which a worker can import it. Raises StepNotRegistered."""
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
        """Workers find functions by their names."""

    def kept(self, run_id: str) -> Mapping[str, Step[..., Any]]:
        """Workers find functions by their names."""
        return {}

    # ---- working

    async def execute(self, run_id: str, on_claimed: Callable[[], None] | None = None) -> Ended:
        """See that workers have a run, and wait until it is over or paused.

        Raises RunRefused (E_RUN_MISSING, E_RUN_OVER), ServerFailed (E_TEMPORAL_…). Cancelled from outside
        (Ctrl-C), it leaves the run to the workers.
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
            self._told.add(run_id)
        row = await self._store.load(run_id)
        ledger = await restored_ledger(self._store, row) if left.status.final else None
        return Ended(left.status, left.reason, _whole_error(row), ledger)

    async def _start(self, run_id: str, before: RunStatus) -> None:
        going = before.status is ChainStatus.RUNNING
        at = self.address
        trace = "" if self._spans is None else self._spans.here()
        start = m.ChainStart(run_id, at.task_queue, heartbeat=at.heartbeat, granularity=at.granularity, trace=trace)
        try:
            await self.client.start_workflow(
                m.CHAIN,
                start,
                id=self.address.workflow_id(run_id),
                task_queue=self.address.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                start_signal=None if going else m.RESUME,
                start_signal_args=[] if going else [before.epoch],
            )
        except (RPCError, RuntimeError) as error:
            raise unreachable(self.address, error) from error

    async def _wait(self, run_id: str, before: RunStatus, on_claimed: Callable[[], None]) -> RunStatus:
        """Wait for the end, or for a pause after the one that the run was found in."""
        failed: list[Exception] = []
        left: RunStatus | None = None
        async with background_tasks() as tasks:
            tasks.start_soon(self._follow, run_id, failed)
            warn_at = anyio.current_time() + UNCLAIMED
            pause = SHORT
            while left is None:
                broken = list(failed)
                now = await self._store.status_of(run_id)
                if now.status is ChainStatus.RUNNING:
                    on_claimed()
                if now.status.final or (
                    now.status is ChainStatus.PAUSED
                    and not now.owned
                    and (now.epoch > before.epoch or before.status is ChainStatus.RUNNING)
                ):
                    left = now
                    if now.reason == "interrupted":
                        await self._reason(failed)
                elif broken:
                    raise broken[0]
                else:
                    if anyio.current_time() >= warn_at and now.epoch == before.epoch and not now.owned:
                        warn_at = float("inf")
                        tasks.start_soon(warn_without_worker, self.client, self.address, run_id)
                    await self._change(run_id, pause)
                    pause = min(pause * 1.2, LONG)
        return left

    async def _reason(self, failed: list[Exception]) -> None:
        """Why a run was interrupted: its workflow is about to say so. Raises ServerFailed."""
        until = anyio.current_time() + REASON
        while anyio.current_time() < until:
            if failed:
                raise failed[0]
            await anyio.sleep(SHORT)

    async def _follow(self, run_id: str, failed: list[Exception]) -> None:
        """A workflow that fails records nothing more: whoever waits must know."""
        handle = self.client.get_workflow_handle(self.address.workflow_id(run_id))
        while not failed:
            try:
                await handle.result()
                return
            except WorkflowFailureError as error:
                await leave_if_gone(self._store, self.client, self.address, run_id)
                failed.append(
                    ServerFailed(
                        "E_TEMPORAL_WORKFLOW",
                        f"the workflow of run {run_id} failed: {m.why(error.cause)}",
                        cure=f"`towpath resume {run_id}` goes on from what is recorded",
                    )
                )
            except RPCError as error:
                _log.warning("the Temporal server does not answer, waiting for it: %s", error)
                await anyio.sleep(1)

    async def _change(self, run_id: str, at_most: float) -> None:
        event = self._changed.setdefault(run_id, anyio.Event())
        with anyio.move_on_after(at_most):
            await event.wait()

    def _noticed(self, run_id: str, fact: Fact) -> None:
        if isinstance(fact, ChainEnded | ChainPaused | ChainResumed) and run_id in self._changed:
            self._changed.pop(run_id).set()

    def working(self, run_id: str) -> bool:
        """Does this process wait for the run?"""
        return run_id in self._executing

    def finishes_alone(self, run_id: str) -> bool:
        """A run goes on after a decision without anybody's `resume`; its end is told once."""
        told = run_id in self._told
        self._told.add(run_id)
        return not told

    def progress(self, run_id: str) -> dict[str, tuple[float, float | None]]:
        """How far steps that work in this process say they are: (done, total) by step."""
        return {} if self.worker is None else self.worker.progress(run_id)

    # ---- waking

    async def deliver_requests(self) -> None:
        """Wake the workflows of runs of which something is asked. What is not delivered now, a worker delivers."""
        for run_id in await self._store.runs_with_requests():
            if await wake(self.client, self.address, run_id) and self.worker is not None:
                self.worker.bustle.stir()

    async def abandon(self, run_id: str) -> None:
        """Cancel the prompts that a run which nobody works on has left at servers."""
        await abandon_left(self._store, self.farm, run_id)


def _whole_error(row: RunRow) -> ErrorInfo | None:
    """The run's error. Its row has code and message; the row of the step that it comes from has the rest."""
    cause = first_error(row.plan, row.rows)
    return cause if row.error is not None and cause is not None and cause.message == row.error.message else row.error


def _python_steps(plan: Plan) -> Iterator[StepPlan]:
    for step in plan.steps:
        if step.kind == "python":
            yield step
        elif step.chain is not None:
            yield from _python_steps(step.chain)
