"""Which steps share one child workflow (`granularity="auto"`). Workflow code.

A group holds cheap steps that are ready at the same time, and cheap steps that depend on these alone. Each step keeps
its own row, attempt and artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from towpath.commands import Start
    from towpath.model import Plan, StepPlan

SIZE = 50  # steps in one group: at most so many are executed again when a worker dies
Key = tuple[str, int | None]


class StepGroups:
    """Forms groups of the steps of a plan. `is_done` says whether a step has completed."""

    def __init__(self, plan: Plan, is_done: Callable[[str], bool]) -> None:
        self._is_done = is_done
        self._dependents: dict[str, list[StepPlan]] = {}
        # A chain's own `concurrency` counts single steps, so such a chain forms no groups.
        self._cheap = {step.id for step in plan.steps if plan.concurrency is None and _may_share(step)}
        for step in plan.steps:
            for needed in step.depends_on:
                self._dependents.setdefault(needed, []).append(step)

    def may_share(self, start: Start) -> bool:
        """May the step be in a group?"""
        return start.step in self._cheap

    def formed(self, ready: Sequence[Start]) -> list[Key]:
        """One group, dependencies first: the first ready steps, then steps that depend on these alone."""
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
            and all(needed in inside or self._is_done(needed) for needed in step.depends_on)
        )


def _may_share(step: StepPlan) -> bool:
    """Is the step declared cheap, without a gate, a retry or a total timeout? These need an activity of their own."""
    return (
        step.cheap
        and step.kind == "python"
        and step.approval is None
        and step.retry.attempts == 1
        and step.total_timeout is None
    )
