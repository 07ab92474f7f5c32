# ruff: noqa: ASYNC240 - tests and steps meet through files
"""The inputs of a chain: defaults, types, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.runs import DONE, OpenEngine, rows, settled
from towpath import Engine, File, InputInvalid, Run, chain


@chain
def with_inputs(
    text: str,
    count: int = 2,
    share: float = 0.5,
    flag: bool = True,
    data: dict[str, Any] | None = None,
):
    return steps.echo({"all": [text, count, share, flag, data]})


async def test_inputs_and_defaults(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        run = await engine.run(with_inputs, text="007", data={"a": [1, None]})
        assert run.value == {"all": ["007", 2, 0.5, True, {"a": [1, None]}]}
        row = await engine.get_chain(run.id)
        assert row.inputs == {"text": "007", "count": 2, "share": 0.5, "flag": True, "data": {"a": [1, None]}}
        taken = await engine.run(with_inputs, inputs={"text": "x"}, share=1, flag=False)
        assert taken.value == {"all": ["x", 2, 1, False, None]}
        assert await settled(engine, run) == {"echo": DONE}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "E_INPUT_MISSING"),
        ({"text": "x", "colour": "red"}, "E_INPUT_UNKNOWN"),
        ({"text": 7}, "E_INPUT_TYPE"),
        ({"text": "x", "count": "2"}, "E_INPUT_TYPE"),
        ({"text": "x", "count": True}, "E_INPUT_TYPE"),
        ({"text": "x", "count": 2.0}, "E_INPUT_TYPE"),
        ({"text": "x", "flag": 1}, "E_INPUT_TYPE"),
        ({"text": "x", "share": "0.5"}, "E_INPUT_TYPE"),
        ({"text": "x", "share": float("nan")}, "E_VALUE_TYPE"),
        ({"text": "x", "data": {(1,): 2}}, "E_VALUE_TYPE"),
        ({"text": "x", "data": object()}, "E_INPUT_TYPE"),
    ],
)
async def test_inputs_that_are_refused(open_engine: OpenEngine, given: dict[str, Any], code: str) -> None:
    """Before anything is recorded."""
    async with open_engine() as engine:
        with pytest.raises(Exception, match=code):
            await engine.run(with_inputs, inputs=given)
        assert await engine.list_chains() == []


@chain
def with_files(photo: File, more: dict[str, Any] | None = None):
    return steps.describe(photo), steps.contents(more)


async def test_file_inputs(open_engine: OpenEngine, tmp_path: Path) -> None:
    """Files among the inputs are artifacts of a completed row with the step id `inputs`."""
    path = tmp_path / "cat.txt"
    path.write_bytes(b"meow" * 10_000)
    async with open_engine() as engine:
        for given in (path, str(path), File(path.read_bytes(), filename="cat.txt")):
            run = await engine.run(with_files, photo=given, more={"deep": [b"bytes"]})
            assert run["describe"].value["filename"] == "cat.txt"
            assert (run["describe"].value["name"], run["describe"].value["size"]) == ("photo", 40_000)
            assert run["contents"].value == {"deep": ["more.deep[0]: 5"]}
            assert await settled(engine, run) == {"inputs": DONE, "describe": DONE, "contents": DONE}
        handed_on = await engine.run(with_files, photo=run["describe"].value and await _input(engine, run))
        assert handed_on["describe"].value["size"] == 40_000
        with pytest.raises(InputInvalid) as wrong:
            await engine.run(with_files, photo=7)
        assert wrong.value.code == "E_INPUT_TYPE"
        with pytest.raises(Exception, match="E_VALUE_FILE"):
            await engine.run(with_files, photo=tmp_path / "nowhere.png")


async def _input(engine: Engine, run: Run) -> bytes:
    row = (await rows(engine, run))["inputs"]
    artifact = await engine.get_latest_artifact(row.id, "photo")
    assert artifact.name == "photo"
    return Path(artifact.local_path).read_bytes()
