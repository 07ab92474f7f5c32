"""OpenTelemetry spans of runs, made from their facts: chain, step, attempt and transfer, each inside the one before.

Only the API of OpenTelemetry is used (extra `otel`): the program configures where spans go. If the program has not
imported OpenTelemetry, this module does not import it either, and makes no spans.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from towpath.events import (
    ChainEnded,
    ChainPaused,
    ChainResumed,
    DecisionApplied,
    Fact,
    PromptSent,
    StepDropped,
    StepEnded,
    StepReady,
    StepRetried,
    StepStarted,
    TransferMade,
)
from towpath.logs import guarded_logger
from towpath.model import ChainStatus, ErrorInfo, StepStatus, TransferStatus
from towpath.ports import RunRow

_log = guarded_logger("towpath")

_BAD = {ChainStatus.FAILED, ChainStatus.PARTIAL, StepStatus.FAILED, TransferStatus.FAILED}
_Key = tuple[str, ...]


class Spans:
    """The open spans of the runs in this process. `on_fact` is a listener."""

    def __init__(self) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - the program has imported it
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._carrier = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("towpath")
        self._open: dict[str, dict[_Key, Any]] = {}  # by run, then by kind and id, in the order of opening
        self._around: dict[str, Any] = {}  # by run: the parent context of its chain span
        self._chains: dict[str, str] = {}
        self._inside: dict[str, str] = {}  # by run: the row of the step around it

    # ---- calls of the drivers, beside facts

    def begins(self, run: RunRow, around: str = "") -> None:
        """A run starts or resumes in this process; `around` is the trace context of the step around it, if any."""
        self._chains[run.id] = run.plan.name
        if run.parent_workflow_id is not None:
            self._inside[run.id] = run.parent_workflow_id
        if around:
            self._around[run.id] = self._carrier.extract({"traceparent": around})

    def here(self) -> str:
        """The caller's trace context as text for other processes; empty without one."""
        carried: dict[str, str] = {}
        self._carrier.inject(carried)
        return carried.get("traceparent", "")

    def adopt(self, run_id: str, around: str) -> None:
        """Steps of a run work here, while its chain span is in another process."""
        if around and ("chain",) not in self._open.get(run_id, {}):
            self._around[run_id] = self._carrier.extract({"traceparent": around})

    def passed_on(self, run_id: str, row_id: str | None = None) -> str:
        """The trace context of a run, or of a row's newest attempt, as text for other processes; empty without one."""
        span = self._open.get(run_id, {}).get(("chain",)) if row_id is None else self._newest(run_id, row_id)
        carried: dict[str, str] = {}
        if span is not None:
            self._carrier.inject(carried, self._trace.set_span_in_context(span))
        return carried.get("traceparent", "")

    @contextmanager
    def current(self, run_id: str, row_id: str, attempt: int) -> Iterator[None]:
        """Make the attempt's span current while the step's function runs, so that spans of its code lie inside."""
        span = self._open.get(run_id, {}).get(("attempt", row_id, str(attempt)))
        if span is None:
            yield
            return
        with self._trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield

    def close(self) -> None:
        """End all open spans."""
        for run_id in list(self._open):
            self._forget(run_id)

    # ---- facts

    def on_fact(self, run_id: str, fact: Fact) -> None:
        """Listener: open and end spans for a recorded fact. Errors are logged, never raised."""
        try:
            self._apply(run_id, fact)
        except Exception:
            _log.warning("no span for %s of run %s", type(fact).__name__, run_id, exc_info=True)

    def _apply(self, run_id: str, fact: Fact) -> None:
        match fact:
            case ChainResumed():
                self._start(run_id, ("chain",), f"chain {self._chains.get(run_id, '')}".strip())
            case ChainPaused(reason):
                self._end(run_id, ("chain",), ChainStatus.PAUSED, None, {"towpath.reason": reason})
                self._forget(run_id)
            case ChainEnded(status, error):
                self._end(run_id, ("chain",), status, error)
                self._forget(run_id)
            case StepReady():
                self._step(run_id, fact)
                if fact.started and fact.count is None:
                    self._attempt(run_id, fact)
            case StepStarted():
                self._step(run_id, fact)
                self._attempt(run_id, fact)
            case StepRetried(row, _, _, attempt, error, delay):
                self._end(run_id, ("attempt", row, str(attempt)), StepStatus.FAILED, error, {"towpath.delay": delay})
            case StepEnded():
                self._ended(run_id, fact)
            case StepDropped():
                self._step(run_id, fact)
                self._end(run_id, ("step", fact.row), fact.status, None, {"towpath.reason": fact.reason})
            case DecisionApplied(row, status=status, error=error) if status is not StepStatus.EXECUTING:
                self._end(run_id, ("step", row), status, error)
            case TransferMade():
                self._transfer(run_id, fact)
            case PromptSent(row, server=server, prompt_id=prompt):
                span = self._newest(run_id, row)
                if span is not None:
                    span.add_event("prompt", {"towpath.server": server, "towpath.prompt_id": prompt})

    def _step(self, run_id: str, fact: StepReady | StepStarted | StepDropped) -> None:
        if ("step", fact.row) in self._open.get(run_id, {}):
            return
        about = {"towpath.step": fact.step, "towpath.row": fact.row}
        if fact.item is not None:
            about["towpath.item"] = str(fact.item)
        self._start(run_id, ("step", fact.row), f"step {fact.step}", about, ("mapped", fact.step))
        if isinstance(fact, StepReady) and fact.count is not None:
            self._open[run_id]["mapped", fact.step] = self._open[run_id]["step", fact.row]

    def _attempt(self, run_id: str, fact: StepReady | StepStarted) -> None:
        for key in [k for k in self._open[run_id] if k[:2] == ("attempt", fact.row)]:
            self._end(run_id, key, None)  # its worker died without a result
        about = {"towpath.step": fact.step, "towpath.attempt": fact.attempt}
        key = ("attempt", fact.row, str(fact.attempt))
        self._start(run_id, key, f"attempt {fact.step}", about, ("step", fact.row))

    def _ended(self, run_id: str, fact: StepEnded) -> None:
        key = ("attempt", fact.row, str(fact.attempt))
        self._end(run_id, key, fact.status, fact.error)
        if fact.item is None:
            self._open.get(run_id, {}).pop(("mapped", fact.step), None)
        artifacts = {"towpath.artifacts": len(fact.artifacts)} if fact.artifacts else {}
        self._end(run_id, ("step", fact.row), fact.status, fact.error, artifacts)

    def _transfer(self, run_id: str, fact: TransferMade) -> None:
        key = ("transfer", fact.id)
        if key not in self._open.get(run_id, {}):
            about = {"towpath.step": fact.step, "towpath.server": fact.server, "towpath.artifact": fact.artifact}
            self._start(run_id, key, f"transfer to {fact.server}", about, self._newest_key(run_id, fact.row))
        if fact.status in (TransferStatus.COMPLETED, TransferStatus.FAILED):
            self._end(run_id, key, fact.status, fact.error, {"towpath.bytes": fact.size or 0})

    def _newest(self, run_id: str, row: str) -> Any:
        key = self._newest_key(run_id, row)
        return None if key is None else self._open[run_id][key]

    def _newest_key(self, run_id: str, row: str) -> _Key | None:
        return next((k for k in reversed(self._open.get(run_id, {})) if k[:2] == ("attempt", row)), None)

    # ---- spans

    def _start(
        self, run_id: str, key: _Key, name: str, about: dict[str, Any] | None = None, inside: _Key | None = None
    ) -> None:
        opened = self._open.setdefault(run_id, {})
        parent = opened.get(inside) if inside is not None else None
        parent = parent if parent is not None else opened.get(("chain",))
        if parent is not None and key != ("chain",):
            context = self._trace.set_span_in_context(parent)
        else:
            context = self._outside(run_id)
        attributes = {"towpath.run": run_id, **(about or {})}
        opened[key] = self._tracer.start_span(name, context, attributes=attributes)

    def _outside(self, run_id: str) -> Any:
        """The parent context of a run: the span of the step around it, or the context of the caller."""
        row = self._inside.get(run_id)
        for around in self._open if row is not None else ():
            here = self._newest(around, row or "")
            if here is not None:
                return self._trace.set_span_in_context(here)
        return self._around.get(run_id)

    def _end(
        self,
        run_id: str,
        key: _Key,
        status: ChainStatus | StepStatus | TransferStatus | None,
        error: ErrorInfo | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        span = self._open.get(run_id, {}).pop(key, None)
        if span is None:
            return
        if status is not None:
            span.set_attribute("towpath.status", status.value)
        span.set_attributes(about or {})
        if error is not None:
            span.set_attribute("error.type", error.code)
        if status in _BAD:
            span.set_status(self._trace.StatusCode.ERROR, "" if error is None else error.code)
        span.end()
        if not self._open[run_id]:  # the run's chain span is in another process
            self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        """End all open spans of a run, innermost first: the run ended, or left this process."""
        for key in reversed(list(self._open.get(run_id, {}))):
            if key[0] == "mapped":
                self._open[run_id].pop(key)
            else:
                self._end(run_id, key, None)
        self._open.pop(run_id, None)
        for about in (self._around, self._chains, self._inside):
            about.pop(run_id, None)


@contextmanager
def spans_if_wanted() -> Iterator[Spans | None]:
    """Spans for as long as the block lasts, or None if the program has not imported OpenTelemetry."""
    spans = Spans() if "opentelemetry.trace" in sys.modules else None
    try:
        yield spans
    finally:
        if spans is not None:
            spans.close()
