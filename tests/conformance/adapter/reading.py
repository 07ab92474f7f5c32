"""A step reads the files that it gets, wherever its function runs (newcomer F1). Each test has a limit: a hang fails
it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conformance import reading_steps as s
from tests.conformance.runs import OpenEngine

pytestmark = pytest.mark.anyio
LIMIT = 120  # seconds for a whole test


async def value_of(open_engine: OpenEngine, described: Any) -> Any:
    async with asyncio.timeout(LIMIT), open_engine() as engine:
        run = await engine.run(described)
        assert run.status == "completed", run.error
        return run.value


async def test_plain_functions_read_files_in_every_way(open_engine: OpenEngine) -> None:
    """In the thread of the step, in threads and loops of its own, and with `process=True`."""
    right = {"named": True, "wrong": [], "together": 1}
    assert await value_of(open_engine, s.reading) == {"thread": [right] * 2, "process": [right] * 2}


async def test_files_go_to_processes_of_the_step(open_engine: OpenEngine) -> None:
    assert await value_of(open_engine, s.sending) == [[True, True]] * 2


async def test_a_blocked_loop_does_not_hold_up_a_thread_that_reads(open_engine: OpenEngine) -> None:
    assert await value_of(open_engine, s.waiting) == [{"blocked": True, "waits": True, "path": True}] * 2


async def test_blocking_functions_are_refused_in_the_loop(open_engine: OpenEngine) -> None:
    """At once, with the cure."""
    assert await value_of(open_engine, s.blocking) == [["E_SYNC_IN_LOOP"] * 5] * 2


async def test_libraries_take_an_artifact_as_a_path(open_engine: OpenEngine) -> None:
    """Also one of a list: polars takes brackets in a path for a pattern."""
    found = await value_of(open_engine, s.libraries)
    assert found == {"shapes": [[1, 2], [1, 2]], "size": [4, 3], "sum": 5.0}
