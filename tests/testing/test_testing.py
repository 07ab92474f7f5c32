"""`towpath.testing`: steps called as plain functions, engines that leave nothing, fakes (F16, python-trial 20)."""

from __future__ import annotations

import asyncio
import pickle
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import chain_steps as steps
from towpath import ChainFailed, InputInvalid, StepCancelled, chain, context, open_engine, step, testing
from towpath.testing import artifact, replaced, step_context


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@step
def thorough(name: str) -> Path:
    made = context()
    made.logger.warning("%s begins", name)
    made.progress(1, 4)
    made.save("notes.txt", "kept")
    path = made.work_folder / name
    path.write_bytes(b"made")
    made.save("copy.bin", path)
    return path


def test_a_context_for_a_plain_call(temporary: Path) -> None:
    with step_context(step_id="thorough", item=3, attempt=2) as trial:
        path = thorough.function("a.bin")
        assert path.read_bytes() == b"made"
        assert trial.files == {"notes.txt": b"kept", "copy.bin": b"made"}
        assert [line.endswith("WARNING a.bin begins") for line in trial.logged] == [True]
        assert trial.reports == [(1, 4)]
        assert (context().step_id, context().item, context().attempt) == ("thorough", 3, 2)
        trial.cancel()
        with pytest.raises(StepCancelled):
            thorough.function("b.bin")
    assert inside(temporary) == []
    with pytest.raises(RuntimeError, match="only while a step runs"):
        context()


def test_contexts_nest_and_end_with_an_error(tmp_path: Path) -> None:
    def inner() -> None:
        with step_context(tmp_path, step_id="inner"):
            raise ValueError(context().step_id)

    with step_context(tmp_path, step_id="outer"):
        with pytest.raises(ValueError, match="inner"):
            inner()
        assert context().step_id == "outer"


def test_threads_and_loops_see_the_context(tmp_path: Path) -> None:
    seen: list[str] = []

    async def look() -> str:
        return await asyncio.to_thread(lambda: context().step_id)

    with step_context(tmp_path, step_id="here"):
        thread = threading.Thread(target=lambda: seen.append(context().step_id))
        thread.start()
        thread.join()
        assert [*seen, asyncio.run(look())] == ["here", "here"]


@pytest.mark.anyio
async def test_an_engine_inside_a_trial_has_contexts_of_its_own(tmp_path: Path) -> None:
    @chain
    def says():
        return steps.says()

    with step_context(tmp_path, step_id="trial"):
        async with testing.engine() as engine:
            assert (await engine.run(says)).value["step"] == "says"


@pytest.mark.anyio
async def test_an_artifact_is_read_in_every_way(temporary: Path) -> None:
    made = artifact(b"\x89PNG\r\n\x1a\n" + b"x" * 3_000_000, "pic/ture.png", name="picture", version=2)
    assert (made.name, made.version, made.kind, made.media_type) == ("picture", 2, "image", "image/png")
    assert await made.read_bytes() == b"".join([chunk async for chunk in made.open()])
    path = await made.path()
    assert path.read_bytes() == await made.read_bytes()
    assert path.suffix == ".png"
    assert made.size == len(await made.read_bytes())
    copy = pickle.loads(pickle.dumps(made))
    assert await copy.read_bytes() == await made.read_bytes()
    assert await artifact(path).read_bytes() == await made.read_bytes()
    assert artifact(path).filename == path.name
    assert (await artifact("é", "t.csv").read_bytes()).decode() == "é"
    del made, copy
    assert inside(temporary) == []


@pytest.mark.anyio
@pytest.mark.parametrize("address", ["sqlite:///:memory:", ":memory:", "sqlite+aiosqlite:///:memory:"])
async def test_a_store_in_memory_is_gone_afterwards(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    """Each engine has its own; nothing is left, also after an error; blobs of the settings are not used."""
    monkeypatch.setenv("TOWPATH_BLOBS", str(tmp_path / "blobs"))

    @chain
    def small():
        return steps.number(3)

    async def left_early() -> None:
        async with open_engine(address) as engine, open_engine(address) as other:
            assert (await engine.run(small, run_id="r")).value == 3
            assert await other.list_chains() == []
            assert len(inside(temporary)) == 2
            raise KeyError("left")

    with pytest.raises(KeyError):
        await left_early()
    assert inside(temporary) == []
    assert not (tmp_path / "blobs").exists()


@pytest.mark.anyio
async def test_an_engine_for_a_test_ignores_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOWPATH_ADAPTER", "temporal://127.0.0.1:1/nowhere")
    monkeypatch.setenv("TOWPATH_STORE", str(tmp_path / "not-this.db"))
    async with testing.engine(tmp_path) as engine:
        assert await engine.list_chains() == []
    assert (tmp_path / "towpath.db").exists()
    assert not (tmp_path / "not-this.db").exists()


@step
async def breaks(message: str) -> None:
    raise ValueError(message)


@chain
def fails():
    return breaks("real")


@pytest.mark.anyio
async def test_steps_are_restored_after_an_error() -> None:
    async def left_early() -> None:
        with replaced({"breaks": lambda *values, **named: "inner"}):
            assert (await engine.run(fails)).value == "inner"
            raise KeyError(breaks("x"))  # a plain call gets the fake, too

    async with testing.engine() as engine:
        with replaced({"breaks": lambda message: "outer"}):
            with pytest.raises(KeyError, match="inner"):
                await left_early()
            assert (await engine.run(fails)).value == "outer"
        with pytest.raises(ChainFailed, match="real"):
            await engine.run(fails)


def test_blocks_may_end_in_any_order() -> None:
    """Fixtures of several scopes, tasks and threads end theirs as they like: no fake is left in place."""
    first, second = replaced({"thorough": lambda name: "first"}), replaced({"thorough": lambda name: "second"})
    function = thorough.function
    first.__enter__()
    second.__enter__()
    assert thorough.function("a.bin") == "second"  # type: ignore[comparison-overlap]
    first.__exit__(None, None, None)
    assert thorough.function("a.bin") == "second"  # type: ignore[comparison-overlap]
    second.__exit__(None, None, None)
    assert thorough.function is function
    assert not thorough.stands_in


@pytest.mark.parametrize(
    ("fakes", "code", "says"),
    [
        ({"number": len, "braeks": len}, "E_STEP_UNKNOWN", "did you mean breaks"),
        ({"number": len, len: len}, "E_STEP_UNKNOWN", "the name of one"),
        ({"number": len, "breaks": 3}, "E_STEP_KIND", "a function"),
        ({"number": len, "no.module:breaks": len}, "E_STEP_NOT_REGISTERED", "no.module"),
    ],
)
def test_wrong_fakes_are_refused_and_nothing_is_replaced(fakes: dict[Any, Any], code: str, says: str) -> None:
    real = steps.number.function
    with pytest.raises(Exception, match=says) as refused, replaced(fakes):
        pass
    assert getattr(refused.value, "code", "") == code
    assert steps.number.function is real


def test_a_name_of_two_modules_needs_its_module() -> None:
    @step(name="name_all")
    def another(message: str) -> str:
        return message

    with pytest.raises(InputInvalid, match="2 steps are called name_all") as refused, replaced({"name_all": len}):
        pass
    assert "chain_steps:name_all" in str(refused.value)
