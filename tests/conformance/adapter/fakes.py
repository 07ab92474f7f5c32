"""Fakes in the place of steps, `towpath.testing.replaced` (F16). The workers are in this process."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance import process_steps
from tests.conformance.runs import DONE, OpenEngine, settled
from towpath import ChainFailed, chain, load_chain, step
from towpath.testing import replaced

MAPPED = """
name: mapped
steps:
  - id: numbers
    python: tests.conformance.chain_steps:up_to
    parameters: {n: 3}
  - id: doubled
    python: tests.conformance.chain_steps:double
    depends_on: [numbers]
    foreach: "{{ numbers.output }}"
    parameters: {n: "{{ item }}"}
"""


@chain
def kinds(n: int):
    """A mapped step, one with other options, and one in a process of its own."""
    return steps.double.map([n, 2]), steps.boom.with_options(retries=1)("x"), process_steps.where(n)


async def test_F16_fakes_by_name(open_engine: OpenEngine) -> None:
    """Items of a map, options of one place, a step with a process of its own; async and plain fakes, and mocks."""
    async with open_engine() as engine:
        with replaced({"double": lambda n: n + 100, steps.boom: AsyncMock(return_value="fake"), "where": lambda n: -n}):
            run = await engine.run(kinds, n=1)
        assert run.value == [[101, 102], "fake", -1]
        with pytest.raises(ChainFailed):
            await engine.run(kinds, n=1)
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_F16_fakes_in_a_chain_file(open_engine: OpenEngine, tmp_path: Path) -> None:
    (tmp_path / "mapped.yaml").write_text(MAPPED)
    loaded = load_chain(tmp_path / "mapped.yaml")
    async with open_engine() as engine:
        with replaced({"tests.conformance.chain_steps:double": lambda n: n + 100}):
            run = await engine.run(loaded)
        assert run["doubled"].value == [n + 100 for n in run["numbers"].value]
        assert (await engine.run(loaded))["doubled"].value == [2 * n for n in run["numbers"].value]
        await settled(engine, run)


@step(name="stand_in_for_double")
async def stand_in(n: int) -> int:
    return n + 1000


async def test_F16_a_patched_module_is_used_by_chain_files_too(
    open_engine: OpenEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mapped.yaml").write_text(MAPPED)
    monkeypatch.setattr(steps, "double", stand_in)
    async with open_engine() as engine:
        run = await engine.run(load_chain(tmp_path / "mapped.yaml"))
        assert run["doubled"].value == [n + 1000 for n in run["numbers"].value]
        await settled(engine, run)
