"""Outcomes of steps on the local adapter, and what only one process can show: nesting, deaths, Ctrl-C."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.conftest import OpenEngine, check
from tests.conformance import hostile_steps as steps
from tests.conformance.outcomes import *  # noqa: F403
from tests.conformance.outcomes import looks, tenant
from towpath import Engine, InputInvalid, chain, context, step
from towpath import open_engine as open_real_engine
from towpath.adapters import local
from towpath.adapters.slots import Slots
from towpath.adapters.task_group import HeldOpen, kept_running
from towpath.store.runs import RunStore

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]
_engine: list[Engine] = []


@chain
def small(n: int):
    return steps.good(n)


async def test_steps_see_what_the_caller_has_set(open_engine: OpenEngine) -> None:
    """A copy of the context of whoever started the run, in async and plain functions."""

    @step
    def in_a_thread() -> str:
        return tenant.get()

    @chain
    def both():
        return looks(1), in_a_thread()

    async with open_engine() as engine:
        token = tenant.set("the caller")
        run = await engine.run(both)
        handle = await engine.start(both)
        tenant.reset(token)
        assert run.value == ["the caller", "the caller"]
        assert (await handle.result()).value == ["the caller", "the caller"]


async def test_a_step_is_given_time_to_end_and_no_more(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout holds for a function that swallows its cancellation: its task is abandoned."""
    monkeypatch.setattr("towpath.user_code.GRACE", 0.1)
    let_go = asyncio.Event()

    @step(timeout=0.1)
    async def stubborn() -> int:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return 1

    @chain
    def waits():
        return stubborn()

    async with open_engine() as engine:
        with anyio.fail_after(60):
            run = await engine.run(waits, check=False)
        let_go.set()
        assert run["stubborn"].error is not None
        assert run["stubborn"].error.code == "E_STEP_TIMEOUT"


# ---- deaths of the process


DYING = """
import asyncio, sys
from tests.conformance import hostile_steps as steps
from towpath import chain, open_engine

@chain
def dying(folder: str, times: int):
    return [steps.good.map(list(range(3))), steps.dies(folder, times)]

async def main(store, folder, times):
    async with open_engine(store, durability="normal") as engine:
        run = await engine.run(dying, run_id="dying", folder=folder, times=int(times), check=False)
        print(run.status.value, run["dies"].error.code if run["dies"].error else run["dies"].value)

asyncio.run(main(*sys.argv[1:]))
"""


def _die(store: Path, folder: Path, times: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DYING, str(store), str(folder), str(times)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("times", "last"), [(2, "completed 2"), (9, "failed E_STEP_CRASHES")])
def test_a_step_that_ends_its_process_is_given_up(store: Path, tmp_path: Path, times: int, last: str) -> None:
    """Three deaths on one attempt fail the step; two do not. Steps beside it are never blamed."""
    for _ in range(min(times, 3)):
        assert _die(store, tmp_path, times).returncode == 9
    ended = _die(store, tmp_path, times)
    assert ended.stdout.strip() == last, ended.stderr
    assert (tmp_path / "died").read_text() == "x" * 3
    check(store)


async def test_a_run_that_was_let_go_in_good_order_has_lost_nothing(open_engine: OpenEngine) -> None:
    """Closing the engine again and again under a step is no death of a process."""
    began, done = asyncio.Event(), asyncio.Event()

    @step
    async def slow() -> int:
        began.set()
        await done.wait()
        return 1

    @chain
    def line():
        return slow()

    async with open_engine() as engine:
        handle = await engine.start(line)
        await began.wait()
    for _ in range(4):
        began.clear()
        async with open_engine() as engine, anyio.create_task_group() as tasks:
            tasks.start_soon(engine.run, line)
            again = await engine.get(handle.id)
            tasks.start_soon(engine.resume, handle.id)
            await began.wait()
            tasks.cancel_scope.cancel()
            assert again.id == handle.id
    done.set()
    async with open_engine() as engine:
        assert (await engine.resume(handle.id)).status == "completed"


# ---- runs inside steps


@step
async def runs_one(n: int) -> Any:
    return (await _engine[0].run(small, n=n)).value


