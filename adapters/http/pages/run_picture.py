"""A run as its page shows it: one line per step, the counts, and the steps that need attention. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from towpath.adapters.http.errors import safe_text
from towpath.adapters.http.news import Key, News
from towpath.adapters.http.reading import RunView
from towpath.adapters.http.responses import shown_error
from towpath.adapters.step_times import Work, work_of, work_of_step
from towpath.adapters.wording import amount
from towpath.model import ErrorInfo, StepPlan
from towpath.svg_layout import ATTENTION, SvgLayout, layout

_ENDED = ("completed", "cached", "failed", "skipped", "cancelled")
PAGE = 100  # steps or items on one page of a table


@dataclass(frozen=True, slots=True)
class StepLine:
    """A step of a run, or an item of it, and what it reports while it executes."""

    id: str
    level: int
    status: str | None
    item: int | None = None
    attempt: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    error: ErrorInfo | None = None
    reason: str = ""
    files: int = 0
    approval: str | None = None
    gate: bool = False
    kind: str = "python"
    server: str | None = None
    counts: tuple[tuple[str | None, int], ...] = ()
    items: int | None = None
    news: News | None = None
    work: Work | None = None

    @property
    def share(self) -> float | None:
        """The progress that the step reports, from 0 to 1. None if it does not say of how much."""
        return None if self.news is None else share_of(self.news.done, self.news.total)

    @property
    def figures(self) -> str:
        """The progress that the step reports, in words."""
        if self.news is None or self.news.done is None:
            return ""
        done, total = amount(self.news.done), self.news.total
        return done if total is None else f"{done} / {amount(total)}"

    @property
    def done(self) -> int:
        """The number of completed items."""
        return sum(count for word, count in self.counts if word in ("completed", "cached"))


@dataclass(frozen=True, slots=True)
class RunPicture:
    """All that the page of a run shows."""

    run: RunView
    steps: tuple[StepLine, ...]
    counts: tuple[tuple[str | None, int], ...]
    waiting: tuple[StepLine, ...]
    failed: tuple[StepLine, ...]
    files: int

    @property
    def ended(self) -> int:
        """The number of steps that have ended."""
        return sum(count for word, count in self.counts if word in _ENDED)

    def drawing(self, start: int | None = None) -> SvgLayout:
        """The run's steps by levels."""
        return layout(self.run.plan.steps, {line.id: line.status for line in self.steps}, start)


def picture(run: RunView, news: Mapping[Key, News]) -> RunPicture:
    """The picture of a run. `news` is what executing steps report of themselves."""
    rows: dict[str, Mapping[str, Any]] = {}
    items: dict[str, list[Mapping[str, Any]]] = {}
    for row in run.steps:
        if row["item_index"] is None:
            rows[row["step_id"]] = row
        else:
            items.setdefault(row["step_id"], []).append(row)
    plan = run.plan
    lines = [_step_line(run, step, rows.get(step.id), items.get(step.id, ()), news) for step in plan.steps]
    waiting = [line for line in lines if line.approval]
    for step in plan.steps:
        open_items = [(row, open_gate(run.gates.get(row["id"], ()))) for row in items.get(step.id, ())]
        waiting += [recorded_line(step, row, approval=gate) for row, gate in open_items if gate]
    return RunPicture(
        run,
        tuple(lines),
        counted(line.status for line in lines),
        tuple(waiting),
        tuple(line for line in lines if line.status == "failed"),
        sum(len(row["artifacts"]) for row in run.steps),
    )


def _step_line(
    run: RunView,
    step: StepPlan,
    row: Mapping[str, Any] | None,
    items: Sequence[Mapping[str, Any]],
    news: Mapping[Key, News],
) -> StepLine:
    if row is None:
        return recorded_line(step, None)
    count = row["item_count"]
    asked = run.gates.get(row["id"], ())
    return recorded_line(
        step,
        row,
        work=work_of_step(row, items, run.gates, asks=step.approval is not None),
        files=len(row["artifacts"]) + sum(len(item["artifacts"]) for item in items),
        approval=open_gate(asked),
        counts=() if count is None else item_counts(Counter(item["status"] for item in items), count),
        news=news.get((step.id, None)),
    )


def open_gate(gates: Iterable[Mapping[str, Any]]) -> str | None:
    """The id of the gate without a decision, or with one that the run has not acted on yet."""
    return next((gate["id"] for gate in gates if not gate["delivered"]), None)


def share_of(done: float | None, total: float | None) -> float | None:
    """The share of what is done, from 0 to 1, whatever a step reports; None without a total."""
    if done is None or total is None or not total > 0:
        return None
    return min(1.0, max(0.0, done / total))


def recorded_line(step: StepPlan, row: Mapping[str, Any] | None, **more: Any) -> StepLine:
    """The line of a step or an item from its row. `more` holds fields that come from other tables."""
    about = {"level": step.level, "gate": step.approval is not None, "kind": step.kind, **more}
    if row is None:
        return StepLine(step.id, status=None, **about)
    error = row["error"]
    return StepLine(
        step.id,
        status=row["status"],
        item=row["item_index"],
        attempt=row["attempt"],
        started_at=row["started_at"],
        ended_at=row["completed_at"],
        error=_shown(msgspec.convert(error, ErrorInfo)) if isinstance(error, dict) else None,
        reason=safe_text(row["error_message"] or ""),
        server=row["server_address"],
        items=row["item_count"],
        **{"work": work_of([(row, ())]), **about},
    )


def item_counts(found: Mapping[str, int], items: int) -> tuple[tuple[str | None, int], ...]:
    """Items by status, the ones that need attention first. Items without a row have not started."""
    return counted([*Counter(found).elements(), *([None] * (items - sum(found.values())))])


def counted(words: Iterable[str | None]) -> tuple[tuple[str | None, int], ...]:
    """How often each status occurs, the ones that need attention first."""
    found = Counter(None if word is None else str(word) for word in words)
    return tuple((word, found[word]) for word in (*ATTENTION, None) if found[word])


def chosen(lines: Sequence[StepLine], status: str, text: str) -> list[StepLine]:
    """The lines that match a filter: a status (`none` is not started) and a part of the name."""
    wanted = text.strip().lower()
    return [
        line
        for line in lines
        if (not status or status == (line.status or "none") or _any_item(line, status))
        and (not wanted or wanted in line.id.lower())
    ]


def _any_item(line: StepLine, status: str) -> bool:
    return any(word == status for word, _ in line.counts)


def _shown(error: ErrorInfo | None) -> ErrorInfo | None:
    """An error without the folders of the server."""
    if error is None:
        return None
    shown = shown_error({"message": error.message, "traceback": error.traceback})
    return replace(error, message=shown["message"], traceback=shown["traceback"])
