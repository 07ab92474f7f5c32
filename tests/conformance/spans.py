"""OpenTelemetry spans, the same on every adapter. A test module takes the suite with
`from tests.conformance.spans import *` and gives the fixture `open_engine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.comfyui.chain_fixtures import Farming, farming, one, two, workflows
from tests.comfyui.chains import made_of, table, write
from tests.comfyui.graphs import inverted, painted
from tests.comfyui.running import ComfyServer
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import OpenEngine, folder
from tests.conformance.chain_steps import PATIENCE, began
from towpath import chain, step

__all__ = [
    "farming",
    "folder",
    "one",
    "spans",
    "test_a_cancelled_run_leaves_no_span_open",
    "test_spans_lie_inside_each_other",
    "test_spans_of_items_and_of_a_chain_inside_a_step",
    "test_spans_of_retries_and_failures",
    "test_transfers_lie_inside_their_attempt",
    "two",
    "workflows",
]

_EXPORTER = InMemorySpanExporter()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """The spans that ended."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(_EXPORTER))
        trace.set_tracer_provider(provider)
    _EXPORTER.clear()
    yield _EXPORTER
    _EXPORTER.clear()


@step
async def traced(n: int) -> int:
    """Makes a span of its own."""
    with trace.get_tracer("mine").start_as_current_span("mine"):
        return n


def tree(exporter: InMemorySpanExporter) -> dict[str, list[str]]:
    """The names of spans by the path to them from the outside; every path may be there several times."""
    ended = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in ended}

    def path(span: ReadableSpan) -> str:
        above = "" if span.parent is None else path(by_id[span.parent.span_id]) + " > "
        return above + span.name

    found: dict[str, list[str]] = {}
    for span in sorted(ended, key=lambda s: s.start_time or 0):
        assert span.end_time is not None
        if span.parent is not None:
            assert (span.start_time or 0) >= (by_id[span.parent.span_id].start_time or 0)
        found.setdefault(path(span), []).append(str((span.attributes or {}).get("towpath.status")))
    return found


async def test_spans_lie_inside_each_other(open_engine: OpenEngine, spans: InMemorySpanExporter) -> None:
    @chain
    def line():
        return steps.echo(traced(1))

    async with open_engine() as engine:
        with trace.get_tracer("mine").start_as_current_span("request"):
            run = await engine.run(line)
    assert run.value == 1
    assert tree(spans) == {
        "request": ["None"],
        "request > chain line": ["completed"],
        "request > chain line > step traced": ["completed"],
        "request > chain line > step traced > attempt traced": ["completed"],
        "request > chain line > step traced > attempt traced > mine": ["None"],
        "request > chain line > step echo": ["completed"],
        "request > chain line > step echo > attempt echo": ["completed"],
    }
    attributes = {str((s.attributes or {}).get("towpath.run")) for s in spans.get_finished_spans()}
    assert attributes == {run.id, "None"}


async def test_spans_of_retries_and_failures(open_engine: OpenEngine, spans: InMemorySpanExporter, folder: str) -> None:
    @chain
    def bad(folder: str):
        again = steps.third_time(folder)
        return steps.echo(steps.boom().after(again)).named("never")

    async with open_engine() as engine:
        run = await engine.run(bad, folder=folder, check=False)
    assert run.status == "failed"
    assert tree(spans) == {
        "chain bad": ["failed"],
        "chain bad > step third_time": ["completed"],
        "chain bad > step third_time > attempt third_time": ["failed", "failed", "completed"],
        "chain bad > step boom": ["failed"],
        "chain bad > step boom > attempt boom": ["failed"],
        "chain bad > step never": ["skipped"],
    }
    codes = {s.name: (s.attributes or {}).get("error.type") for s in spans.get_finished_spans() if not s.status.is_ok}
    assert codes["step boom"] == codes["chain bad"] == "E_STEP_RAISED", codes


async def test_spans_of_items_and_of_a_chain_inside_a_step(
    open_engine: OpenEngine, spans: InMemorySpanExporter
) -> None:
    @chain
    def inner(n: int):
        return steps.echo(n)

    @chain
    def outer():
        return inner(n=steps.total(steps.double.map([1, 2])))

    async with open_engine() as engine:
        run = await engine.run(outer)
    assert run.value == 6
    found = tree(spans)
    inside = [path for path in found if path.endswith("> step echo > attempt echo")]
    assert inside == ["chain outer > step inner > attempt inner > chain inner > step echo > attempt echo"]
    items = found["chain outer > step double > step double > attempt double"]
    assert items == ["completed"] * 2


async def test_a_cancelled_run_leaves_no_span_open(
    open_engine: OpenEngine, spans: InMemorySpanExporter, folder: str
) -> None:
    @chain
    def long(folder: str):
        return steps.echo(steps.hold(folder, "h"))

    async with open_engine() as engine:
        handle = await engine.start(long, folder=folder)
        await began(folder, "h")
        await handle.cancel()
        with anyio.fail_after(PATIENCE):
            await handle.result(check=False)
    assert tree(spans) == {
        "chain long": ["cancelled"],
        "chain long > step hold": ["cancelled"],
        "chain long > step hold > attempt hold": ["cancelled"],
        "chain long > step echo": ["cancelled"],
    }


async def test_transfers_lie_inside_their_attempt(
    farming: Farming, one: ComfyServer, two: ComfyServer, workflows: Path, spans: InMemorySpanExporter
) -> None:
    write(workflows, painted=painted(), inverted=inverted("none.png"))
    made: Any = made_of(
        {"id": "picture", "workflow": "painted", "server": "one"},
        {
            "id": "edit",
            "workflow": "inverted",
            "depends_on": ["picture"],
            "server": "two",
            "parameters": {"1.image": "{{ picture.output.image }}"},
        },
    )
    async with farming(table(one, "one"), table(two, "two")) as engine:
        run = await engine.run(made)
    assert run.status == "completed"
    found = tree(spans)
    assert found["chain made > step edit > attempt edit > transfer to two"] == ["completed"]
    (attempt,) = [s for s in spans.get_finished_spans() if s.name == "attempt edit"]
    assert [event.name for event in attempt.events] == ["prompt"]
