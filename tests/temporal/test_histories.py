"""R31. Histories of chains of every shape, recorded with released versions, replay with the code of today.

No server is needed. If a change of workflow code breaks one of these, it would break runs that wait for a person. Keep
the old code for them (`workflow.patched`), and record a new history beside the old one.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from tests.conformance.chain_steps import PATIENCE
from tests.temporal.record_histories import HISTORIES, SHAPES
from towpath.adapters.temporal.workflows import WORKFLOWS

pytestmark = pytest.mark.anyio

FILES = sorted(HISTORIES.glob("*.json"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def kept(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """In production, a history that does not fit fails its workflow. The replayer would wait for that for ever."""
    name = "__temporal_workflow_definition"
    for each in WORKFLOWS:
        monkeypatch.setattr(each, name, dataclasses.replace(getattr(each, name), failure_exception_types=[]))
    monkeypatch.setattr(sys, "breakpointhook", sys.breakpointhook)  # the debug mode of `replay` puts its own here


async def replay(entry: dict[str, Any]) -> None:
    """Replay a history. Raises NondeterminismError if it does not fit.

    The debug mode takes away the limit of 2 seconds for one turn of a workflow: on a busy machine, or in a collection
    of Python's garbage, a turn takes longer, and a replay has nobody who would try the turn again.
    """
    history = WorkflowHistory.from_json(entry["id"], entry["history"])
    with anyio.fail_after(PATIENCE):
        await Replayer(workflows=WORKFLOWS, debug_mode=True).replay_workflow(history)


def test_R31_every_shape_is_recorded() -> None:
    """With this version too: `python -m tests.temporal.record_histories` does it."""
    names = {path.stem.partition("-")[0::2] for path in FILES}
    assert {shape for shape, _ in [(n[1], n[0]) for n in names]} == set(SHAPES)
    assert {shape for of, shape in names if of == version("towpath")} == set(SHAPES)
    long = [e for e in kept(next(p for p in FILES if p.stem.endswith("-long"))) if e["id"] == "long/long"]
    assert len(long) > 1, "it never continued as new"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_R31_recorded_histories_replay(path: Path) -> None:
    for entry in kept(path):
        await replay(entry)


@pytest.mark.parametrize("shape", ["diamond", "gated"])
async def test_R31_another_order_is_noticed(shape: str) -> None:
    """The check of the check: a history in which another step was started does not replay."""
    entry = copy.deepcopy(next(e for p in FILES if p.stem.endswith(f"-{shape}") for e in kept(p)))
    began = [
        event["startChildWorkflowExecutionInitiatedEventAttributes"]
        for event in entry["history"]["events"]
        if "startChildWorkflowExecutionInitiatedEventAttributes" in event
    ]
    began[-1]["workflowId"] = "another/step"
    with pytest.raises((NondeterminismError, RuntimeError)) as noticed:
        await replay(entry)
    assert "does not match" in str(noticed.value) or "ondetermin" in str(noticed.value)
