"""A run as people see it: one line per step, what is going on, what asks for attention. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from towpath.adapters.http.errors import safe_text
from towpath.adapters.http.responses import shown_error
from towpath.model import ErrorInfo, StepPlan
from towpath.ports import RunRow, StepRow

from .filters import ATTENTION
from .svg_layout import Drawing, draw

_OVER = ("completed", "cached", "failed", "skipped", "cancelled")
PAGE = 100  # steps or items on one page of a table


@dataclass(frozen=True, slots=True)
class StepLine:
    """A step of a run, or an item of one. `share` is how far the step itself says it is, 0 to 1."""

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
    share: float | None = None

    @property
    def done(self) -> int:
        """How many items are completed."""
        return sum(count for word, count in self.counts if word in ("completed", "cached"))


@dataclass(frozen=True, slots=True)
class RunPicture:
    """Everything the run page shows, from what is recorded."""

    run: RunRow
    steps: tuple[StepLine, ...]
    counts: tuple[tuple[str | None, int], ...]
    waiting: tuple[StepLine, ...]
    failed: tuple[StepLine, ...]
    files: int

    @property
    def over(self) -> int:
        """How many steps are over."""
        return sum(count for word, count in self.counts if word in _OVER)

    def drawing(self, start: int | None = None) -> Drawing:
        """The run's steps by levels."""
        return draw(self.run.plan.steps, {line.id: line.status for line in self.steps}, start)


def picture(run: RunRow, progress: Mapping[str, tuple[float, float | None]] | None = None) -> RunPicture:
    """The picture of a run as recorded; `progress` is what working steps say of themselves."""
    rows: dict[str, StepRow] = {}
    items: dict[str, list[StepRow]] = {}
    for row in run.rows:
        if row.item is None:
            rows[row.step] = row
        else:
            items.setdefault(row.step, []).append(row)
    lines = [_line(step, rows.get(step.id), items.get(step.id, ()), progress or {}) for step in run.plan.steps]
    waiting = [line for line in lines if line.approval]
    for step in run.plan.steps:
        waiting += [_line(step, row, (), {}) for row in items.get(step.id, ()) if row.waits_for_person]
    return RunPicture(
        run,
        tuple(lines),
        counted(line.status for line in lines),
        tuple(waiting),
        tuple(line for line in lines if line.status == "failed"),
        sum(len(row.artifacts) for row in run.rows),
    )


def recorded_line(step: StepPlan, row: Mapping[str, Any] | None, **more: Any) -> StepLine:
    """A step or an item from its row of `workflows`; `more` is what other tables say of it."""
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
        **about,
    )


def item_counts(found: Mapping[str, int], items: int) -> tuple[tuple[str | None, int], ...]:
    """Items by status, those first that ask for attention; those without a row yet have not started."""
    return counted([*Counter(found).elements(), *([None] * (items - sum(found.values())))])


def counted(words: Iterable[str | None]) -> tuple[tuple[str | None, int], ...]:
    """How often each status occurs, those that ask for attention first."""
    found = Counter(None if word is None else str(word) for word in words)
    return tuple((word, found[word]) for word in (*ATTENTION, None) if found[word])


def chosen(lines: Sequence[StepLine], status: str, text: str) -> list[StepLine]:
    """Those lines that a filter asks for: a status word (`none` is not started) and a part of the name."""
    wanted = text.strip().lower()
    return [
        line
        for line in lines
        if (not status or status == (line.status or "none") or _any_item(line, status))
        and (not wanted or wanted in line.id.lower())
    ]


def _any_item(line: StepLine, status: str) -> bool:
    return any(word == status for word, _ in line.counts)


def _line(
    step: StepPlan,
    row: StepRow | None,
    items: Sequence[StepRow],
    progress: Mapping[str, tuple[float, float | None]],
) -> StepLine:
    about = {"level": step.level, "gate": step.approval is not None, "kind": step.kind}
    if row is None:
        return StepLine(step.id, status=None, **about)  # type: ignore[arg-type]
    done, total = progress.get(step.id, (0.0, None))
    return StepLine(
        step.id,
        status=str(row.status),
        item=row.item,
        attempt=row.attempt,
        started_at=row.started_at,
        ended_at=row.completed_at,
        error=_shown(row.error),
        reason=safe_text(row.reason) if row.reason else "",
        files=len(row.artifacts) + sum(len(item.artifacts) for item in items),
        approval=row.approval if row.waits_for_person else None,
        server=row.server_address,
        counts=_item_counts(row, items),
        items=row.count,
        share=min(1.0, done / total) if total else None,
        **about,  # type: ignore[arg-type]
    )


def _item_counts(row: StepRow, items: Sequence[StepRow]) -> tuple[tuple[str | None, int], ...]:
    """Items by status; those without a row yet have not started."""
    if row.count is None:
        return ()
    return item_counts(Counter(str(item.status) for item in items), row.count)


def _shown(error: ErrorInfo | None) -> ErrorInfo | None:
    """An error without the folders of the server."""
    if error is None:
        return None
    told = shown_error({"message": error.message, "traceback": error.traceback})
    return replace(error, message=told["message"], traceback=told["traceback"])
