"""Secrets on Temporal: the promises of all adapters, what its history holds, and a worker without the secret."""

from __future__ import annotations

import base64
from pathlib import Path

import anyio
import pytest
from temporalio.client import Client

from tests.adapters.conftest import OpenEngine
from tests.conformance import secret_steps as steps
from tests.conformance.adapter import pending, settled
from tests.conformance.chain_steps import PATIENCE
from tests.conformance.secrets import *  # noqa: F403
from tests.conformance.secrets import CANARY, NAME, traces
from tests.temporal.dev_server import DevServer, listed
from towpath import ChainStatus, Secret
from towpath.adapters.temporal.connection import parse_address
from towpath.redaction import _in_base64, _written

pytestmark = pytest.mark.anyio


async def test_no_history_holds_a_secret(
    open_engine: OpenEngine, store: Path, temporal_server: DevServer, adapter: str
) -> None:
    """Neither in a payload nor in the text of a failure: values stay in the store, and error texts are redacted."""
    async with open_engine() as engine:
        done = await engine.run(steps.all_kinds, key=CANARY)
        failed = await engine.run(steps.failing, key=CANARY, check=False)
        assert (done.status, failed.status) == (ChainStatus.COMPLETED, ChainStatus.FAILED)
        await settled(engine, done)
        await settled(engine, failed)
    client = await Client.connect(temporal_server.target)
    forms = _written(CANARY) | set(_in_base64(CANARY))
    for each in await listed(client, f"TaskQueue = '{parse_address(adapter).task_queue}'", 2):
        history = (await client.get_workflow_handle(each.id, run_id=each.run_id).fetch_history()).to_json()
        assert not any(form in history for form in forms)
    assert traces(store) == []


async def test_a_worker_without_the_variable_waits_for_it(
    open_engine: OpenEngine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step does not fail: it is delivered again until a worker has the secret."""
    monkeypatch.setenv(NAME, CANARY)
    async with open_engine() as engine:
        run = await engine.run(steps.waiting, key=Secret.env(NAME))
        gate = await pending(engine, run)
        monkeypatch.delenv(NAME)
        await engine.approve(gate, by="bob")
        await anyio.sleep(2)
        row = await engine.store.load(run.id)
        assert not row.status.final
        assert all(step.error is None for step in row.rows)
        monkeypatch.setenv(NAME, CANARY)
        with anyio.fail_after(PATIENCE):
            run = await engine.resume(run.id)
    assert run.status is ChainStatus.COMPLETED, run.error
    assert base64.b64encode(CANARY.encode()).decode() not in str(run.value)
    assert traces(store) == []
