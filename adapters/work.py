"""A started step: what it is, and how it is carried out on the local adapter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from towpath.attempt import Outcome, disk_failed, failure, keep_outcome, keep_value
from towpath.attempt import attempt as run_attempt
from towpath.context import StepContext
from towpath.errors import Place, StepTimedOut, TowpathError
from towpath.ledger import Ledger, LedgerRow
from towpath.model import ChainStatus, ErrorInfo, StepPlan
from towpath.ports import Store
from towpath.steps import Step
from towpath.values import copied

if TYPE_CHECKING:
    from .local_run import LocalRun

Key = tuple[str, int | None]


@dataclass(slots=True)
class Work:
    """A step or item that is to run: its plan, its row, its arguments, and the scope that stops it."""

    step: StepPlan
    row: LedgerRow
    arguments: dict[str, Any]
    tries: int = 0
    deadline: float | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    context: StepContext | None = None
    cancelled: bool = False
    has_slot: bool = False
    recorded: bool = True

    @property
    def key(self) -> Key:
        return self.row.step, self.row.item


@dataclass(frozen=True, slots=True)
class InnerEnd:
    """How the chain inside a step ended: its status, and its value with artifacts in place."""

    status: ChainStatus
    value: Any = None
    error: ErrorInfo | None = None


class Inner(Protocol):
    """Runs chains inside steps."""

    async def run_inner(self, parent: LocalRun, work: Work) -> InnerEnd: ...

    async def cancel_inner(self, parent: LocalRun, work: Work) -> None: ...


class StepExecutor:
    """Carries out started work of one run: one try of a step, the gathering of a mapped step's value."""

    def __init__(
        self,
        run_id: str,
        store: Store,
        ledger: Ledger,
        functions: Mapping[str, Step[..., Any]],
        threads: anyio.CapacityLimiter,
    ) -> None:
        self._run_id = run_id
        self._store = store
        self._ledger = ledger
        self._functions = functions
        self._threads = threads
        self._work_folder = store.files.folder / "work"

    async def attempt(self, work: Work) -> Outcome:
        step, row = work.step, work.row
        if step.total_timeout is not None and work.deadline is None:
            work.deadline = time.monotonic() + step.total_timeout
        left = None if work.deadline is None else work.deadline - time.monotonic()
        if left is not None and left <= 0:
            return failure(total_timeout(step))
        work.context = StepContext(self._run_id, step.id, row.item, row.attempt, self._work_folder)
        work.context.asks_approval = step.approval is not None
        work.context.regeneration = row.regenerations
        timeout = step.timeout if left is None or (step.timeout is not None and step.timeout < left) else left
        outcome = await run_attempt(
            self._functions[step.target],
            copied(work.arguments) if step.retry.attempts > 1 else work.arguments,
            work.context,
            self._store.files,
            self._store.new_id,
            self._ledger.versions(row),
            timeout,
            self._threads,
        )
        if outcome.error is not None and outcome.error.code == "E_STEP_TIMEOUT" and timeout == left:
            return failure(total_timeout(step))
        return outcome

    async def gather(self, work: Work) -> Outcome:
        """The value of a mapped step. Its items hold the files; only the list itself is kept here."""
        assert work.row.count is not None
        value = self._ledger.collected(work.step.id, work.row.count)
        context = StepContext(self._run_id, work.step.id, None, 1)
        try:
            stored = await keep_value(value, context, self._store.files, self._store.new_id, {})
        except TowpathError as error:
            if disk_failed(error):
                raise
            return failure(error)
        return Outcome(value, stored)

    async def keep_inner(self, work: Work, value: Any) -> Outcome:
        """The value of a chain inside a step as the step's own; its files are shared, not copied."""
        context = StepContext(self._run_id, work.step.id, work.row.item, work.row.attempt)
        context.asks_approval = work.step.approval is not None
        versions = self._ledger.versions(work.row)
        try:
            return await keep_outcome(value, context, self._store.files, self._store.new_id, versions)
        except TowpathError as error:
            if disk_failed(error):
                raise
            return failure(error)


def total_timeout(step: StepPlan, last: ErrorInfo | None = None) -> StepTimedOut:
    message = f"all attempts together took longer than {step.total_timeout:g} s"
    if last is not None:
        message = f"no time for another attempt within {step.total_timeout:g} s; the last one failed: {last.message}"
    return StepTimedOut("E_STEP_TOTAL_TIMEOUT", message, place=Place(step=step.id), retryable=False)
