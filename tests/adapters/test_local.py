"""The local adapter: the suite of all adapters, and what only a run inside one process can show."""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import *  # noqa: F403
from tests.conformance.adapter.chains_inside import inner
from tests.conformance.chain_steps import PATIENCE, began, let_go, noted
from tests.conformance.runs import CANCELLED, DONE, RUNS, WAITS, pending, rows, settled, status_of, trail, until
from towpath import Engine, Run, RunRefused, StepNotRegistered, chain, context, load_chain, step
from towpath.events import StepEnded
from towpath.ledger import Ledger
from towpath.ports import RunRow

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


async def python(code: str, *arguments: str) -> str:
    """What a process of its own prints; an error there is an error here."""
    done = await anyio.run_process(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], cwd=ROOT, check=False, env=None
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


# ---- functions


def adder(n: int) -> Any:
    """A chain of closures; those of two chains go by the same names."""

    @step
    async def plus(value: int) -> int:
        await anyio.sleep(0.02)
        return value + n

    @chain
    def both(value: int):
        return plus(plus(value))

    return both


async def test_closures_run_and_keep_apart(open_engine: OpenEngine) -> None:
    """D1. Two runs whose steps share a name each call their own function."""
    async with open_engine() as engine:
        one, two = await engine.start(adder(1), value=0), await engine.start(adder(100), value=0)
        ends = [await one.result(), await two.result()]
        assert [run.value for run in ends] == [2, 200]
        for run in ends:
            assert await settled(engine, run) == {"plus": DONE, "plus_2": DONE}


async def test_S6_4_a_row_is_there_before_its_function_runs(open_engine: OpenEngine) -> None:
    """Inside the function its own row is `executing` already; afterwards times, value and attempt are set."""
    seen: list[Any] = []
    async with open_engine() as engine:

        @step
        async def looks() -> int:
            here = context()
            seen.append(await engine.get_workflow_by_step(here.run_id, here.step_id))
            return 7

        @chain
        def one():
            return looks()

        run = await engine.run(one)
        before, after = seen[0], (await rows(engine, run))["looks"]
        assert (before.status, before.attempt, before.completed_at) == (RUNS, 1, None)
        assert (after.id, after.status, after.value) == (before.id, DONE, 7)
        assert before.queued_at <= before.started_at == after.started_at <= after.completed_at
        assert await settled(engine, run) == {"looks": DONE}


async def test_a_rejection_ends_a_step_that_waits_for_its_next_try(open_engine: OpenEngine) -> None:
    """Nothing new starts after a rejection with `stop`, and another try would be new."""
    tries: list[int] = []
    async with open_engine() as engine:

        @step(retry={"attempts": 5, "delay": 0.5, "jitter": False})
        async def fails() -> None:
            tries.append(context().attempt)
            raise ValueError("again")

        @step(requires_approval=True)
        async def asks() -> int:
            return 1

        @chain
        def two():
            fails()
            return asks()

        handle = await engine.start(two)
        await until(lambda: engine.approvals(handle.id))
        await until(lambda: bool(tries))
        (approval,) = await engine.approvals(handle.id)
        await engine.reject(approval.id, by="ann")
        run = await handle.result()
        assert (run.status, tries) == ("failed", [1])
        assert await settled(engine, run) == {"fails": CANCELLED, "asks": "failed"}


async def test_outside_a_chain_a_step_is_its_function() -> None:
    assert await steps.double(4) == 8
    assert bool(steps.which_thread(0) is True)
    assert steps.double.name == "tests.conformance.chain_steps:double"
    with pytest.raises(RuntimeError, match="only while a step runs"):
        context()
    with pytest.raises(TypeError, match=r"engine\.run"):
        inner(3)
    with pytest.raises(TypeError, match="belongs in a @chain"):
        steps.double.map([1])
    patient = steps.double.with_options(retries=2, timeout="1m")
    assert (patient.options.retry.attempts, patient.options.timeout) == (3, 60.0)
    assert steps.double.options.retry.attempts == 1


async def test_a_step_may_call_another(open_engine: OpenEngine) -> None:
    @step
    async def calls(n: int) -> int:
        return int(await steps.double(n))

    @chain
    def simple():
        return calls(4)

    async with open_engine() as engine:
        run = await engine.run(simple)
        assert run.value == 8
        assert await settled(engine, run) == {"calls": DONE}


