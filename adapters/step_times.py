"""How long steps worked. The time in which only people could go on with a step is no work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from towpath.model import Plan, StepStatus

Row = Mapping[str, Any]
Gates = Mapping[str, Sequence[Row]]
Key = tuple[str, int | None]
_Stretch = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class Work:
    """`done` microseconds of work, and more since the moment `since`; None if it does not work now."""

    done: int
    since: int | None = None


def work_of(rows: Iterable[tuple[Row, Sequence[Row]]]) -> Work | None:
    """The work of a row of a step, with its gates, oldest first; or of several rows, together: items work at the same
    time. None if none of them has started.
    """
    stretches = sorted((one for row, gates in rows for one in _stretches(row, gates)), key=lambda stretch: stretch[0])
    if not stretches:
        return None
    done, at = 0, 0
    for begin, end in stretches:
        at = max(at, begin)
        if end is None:
            return Work(done, at)
        done += max(0, end - at)
        at = max(at, end)
    return Work(done)


def work_of_step(row: Row, items: Iterable[Row], gates: Gates, *, asks: bool) -> Work | None:
    """The work of a step. One that `asks` about its items works while one of them does."""
    several = [(item, gates.get(item["id"], ())) for item in items] if asks else []
    return work_of(several or [(row, gates.get(row["id"], ()))])


def works_of_steps(plan: Plan, rows: Iterable[Row], gates: Gates) -> dict[str, Work]:
    """The work of each step that has started, from all rows of a run."""
    whole: dict[str, Row] = {}
    items: dict[str, list[Row]] = {}
    for row in rows:
        if row["item_index"] is None:
            whole[row["step_id"]] = row
        else:
            items.setdefault(row["step_id"], []).append(row)
    started = [step for step in plan.steps if step.id in whole]
    found = [
        (step.id, work_of_step(whole[step.id], items.get(step.id, ()), gates, asks=step.approval is not None))
        for step in started
    ]
    return {name: work for name, work in found if work is not None}


def _stretches(row: Row, gates: Sequence[Row]) -> Iterator[_Stretch]:
    """From when to when it worked."""
    at = row["started_at"]
    if at is None:
        return
    for gate in gates:
        if gate["requested_at"] > at:
            yield at, gate["requested_at"]
        at = max(at, gate["updated_at"])  # when its decision took effect
    if row["status"] == StepStatus.WAITING_APPROVAL:
        return
    end = row["completed_at"]
    if end is None or end > at:
        yield at, end


def waited(row: Row, gates: Sequence[Row], now: int) -> int:
    """The microseconds in which the row waited for people, until now."""
    ends = [gate["updated_at"] for gate in gates]
    if ends and row["status"] == StepStatus.WAITING_APPROVAL:
        ends[-1] = now
    return sum(max(0, end - gate["requested_at"]) for gate, end in zip(gates, ends, strict=True))


def gates_of(gates: Iterable[Row]) -> Gates:
    """Gates by the row that waits."""
    found: dict[str, list[Row]] = {}
    for gate in gates:
        found.setdefault(gate["workflow_id"], []).append(gate)
    return found
