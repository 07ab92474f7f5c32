"""The progress of a running chain: a live table on a terminal, one line for each step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from towpath.adapters.wording import duration, place
from towpath.events import (
    ChainEnded,
    ChainPaused,
    DecisionApplied,
    Fact,
    StepDropped,
    StepEnded,
    StepReady,
    StepRetried,
    StepStarted,
)
from towpath.model import Plan, StepStatus

from .screen import block, line, words

MAX_LINES = 24  # a chain with more steps is shown level by level

SIGNS = {
    StepStatus.QUEUED: ("·", "dim"),
    StepStatus.EXECUTING: ("●", "cyan"),
    StepStatus.WAITING_APPROVAL: ("✋", "yellow"),
    StepStatus.COMPLETED: ("✓", "green"),
    StepStatus.CACHED: ("↺", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.SKIPPED: ("–", "dim"),
    StepStatus.CANCELLED: ("■", "dim"),
}


@dataclass(slots=True)
class _StepState:
    """What the facts so far say about one step."""

    level: int
    status: StepStatus | None = None
    items: int | None = None
    ended: int = 0
    failed: int = 0
    began: float = 0.0
    took: float | None = None
    note: str = ""
    waiting: set[int | None] = field(default_factory=set)  # items that wait at a gate; None is the step itself


@dataclass(slots=True)
class Watch:
    """Shows one run while it runs. Use it as a context manager, with `on_fact` as the engine's listener.

    Without a `run_id` it follows the first run that reports a fact; runs inside its steps start later.
    """

    console: Console
    plan: Plan
    run_id: str | None = None
    quiet: bool = False
    progress: Callable[[str], dict[tuple[str, int | None], tuple[float, float | None]]] | None = None
    _steps: dict[str, _StepState] = field(default_factory=dict)
    _live: Live | None = None
    _began: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Watch:
        self._steps = {step.id: _StepState(step.level) for step in self.plan.steps}
        if self.console.is_terminal and not self.quiet:
            self._live = Live(console=self.console, get_renderable=self._safely, refresh_per_second=8, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def on_fact(self, run_id: str, fact: Fact) -> None:
        """Listener: update the view with a recorded fact."""
        self.run_id = self.run_id or run_id
        if self.run_id != run_id:
            return
        if isinstance(fact, StepReady | StepStarted | StepEnded | StepDropped | StepRetried | DecisionApplied):
            state = self._steps.get(fact.step)
            if state is not None:
                self._note(state, fact)
        elif isinstance(fact, ChainPaused | ChainEnded) and self._live is not None:
            self._live.refresh()

    def _note(self, state: _StepState, fact: Fact) -> None:
        now = time.monotonic()
        if isinstance(fact, StepReady) and fact.item is None:
            state.items = fact.count
            state.began = state.began or now
            state.status = StepStatus.EXECUTING if fact.started else StepStatus.QUEUED
        elif isinstance(fact, StepStarted) and fact.item is None:
            state.status, state.began = StepStatus.EXECUTING, state.began or now
        elif isinstance(fact, StepRetried):
            state.note = f"attempt {fact.attempt} failed: {fact.error.message}; again in {fact.delay:.1f} s"
            self._line(f"  ↻ {place(fact.step, fact.item)}: {state.note}", "yellow")
        elif isinstance(fact, StepEnded | StepDropped | DecisionApplied):
            self._note_end(state, fact, now)

    def _note_end(self, state: _StepState, fact: StepEnded | StepDropped | DecisionApplied, now: float) -> None:
        error = None if isinstance(fact, StepDropped) else fact.error
        if fact.status is StepStatus.WAITING_APPROVAL:
            state.waiting.add(fact.item)
        else:
            state.waiting.discard(fact.item)
        if fact.item is not None:
            state.ended += fact.status.final
            state.failed += fact.status is StepStatus.FAILED
        else:
            state.status = fact.status
            state.took = now - state.began if state.began else None
        reason = getattr(fact, "reason", "")
        if error is not None:
            state.note = error.message
        elif fact.item is None:
            state.note = reason
        if fact.item is None or fact.status is StepStatus.FAILED:
            sign, style = SIGNS[fact.status]
            took = f"  {duration(state.took)}" if state.took is not None and fact.item is None else ""
            about = f"  {error.message if error else reason}" if error or reason else ""
            count = f"  {state.ended}/{state.items}" if state.items is not None and fact.item is None else ""
            self._line(f"  {sign} {place(fact.step, fact.item)}{count}{took}{about}", style)

    def _line(self, text: str, style: str) -> None:
        if self._live is None and not self.quiet:
            self.console.print(block(text, style))

    def _safely(self) -> RenderableType:
        """The view, or a line with the error: an exception would end the thread that draws."""
        try:
            return self._render()
        except Exception as error:
            return words(f"{self.plan.name}: cannot be shown: {type(error).__name__}")

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 1), expand=True)
        for _ in range(5):
            table.add_column(no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)  # cut the note, never the step's name
        if len(self._steps) <= MAX_LINES:
            self._render_steps(table)
        else:
            self._render_levels(table)
        elapsed = time.monotonic() - self._began
        return Group(line((self.plan.name, "bold"), (f"  {elapsed:.1f} s", "dim")), table)

    def _render_steps(self, table: Table) -> None:
        progress = self.progress(self.run_id) if self.progress is not None and self.run_id else {}
        level = -1
        for step_id, state in self._steps.items():
            label = f"level {state.level}" if state.level != level else ""
            level = state.level
            sign, style = SIGNS[state.status] if state.status is not None else ("○", "dim")
            done, total = progress.get((step_id, None), (0, None))
            bar: RenderableType = ""
            if state.items is not None:
                done, total = state.ended, state.items
            count = f"{done:g}/{total:g}" if total is not None else ""
            if total and not (state.status is not None and state.status.final):
                bar = ProgressBar(total=total, completed=done, width=20)
            took = duration(state.took) if state.took is not None else ""
            table.add_row(
                Text(label, style="dim"),
                Text(sign, style=style),
                words(step_id, "" if state.status else "dim"),
                bar or Text(took, style="dim"),
                count,
                _note_of(state),
            )

    def _render_levels(self, table: Table) -> None:
        levels: dict[int, list[_StepState]] = {}
        for state in self._steps.values():
            levels.setdefault(state.level, []).append(state)
        open_levels = [n for n, steps in levels.items() if any(s.status is None or not s.status.final for s in steps)]
        first = open_levels[0] if open_levels else max(levels)
        for n in sorted(levels)[max(0, first - 3) : first + MAX_LINES - 3]:
            steps = levels[n]
            ended = sum(s.status is not None and s.status.final for s in steps)
            failed = sum(s.status is StepStatus.FAILED for s in steps)
            bar = ProgressBar(total=len(steps), completed=ended, width=20)
            note = Text(f"{failed} failed", style="red") if failed else Text("")
            table.add_row(Text(f"level {n}", style="dim"), "", "", bar, f"{ended}/{len(steps)}", note)


def _note_of(state: _StepState) -> Text:
    if state.waiting and not state.note:
        return words("waits for an approval; see: towpath approvals", "yellow")
    return words(state.note, "red" if state.failed or state.status is StepStatus.FAILED else "dim")