async def test_resume_where_a_function_is_missing(open_engine: OpenEngine, store: Path) -> None:
    """A process that lacks a step may not take the run over; it is left as it was, for one that has it."""

    @chain
    def gated_closure():
        @step
        async def local_only(text: str) -> str:
            return text

        return local_only(steps.read_text(steps.draft("x")))

    async with open_engine() as engine:
        run = await engine.run(gated_closure)
        await engine.approve((await pending(engine, run)).id, by="anna")
        code = """
            import asyncio, sys
            from towpath import StepNotRegistered, open_engine

            async def main():
                async with open_engine(sys.argv[1]) as engine:
                    try:
                        await engine.resume(sys.argv[2])
                    except StepNotRegistered as error:
                        print(error.code, error.problem.place.step, error.problem.cure)
                    print((await engine.snapshot(sys.argv[2])).status)

            asyncio.run(main())
        """
        told = await python(code, str(store), run.id)
        assert "E_STEP_NOT_REGISTERED" in told
        assert "local_only" in told
        assert "--import" in told
        assert told.splitlines()[-1] == "paused"
        run = await engine.resume(run.id)
        assert run.value == "x"
        assert await settled(engine, run) == {"draft": DONE, "read_text": DONE, "local_only": DONE}


async def test_a_plan_whose_function_is_nowhere_is_refused(open_engine: OpenEngine) -> None:
    from msgspec.structs import replace

    from tests.conformance.adapter.shapes import linear
    from tests.conformance.runs import of_plan

    plan = linear.plan
    lost = replace(plan, steps=(replace(plan.steps[0], target="nowhere:number"), *plan.steps[1:]))
    async with open_engine() as engine:
        with pytest.raises(StepNotRegistered, match="nowhere:number"):
            await engine.run(of_plan(lost), n=1)
        assert await engine.list_chains() == []


# ---- threads and the loop


async def test_plain_functions_work_in_threads(open_engine: OpenEngine) -> None:
    """Never on the thread of the loop, and no more at a time than `threads`."""
    busy, most, lock = 0, 0, threading.Lock()

    @step
    def blocks(n: int) -> int:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.01)
        with lock:
            busy -= 1
        return n

    @chain
    def threaded(main: int):
        return steps.which_thread(main), blocks.map(list(range(12)))

    async with open_engine(threads=3) as engine:
        run = await engine.run(threaded, main=threading.get_ident())
        assert run.value == [True, list(range(12))]
        assert most == 3
        assert set((await settled(engine, run)).values()) == {DONE}


# ---- ownership