@step
async def runs_two_at_once(n: int) -> Any:
    engine = _engine[0]
    return [run.value for run in await asyncio.gather(engine.run(small, n=n), engine.run(small, n=n + 1))]


@step
async def waits_for_a_handle(n: int) -> Any:
    return (await (await _engine[0].start(small, n=n)).result()).value


@step
async def repeats(n: int) -> Any:
    engine = _engine[0]
    return (await engine.rerun(await engine.run(small, n=n))).value


@step
def runs_from_a_thread(n: int) -> Any:
    engine = _engine[0]
    return asyncio.run_coroutine_threadsafe(engine.run(small, n=n), engine._loop).result().value


@step
async def runs_from_a_child_task(n: int) -> Any:
    async with asyncio.TaskGroup() as group:
        child = group.create_task(_engine[0].run(small, n=n))
    return child.result().value


@step
async def runs_deep(n: int) -> Any:
    return n if n <= 0 else (await _engine[0].run(deep, n=n - 1)).value


@chain
def deep(n: int):
    return runs_deep(n)


@pytest.mark.parametrize(
    "nesting", [runs_one, runs_two_at_once, waits_for_a_handle, repeats, runs_from_a_thread, runs_from_a_child_task]
)
@pytest.mark.parametrize("limits", [{"concurrency": 1, "threads": 1}, {"concurrency": 3, "threads": 2}])
async def test_a_run_inside_a_step_never_waits_for_its_own_slot(
    open_engine: OpenEngine, nesting: Any, limits: dict[str, int]
) -> None:
    """However the step waits for it. Afterwards every slot and thread is where it was."""

    @chain
    def many():
        return nesting.map(list(range(8)))

    async with open_engine(**limits) as engine:
        _engine[:] = [engine]
        with anyio.fail_after(60):
            run = await engine.run(many)
        assert run.status == "completed"
        adapter: Any = engine.adapter
        assert (adapter.slots.free, adapter.resources.threads.total_tokens) == (
            limits["concurrency"],
            limits["threads"],
        )


async def test_runs_inside_runs_inside_runs(open_engine: OpenEngine) -> None:
    """Ten deep with one slot."""
    async with open_engine(concurrency=1) as engine:
        _engine[:] = [engine]
        with anyio.fail_after(60):
            assert (await engine.run(deep, n=10)).value == 0


def test_a_slot_that_is_taken_back_is_repaid_before_another_starts() -> None:
    """What runs already cannot wait for a slot: there are fewer than none until one more is given back."""
    slots = Slots(1)
    lender, other = slots.for_run(None, lambda: None), slots.for_run(None, lambda: None)
    assert lender.take()
    lender.give_back()
    assert other.take()
    lender.take_back()
    assert slots.free == -1
    other.give_back()
    assert not other.take()
    lender.give_back()
    assert slots.free + other.granted == 1


# ---- services


async def test_a_service_that_fails_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes nothing with it."""
    monkeypatch.setattr("towpath.adapters.task_group.FIRST_PAUSE", 0.001)
    tries: list[int] = []

    async def service() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise LookupError("odd")

    await kept_running(service, "a service")
    assert len(tries) == 4


async def test_a_context_that_fails_beside_its_user_says_so_when_it_is_closed() -> None:
    """Nobody waits for it before."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def inside(_: Any) -> AsyncIterator[int]:
        yield 1
        raise LookupError("on the way out")

    held = HeldOpen(inside)
    assert await held.__aenter__() == 1
    with pytest.raises(LookupError):
        await held.close()
    await held.close()


def test_trio_is_told_what_is_missing(store: Path) -> None:
    """No event loop of asyncio runs: towpath says so in place of an error from inside."""

    async def opened() -> None:
        async with open_real_engine(store):
            pass

    with pytest.raises(InputInvalid, match="E_SETTING"):
        contextvars.Context().run(opened().send, None)


# ---- closing, stopping, listening


@step
async def long_work() -> int:
    await asyncio.sleep(24 * 3600)
    return 1


@chain
def long_chain():
    return long_work()


