"""A function that cannot be stopped: it can see that its attempt is over, and the next attempt waits for it
(python-trial 16).
"""

from __future__ import annotations

import logging

import pytest

from tests.conformance import thread_steps as steps
from tests.conformance.chain_steps import began, let_go, noted
from tests.conformance.runs import CANCELLED, DONE, FAILED, OpenEngine, settled, until
from towpath import chain


async def test_a_function_sees_that_it_timed_out(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def late(folder: str):
        return steps.looks_for_its_end(folder)

    async with open_engine() as engine:
        run = await engine.run(late, folder=folder, check=False)
        assert run["looks_for_its_end"].error is not None
        assert run["looks_for_its_end"].error.code == "E_STEP_TIMEOUT"
        await until(lambda: _noted(folder, "looked"))
        assert [line.count("is over") for line in noted(folder, "raised")] == [1, 1]
        assert not noted(folder, "swallowed")
        assert await settled(engine, run) == {"looks_for_its_end": FAILED}


async def test_a_function_sees_that_it_is_cancelled(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def late(folder: str):
        return steps.looks_for_a_cancel(folder)

    async with open_engine() as engine:
        handle = await engine.start(late, folder=folder)
        await until(lambda: _noted(folder, "began"))
        await handle.cancel()
        run = await handle.result(check=False)
        assert run.status == "cancelled"
        await until(lambda: _noted(folder, "looked"))
        assert len(noted(folder, "raised")) == 2
        assert await settled(engine, run) == {"looks_for_a_cancel": CANCELLED}


async def _noted(folder: str, name: str) -> bool:
    return bool(noted(folder, name))


async def test_attempts_of_one_step_do_not_overlap(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def slow(folder: str):
        return steps.takes_its_time(folder)

    async with open_engine() as engine:
        run = await engine.run(slow, folder=folder, check=False)
        assert run["takes_its_time"].attempt == 3
        await until(lambda: _all_ended(folder))
        assert noted(folder, "order") == ["begin", "end"] * 3


async def _all_ended(folder: str) -> bool:
    return noted(folder, "order").count("end") == 3


async def test_after_the_grace_they_do_and_the_log_says_so(
    open_engine: OpenEngine, folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("towpath.user_code.GRACE", 0.3)

    @chain
    def slow(folder: str):
        return steps.overlaps(folder)

    async with open_engine() as engine:
        with caplog.at_level(logging.WARNING):
            run = await engine.run(slow, folder=folder)
        assert (run.value, run["overlaps"].attempt) == (2, 2)
        assert not noted(folder, "first.ended")
        let_go(folder, "first")
        await until(lambda: _noted(folder, "first.ended"))
        said = f"the thread of attempt 1 at step overlaps of run {run.id} has not ended 0.3 s after"
        assert said in caplog.text
        assert said in "".join(row["text"] for row in await engine.store.logs(run.id))
        assert await settled(engine, run) == {"overlaps": DONE}


async def test_a_thread_keeps_its_work_folder_until_its_end(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def late(folder: str):
        return steps.keeps_its_folder(folder)

    async with open_engine() as engine:
        run = await engine.run(late, folder=folder, check=False)
        assert run.status == "failed"
        (where,) = noted(folder, "where")
        assert steps.exists(where)
        let_go(folder, "write")
        await until(lambda: _noted(folder, "written"))
        await until(lambda: _gone(where))


async def _gone(path: str) -> bool:
    return not steps.exists(path)


async def test_a_step_that_shields_itself_is_left_after_the_grace(
    open_engine: OpenEngine, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, then recorded as cancelled."""
    monkeypatch.setattr("towpath.user_code.GRACE", 0.3)

    @chain
    def stubborn(folder: str):
        return steps.shielded(folder)

    async with open_engine() as engine:
        handle = await engine.start(stubborn, folder=folder)
        await began(folder, "shielded")
        await handle.cancel()
        run = await handle.result(check=False)
        assert run.status == "cancelled"
        assert noted(folder, "shielded.asked")
        assert await settled(engine, run) == {"shielded": CANCELLED}
        let_go(folder, "shielded")
