"""Runs with pending work and no live owner, in the order in which they are resumed."""

from __future__ import annotations

import pytest

from tests.conformance.records import a_run
from tests.store.test_gates import a_gate, change
from towpath import store as api
from towpath.store import RunStore
from towpath.store.unattended import unattended_runs

pytestmark = pytest.mark.anyio


async def test_unattended_runs_are_listed_oldest_first_however_their_gates_were_decided(store: RunStore) -> None:
    runs = [(await a_run(store)).run_id for _ in range(3)]
    decisions = []
    for number, run in enumerate(runs):
        await change(store, "chains", run, status="paused", status_reason="approval", started_at=number)
        decisions.append(await a_gate(store, run=run))
    async with store.session() as session:
        for gate in reversed(decisions):
            await api.approve(session, gate, "ann")
    async with store.session() as session:
        assert [run for run in await unattended_runs(session) if run in runs] == runs
