"""The progress of a run as lines with the time, for a pipe, a file or the log of a CI system."""

from __future__ import annotations

import threading
import time
from datetime import datetime

from rich.console import Console

from towpath.adapters.wording import amount, counted, duration, place
from towpath.events import (
    ChainPaused,
    DecisionApplied,
    Fact,
    StepDropped,
    StepEnded,
    StepReady,
    StepRetried,
    StepStarted,
)
from towpath.model import StepStatus

from .run_figures import RunFigures, StepFigures
from .screen import SIGNS, block

SILENCE = 30.0  # seconds without a line, at most
_ENDED = {StepStatus.WAITING_APPROVAL: "waits for an approval"}
_DECIDED = {StepStatus.COMPLETED: "approved", StepStatus.EXECUTING: "rejected, runs again"}


class PlainLines:
    """Prints a line for the start and the end of each step. While nothing happens, it says every 30 s what runs."""

    def __init__(self, console: Console, figures: RunFigures) -> None:
        self._console = console
        self._figures = figures
        self._last = time.monotonic()
        self._over = threading.Event()
        self._named = False
        self._told: dict[str, StepStatus] = {}

    def begin(self) -> None:
        """From now on never be silent for long. A thread does it: a step may block the event loop."""
        threading.Thread(target=self._stay_alive, name="towpath signs of life", daemon=True).start()

    def end(self) -> None:
        self._over.set()

    def name_run(self, run_id: str) -> None:
        """The first line, as soon as the run has an id."""
        if not self._named:
            self._named = True
            self._print(f"run {run_id} of {self._figures.plan.name}", "", "%Y-%m-%d %H:%M:%S")

    def tell(self, fact: Fact) -> None:
        """A line for a fact, after the figures took it."""
        if isinstance(fact, StepReady | StepStarted):
            if fact.item is None and (isinstance(fact, StepStarted) or fact.started or fact.count is not None):
                items = fact.count if isinstance(fact, StepReady) else None
                count = "" if items is None else f", {counted(items, 'item')}"
                self._print(f"● {fact.step}  started{count}", "dim")
        elif isinstance(fact, StepRetried):
            error = fact.error.message
            text = f"attempt {fact.attempt} failed: {error}; again in {fact.delay:.1f} s"
            self._print(f"↻ {place(fact.step, fact.item)}: {text}", "yellow")
        elif isinstance(fact, StepEnded | StepDropped | DecisionApplied):
            self._tell_end(fact)
        elif isinstance(fact, ChainPaused):
            self._print(f"paused: {fact.reason}", "yellow")

    def catch_up(self, *, silently: bool = False) -> None:
        """A line for each step whose state changed since the last call: for runs that other processes work on."""
        for step in self._figures.steps.values():
            status = step.shown_status
            if status is None or self._told.get(step.id) is status:
                continue
            self._told[step.id] = status
            if not silently:
                sign, style = SIGNS[status]
                count = f"{step.ended}/{step.items}" if step.items is not None else ""
                parts = (f"{sign} {step.id}", status.replace("_", " "), count, step.error or step.reason)
                self._print("  ".join(filter(None, parts)), style)

    def _tell_end(self, fact: StepEnded | StepDropped | DecisionApplied) -> None:
        gate = isinstance(fact, DecisionApplied) or fact.status is StepStatus.WAITING_APPROVAL
        if fact.item is not None and fact.status is not StepStatus.FAILED and not gate:
            return
        step = self._figures.steps.get(fact.step)
        error = None if isinstance(fact, StepDropped) else fact.error
        about = error.message if error is not None else getattr(fact, "reason", "")
        whole = fact.item is None and step is not None
        count = f"{step.ended}/{step.items}" if whole and step is not None and step.items is not None else ""
        took = duration(step.took) if whole and step is not None and step.took is not None else ""
        sign, style = SIGNS[fact.status]
        if not about:
            about = (_DECIDED if isinstance(fact, DecisionApplied) else _ENDED).get(fact.status, "")
        self._print("  ".join(filter(None, (f"{sign} {place(fact.step, fact.item)}", count, took, about))), style)

    # ---- signs of life

    def _stay_alive(self) -> None:
        while not self._over.wait(max(0.1, self._last + SILENCE - time.monotonic())):
            if time.monotonic() - self._last >= SILENCE:
                self.sign_of_life()

    def sign_of_life(self) -> None:
        """A line with what runs and waits now, and how far it is."""
        steps = [step for step in list(self._figures.steps.values()) if step.status and not step.over]
        active = [step for step in steps if step.shown_status is not StepStatus.QUEUED]
        parts = [self._standing(step) for step in active[:3]]
        if len(active) > len(parts):
            parts.append(f"and {len(active) - len(parts)} more steps")
        self._print(f"… {'; '.join(parts) or 'nothing runs yet'}", "dim")

    def _standing(self, step: StepFigures) -> str:
        done, total = self._figures.progress_of(step)
        counts = ((len(step.running), "running"), (step.queued, "queued"), (step.failed, "failed"))
        some = [f"{n:,} {word}" for n, word in counts if n] if step.items is not None else []
        elapsed = step.elapsed(time.monotonic())
        figures = [f"{done:,.6g}/{total:,.6g}"] if total else [f"{amount(done)} so far"] if done else []
        waits = ["waits for an approval"] if step.shown_status is StepStatus.WAITING_APPROVAL else []
        return " ".join([step.id, ", ".join(figures + some + waits + ([duration(elapsed)] if elapsed else []))]).strip()

    def _print(self, text: str, style: str, at: str = "%H:%M:%S") -> None:
        self._last = time.monotonic()
        self._console.print(block(f"{datetime.now().astimezone().strftime(at)} {text}", style))