async def test_closing_an_engine_pauses_the_runs_that_other_tasks_wait_for(store: Path) -> None:
    """As often as it happens: `engine.run` returns the paused run, nothing is counted as a death."""
    for _ in range(4):
        async with open_real_engine(store) as engine:
            waits = asyncio.create_task(engine.run(long_chain, run_id="long"))
            while not engine.adapter.working("long"):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        run = await waits
        assert (run.status, run.reason) == ("paused", "interrupted")
    async with open_real_engine(store) as engine:
        assert await engine.store.lost_attempts("long") == {}
        await engine.cancel("long")


async def test_closing_an_engine_pauses_a_run_that_is_being_claimed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not known as a run yet, and the engine waited for the end of its steps."""
    claimed, go_on, check_secrets = asyncio.Event(), asyncio.Event(), local._check_secrets

    async def slow(row: Any, store: Any) -> None:
        claimed.set()
        await go_on.wait()
        await check_secrets(row, store)

    monkeypatch.setattr(local, "_check_secrets", slow)
    engine = await Engine.open(store)
    waits = asyncio.create_task(engine.run(long_chain))
    await claimed.wait()
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0.05)
    go_on.set()
    with anyio.fail_after(60):
        await closing
    run = await waits
    assert (run.status, run.reason) == ("paused", "interrupted")


async def test_closing_an_engine_while_a_chain_begins_inside_a_step(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run around it is paused like all others; it does not fail with an error of the store."""

    @chain
    def around():
        return long_chain()

    loaded, go_on, load = asyncio.Event(), asyncio.Event(), RunStore.load

    async def slow(self: RunStore, run_id: str) -> Any:
        row = await load(self, run_id)
        if row.plan.name == "long_chain":
            loaded.set()
            await go_on.wait()
        return row

    monkeypatch.setattr(RunStore, "load", slow)
    engine = await Engine.open(store)
    waits = asyncio.create_task(engine.run(around))
    await loaded.wait()
    engine.adapter._closing = True  # type: ignore[attr-defined]  # `stop` is called, and has not come to the run yet
    go_on.set()
    await asyncio.sleep(0.05)
    assert not waits.done()
    with anyio.fail_after(60):
        await engine.close()
    run = await waits
    assert (run.status, run.reason) == ("paused", "interrupted")


async def test_a_step_may_close_its_engine(store: Path) -> None:
    """Its run is paused like all others, and goes on in the next engine."""
    engine = await Engine.open(store)

    @step
    async def closes(n: int) -> int:
        if not (store.parent / "closed").exists():
            (store.parent / "closed").touch()
            await engine.close()
        return n

    @chain
    def closing():
        return closes(5)

    with anyio.fail_after(60):
        run = await engine.run(closing)
        assert run.status == "paused"
        await engine.close()
    async with open_real_engine(store) as again:
        assert (await again.run(closing, run_id=run.id)).value == 5


async def test_a_step_cannot_wait_for_its_own_run(open_engine: OpenEngine) -> None:
    """It would wait for itself."""

    @step
    async def circles() -> str:
        try:
            await _engine[0].resume("circle")
        except Exception as error:
            return str(error)
        return "?"

    @chain
    def circle():
        return circles()

    async with open_engine() as engine:
        _engine[:] = [engine]
        with anyio.fail_after(60):
            assert "E_RUN_OWNED" in (await engine.run(circle, run_id="circle")).value


async def test_a_listener_cannot_change_what_it_hears(open_engine: OpenEngine) -> None:
    """Later steps, the result and the store have what the step returned."""

    @step
    async def gives() -> dict[str, Any]:
        return {"x": [1, 2, 3], "y": {"z": 1}}

    @step
    async def adds(v: dict[str, Any], w: list[int]) -> Any:
        return sum(v["x"]) + v["y"]["z"] + sum(w)

    @chain
    def adding(w: list[int]):
        return adds(gives(), w)

    def spoils(_: str, fact: Any) -> None:
        for data in (getattr(fact, "value", None), getattr(fact, "parameters", None)):
            if isinstance(data, dict):
                for inner in data.values():
                    inner.clear() if isinstance(inner, list | dict) else None
                data.clear()

    async with open_engine(listener=spoils) as engine:
        run = await engine.run(adding, w=[10])
        assert run.value == 17
        rows = {row.step_id: row for row in await engine.list_workflows(limit=10, chain_id=run.id)}
        assert rows["adds"].parameters == {"v": {"x": [1, 2, 3], "y": {"z": 1}}, "w": [10]}


