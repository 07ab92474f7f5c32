"""Steps per second on Temporal, beside hand-written child workflows on the same server in the same run.

    python -m benchmarks.temporal [--repetitions N] [--quick]

The dev server runs with `history.transferProcessorMaxPollRPS=2000`. Otherwise its single shard looks for work only
20 times a second, and a line would measure nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from benchmarks import temporal_by_hand as hand
from tests.temporal import cheap_steps as cheap
from tests.temporal.dev_server import DevServer
from towpath import Engine, chain, open_engine

Shape = Callable[[], Awaitable[tuple[float, float]]]
"""Runs once; seconds, and events in the parent's history."""


def wide_of(count: int) -> Any:
    """A chain of that many steps that wait for nothing."""

    @chain
    def wide():  # type: ignore[no-untyped-def]
        return [cheap.plus(n).named(f"s{n}") for n in range(count)]

    return wide


def line_of(count: int) -> Any:
    """A chain of that many steps, one after the other."""

    @chain
    def line():  # type: ignore[no-untyped-def]
        at = cheap.plus(0).named("s0")
        for n in range(1, count):
            at = cheap.plus(at).named(f"s{n}")
        return at

    return line


async def events(client: Client, workflow_id: str) -> int:
    """How many events a workflow's history has."""
    return len((await client.get_workflow_handle(workflow_id).fetch_history()).events)


def by_hand(client: Client, queue: str, workflow: Any, count: int) -> Shape:
    """A hand-written workflow."""

    async def once() -> tuple[float, float]:
        name = uuid.uuid4().hex
        began = time.perf_counter()
        await client.execute_workflow(workflow, count, id=name, task_queue=queue)
        return time.perf_counter() - began, await events(client, name) / count

    return once


def by_towpath(client: Client, engine: Engine, queue: str, made: Any, count: int) -> Shape:
    """A chain."""

    async def once() -> tuple[float, float]:
        began = time.perf_counter()
        run = await engine.run(made)
        took = time.perf_counter() - began
        assert run.status == "completed", run.error
        return took, await events(client, f"{queue}/{run.id}") / count

    return once


async def measure(target: str, repetitions: int, quick: bool) -> None:
    """Every shape, in turns, so that a busy machine slows all of them."""
    client = await Client.connect(target)
    autoscaling = PollerBehaviorAutoscaling(maximum=100)
    worker = Worker(
        client,
        task_queue="hand",
        workflows=[hand.ByHandStep, hand.ByHandWide, hand.ByHandLine],
        activities=[hand.add_one],
        workflow_runner=SandboxedWorkflowRunner(
            restrictions=SandboxRestrictions.default.with_passthrough_all_modules()
        ),
        workflow_task_poller_behavior=autoscaling,
        activity_task_poller_behavior=autoscaling,
    )
    many = 200 if quick else 1_000
    with tempfile.TemporaryDirectory() as folder:
        base = f"temporal://{target}/default"
        store = f"sqlite:///{Path(folder, 'towpath.db')}"
        async with (
            worker,
            open_engine(store, adapter=f"{base}?task_queue=step", worker=True) as step,
            open_engine(store, adapter=f"{base}?task_queue=auto&granularity=auto", worker=True) as auto,
        ):
            shapes: dict[tuple[str, int], dict[str, Shape]] = {
                ("wide", 100): {
                    "by hand": by_hand(client, "hand", hand.ByHandWide.run, 100),
                    "step": by_towpath(client, step, "step", wide_of(100), 100),
                },
                ("wide", many): {
                    "by hand": by_hand(client, "hand", hand.ByHandWide.run, many),
                    "auto": by_towpath(client, auto, "auto", wide_of(many), many),
                },
                ("line", 100): {
                    "by hand": by_hand(client, "hand", hand.ByHandLine.run, 100),
                    "step": by_towpath(client, step, "step", line_of(100), 100),
                    "auto": by_towpath(client, auto, "auto", line_of(100), 100),
                },
            }
            print(f"{'shape':<12} {'who':<8} {'steps/s':>9} {'ratio':>7} {'events/step':>12}   median of {repetitions}")
            for (shape, count), ways in shapes.items():
                took: dict[str, list[tuple[float, float]]] = {who: [] for who in ways}
                for _ in range(repetitions):
                    for who, once in ways.items():
                        took[who].append(await once())
                least = statistics.median(seconds for seconds, _ in took["by hand"])
                for who, runs in took.items():
                    seconds = statistics.median(s for s, _ in runs)
                    per_step = statistics.median(e for _, e in runs)
                    name = f"{shape} {count}"
                    print(f"{name:<12} {who:<8} {count / seconds:>9.1f} {least / seconds:>7.2f} {per_step:>12.2f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = DevServer(Path(folder, "server.log"))
        server.start()
        try:
            asyncio.run(measure(server.target, given.repetitions, given.quick))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
