"""Turns commands of the pure state into changed rows, and into facts that record the change.

Both drivers use this module, so that a run leaves the same rows and facts on each adapter. Nothing is awaited or
recorded here: facts are appended to a list, which the driver makes durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from towpath.attempt import Outcome, failure
from towpath.binding import compile_condition
from towpath.commands import AskApproval, Cancel, Command, Complete, Fail, Finish, Pause, RestoredRow, Skip, Wait
from towpath.errors import Place, SecretMissing
from towpath.events import (
    ChainEnded,
    ChainPaused,
    DecisionApplied,
    Fact,
    LevelReached,
    NewApproval,
    StepDropped,
    StepEnded,
    StepReady,
    StepStarted,
)
from towpath.ledger import Ledger, LedgerRow
from towpath.model import ApprovalStatus, ChainStatus, ErrorInfo, Json, Plan, StepPlan, StepStatus
from towpath.ports import Request, StepRow
from towpath.steps import Step

from .step_arguments import Arguments, secret_names

Key = tuple[str, int | None]


class RunFacts:
    """Turns commands and outcomes into facts about the rows of one run.

    `outcomes` and `decisions` hold what the next command about a row will record: the outcome of an attempt, or the
    decision of a person.
    """

    def __init__(self, plan: Plan, ledger: Ledger, new_id: Callable[[], str], level: int = -1) -> None:
        self.ledger = ledger
        self.arguments = Arguments(ledger)
        self.outcomes: dict[Key, Outcome] = {}
        self.decisions: dict[Key, Request] = {}
        self._plan = plan
        self._steps = {step.id: step for step in plan.steps}
        self._new_id = new_id
        self._level = level

    @property
    def error(self) -> ErrorInfo | None:
        """The error of the run: `first_error` of the rows in the ledger."""
        return first_error(self._plan, self.ledger.rows())

    def record(self, command: Command, facts: list[Fact]) -> None:
        """The facts for a command that needs no answer; `Regenerate` has a method of its own."""
        match command:
            case Complete(step, item):
                self.end_row(step, item, StepStatus.COMPLETED, facts)
            case AskApproval(step, item):
                self.end_row(step, item, StepStatus.WAITING_APPROVAL, facts, asks=True)
            case Wait(step, item):
                self.end_row(step, item, StepStatus.WAITING_APPROVAL, facts)
            case Fail(step, item, failed):
                self._fail(step, item, failed, facts)
            case Skip(step, reason, item):
                self._drop(step, item, StepStatus.SKIPPED, reason, facts)
            case Cancel(step, item):
                self._drop(step, item, StepStatus.CANCELLED, "", facts)
            case Pause(reason):
                facts.append(ChainPaused(reason))
            case Finish(status):
                facts.append(ChainEnded(status, self.error if status is not ChainStatus.COMPLETED else None))
            case _:
                raise AssertionError(f"{command} needs an answer")

    # ---- beginning

    def holds(self, step: StepPlan) -> bool | None:
        """Is the step's condition true? None if that is unknown: then the outcome says why."""
        assert step.condition is not None
        try:
            return compile_condition(step.condition, Place(step=step.id, field="condition"))(self.ledger)
        except Exception as error:  # a value may raise any error while it is evaluated
            self.outcomes[step.id, None] = failure(error)
            return None

    def expand(self, step: StepPlan, pairs: int | None, facts: list[Fact]) -> int | None:
        """Count the items of a mapped step (`pairs`: those of its partner), and add its row. None as in `holds`."""
        try:
            count = self.arguments.count(step, pairs)
        except SecretMissing:
            raise  # the step does not fail: another process may have its secrets
        except Exception as error:
            self.outcomes[step.id, None] = failure(error)
            return None
        row = LedgerRow(self._new_id(), step.id, None, StepStatus.EXECUTING, 1, count=count)
        self.ledger.add(row)
        self._reach(step, facts)
        facts.append(StepReady(row.id, step.id, None, step.target, True, 1, None, count))
        return count

    def keep_failed_items(self, row: LedgerRow, failed: tuple[int, ...]) -> None:
        """A mapped step completes without some of its items."""
        if failed:
            row.error = ErrorInfo("E_ITEMS_KEPT", f"{len(failed)} of {row.count} items failed", failed_items=failed)

    def call_with(self, step: StepPlan, item: int | None) -> dict[str, Any] | None:
        """The arguments of a step or item, with those that rejections changed. None as in `holds`."""
        row = self.ledger.row(step.id, item)
        try:
            arguments = self.arguments.of(step, item)
            return {**arguments, **row.overrides} if row is not None and row.overrides else arguments
        except SecretMissing:
            raise
        except Exception as error:
            self.outcomes[step.id, item] = failure(error)
            return None

    def parameters(
        self, step: StepPlan, row: LedgerRow | None, arguments: dict[str, Any], function: Step[..., Any] | None = None
    ) -> Json:
        """What the row says that the step was called with; `function` names its secret parameters."""
        changed = row.overrides if row is not None else ()
        return self.arguments.recorded(step, arguments, secret_names(step, arguments, function), changed)

    def begin_attempt(self, step: StepPlan, row: LedgerRow, facts: list[Fact], *, recorded: bool) -> None:
        """A step or item starts its next attempt; `recorded` says whether the store has its row already."""
        row.status = StepStatus.EXECUTING
        row.value_stored = False
        row.attempt += 1
        self._reach(step, facts)
        if recorded:
            facts.append(StepStarted(row.id, step.id, row.item, row.attempt, row.parameters))
        else:
            facts.append(StepReady(row.id, step.id, row.item, step.target, True, row.attempt, row.parameters))
            self.ledger.add(row)

    def _reach(self, step: StepPlan, facts: list[Fact]) -> None:
        if step.level > self._level:
            self._level = step.level
            facts.append(LevelReached(step.level))

    # ---- ending

    def end_row(
        self,
        step: str,
        item: int | None,
        status: StepStatus,
        facts: list[Fact],
        *,
        reason: str = "",
        asks: bool = False,
    ) -> None:
        """Record the result of a row: its outcome, or a person's decision about it."""
        row = self.ledger.row(step, item)
        assert row is not None
        decision = self.decisions.pop((step, item), None)
        if decision is not None:
            error = ErrorInfo("E_REJECTED", _rejection(decision)) if status is StepStatus.FAILED else None
            row.status, row.error = status, error
            reason = _rejection(decision) if status is StepStatus.SKIPPED else ""
            facts.append(DecisionApplied(row.id, step, item, decision.approval, status, error, reason))
            return
        outcome = self.outcomes.pop((step, item), None) or Outcome(value=row.value)
        row.status = status
        row.error = outcome.error or (row.error if status is StepStatus.COMPLETED else None)
        row.value = outcome.value
        self.ledger.keep(row, outcome.artifacts)
        policy = self._steps[step].approval if asks else None
        row.approval = self._new_id() if asks else None
        facts.append(
            StepEnded(
                row.id,
                step,
                item,
                status,
                row.attempt,
                outcome.row_value,
                outcome.artifacts,
                NewApproval(row.approval, policy) if row.approval and policy else None,
                row.error,
                row.parameters if outcome.artifacts else None,
                reason,
            )
        )
        if item is not None and status.final:
            row.parameters = None  # of the many items, only the store keeps them

    def regenerate(self, step: str, item: int | None, facts: list[Fact]) -> LedgerRow:
        """A rejection makes the row run again, with the arguments that it changed."""
        row, decision = self.ledger.row(step, item), self.decisions.pop((step, item))
        assert row is not None
        row.status, row.error, row.prompt = StepStatus.EXECUTING, None, None
        row.regenerations += 1
        row.overrides = {**row.overrides, **decision.parameters}
        facts.append(DecisionApplied(row.id, step, item, decision.approval, StepStatus.EXECUTING))
        return row

    def _fail(self, step: str, item: int | None, failed: tuple[int, ...], facts: list[Fact]) -> None:
        row = self.ledger.row(step, item)
        if failed and row is not None:
            first = self.ledger.row(step, failed[0])
            cause = f": {first.error.message}" if first is not None and first.error is not None else ""
            message = f"{len(failed)} of {row.count} items failed, first {step}[{failed[0]}]{cause}"
            code = first.error.code if first is not None and first.error is not None else "E_ITEMS_FAILED"
            self.outcomes[step, item] = Outcome(error=ErrorInfo(code, message, failed_items=failed))
        if row is None:
            row = self.ledger.add(LedgerRow(self._new_id(), step, item))
            facts.append(StepReady(row.id, step, item, self._steps[step].target, False, 0))
        self.end_row(step, item, StepStatus.FAILED, facts)

    def _drop(self, step: str, item: int | None, status: StepStatus, reason: str, facts: list[Fact]) -> None:
        if self.ledger.row(step, item) is not None:
            self.end_row(step, item, status, facts, reason=reason)
            return
        row = self.ledger.add(LedgerRow(self._new_id(), step, item, status))
        facts.append(StepDropped(row.id, step, item, self._steps[step].target, status, reason))


