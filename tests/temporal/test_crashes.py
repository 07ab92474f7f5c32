"""Workers and servers that are killed: nothing is lost, nothing is recorded twice, nothing hangs."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.conftest import OpenEngine, check
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import DONE, WAITS, folder, pending, rows, settled, status_of, until
from tests.conformance.chain_steps import PATIENCE, began, let_go, noted
from tests.temporal import crash_steps
from tests.temporal.dev_server import DevServer, needs_server
from towpath import chain
from towpath import open_engine as open_real_engine

__all__ = ["folder"]

pytestmark = pytest.mark.anyio
full = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def heartbeat() -> str:
    """Workers die here: their steps go to another worker soon."""
    return "2s"


@contextmanager
def worker(store: Path, adapter: str, *armed: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process for as long as the block lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.temporal.victim", str(store), adapter, *armed],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


async def gone(process: subprocess.Popen[bytes]) -> None:
    await until(lambda: process.poll() is not None)


@chain
def line(folder: str):
    first = steps.third_time(folder)
    second = crash_steps.hold(folder, "middle").after(first).named("middle")
    return steps.echo(steps.text_file(second)).named("last")


@pytest.mark.parametrize("moment", ["before-begin", "after-begin", "after-function", "before-report"])
async def test_R28_a_killed_worker_loses_nothing(
    open_engine: OpenEngine, store: Path, adapter: str, folder: str, moment: str
) -> None:
    """Recorded steps are not executed again, unrecorded ones are, and every version exists once."""
    let_go(folder, "middle")
    async with open_engine(worker=False) as engine:
        handle = await engine.start(line, folder=folder)
        with worker(store, adapter, moment, "middle") as victim:
            await gone(victim)
        with worker(store, adapter):
            with anyio.fail_after(PATIENCE):
                run = await handle.result()
        assert await settled(engine, run) == {"third_time": DONE, "middle": DONE, "text_file": DONE, "last": DONE}
        assert len(noted(folder, "third_time")) == 3
        called = {"before-begin": 1, "after-begin": 1, "after-function": 2, "before-report": 1}
        assert len(noted(folder, "middle.began")) == called[moment]
        kept = await engine.get_artifacts_by_workflow((await rows(engine, run))["text_file"].id)
        assert [a.version for a in kept] == [1]


async def test_R28_a_worker_killed_while_a_step_works(
    open_engine: OpenEngine, store: Path, adapter: str, folder: str
) -> None:
    async with open_engine(worker=False) as engine:
        handle = await engine.start(line, folder=folder)
        with worker(store, adapter):
            await began(folder, "middle")
        let_go(folder, "middle")
        with worker(store, adapter):
            with anyio.fail_after(PATIENCE):
                run = await handle.result()
        assert run.status == "completed"
        row = (await rows(engine, run))["middle"]
        assert (row.status, row.attempt) == (DONE, 2)


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=full)])
async def test_R28_workers_killed_at_random(open_engine: OpenEngine, store: Path, adapter: str, rounds: int) -> None:
    """Killed several times at any moment: in the end every step is recorded once."""

    @chain
    def wide():
        return steps.total(steps.work.map(steps.up_to(30)))

    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with open_engine(worker=False) as engine:
        handles = [await engine.start(wide)]
        for _ in range(rounds):
            if (await engine.snapshot(handles[-1].id)).status.final:
                handles.append(await engine.start(wide))
            with worker(store, adapter):
                await anyio.sleep(chance.uniform(0.0, 1.5))
        with worker(store, adapter):
            for handle in handles:
                with anyio.fail_after(PATIENCE):
                    run = await handle.result()
                assert run.value == sum(range(30))
                assert set((await settled(engine, run)).values()) == {DONE}
                recorded = [e["workflow_id"] for e in await engine.store.events(run.id) if e["type"] == "StepCompleted"]
                assert len(recorded) == len(set(recorded)) == 33


def _another(folder: str, number: int) -> str:
    """A folder for the steps of the next run."""
    place = Path(folder, str(number))
    place.mkdir()
    return str(place)


async def test_R30_a_frozen_worker_wakes_up_too_late(
    open_engine: OpenEngine, store: Path, adapter: str, folder: str
) -> None:
    """Its heartbeats stop, and another worker executes the step. The first one wakes up, and its result is refused."""
    async with open_engine(worker=False) as engine:
        handle = await engine.start(line, folder=folder)
        with worker(store, adapter) as frozen:
            await began(folder, "middle")
            frozen.send_signal(signal.SIGSTOP)
            with worker(store, adapter):
                await until(lambda: len(noted(folder, "middle.began")) == 2)
                frozen.send_signal(signal.SIGCONT)
                let_go(folder, "middle")
                with anyio.fail_after(PATIENCE):
                    run = await handle.result()
            await anyio.sleep(1)
        assert await settled(engine, run) == {"third_time": DONE, "middle": DONE, "text_file": DONE, "last": DONE}
        recorded = [e["type"] for e in await engine.store.events(run.id) if e["data"].get("step") == "middle"]
        assert recorded.count("StepCompleted") == 1
        kept = await engine.get_artifacts_by_workflow((await rows(engine, run))["text_file"].id)
        assert [a.version for a in kept] == [1]


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=full)])
async def test_R29_a_killed_server_goes_on_where_it_was(
    tmp_path: Path, store: Path, folder: str, clean_environment: None, kills: int
) -> None:
    """The server is killed while a step runs and a gate is open, and started again on its file."""

    @chain
    def gated(folder: str):
        return steps.read_text(steps.draft("x")), steps.hold(folder, "held")

    needs_server()
    server = DevServer(tmp_path / "server.log", tmp_path / "temporal.db")
    await anyio.to_thread.run_sync(server.start)
    adapter = f"temporal://{server.target}/default?task_queue=r29-{uuid.uuid4().hex[:8]}&heartbeat=2s"
    try:
        async with open_real_engine(f"sqlite:///{store}", adapter=adapter, worker=True) as engine:
            handle = await engine.start(gated, folder=folder)
            await began(folder, "held")
            await until(lambda: engine.approvals(handle.id))
            server.kill()
            gate = await pending(engine, handle.id)
            await engine.approve(gate.id, by="anna")  # recorded, although no signal can be sent
            await anyio.to_thread.run_sync(lambda: server.start(same_ports=True))
            for number in range(kills - 1):
                await anyio.sleep(0.1 * number)
                server.kill()
                await anyio.to_thread.run_sync(lambda: server.start(same_ports=True))
            let_go(folder, "held")
            with anyio.fail_after(PATIENCE):
                run = await handle.result()
                if run.status == "paused":  # the workflow paused before it read the decision
                    run = await run.resume()
            assert set((await settled(engine, run)).values()) == {DONE}
            assert run.status == "completed"
    finally:
        server.stop()
    await anyio.to_thread.run_sync(check, store)


@pytest.mark.parametrize("rounds", [1, pytest.param(100, marks=full)])
async def test_R30_a_step_delivered_twice_is_recorded_once(open_engine: OpenEngine, folder: str, rounds: int) -> None:
    """Delivered twice at the same time, and twice after its end: later deliveries return the recorded result."""
    from temporalio.testing import ActivityEnvironment

    from towpath.adapters.step_executor import Resources
    from towpath.adapters.temporal.messages import ChainStart, StepTask
    from towpath.adapters.temporal.run_activities import RunActivities
    from towpath.new_run import new_run

    async def deliver(activities: RunActivities, task: StepTask, results: list[Any]) -> None:
        results.append(await ActivityEnvironment().run(activities.steps.run_step, task))

    async with open_engine(worker=False) as engine:
        for number in range(rounds):
            run_id, place = f"twice-{number}", _another(folder, number)
            await engine.store.create_run(await new_run(engine.store, run_id, line.plan, {"folder": place}))
            one, two = RunActivities(Resources(engine.store)), RunActivities(Resources(engine.store))
            begun = await ActivityEnvironment().run(one.begin_run, ChainStart(run_id, "queue"))
            task = StepTask(run_id, begun.epoch, "middle", None, "python", "queue", heartbeat=5)
            results: list[Any] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(deliver, one, task, results)
                tasks.start_soon(deliver, two, task, results)
                await until(lambda: len(noted(place, "middle.began")) == 2)  # noqa: B023
                let_go(place, "middle")
            await deliver(one, task, results)
            await deliver(RunActivities(Resources(engine.store)), task, results)
            assert [r.status for r in results] == ["succeeded"] * 4
            assert len(noted(place, "middle.began")) == 2
            row = (await rows(engine, run_id))["middle"]
            assert (row.status, row.value) == (DONE, "middle")
            recorded = [e["type"] for e in await engine.store.events(run_id) if e["data"].get("step") == "middle"]
            assert recorded.count("StepCompleted") == 1


async def test_approve_and_cancel_without_a_worker(
    open_engine: OpenEngine, store: Path, adapter: str, folder: str
) -> None:
    """Both return at once and are applied when a worker starts."""

    @chain
    def simple():
        return steps.read_text(steps.draft("x"))

    @chain
    def long(folder: str):
        return steps.echo(steps.hold(folder, "long"))

    async with open_engine() as engine:
        waits = await engine.run(simple)
        works = await engine.start(long, folder=folder)
        await began(folder, "long")
    async with open_engine(worker=False) as engine:
        with anyio.fail_after(PATIENCE):
            await engine.approve((await pending(engine, waits)).id, by="anna")
            assert await engine.cancel(works.id) == "running"
        assert await status_of(engine, waits.id, "draft") == WAITS
        with worker(store, adapter):

            async def over() -> bool:
                states = [(await engine.snapshot(run)).status for run in (waits.id, works.id)]
                return states == ["completed", "cancelled"]

            await until(over)
        for run_id in (waits.id, works.id):
            await settled(engine, await engine.snapshot(run_id))


async def test_what_was_recorded_by_a_caller_that_died_is_applied(open_engine: OpenEngine, folder: str) -> None:
    """The caller is killed between the commit and the signal: a running worker sends the signal."""

    @chain
    def simple():
        return steps.read_text(steps.draft("x"))

    async with open_engine() as engine:
        run = await engine.run(simple)
        await engine._gates.approve((await pending(engine, run)).id, "anna")  # the commit, without a signal

        async def over() -> bool:
            return (await engine.snapshot(run.id)).status.final

        await until(over)
        assert await settled(engine, await engine.snapshot(run.id)) == {"draft": DONE, "read_text": DONE}


@pytest.mark.parametrize(("deaths", "code"), [pytest.param(2, None, marks=full), (3, "E_STEP_CRASHES")])
async def test_R28_a_step_that_kills_its_workers_is_given_up(
    open_engine: OpenEngine, store: Path, adapter: str, folder: str, deaths: int, code: str | None
) -> None:
    """Three workers that died on one attempt fail the step; a step before and one beside it are not blamed."""
    let_go(folder, "middle")
    async with open_engine(worker=False) as engine:
        handle = await engine.start(line, folder=folder)
        for _ in range(deaths):
            with worker(store, adapter, "after-begin", "middle") as victim:
                await gone(victim)
        with worker(store, adapter), anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        error = run["middle"].error
        assert (error.code if error else None) == code
        assert run["third_time"].status == DONE
        assert len(noted(folder, "middle.began")) == (0 if code else 1)
