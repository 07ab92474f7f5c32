"""What people write on Temporal by hand: a child workflow per step with one activity. No rows, no files."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow


@activity.defn
async def add_one(n: int) -> int:
    """The work of a step."""
    return n + 1


@workflow.defn
class ByHandStep:
    """One step."""

    @workflow.run
    async def run(self, n: int) -> int:
        """One activity."""
        result: int = await workflow.execute_activity(add_one, n, start_to_close_timeout=timedelta(seconds=60))
        return result


@workflow.defn
class ByHandWide:
    """All steps at once."""

    @workflow.run
    async def run(self, count: int) -> int:
        """A child per step."""
        at = workflow.info().workflow_id
        children = [workflow.execute_child_workflow(ByHandStep.run, n, id=f"{at}/{n}") for n in range(count)]
        return sum(await asyncio.gather(*children))


@workflow.defn
class ByHandLine:
    """One step after the other."""

    @workflow.run
    async def run(self, count: int) -> int:
        """A child per step."""
        at = workflow.info().workflow_id
        value = 0
        for n in range(count):
            value = await workflow.execute_child_workflow(ByHandStep.run, value, id=f"{at}/{n}")
        return value