def first_error(plan: Plan, rows: Iterable[StepRow | LedgerRow]) -> ErrorInfo | None:
    """The error of a run: that of the first failed step in the plan, and of its first failed item.

    Which step fails first in time depends on the machine. Plan order does not, so both adapters report the same error.
    """
    order = {step.id: place for place, step in enumerate(plan.steps)}
    failed = {
        (order[row.step], row.item is None, row.item or 0): _named(row.error, row.step, row.item)
        for row in rows
        if row.status is StepStatus.FAILED and row.error is not None and row.step in order
    }
    return failed[min(failed)] if failed else None


def restored(row: StepRow) -> RestoredRow:
    """A recorded row in the form from which the pure state continues."""
    kept = row.error is not None and bool(row.error.failed_items)
    waits = row.waits_for_person
    return RestoredRow(row.step, row.item, row.status, waits, row.count, kept, row.rejected, row.regenerations)


def asks(row: LedgerRow, request: Request) -> bool:
    """Is the decision about what the row waits for now? A late decision may concern an earlier attempt."""
    return row.status is StepStatus.WAITING_APPROVAL and row.approval == request.approval


def inner_failure(step: StepPlan, status: ChainStatus, error: ErrorInfo | None) -> Outcome:
    """The error of the step whose inner chain failed."""
    cause = error or ErrorInfo("E_CHILD_FAILED", "no step says why")
    message = f"chain {step.target} ended {status}: {cause.message}"
    return Outcome(error=ErrorInfo(cause.code, message), retryable=False)


def _named(error: ErrorInfo, step: str, item: int | None) -> ErrorInfo:
    """The error of a step as the error of its run, with the step's name before the message."""
    place = step if item is None else f"{step}[{item}]"
    return ErrorInfo(error.code, f"step {place}: {error.message}", error.type)


def _rejection(request: Request) -> str:
    if request.decision == ApprovalStatus.TIMED_OUT:
        return "rejected because there was no decision in time"
    by = f" by {request.by}" if request.by else ""
    return f"rejected{by}" + (f": {request.reason}" if request.reason else "")
