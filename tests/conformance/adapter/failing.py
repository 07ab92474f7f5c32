"""A failed chain is loud: whoever waits for a run that failed or was cancelled gets ChainFailed (F6)."""

from __future__ import annotations

import logging
import pickle

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.adapter.conditions import branches
from tests.conformance.chain_steps import began
from tests.conformance.runs import CANCELLED, DONE, FAILED, OpenEngine, settled
from towpath import ChainFailed, chain, context, step
from towpath.model import ChainStatus


@chain
def three_fail():
    return steps.boom_if.map([1, 2, 3, 4], bad=[2, 3]), steps.boom("no luck")


async def test_F6_every_way_to_wait_for_a_failed_run_raises(open_engine: OpenEngine) -> None:
    """`run`, a known `run_id`, `rerun` and `result` raise; with `check=False` they return the run."""
    async with open_engine() as engine:
        with pytest.raises(ChainFailed) as first:
            await engine.run(three_fail, run_id="r")
        assert first.value.run.id == "r"
        assert first.value.run["boom"].status == "failed"
        with pytest.raises(ChainFailed):
            await engine.run(three_fail, run_id="r")
        assert (await engine.run(three_fail, run_id="r", check=False)).status == "failed"
        with pytest.raises(ChainFailed) as again:
            await engine.rerun("r")
        assert again.value.run.id != "r"
        assert (await engine.rerun("r", check=False)).status == "failed"
        with pytest.raises(ChainFailed):
            await (await engine.get("r")).result()
        handle = await engine.start(three_fail)
        run = await handle.result(check=False)
        assert run.status == "failed"
        assert set((await settled(engine, run)).values()) == {DONE, FAILED}


async def test_F6_the_error_says_what_failed_first_and_what_to_do(open_engine: OpenEngine) -> None:
    """The run, its chain, the first failed step, how many more, the cure; and the step's own traceback as a note."""
    async with open_engine() as engine:
        with pytest.raises(ChainFailed) as raised:
            await engine.run(three_fail, run_id="r")
        text = str(raised.value)
        assert raised.value.code == "E_STEP_RAISED"
        assert "run r of three_fail failed: step boom_if[1]: ValueError: item 2 (and 2 more failed)" in text
        assert "`towpath show r --store " in text
        assert "`towpath rerun r --store " in text
        (note,) = raised.value.__notes__
        assert note.startswith("In step boom_if[1]:\nTraceback")
        assert "chain_steps.py" in note
        ours = [entry.name for entry in raised.traceback if "towpath" in str(entry.path.parent.name)]
        assert len(ours) <= 1, "one frame of towpath: the function that was called"
        copy = pickle.loads(pickle.dumps(raised.value))
        assert (str(copy), copy.run, copy.__notes__) == (text, None, [note])
        await settled(engine, "r")


async def test_F6_a_cancelled_run_raises_too(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def held(folder: str):
        return steps.hold(folder, "it")

    async with open_engine() as engine:
        handle = await engine.start(held, folder=folder)
        await began(folder, "it")
        await handle.cancel()
        with pytest.raises(ChainFailed, match="was cancelled") as raised:
            await handle.result()
        assert raised.value.run.status is ChainStatus.CANCELLED
        assert not raised.value.retryable
        assert await settled(engine, raised.value.run) == {"hold": CANCELLED}


async def test_F6_a_resumed_run_that_fails_raises(open_engine: OpenEngine) -> None:
    @chain
    def gated():
        return steps.boom("late").after(steps.draft("x"))

    async with open_engine() as engine:
        run = await engine.run(gated, run_id="r")
        assert run.status is ChainStatus.PAUSED  # a pause is no failure
        (gate,) = await engine.approvals("r")
        await engine.approve(gate, by="Ann")
        with pytest.raises(ChainFailed, match="step boom: ValueError: late"):
            await run.resume()
        await settled(engine, "r")


async def test_F6_a_partial_run_is_returned_and_logged(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    @chain
    def kept():
        return steps.total(steps.boom_if_kept.map([1, 2, 3], bad=[2]))

    caplog.set_level(logging.WARNING, "towpath")
    async with open_engine() as engine:
        run = await engine.run(kept, run_id="r")
        assert run.status is ChainStatus.PARTIAL
        (line,) = [text for text in caplog.messages if "run r" in text]
        assert "item 2" in line
        assert "`towpath show r --store " in line
        caplog.clear()
        assert (await engine.run(kept, run_id="r", check=False)).status is ChainStatus.PARTIAL
        assert not [text for text in caplog.messages if "run r" in text]
        assert (await engine.run(steps_only)).value == 3
        await settled(engine, run)


@chain
def steps_only():
    return steps.number(3)


_stores: list[OpenEngine] = []


@step(retries=1)
async def runs_branches() -> int:
    """Fails as the run inside it does."""
    async with _stores[0]() as engine:
        return len((await engine.run(branches, run_id=f"inner-{context().attempt}")).steps)


async def test_F6_a_run_inside_a_step_fails_the_step(open_engine: OpenEngine) -> None:
    """The step's error names the run and its first failed step, and the step is tried again as its rules say."""

    @chain
    def outer():
        return runs_branches()

    _stores[:] = [open_engine]
    async with open_engine() as engine:
        with pytest.raises(ChainFailed, match="step runs_branches: run inner-2 of branches failed: step boom: "):
            await engine.run(outer, run_id="r")
        run = await engine.snapshot("r")
        error = run["runs_branches"].error
        assert error is not None
        assert (run["runs_branches"].attempt, error.code, error.type) == (2, "E_STEP_RAISED", "ChainFailed")
        assert "In step boom:" in error.traceback
        await settled(engine, run)
