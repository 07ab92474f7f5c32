# ruff: noqa: ASYNC240 - tests and steps meet through files
"""Files that steps return: how they are kept, named and handed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import noted
from tests.conformance.runs import DONE, FAILED, OpenEngine, settled
from towpath import StepNotCompleted, chain


async def test_files_anywhere_in_a_value(open_engine: OpenEngine) -> None:
    """bytes, a path, a stream and a File at any depth are kept, named by their place, and handed on."""

    @chain
    def files():
        made = steps.many_files()
        return steps.contents(made), steps.describe(made["deep"]["named"]), made

    async with open_engine() as engine:
        run = await engine.run(files)
        assert {a.name: a.size for a in run["many_files"].artifacts} == {
            "raw": 9,
            "list[0].path": 11,
            "deep.stream": 60_000,
            "deep.named": 10,
            "saved": 11,
            "note.txt": 10,
        }
        assert run["contents"].value == {
            "title": "nested",
            "raw": "raw: 9",
            "list": [{"path": "list[0].path: 11"}, 7, None, True, 1.5],
            "deep": {"stream": "deep.stream: 60000", "named": "deep.named: 10"},
        }
        described = run["describe"].value
        assert (described["filename"], described["same"], described["version"]) == ("report.pdf", True, 1)
        value = run.value[2]
        assert await value["raw"].read_bytes() == b"raw bytes"
        assert value["list"][1:] == [7, None, True, 1.5]
        by_name = {a.name: a for a in run["many_files"].artifacts}
        assert by_name["list[0].path"].filename == "made.txt"
        assert by_name["note.txt"].filename == "note.txt"
        assert by_name["deep.named"].media_type == "application/pdf"
        with pytest.raises(StepNotCompleted, match="6 artifacts"):
            _ = run["many_files"].artifact
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_an_artifact_handed_on_shares_its_bytes(open_engine: OpenEngine) -> None:
    """Returning an Artifact makes a new row for the same digest."""

    @chain
    def handed_on():
        return steps.hand_on(steps.text_file("the same"))

    async with open_engine() as engine:
        run = await engine.run(handed_on)
        first, second = run["text_file"].artifact, run["hand_on"].artifact
        assert (first.digest, second.name) == (second.digest, "kept")
        assert first.id != second.id
        assert await second.read_bytes() == b"the same"
        assert await settled(engine, run) == {"text_file": DONE, "hand_on": DONE}


async def test_a_stream_from_an_async_generator_step(open_engine: OpenEngine) -> None:
    """A step that is an async generator is a stream of bytes, never whole in memory."""

    @chain
    def stream():
        return steps.streamed(40, 50_000)

    async with open_engine() as engine:
        run = await engine.run(stream)
        assert run["streamed"].artifact.size == 2_000_000
        sizes = [len(chunk) async for chunk in run["streamed"].artifact.open()]
        assert sum(sizes) == 2_000_000
        assert len(sizes) > 1
        assert await settled(engine, run) == {"streamed": DONE}


@pytest.mark.parametrize("name", ["saves_twice", "saves_what_it_returns"])
async def test_a_name_used_twice(open_engine: OpenEngine, name: str) -> None:
    @chain
    def twice():
        return getattr(steps, name)()

    async with open_engine() as engine:
        run = await engine.run(twice, check=False)
        error = run[name].error
        assert error is not None
        assert error.code == "E_ARTIFACT_NAME_TWICE"
        assert all(kept.name.startswith("rescued") for kept in run[name].artifacts)
        assert await settled(engine, run) == {name: FAILED}


async def test_a_file_called_value(open_engine: OpenEngine) -> None:
    """A user's file may be called `value`, unless the value itself has to be kept under that name."""

    @chain
    def called_value(size: int):
        return steps.file_called_value(size)

    async with open_engine() as engine:
        run = await engine.run(called_value, size=10)
        assert await run["file_called_value"].artifact.read_bytes() == b"a file"
        await settled(engine, run)
        run = await engine.run(called_value, size=70_000, check=False)
        assert run["file_called_value"].error is not None
        assert run["file_called_value"].error.code == "E_ARTIFACT_NAME_TWICE"
        assert await settled(engine, run) == {"file_called_value": FAILED}


async def test_the_work_folder_is_removed(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def leaves(folder: str):
        return steps.folder_left(folder)

    async with open_engine() as engine:
        run = await engine.run(leaves, folder=folder, run_id="ü" * 200)
        assert run.status == "completed", run["folder_left"].error
        assert not Path(run.value).exists()
        assert noted(folder, "work-folder") == [run.value]
        assert await settled(engine, run) == {"folder_left": DONE}
