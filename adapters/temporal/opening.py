"""Opening the Temporal adapter, with or without a worker in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from temporalio.client import Client

from towpath.adapters.step_executor import Farm
from towpath.adapters.telemetry import Spans
from towpath.ports import EngineStore

from .adapter import TemporalAdapter
from .connection import connect, parse_address
from .worker import RunWorker, running_worker


@asynccontextmanager
async def temporal_adapter(
    store: EngineStore,
    url: str,
    *,
    client: Client | None = None,
    worker: bool = False,
    farm: Farm | None = None,
    concurrency: int = 256,
    threads: int = 40,
    spans: Spans | None = None,
) -> AsyncIterator[TemporalAdapter]:
    """The adapter for an address, through a client of the caller's or one of its own.

    Raises InputInvalid (E_SETTING), ServerFailed (E_TEMPORAL_UNREACHABLE).
    """
    address = parse_address(url)
    client = client or await connect(address, lazy=not worker)
    adapter = TemporalAdapter(store, client, address, farm, spans)
    if not worker:
        yield adapter
        return
    async with running_worker(
        store,
        client,
        address,
        farm=farm,
        concurrency=concurrency,
        threads=threads,
        listeners=adapter.listeners,
        spans=spans,
    ) as adapter.worker:
        yield adapter


@asynccontextmanager
async def temporal_worker(
    store: EngineStore, url: str, *, metrics_port: int | None = None, **how: Any
) -> AsyncIterator[RunWorker]:
    """A worker alone; `how` is as for `running_worker`. Raises as `temporal_adapter`."""
    address = parse_address(url)
    client = await connect(address, lazy=False, metrics_port=metrics_port)
    async with running_worker(store, client, address, **how) as worker:
        yield worker
