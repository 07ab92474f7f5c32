"""`@step(process=True)`: a function in a process of its own, which is killed when the attempt is over."""

from __future__ import annotations

import os
import signal
from typing import Any

import anyio
import pytest

from tests.conformance import process_steps as steps
from tests.conformance.chain_steps import PATIENCE, began, let_go, noted
from tests.conformance.runs import CANCELLED, DONE, FAILED, OpenEngine, settled, until
from towpath import Secret, chain


def alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_runs_elsewhere_and_a_process_is_used_again(open_engine: OpenEngine) -> None:
    @chain
    def both():
        first = steps.where(1)
        return first, steps.where(first[0])

    async with open_engine(processes=1) as engine:
        run = await engine.run(both)
        (one, there), (two, here) = run.value
        assert (one, two) == (1, 1)
        assert there == here != os.getpid()
        assert alive(str(there))
    assert not alive(str(there)), "the engine leaves no process"


async def test_items_run_at_the_same_time_and_the_loop_goes_on(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def two(folder: str):
        return [steps.busy(folder, name).named(name) for name in ("a", "b")]

    async with open_engine(processes=2) as engine:
        handle = await engine.start(two, folder=folder)
        await began(folder, "a", "b")
        (one,), (other,) = noted(folder, "a.began"), noted(folder, "b.began")
        assert one != other
        let_go(folder, "a", "b")
        assert (await handle.result()).value == ["a", "b"]


async def test_a_cancel_and_a_timeout_kill_the_process(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def endless(folder: str):
        return steps.busy(folder, "a")

    @chain
    def late(folder: str):
        return steps.hangs(folder)

    async with open_engine(processes=2) as engine:
        handle = await engine.start(endless, folder=folder)
        await began(folder, "a")
        await handle.cancel()
        run = await handle.result(check=False)
        assert await settled(engine, run) == {"busy": CANCELLED}
        await until(lambda: _dead(noted(folder, "a.began")[0]))
        run = await engine.run(late, folder=folder, check=False)
        assert run["hangs"].error is not None
        assert run["hangs"].error.code == "E_STEP_TIMEOUT"
        await until(lambda: all(not alive(pid) for pid in noted(folder, "hangs.began")))


async def _dead(pid: str) -> bool:
    return not alive(pid)


async def test_a_process_that_dies_fails_the_attempt_only(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def dying(folder: str):
        return steps.dies_once(folder), steps.dies()

    async with open_engine(processes=2) as engine:
        run = await engine.run(dying, folder=folder, check=False)
        assert (run["dies_once"].value, run["dies_once"].attempt) == (2, 2)
        error = run["dies"].error
        assert error is not None
        assert (error.code, error.type) == ("E_STEP_PROCESS_DIED", "StepProcessFailed")
        assert "exit code 7" in error.message
        assert await settled(engine, run) == {"dies_once": DONE, "dies": FAILED}


async def test_files_logs_and_secrets_work_there(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESS_KEY", "12345")

    @chain
    def whole(key: Secret[str], text: str = "hello"):
        return steps.uses_everything(steps.text_of(text), key)

    async with open_engine(processes=1) as engine:
        run = await engine.run(whole, key=Secret.env("PROCESS_KEY"))
        found: Any = run["uses_everything"]
        value: Any = run.value
        assert value["length"] == 5
        assert value["made"].size == 100_000
        assert value["named"].filename == "y.dat"
        assert await value["same"].read_bytes() == b"hello"
        assert {a.name for a in found.artifacts} == {"made", "named", "same", "saved.txt"}
        assert "read 5 characters" in "".join(row["text"] for row in await engine.store.logs(run.id))
        assert await settled(engine, run) == {"text_of": DONE, "uses_everything": DONE}


@pytest.mark.parametrize(
    ("what", "tries", "code"),
    [
        ("again", 3, "E_STEP_RAISED"),
        ("never", 1, "E_STEP_RAISED"),
        ("final", 1, "E_NO_FACE"),
        ("exit", 1, "E_STEP_RAISED"),
    ],
    ids=str,
)
async def test_what_it_raises_is_told_as_ever(
    open_engine: OpenEngine, folder: str, what: str, tries: int, code: str
) -> None:
    @chain
    def failing(folder: str, what: str):
        return steps.fails(folder, what)

    async with open_engine(processes=1) as engine:
        run = await engine.run(failing, folder=folder, what=what, check=False)
        error = run["fails"].error
        assert error is not None
        assert (error.code, len(noted(folder, what))) == (code, tries)
        assert "process_steps.py" in error.traceback
        assert "step_process.py" not in error.traceback


async def test_a_value_that_cannot_leave_says_so(open_engine: OpenEngine) -> None:
    @chain
    def stuck():
        return steps.cannot_leave()

    async with open_engine(processes=1) as engine:
        with anyio.fail_after(60):
            run = await engine.run(stuck, check=False)
        error = run["cannot_leave"].error
        assert error is not None
        assert error.code == "E_STEP_PROCESS"
        assert "lock" in error.message


async def test_a_child_that_a_step_forks_answers_nothing(open_engine: OpenEngine) -> None:
    """Its answer would be taken for that of the step, and that of the step for the next one's."""

    @chain
    def one_after_the_other():
        first = steps.forks(True)
        return first, steps.forks(False).after(first), steps.where(2).after(first)

    async with open_engine(processes=1) as engine:
        one, two, (three, _) = (await engine.run(one_after_the_other)).value
    assert (one, two, three) == (1, 1, 2)


async def test_a_thread_that_a_step_leaves_reports_nothing(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def one_after_the_other(folder: str):
        return steps.lets_threads_go(folder).after(steps.leaves_a_thread(folder))

    async with open_engine(processes=1) as engine:
        run = await engine.run(one_after_the_other, folder=folder)
        logs = await engine.store.logs(run.id)
    assert run.value == 2
    assert "in time" in str(logs)
    assert "too late" not in str(logs)


async def test_a_process_that_died_is_not_missed_because_of_its_child(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def one(folder: str):
        return steps.dies_with_a_child(folder)

    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(one, folder=folder, check=False)
        assert run.error is not None
        assert run.error.code == "E_STEP_PROCESS_DIED"
    (child,) = noted(folder, "child")
    os.kill(int(child), signal.SIGKILL)
