"""Runs that nobody works on: their workflow was ended by hand or by a limit of the server, or there is no worker."""

from __future__ import annotations

import time
from contextlib import suppress

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from towpath.errors import TowpathError
from towpath.events import ChainPaused
from towpath.logs import guarded_logger
from towpath.ports import EngineStore, Lease

from .connection import TemporalAddress
from .messages import SERVICE

EVERY = 30.0  # seconds between looks

_log = guarded_logger("towpath")


async def leave_if_gone(store: EngineStore, client: Client, address: TemporalAddress, run_id: str) -> bool:
    """Leave a run that only looks as if somebody worked on it `paused`, to be resumed. True if that was so.

    A workflow that is not known at all is not ours to judge: it may be in another queue or namespace.
    """
    try:
        found = await client.get_workflow_handle(address.workflow_id(run_id)).describe()
    except (RPCError, RuntimeError):
        return False
    if found.status in (None, WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW):
        return False
    now = await store.status_of(run_id)  # after the workflow: its last act is to record the run's end
    if now.status.final or not now.owned:
        return False
    with suppress(TowpathError):
        await store.record(Lease(run_id, now.epoch), [ChainPaused("interrupted")])
        _log.warning("the workflow of run %s is gone: `towpath resume %s` goes on", run_id, run_id)
        return True
    return False


async def warn_without_worker(client: Client, address: TemporalAddress, run_id: str) -> None:
    """Say that a run waits for a worker, and how to start one. Never raises."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=address.task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    try:
        seen = len((await client.workflow_service.describe_task_queue(request)).pollers)
    except (RPCError, RuntimeError):
        return  # the server is in trouble: that is told elsewhere
    who = f"none of the workers seen lately ({seen}) takes it up" if seen else "it has no worker"
    _log.warning(
        "run %s waits on task queue %s: %s. Start one with `towpath worker --import YOUR.STEPS` and the same store and "
        "adapter settings, or open the engine with worker=True. Waiting for it.",
        run_id,
        address.task_queue,
        who,
    )


class Minder:
    """Looks now and then for running runs whose workflow is gone."""

    def __init__(self, store: EngineStore, client: Client, address: TemporalAddress) -> None:
        self._store = store
        self._client = client
        self._address = address
        self._next = 0.0

    async def look(self) -> None:
        """Look, if it is time. Raises StoreFailed."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        for run_id in await self._store.running_in(SERVICE):
            await leave_if_gone(self._store, self._client, self._address, run_id)
