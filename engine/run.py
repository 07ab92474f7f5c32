"""`Run`: a snapshot of a run, step by step."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from .artifact import Artifact
from .errors import ChainFailed, ExpressionFailed, Place, RunRefused, StepNotCompleted
from .late import Late
from .ledger import Ledger, LedgerRow, chain_value
from .logs import guarded_logger
from .model import ChainStatus, ErrorInfo, Plan, StepStatus

_log = guarded_logger("towpath")
_notebook = Late("towpath.notebook")
_REPEAT = "`towpath show {0}{1}` shows it, `towpath rerun {0}{1}` runs again what did not complete"
_GONE = "its store is in memory, and gone with its engine; a file keeps the run, to look at it and to run it again"
_ENDS = {
    ChainStatus.FAILED: ("failed", _REPEAT),
    ChainStatus.CANCELLED: ("was cancelled", _REPEAT),
    ChainStatus.PARTIAL: ("has failed steps", _REPEAT),
    ChainStatus.PAUSED: ("is paused", "`towpath resume {0}{1}` continues it"),
}


class _Engine(Protocol):
    """The engine that a run comes from. `at` is what a command needs to find its store: None if none can."""

    at: str | None

    async def resume(self, run_id: str, *, check: bool = True) -> Run: ...


class Run:
    """A snapshot of a run: `run.status`, `run["step"]`, `run.value`."""

    def __init__(
        self,
        run_id: str,
        status: ChainStatus,
        ledger: Ledger,
        error: ErrorInfo | None = None,
        reason: str = "",
        engine: _Engine | None = None,
    ) -> None:
        self.id = run_id
        self.status = status
        self.error = error
        self.reason = reason
        self.plan: Plan = ledger.plan
        self._ledger = ledger
        self._engine = engine

    @property
    def name(self) -> str | None:
        """The name that the run was given; None without one. Several runs may have the same name."""
        return self._ledger.label.name

    @property
    def tags(self) -> dict[str, str]:
        """The tags that the run was given."""
        return dict(self._ledger.label.tags)

    async def resume(self, *, check: bool = True) -> Run:
        """Resume the run, as `Engine.resume` does, and return its new state. This object does not change."""
        if self._engine is None:
            raise RunRefused(
                "E_RUN_MISSING",
                f"run {self.id} is a snapshot without an engine, and cannot be resumed",
                cure="engine.resume(id)",
            )
        return await self._engine.resume(self.id, check=check)

    def __repr__(self) -> str:
        return f"<run {self.id} of {self.plan.name}: {self.status}>"

    def __copy__(self) -> Run:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return self  # a snapshot never changes

    def __reduce__(self) -> NoReturn:
        raise TypeError("a run belongs to its engine and cannot be pickled; pass on its id, or its value")

    def _repr_html_(self) -> str:
        return str(_notebook.run_html(self))

    def __getitem__(self, step: str) -> StepRun:
        if all(planned.id != step for planned in self.plan.steps):
            raise KeyError(
                f"chain {self.plan.name} has no step {step}; it has {', '.join(s.id for s in self.plan.steps)}"
            )
        return StepRun(self._ledger, step)

    @property
    def steps(self) -> list[StepRun]:
        """All steps in plan order."""
        return [StepRun(self._ledger, step.id) for step in self.plan.steps]

    @property
    def value(self) -> Any:
        """What the `@chain` function returned, else the values of the last steps by id. The failed items of a mapped
        step that keeps the others are None.

        Raises ChainFailed if the run neither completed nor is `partial`.
        """
        if self.status not in (ChainStatus.COMPLETED, ChainStatus.PARTIAL):
            raise self._failure()
        return chain_value(self._ledger)

    def raise_for_status(self) -> Run:
        """The run itself if it completed. Raises ChainFailed otherwise, also for a run that is paused or partial."""
        if self.status is ChainStatus.COMPLETED:
            return self
        raise self._failure()

    def _failure(self) -> ChainFailed:
        """Says what failed first, and shows the traceback of that step behind the message."""
        what, cure = _ENDS.get(self.status, (f"is {self.status}", "`towpath show {0}{1}` shows it"))
        at = "" if self._engine is None else self._engine.at
        failed = ChainFailed(
            self.error.code if self.error else "E_CHAIN_FAILED",
            f"run {self.id} of {self.plan.name} {what}{self._why()}",
            cure=_GONE if at is None else cure.format(self.id, at),
            retryable=self.status is ChainStatus.FAILED,
            run=self,
        )
        for row in self._failed_rows()[:1]:
            if row.error is not None and row.error.traceback:
                failed.add_note(f"In step {_place(row)}:\n{row.error.traceback.rstrip()}")
        return failed

    def _why(self) -> str:
        """The first error, and how many steps and items failed besides."""
        if self.error is None:
            return f" ({self.reason})" if self.reason else ""
        more = len(self._failed_rows()) - 1
        return f": {self.error.message}" + (f" (and {more} more failed)" if more > 0 else "")

    def _failed_rows(self) -> list[LedgerRow]:
        """The rows that failed in plan order, items of a mapped step in place of the step."""
        order = {step.id: place for place, step in enumerate(self.plan.steps)}
        failed = [row for row in self._ledger.rows() if row.status is StepStatus.FAILED and row.step in order]
        by_items = {row.step for row in failed if row.item is not None}
        kept = [row for row in failed if row.item is not None or row.step not in by_items]
        return sorted(kept, key=lambda row: (order[row.step], row.item or 0))


def failure_of(run: Run, check: bool) -> ChainFailed | None:
    """What a caller that wants a check must raise about a run that is over; it does so itself, for a short traceback.

    A run with handled failures (`partial`) is logged as a warning.
    """
    if not check or run.status is ChainStatus.COMPLETED:
        return None
    if run.status is ChainStatus.PARTIAL:
        _log.warning("%s", run._failure())
    return run._failure() if run.status in (ChainStatus.FAILED, ChainStatus.CANCELLED) else None


def _place(row: LedgerRow) -> str:
    return row.step if row.item is None else f"{row.step}[{row.item}]"


class StepRun:
    """One step (or item) of a run."""

    def __init__(self, ledger: Ledger, step: str, item: int | None = None) -> None:
        self._ledger = ledger
        self.id = step
        self.item = item

    def __repr__(self) -> str:
        return f"<step {self.id}: {self.status or 'not reached'}>"

    @property
    def _row(self) -> LedgerRow | None:
        return self._ledger.row(self.id, self.item)

    @property
    def status(self) -> StepStatus | None:
        """None while the step has no row yet."""
        return None if self._row is None else self._row.status

    @property
    def error(self) -> ErrorInfo | None:
        return None if self._row is None else self._row.error

    @property
    def attempt(self) -> int:
        """The number of attempts."""
        return 0 if self._row is None else self._row.attempt

    @property
    def server(self) -> str | None:
        """The name of the ComfyUI server that ran it."""
        return None if self._row is None else self._row.server

    @property
    def prompt_id(self) -> str | None:
        """The id of its prompt on that server."""
        return None if self._row is None else self._row.prompt

    @property
    def items(self) -> list[StepRun]:
        """The items of a mapped step, in order; empty for any other."""
        count = None if self._row is None or self.item is not None else self._row.count
        return [StepRun(self._ledger, self.id, i) for i in range(count or 0)]

    @property
    def value(self) -> Any:
        """What the step returned, with artifacts in place of files. Raises StepNotCompleted."""
        try:
            if self.item is None:
                return self._ledger.value(self.id)
            if self._row is not None and self._row.status.done:
                return self._ledger.item_value(self.id, self.item)
        except ExpressionFailed:
            pass
        raise StepNotCompleted(
            "E_STEP_NOT_COMPLETED",
            f"step {self.id} has no value: it is {self.status or 'not reached'}",
            place=Place(step=self.id),
        )

    @property
    def artifacts(self) -> list[Artifact]:
        """The latest version of each file the step made; of a mapped step, of all its items."""
        return self._ledger.artifacts(self.id, self.item)

    @property
    def artifact(self) -> Artifact:
        """The only file of the step. Raises StepNotCompleted if it made none, or several."""
        found = self.artifacts
        if len(found) == 1:
            return found[0]
        names = ", ".join(a.name for a in found[:5])
        raise StepNotCompleted(
            "E_ARTIFACT_COUNT",
            f"step {self.id} has {len(found)} artifacts, not one: {names}",
            place=Place(step=self.id),
        )