class _SaysOthers(BaseExceptionGroup[BaseException]):
    """A group that tells of itself that it is its own member, for ever."""

    @property
    def exceptions(self) -> Any:
        return (self,)


def _interrupts(how: str) -> Any:
    """A KeyboardInterrupt that comes from no `raise` of the step's own, or from an odd place."""
    if how == "future":
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_exception(KeyboardInterrupt())
        return future
    if how == "thrown":
        return (n for n in range(3)).throw(KeyboardInterrupt())
    if how == "group":
        raise _SaysOthers("x", [ValueError("v"), KeyboardInterrupt()])
    if how == "deep":
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("again") from error
    raise type("MyInterrupt", (KeyboardInterrupt,), {})()


@pytest.mark.parametrize("how", ["future", "thrown", "group", "deep", "subclass"])
async def test_an_interrupt_that_nobody_pressed_is_a_failure(open_engine: OpenEngine, how: str) -> None:
    """Wherever it comes from: only what comes out of the signal's handler is a Ctrl-C."""

    @step
    async def interrupted() -> int:
        result = _interrupts(how)
        return await result if asyncio.isfuture(result) else 1

    @chain
    def one():
        return interrupted()

    async with open_engine() as engine:
        good = await engine.start(small, n=1)
        with anyio.fail_after(60):
            run = await engine.run(one, check=False)
        assert run.status == "failed"
        assert (await good.result()).value == 1


async def test_a_stream_sees_what_its_step_sees(open_engine: OpenEngine) -> None:
    """`context()` and variables that the step has set, also behind its return."""

    @step
    async def streams() -> Any:
        tenant.set("the step")

        async def stream() -> AsyncIterator[bytes]:
            yield f"{context().step_id} {tenant.get()}".encode()

        return stream()

    @chain
    def streaming():
        return streams()

    async with open_engine() as engine:
        run = await engine.run(streaming)
        assert await run["streams"].artifact.read_bytes() == b"streams the step"


NEIGHBOURS = """
import asyncio, os, sys
from towpath import chain, open_engine, step

@step
async def work(n: int) -> int:
    if n:
        await asyncio.sleep(0.2)
        os._exit(9)
    await asyncio.sleep(0.6)
    return n

@chain
def neighbours():
    return work.map([0, 1, 2, 3])

async def main(store):
    async with open_engine(store, durability="normal", concurrency=2) as engine:
        run = await engine.run(neighbours, run_id="n", check=False)
        rows = await engine.list_workflows(limit=10, chain_id="n")
        print(sorted(row.item_index for row in rows if row.status == "completed" and row.item_index is not None))

asyncio.run(main(sys.argv[1]))
"""


def test_nobody_is_blamed_for_the_death_that_a_neighbour_brought(store: Path) -> None:
    """Several that end the process, one that only works beside them, two slots."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(20):
        command = [sys.executable, "-c", NEIGHBOURS, str(store)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 9:
            break
    assert done.stdout.strip() == "[0]", done.stderr
    check(store)


STUBBORN = """
import asyncio, sys
from towpath import chain, open_engine, step

@step(timeout=0.1)
async def stubborn() -> int:
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass

@chain
def one():
    return stubborn()

async def main(store):
    import importlib
    importlib.import_module("towpath.user_code").GRACE = 0.1
    async with open_engine(store, durability="normal") as engine:
        print((await engine.run(one, check=False)).status)

asyncio.run(main(sys.argv[1]))
"""


def test_a_task_that_does_not_end_keeps_no_process(store: Path) -> None:
    """`asyncio.run` waits for all tasks that it knows; this one it knows no more."""
    command = [sys.executable, "-c", STUBBORN, str(store)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "failed"), done.stderr
    assert "destroyed" not in done.stderr
