"""What people write on Temporal by hand: a workflow that awaits an activity for each step."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from benchmarks.peers import levels
    from benchmarks.shapes import WORKLOADS

QUEUE = "bench"
POLLS = (
    "history.transferProcessorMaxPollRPS=2000"  # the dev server's single shard looks for work 20 times a second else
)


@activity.defn
async def step(add: int, needed: list[int], nap: float) -> int:
    """A step."""
    return await levels.step(add, needed, nap)


@workflow.defn
class Flow:
    """One run of a workload."""

    @workflow.run
    async def run(self, name: str, size: int) -> int:
        """A step when its dependencies are there."""
        return await levels.when_ready(WORKLOADS[name].sized(size).shape, _call)


def _call(add: int, needed: list[int], nap: float) -> Awaitable[int]:
    return workflow.execute_activity(step, args=[add, needed, nap], start_to_close_timeout=timedelta(seconds=60))


async def dev_server(folder: Path) -> WorkflowEnvironment:
    """A dev server that keeps its history in a file."""
    return await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(Path(sys.executable).parent / "temporal"),
        dev_server_database_filename=str(folder / "temporal.db"),
        dev_server_log_level="error",
        dev_server_extra_args=["--dynamic-config-value", POLLS],
        download_dest_dir=os.devnull,
    )


def worker(server: WorkflowEnvironment) -> Worker:
    """For the workflow and its activity."""
    return Worker(server.client, task_queue=QUEUE, workflows=[Flow], activities=[step])
