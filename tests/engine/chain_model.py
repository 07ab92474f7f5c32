"""The expected result of a chain, computed from its rules alone: no events, no order, loops to a fixpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from towpath.model import Plan, StepPlan

Place = tuple[str, int | None]
"""A step, or one item of it."""


@dataclass(frozen=True)
class Table:
    """What happens at each place. Whatever is not named goes well; a condition or a count of None fails."""

    conditions: dict[str, bool | None] = field(default_factory=dict)
    counts: dict[str, int | None] = field(default_factory=dict)
    failing: frozenset[Place] = frozenset()
    rejected: frozenset[Place] = frozenset()
    uncollectable: frozenset[str] = frozenset()
    answers: dict[Place, tuple[str, ...]] = field(default_factory=dict)
    """What is said at a gate, in turn: `stop`, `skip`, `regenerate`; when all is said it is approved."""
    failing_again: frozenset[Place] = frozenset()
    """What fails when it is made again."""


@dataclass(frozen=True)
class Verdict:
    """How a run ended: the chain, and every place that got a row."""

    chain: str
    places: dict[Place, str]


def interpret(plan: Plan, table: Table) -> Verdict:
    """The end of a run that nobody cancels. With a rejection, `places` is what would be without the stop."""
    places: dict[Place, str] = {}
    while found := {p: s for step in plan.steps for p, s in _fates(step, places, table) if p not in places}:
        places.update(found)
    stopped = "rejected" in places.values()
    places = {place: "failed" if status == "rejected" else status for place, status in places.items()}
    failed = [step.id for step in plan.steps if places[step.id, None] == "failed"]
    unhandled = [f for f in failed if not any(_handles(s, f, places) for s in plan.steps)]
    kept = any(s == "failed" and k is not None and places[step, None] == "completed" for (step, k), s in places.items())
    chain = "failed" if stopped or unhandled else "partial" if failed or kept else "completed"
    return Verdict(chain, places)


def _handles(step: StepPlan, failed: str, places: dict[Place, str]) -> bool:
    return failed in step.depends_on and failed in step.watches and places[step.id, None] == "completed"


def _fates(step: StepPlan, places: dict[Place, str], table: Table) -> Iterator[tuple[Place, str]]:
    """What can be said by now of a step and its items."""
    whole, pair = (step.id, None), step.pairs_with
    if any((d, None) not in places for d in step.depends_on):
        return
    lacking = {d for d in step.depends_on if places[d, None] != "completed" and d not in step.watches}
    holds = table.conditions.get(step.id, True) if step.condition is not None else True
    count = sum(s == pair and k is not None for s, k in places) if pair else table.counts.get(step.id, 0)
    if lacking - ({pair} if count else set()):
        yield whole, "skipped"
    elif holds is None or (holds and step.mapped and count is None):
        yield whole, "failed"
    elif not holds:
        yield whole, "skipped"
    elif not step.mapped:
        yield whole, _work(step, None, table)
    else:
        lost = [pair is not None and places[pair, k] != "completed" for k in range(count or 0)]
        items = ["skipped" if lost[k] else _work(step, k, table) for k in range(count or 0)]
        yield from (((step.id, k), s) for k, s in enumerate(items))
        spoiled = {"failed", "rejected"} & set(items) and step.on_item_failure == "fail"
        broken = step.id in table.uncollectable
        yield whole, "failed" if spoiled else "skipped" if lacking else "failed" if broken else "completed"


def _work(step: StepPlan, item: int | None, table: Table) -> str:
    place = (step.id, item)
    if place in table.failing:
        return "failed"
    if step.approval is None:
        return "completed"
    if place in table.rejected:
        return "rejected"
    for n, answer in enumerate(table.answers.get(place, ())):
        if answer != "regenerate":
            return {"stop": "rejected", "skip": "skipped"}[answer]
        if n >= step.approval.max_retries:
            return "rejected"
        if place in table.failing_again:
            return "failed"
    return "completed"
