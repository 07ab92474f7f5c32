"""What keeps runs and their workflows in step: signals for new requests, and a watch for runs without a workflow."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from towpath.errors import StoreFailed, TowpathError
from towpath.events import ChainPaused
from towpath.logs import guarded_logger
from towpath.ports import EngineStore, Lease

from .connection import TemporalAddress
from .messages import SERVICE, WAKE

RESEND = 30.0  # seconds after which the signal for a pending request is sent again
ORPHAN_INTERVAL = 30.0  # seconds between two looks for runs without a workflow
_RPC_TIMEOUT = timedelta(seconds=10)

_log = guarded_logger("towpath")


# ---- signals for new requests


async def signal_run(client: Client, address: TemporalAddress, run_id: str) -> bool:
    """Signal a run's workflow to read its requests. False if there is no such workflow, or no server answers.

    Never raises: the request is recorded, and workers send the signal again.
    """
    try:
        await client.get_workflow_handle(address.workflow_id(run_id)).signal(WAKE, rpc_timeout=_RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            _log.warning("run %s cannot be signalled now, a worker will do it: %s", run_id, error)
        return False
    except RuntimeError as error:  # the client was never connected
        _log.warning("run %s cannot be signalled now, a worker will do it: %s", run_id, error)
        return False
    return True


class SignalSender:
    """Signals workflows for requests that any process recorded: at once, then every `RESEND` seconds."""

    def __init__(self, store: EngineStore, client: Client, address: TemporalAddress) -> None:
        self._store = store
        self._client = client
        self._address = address
        self._sent: dict[tuple[str, int], float] = {}

    async def poll(self) -> None:
        """Signal the workflows of runs with pending requests. Never raises StoreFailed: the next poll tries again."""
        try:
            requested = await self._store.runs_with_requests()
        except StoreFailed as error:
            _log.warning("the store does not answer, trying again: %s", error)
            return
        now = time.monotonic()
        self._sent = {key: at for key, at in self._sent.items() if now - at < RESEND}
        for key in requested.items():
            if key not in self._sent:
                self._sent[key] = now
                await signal_run(self._client, self._address, key[0])


# ---- runs without a workflow or a worker


async def pause_if_orphaned(store: EngineStore, client: Client, address: TemporalAddress, run_id: str) -> bool:
    """If a run is `running` but its workflow has ended, record it as `paused`, to be resumed. True if it was so.

    A run whose workflow is unknown stays as it is: the workflow may be in another queue or namespace.
    """
    try:
        found = await client.get_workflow_handle(address.workflow_id(run_id)).describe()
    except (RPCError, RuntimeError):
        return False
    if found.status in (None, WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW):
        return False
    now = await store.status_of(run_id)  # read after the workflow, whose last act is to record the run's end
    if now.status.final or not now.owned:
        return False
    with suppress(TowpathError):
        await store.record(Lease(run_id, now.epoch), [ChainPaused("interrupted")])
        _log.warning("the workflow of run %s is gone: `towpath resume %s` continues the run", run_id, run_id)
        return True
    return False


class OrphanWatch:
    """Looks at intervals for running runs whose workflow is gone."""

    def __init__(self, store: EngineStore, client: Client, address: TemporalAddress) -> None:
        self._store = store
        self._client = client
        self._address = address
        self._next = 0.0

    async def poll(self) -> None:
        """Pause orphaned runs, if the interval is over. Raises StoreFailed."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + ORPHAN_INTERVAL
        for run_id in await self._store.running_in(SERVICE):
            await pause_if_orphaned(self._store, self._client, self._address, run_id)


async def warn_without_worker(client: Client, address: TemporalAddress, run_id: str) -> None:
    """Log that a run waits for a worker, and how to start one. Never raises."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=address.task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    try:
        pollers = len((await client.workflow_service.describe_task_queue(request)).pollers)
    except (RPCError, RuntimeError):
        return  # another place reports a server that does not answer
    reason = f"none of its {pollers} recent workers takes it" if pollers else "it has no worker"
    _log.warning(
        "run %s waits on task queue %s: %s. Start one with `towpath worker --import YOUR.STEPS` and the same store and "
        "adapter settings, or open the engine with worker=True. The run keeps waiting.",
        run_id,
        address.task_queue,
        reason,
    )