async def test_only_one_engine_works_on_a_run(open_engine: OpenEngine, tmp_path: Path) -> None:
    """`resume` of a run in hand is refused with its owner; `run` with its id waits for it instead."""
    folder = str(tmp_path)

    @chain
    def held(folder: str):
        return steps.hold(folder, "it")

    async with open_engine() as engine, open_engine() as other:
        handle = await engine.start(held, folder=folder, run_id="mine")
        await began(folder, "it")
        for each in (engine, other):
            with pytest.raises(RunRefused) as owned:
                await each.resume("mine")
            assert owned.value.code == "E_RUN_OWNED"
        ends: list[Run] = []

        async def wait() -> None:
            ends.append(await other.run(held, folder=folder, run_id="mine"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.02)
            let_go(folder, "it")
        assert ends[0].value == "it"
        assert (await handle.result()).status == "completed"
        assert noted(folder, "it.began") == ["1"]
        assert await settled(engine, "mine") == {"hold": DONE}


async def test_cancel_from_another_process(open_engine: OpenEngine, store: Path, tmp_path: Path) -> None:
    """The owner sees the request in the store, while its step would wait for ever."""
    folder = str(tmp_path)

    @chain
    def held(folder: str):
        return steps.echo(steps.hold(folder, "it"))

    code = """
        import asyncio, sys
        from towpath import open_engine

        async def main():
            async with open_engine(sys.argv[1]) as engine:
                print(await engine.cancel(sys.argv[2]))
                print((await (await engine.get(sys.argv[2])).result()).status)

        asyncio.run(main())
    """
    async with open_engine() as engine:
        handle = await engine.start(held, folder=folder)
        await began(folder, "it")
        assert (await python(code, str(store), handle.id)).splitlines() == ["running", "cancelled"]
        run = await handle.result()
        assert await settled(engine, run) == {"hold": CANCELLED, "echo": CANCELLED}


async def test_decisions_from_another_process(open_engine: OpenEngine, store: Path) -> None:
    """Approved with the functions of `towpath.store` while this engine waits for it."""

    @chain
    def simple():
        return steps.read_text(steps.draft("x"))

    code = """
        import asyncio, sys
        from pathlib import Path
        from towpath.store import approve, get_pending_approvals, open_store

        async def main():
            async with open_store(Path(sys.argv[1])) as store, store.session() as session:
                found = await get_pending_approvals(session)
                await approve(session, found[0].id, "anna")

        asyncio.run(main())
    """
    async with open_engine() as engine:
        ends: list[Run] = []

        async def wait() -> None:
            ends.append(await engine.run(simple, run_id="waits", wait=True))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until(lambda: engine.approvals("waits"))
            await python(code, str(store))
        assert ends[0].value == "x"
        assert await settled(engine, ends[0]) == {"draft": DONE, "read_text": DONE}


async def test_an_interrupted_call_leaves_the_run_paused(open_engine: OpenEngine, tmp_path: Path) -> None:
    """Ctrl-C is a cancellation of the caller: the run is `paused`, `interrupted`, and can be resumed."""
    folder = str(tmp_path)

    @chain
    def held(folder: str):
        return steps.hold(folder, "it")

    async with open_engine() as engine:
        async with anyio.create_task_group() as tasks:

            async def run_it() -> None:
                await engine.run(held, folder=folder, run_id="mine")

            tasks.start_soon(run_it)
            await began(folder, "it")
            tasks.cancel_scope.cancel()
        run = await engine.snapshot("mine")
        assert (run.status, run.reason) == ("paused", "interrupted")
        assert await settled(engine, run) == {"hold": RUNS}
        let_go(folder, "it")
        run = await engine.resume("mine")
        assert (run.value, run["hold"].attempt) == ("it", 2)
        assert await settled(engine, run) == {"hold": DONE}


async def test_pause_while_a_step_waits_for_its_next_try(open_engine: OpenEngine, tmp_path: Path) -> None:
    """The run pauses at once; `resume` tries again without the rest of the wait."""
    folder = str(tmp_path)

    @chain
    def napping(folder: str):
        return steps.naps(folder)

    async with open_engine() as engine:
        handle = await engine.start(napping, folder=folder)
        await until(lambda: _retried(engine, handle.id))
        await handle.pause()
        with anyio.fail_after(PATIENCE):  # the wait before the next attempt is longer
            run = await handle.result()
        assert (run.status, run.reason) == ("paused", "requested")
        with anyio.fail_after(PATIENCE):
            run = await handle.resume()
        assert (run.value, run["naps"].attempt) == (2, 2)
        assert await settled(engine, run) == {"naps": DONE}


async def test_no_step_starts_after_a_pause_was_answered(open_engine: OpenEngine) -> None:
    """Not in the runs inside steps either, although the step before it ends in the very next turn of the loop."""
    begun, end = anyio.Event(), anyio.Event()

    @step
    async def first() -> str:
        begun.set()
        await end.wait()
        return "first"

    @step
    async def second(before: str) -> str:
        return f"second after {before}"

    @chain
    def line():
        return second(first())

    @chain
    def middle():
        return line()

    @chain
    def outer():
        return middle()

    async with open_engine() as engine:
        handle = await engine.start(outer)
        await begun.wait()
        await handle.pause()
        end.set()
        with anyio.fail_after(PATIENCE):
            assert (await handle.result()).status == "paused"
            assert (await engine.resume(handle.id)).value == "second after first"


async def _retried(engine: Engine, run_id: str) -> bool:
    return "StepRetried" in (await trail(engine, run_id)).get("naps", [])


async def test_the_same_decision_is_seen_twice(open_engine: OpenEngine, tmp_path: Path) -> None:
    """Whoever looks first applies it; a second look at the same moment changes nothing."""
    folder = str(tmp_path)

    @chain
    def busy(folder: str):
        return steps.read_text(steps.draft("x")), steps.hold(folder, "beside")

    async with open_engine() as engine:
        handle = await engine.start(busy, folder=folder)
        await until(lambda: engine.approvals(handle.id))
        gate = await pending(engine, handle.id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: engine.approve(gate.id, by="anna"))
            for _ in range(5):
                tasks.start_soon(engine.adapter.deliver_requests)
        let_go(folder, "beside")
        run = await handle.result()
        assert run.value == ["x", "beside"]
        applied = [e for e in await engine.store.events(run.id) if e["type"] == "DecisionApplied"]
        assert len(applied) == 1
        assert set((await settled(engine, run)).values()) == {DONE}


# ---- the block


async def test_an_error_in_the_block_comes_out_as_it_is(open_engine: OpenEngine) -> None:
    """`except ChainFailed` around `async with open_engine()` works: no ExceptionGroup around it."""
    for error in (ValueError("mine"), SystemExit(3), KeyError("x")):
        with pytest.raises(type(error)) as raised:
            async with open_engine():
                raise error
        assert raised.value is error


async def test_a_listener_hears_every_fact_after_it_was_recorded(open_engine: OpenEngine) -> None:
    heard: list[Any] = []

    @chain
    def simple():
        return steps.double(steps.number(2))

    async with open_engine(listener=lambda run_id, fact: heard.append((run_id, fact))) as engine:
        run = await engine.run(simple)
        assert {run_id for run_id, _ in heard} == {run.id}
        assert [fact.step for _, fact in heard if isinstance(fact, StepEnded)] == ["number", "double"]
        assert await settled(engine, run) == {"number": DONE, "double": DONE}


async def test_nothing_is_left_after_closing(tmp_path: Path) -> None:
    """No thread, no task, no file handle, however the block was left and whatever still ran."""
    code = """
        import asyncio, gc, os, sys, threading, time
        from tests.conformance import chain_steps as steps
        from towpath import chain, open_engine

        @chain
        def mixed(folder: str):
            return steps.hold(folder, "async"), steps.double.map(steps.up_to(20)), steps.folder_left(folder)

        async def once(n):
            try:
                async with open_engine(os.path.join(sys.argv[1], f"{n % 2}.db")) as engine:
                    handle = await engine.start(mixed, folder=sys.argv[1])
                    await asyncio.sleep(0.1)
                    if n % 2:
                        raise KeyError("left early")
                    await handle.cancel()
                    assert (await handle.result()).status == "cancelled"
            except KeyError:
                pass
            return {t.get_name() for t in asyncio.all_tasks()} - {asyncio.current_task().get_name()}

        def left():
            gc.collect()
            names = sorted(t.name for t in threading.enumerate())
            files = sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                           if os.path.exists(f"/proc/self/fd/{n}"))
            return names, files

        asyncio.run(once(0))
        before = left()
        for n in range(4):
            assert not asyncio.run(once(n)), "tasks"
            for _ in range(6000):  # anyio's idle worker threads end with the loop, a moment after it
                if left() == before:
                    break
                time.sleep(0.01)
            assert left() == before, (left(), before)
        print(before[0])
    """
    assert await python(code, str(tmp_path)) == "['MainThread']\n"


# ---- YAML


async def test_a_chain_file_runs_like_a_chain(open_engine: OpenEngine, tmp_path: Path) -> None:
    """The same steps from YAML: templates, a condition, a fan-out, a gate."""
    file = tmp_path / "story.yaml"
    file.write_text(
        textwrap.dedent("""
        name: story
        inputs:
          n: { type: integer, default: 3 }
          text: { type: string, default: "007" }
        steps:
          - id: first
            python: tests.conformance.chain_steps:up_to
            parameters: { n: "{{ inputs.n }}" }
          - id: twice
            python: tests.conformance.chain_steps:double
            depends_on: [first]
            foreach: "{{ first.output }}"
            parameters: { n: "{{ item }}" }
          - id: shown
            python: tests.conformance.chain_steps:draft
            depends_on: [twice]
            requires_approval: true
            parameters: { text: "{{ twice.output | join(',') }} {{ inputs.text }}" }
          - id: never
            python: tests.conformance.chain_steps:nothing
            depends_on: [twice]
            condition: "{{ twice.output[0] == 1 }}"
          - id: last
            python: tests.conformance.chain_steps:read_text
            depends_on: [shown]
            parameters: { file: "{{ shown.output }}" }
        """)
    )
    async with open_engine() as engine:
        run = await engine.run(load_chain(file), n=4)
        assert run.status == "paused", run.error
        assert await status_of(engine, run.id, "shown") == WAITS
        await engine.approve((await pending(engine, run)).id, by="anna")
        run = await engine.resume(run.id)
        assert run["last"].value == "0,2,4,6 007"
        assert run.status == "completed"
        assert (await settled(engine, run))["never"] == "skipped"
        assert (await rows(engine, run))["twice[2]"].parameters == {"n": 2}


async def test_a_pause_reaches_a_chain_inside_a_step_while_it_begins(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request to the run inside is recorded nowhere, so nothing would bring it again."""
    reading, read_on, restore = anyio.Event(), anyio.Event(), Ledger.restore

    async def slow(ledger: Ledger, row: RunRow) -> None:
        if row.plan.name == "inside":
            reading.set()
            await read_on.wait()
        await restore(ledger, row)

    @chain
    def inside():
        return steps.number(2)

    @chain
    def outside():
        return inside()

    monkeypatch.setattr(Ledger, "restore", slow)
    async with open_engine() as engine:
        handle = await engine.start(outside)
        await reading.wait()
        await handle.pause()
        await anyio.wait_all_tasks_blocked()  # the request is on its way
        read_on.set()
        run = await handle.result()
        assert (run.status, run.reason) == ("paused", "requested")
        assert (await handle.resume()).value == 2
