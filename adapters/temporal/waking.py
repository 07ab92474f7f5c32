"""Telling workflows that something was asked of their runs."""

from __future__ import annotations

import time
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from towpath.errors import StoreFailed
from towpath.logs import guarded_logger
from towpath.ports import Requests

from .connection import TemporalAddress
from .messages import WAKE

AGAIN = 30.0  # seconds until a request that is still not delivered is told again
_PATIENCE = timedelta(seconds=10)

_log = guarded_logger("towpath")


async def wake(client: Client, address: TemporalAddress, run_id: str) -> bool:
    """Tell a run's workflow to look at its rows; False if it has none now, or Temporal does not answer.

    Never raises: what was asked is recorded, and is told again.
    """
    try:
        await client.get_workflow_handle(address.workflow_id(run_id)).signal(WAKE, rpc_timeout=_PATIENCE)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            _log.warning("run %s cannot be woken now, a worker will do it: %s", run_id, error)
        return False
    except RuntimeError as error:  # a client that never was connected
        _log.warning("run %s cannot be woken now, a worker will do it: %s", run_id, error)
        return False
    return True


class Waker:
    """Wakes workflows for what people ask through any process: what is new at once, what stays again and again."""

    def __init__(self, store: Requests, client: Client, address: TemporalAddress) -> None:
        self._store = store
        self._client = client
        self._address = address
        self._told: dict[tuple[str, int], float] = {}

    async def look(self) -> None:
        """Wake the workflows of runs of which something is asked."""
        try:
            asked = await self._store.runs_with_requests()
        except StoreFailed as error:
            _log.warning("the store does not answer, trying again: %s", error)
            return
        now = time.monotonic()
        self._told = {key: at for key, at in self._told.items() if now - at < AGAIN}
        for key in asked.items():
            if key not in self._told:
                self._told[key] = now
                await wake(self._client, self._address, key[0])
