"""What steps log, print and report while they run."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest

from tests.conformance import log_steps as steps
from tests.conformance.chain_steps import PATIENCE, began, let_go
from tests.conformance.runs import DONE, FAILED, OpenEngine, settled, until
from tests.raw_sql import raw
from towpath import Engine, chain

_TIME = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", re.MULTILINE)


async def texts(engine: Engine, run_id: str) -> dict[str, str]:
    """The logs of a run without times, by step or item."""
    kept = await engine.store.logs(run_id)
    return {
        f"{row['step_id']}" if row["item_index"] is None else f"{row['step_id']}[{row['item_index']}]": _TIME.sub(
            "", row["text"]
        )
        for row in kept
    }


async def test_prints_log_records_and_warnings_are_kept(
    open_engine: OpenEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    """F4: of any library, in async, plain and process steps; the program's own output stays what it is."""

    @chain
    def saying():
        return steps.says_in_process(steps.says_plain(steps.says_async()))

    async with open_engine(processes=1) as engine:
        run = await engine.run(saying)
        kept = {
            step: re.sub(r" \(log_steps.py:\d+\)", "", text) for step, text in (await texts(engine, run.id)).items()
        }
        assert kept["says_async"].splitlines() == [*steps.lines("async"), "INFO    stdout: from a thread"]
        assert kept["says_plain"].splitlines() == steps.lines("plain")
        assert kept["says_in_process"].splitlines() == steps.lines("process")
        assert await settled(engine, run) == {"says_async": DONE, "says_plain": DONE, "says_in_process": DONE}
    seen = capfd.readouterr()
    for what in ("async", "plain", "process"):
        assert seen.out.count(f"{what} printed\n") == 1
        assert seen.err.count(f"{what} to stderr\n") == 1
        assert "logged" not in seen.err


async def test_steps_that_talk_at_the_same_time_are_told_apart(open_engine: OpenEngine, folder: str) -> None:
    """F4: also within a line."""

    @chain
    def talking(folder: str):
        return steps.talks.map([0, 1, 2, 3], folder=folder)

    async with open_engine() as engine:
        run = await engine.run(talking, folder=folder)
        kept = await texts(engine, run.id)
        for n in range(4):
            logged = [f"INFO    tests.a_library: item {n} part {part}" for part in range(20)]
            printed = "INFO    stdout: " + " ".join(f"{n}.{part}" for part in range(20)) + " "
            assert kept[f"talks[{n}]"].splitlines() == [*logged, printed]


async def test_progress_is_seen_by_everybody(open_engine: OpenEngine, folder: str) -> None:
    """F3: of items too, by an engine that executes nothing, and as it is now by the one that does."""

    @chain
    def halves(folder: str):
        return steps.half.map([1, 2], folder=folder), steps.counts(folder)

    expected = {("half", 0): (1, 10), ("half", 1): (2, 10), ("counts", None): (20_000, 40_000)}
    async with open_engine(processes=1) as engine, open_engine(readonly=True, worker=False) as other:
        handle = await engine.start(halves, folder=folder)
        await began(folder, "half")
        await began(folder, "counts")
        await until(lambda: _is(engine, handle.id, expected))
        await until(lambda: _is(other, handle.id, expected))
        await until(lambda: _says(other, handle.id, "half of it"))
        let_go(folder, "half")
        let_go(folder, "counts")
        with anyio.fail_after(PATIENCE):
            run = await handle.result()
        assert await engine.progress(run.id) == await other.progress(run.id) == {}
        assert await settled(engine, run) == {"half": DONE, "half[0]": DONE, "half[1]": DONE, "counts": DONE}


async def _is(engine: Engine, run_id: str, expected: dict[Any, Any]) -> bool:
    return await engine.progress(run_id) == expected


async def _says(engine: Engine, run_id: str, text: str) -> bool:
    return text in (await texts(engine, run_id)).get("counts", "")


async def test_the_last_figure_of_a_failed_attempt_stays(open_engine: OpenEngine) -> None:
    """F3: and an attempt that is over within a second writes no figure if it completes."""

    @chain
    def failing():
        return steps.fails_on_the_way(), steps.quick()

    async with open_engine() as engine:
        handle = await engine.start(failing)
        await until(lambda: _is_over(engine, handle.id))
        run = await engine.snapshot(handle.id)
        ids = {row.id: row.step_id for row in await engine.get_workflows_by_chain(run.id)}
        recorded = await raw(engine.store, "SELECT workflow_id, done, total FROM step_logs")  # type: ignore[arg-type]
        assert [(ids[row["workflow_id"]], row["done"], row["total"]) for row in recorded] == [
            ("fails_on_the_way", 3, 8)
        ]
        assert await settled(engine, run) == {"fails_on_the_way": FAILED, "quick": DONE}


async def _is_over(engine: Engine, run_id: str) -> bool:
    return (await engine.snapshot(run_id)).status.final
