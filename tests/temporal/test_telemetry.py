"""OpenTelemetry spans on the Temporal adapter: the suite of all adapters, and spans over several processes."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.adapters.conftest import OpenEngine
from tests.conformance import chain_steps as steps
from tests.conformance.spans import *  # noqa: F403
from tests.conformance.spans import tree
from towpath import chain

pytestmark = pytest.mark.anyio


async def test_spans_of_a_step_in_another_process(spans: InMemorySpanExporter) -> None:
    """The trace context is passed on: the step's span is inside the chain's, and both end."""
    from types import SimpleNamespace

    from towpath.adapters.telemetry import Spans
    from towpath.events import ChainEnded, ChainResumed, StepEnded, StepReady
    from towpath.model import ChainStatus, StepStatus

    here, there = Spans(), Spans()
    run: Any = SimpleNamespace(id="r", plan=SimpleNamespace(name="c"), parent_workflow_id=None)
    here.begins(run)
    here.on_fact("r", ChainResumed())
    there.adopt("r", here.passed_on("r"))
    there.on_fact("r", StepReady("row", "a", None, "m:a", True, 1))
    there.on_fact("r", StepEnded("row", "a", None, StepStatus.COMPLETED))
    here.on_fact("r", ChainEnded(ChainStatus.COMPLETED))
    assert list(tree(spans)) == ["chain c", "chain c > step a", "chain c > step a > attempt a"]
    assert not here._open
    assert not there._open
    assert not there._around


async def test_the_trace_context_travels_with_the_work(
    open_engine: OpenEngine, adapter: str, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step's task contains the id of the chain's span."""
    from towpath.adapters.temporal.step_activities import StepActivities

    given: list[str] = []
    real = StepActivities._adopt

    def seen(self: Any, task: Any) -> None:
        given.append(task.trace)
        real(self, task)

    monkeypatch.setattr(StepActivities, "_adopt", seen)

    @chain
    def one():
        return steps.number(1)

    async with open_engine() as engine:
        assert (await engine.run(one)).value == 1
    (whole,) = [s for s in spans.get_finished_spans() if s.name == "chain one"]
    assert [text.split("-")[2] for text in given] == [f"{whole.context.span_id:016x}"]
