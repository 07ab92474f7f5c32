"""What tests ask about a run: its rows, their statuses, its audit trail, its gates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from tests.conformance.chain_steps import PATIENCE, TICK
from towpath import Engine, Run
from towpath.model import ChainStatus, Plan, StepStatus

OpenEngine = Callable[..., AbstractAsyncContextManager[Engine]]
Commits = Callable[[Engine], int]

DONE, FAILED, SKIPPED, CANCELLED = "completed", "failed", "skipped", "cancelled"
WAITS, RUNS, QUEUED, CACHED = "waiting_approval", "executing", "queued", "cached"
FINAL = {status.value for status in StepStatus if status.final}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Where the steps of a test meet."""
    path = tmp_path / "meeting"
    path.mkdir()
    return str(path)


async def rows(engine: Engine, run: Run | str) -> dict[str, Any]:
    """The rows of a run by `step` or `step[item]`."""
    run_id = run if isinstance(run, str) else run.id
    found = await engine.get_workflows_by_chain(run_id)
    named: dict[str, Any] = {
        str(r.step_id) if r.item_index is None else f"{r.step_id}[{r.item_index}]": r for r in found
    }
    assert len(named) == len(found), "a step or item has two rows"
    return named


async def settled(engine: Engine, run: Run | str) -> dict[str, str]:
    """The statuses of a run's rows, after checking what must hold for any of them (S6.4, T8)."""
    run_id = run if isinstance(run, str) else run.id
    chain_row = await engine.get_chain(run_id)
    if isinstance(run, Run):
        assert chain_row.status == run.status
    assert (chain_row.completed_at is not None) == ChainStatus(chain_row.status).final
    named = await rows(engine, run_id)
    for name, row in named.items():
        assert chain_row.started_at <= row.queued_at, name
        if row.started_at is not None:
            assert row.queued_at <= row.started_at, name
        if row.status in FINAL:
            assert row.completed_at is not None, name
            assert row.completed_at >= (row.started_at or row.queued_at), name
            assert chain_row.completed_at is None or row.completed_at <= chain_row.completed_at, name
        else:
            assert row.completed_at is None, name
            assert not ChainStatus(chain_row.status).final, f"{name} is open in a run that is over"
        if row.status in (DONE, RUNS, WAITS):
            assert row.started_at is not None, name
            assert row.attempt >= 1, name
        if row.status == FAILED:
            assert row.error_code.startswith("E_"), name
            assert row.error_message, name
        await _versions(engine, row)
    return {name: row.status for name, row in named.items()}


async def _versions(engine: Engine, row: Any) -> None:
    """Versions 1..n without gaps, one of them the latest, and a pointer that is one of the latest."""
    kept = await engine.get_artifacts_by_workflow(row.id, include_old_versions=True)
    latest = {a.id for a in kept if a.is_latest}
    for name in {a.name for a in kept}:
        same = [a for a in kept if a.name == name]
        assert sorted(a.version for a in same) == list(range(1, len(same) + 1))
        assert sum(a.is_latest for a in same) == 1
    assert (row.latest_artifact_id in latest) if kept else row.latest_artifact_id is None


async def trail(engine: Engine, run_id: str) -> dict[str, list[str]]:
    """The types of the recorded facts, per step (`""`: of the chain), in order."""
    told: dict[str, list[str]] = {}
    for event in await engine.store.events(run_id):
        data = event["data"]
        item = "" if "item" not in data else f"[{data['item']}]"
        told.setdefault(f"{data['step']}{item}" if "step" in data else "", []).append(event["type"])
    return told


async def until(check: Callable[[], Any], within: float = PATIENCE) -> None:
    """Wait until `check()` (or what it awaits) is true."""
    with anyio.fail_after(within):
        while True:
            result = check()
            if await result if hasattr(result, "__await__") else result:
                return
            await anyio.sleep(TICK)


async def status_of(engine: Engine, run_id: str, step: str) -> str | None:
    row = (await rows(engine, run_id)).get(step)
    return None if row is None else str(row.status)


async def pending(engine: Engine, run: Run | str, step: str | None = None) -> Any:
    """The only gate of a run (and step) that waits, those of chains inside its steps left out."""
    run_id = run if isinstance(run, str) else run.id
    found = [a for a in await engine.approvals(run_id) if a.run == run_id and step in (None, a.step)]
    assert len(found) == 1
    return found[0]


def of_plan(plan: Plan) -> Any:
    """Something to run, of a plan made by hand."""
    return SimpleNamespace(plan=plan, steps={})


async def is_now(engine: Engine, run_id: str, step: str, status: str) -> bool:
    return await status_of(engine, run_id, step) == status


async def child_of(engine: Engine, run: Run | str, step: str) -> Any:
    """The chain run inside a step."""
    row = (await rows(engine, run))[step]
    found = [c for c in await engine.list_chains(limit=1000) if c.parent_workflow_id == row.id]
    assert len(found) == 1
    return found[0]
