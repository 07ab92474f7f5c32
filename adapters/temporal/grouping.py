"""Which steps share one child workflow (`granularity="auto"`): cheap ones that are ready together, and what
follows from them alone. Each keeps its own row, attempt and artifacts. Workflow code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from towpath.commands import Start
    from towpath.model import Plan, StepPlan

SIZE = 50  # steps in one child: what a lost worker does again, at most
Key = tuple[str, int | None]


class Groups:
    """Forms groups of the steps of a plan."""

    def __init__(self, plan: Plan, done: Callable[[str], bool]) -> None:
        self._plan = {step.id: step for step in plan.steps}
        self._done = done
        self._dependents: dict[str, list[StepPlan]] = {}
        # A chain that limits its steps means each of them.
        self._cheap = {step.id for step in plan.steps if plan.concurrency is None and _may_share(step)}
        for step in plan.steps:
            for needed in step.depends_on:
                self._dependents.setdefault(needed, []).append(step)

    def may_share(self, start: Start) -> bool:
        """May the step share a child?"""
        return start.step in self._cheap

    def formed(self, ready: Sequence[Start]) -> list[Key]:
        """One group: steps that are ready, then what they alone make ready, in an order that keeps dependencies."""
        members: list[Key] = [(start.step, start.item) for start in ready[:SIZE]]
        inside = {step for step, item in members if item is None}
        at = 0
        while at < len(members) and len(members) < SIZE:
            step, item = members[at]
            at += 1
            for follower in self._dependents.get(step, ()) if item is None else ():
                if len(members) < SIZE and follower.id not in inside and self._follows(follower, inside):
                    inside.add(follower.id)
                    members.append((follower.id, None))
        return members

    def _follows(self, step: StepPlan, inside: set[str]) -> bool:
        return (
            step.id in self._cheap
            and step.condition is None
            and not step.mapped
            and all(needed in inside or self._done(needed) for needed in step.depends_on)
        )


def _may_share(step: StepPlan) -> bool:
    """Declared cheap, and nothing that wants an activity of its own: no gate, no further tries, no time in all."""
    return (
        step.cheap
        and step.kind == "python"
        and step.approval is None
        and step.retry.attempts == 1
        and step.total_timeout is None
    )
