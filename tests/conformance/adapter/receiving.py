"""Parameters get files and objects as their annotations say, and returned objects become files."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance import receiving_steps as s
from tests.conformance.adapter.reading import LIMIT, value_of
from tests.conformance.runs import OpenEngine, rows

pytestmark = pytest.mark.anyio


async def test_parameters_get_files_as_annotated(open_engine: OpenEngine) -> None:
    """A path, bytes, a text; inside lists, mappings and dataclasses; under wrappers. Unknown names change nothing."""
    assert await value_of(open_engine, s.receiving) == s.RECEIVED


async def test_objects_with_a_file_are_kept_and_loaded_where_they_are(open_engine: OpenEngine) -> None:
    """From a thread, a task and a process, each to a thread, a task and a process."""
    assert await value_of(open_engine, s.objects) == [[3, 3, 4], [3, 3, 4], [3, 3, 4], 7] * 3


async def test_a_file_that_does_not_fit_fails_the_step_at_once(open_engine: OpenEngine) -> None:
    """E_ARGUMENT_TYPE names the parameter, and is not tried again."""
    async with asyncio.timeout(LIMIT), open_engine() as engine:
        for described, step, name in ((s.wrong_file, "not_a_table", "table"), (s.too_large, "small_only", "text")):
            run = await engine.run(described)
            error = run[step].error
            assert run.status == "failed"
            assert error.code == "E_ARGUMENT_TYPE"
            assert f"the argument {name} " in error.message
            assert (await rows(engine, run))[step].attempt == 1
