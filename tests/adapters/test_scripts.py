"""`towpath.run`: scripts without asyncio."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import towpath
from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import PATIENCE
from towpath import ChainFailed, InputInvalid, StoreFailed, chain, open_engine, step
from towpath.model import ChainStatus

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = """
import sys, time
import towpath
from towpath import chain, step

@step
def slow() -> int:
    print("began", flush=True)
    time.sleep(600)

@step
def broken() -> int:
    raise ValueError("no luck")

@chain
def one(which: str):
    return slow() if sys.argv[1] == "slow" else broken()

if __name__ == "__main__":
    towpath.run(one, which=sys.argv[1])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without settings."""
    for name in ("TOWPATH_STORE", "TOWPATH_BLOBS", "TOWPATH_ADAPTER", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@step
def files(sizes: list[int]) -> list[bytes]:
    return [b"x" * size for size in sizes]


@chain
def filed(sizes: list[int]):
    return files(sizes)


@chain
def fails():
    return steps.boom("no luck")


@chain
def gated():
    return steps.draft("x")


def test_a_run_in_the_default_store(here: Path) -> None:
    """Files are read after the engine is closed: with a loop, and without one; small ones and large ones."""
    run = towpath.run(filed, sizes=[3, 100_000])
    assert (here / "towpath.db").exists()
    small, large = run.value
    assert (small.bytes(), len(large.bytes())) == (b"xxx", 100_000)
    assert Path(large).stat().st_size == 100_000

    async def later() -> list[bytes]:
        return [await small.read_bytes(), await large.read_bytes(), b"".join([part async for part in large.open()])]

    assert asyncio.run(later()) == [b"xxx", b"x" * 100_000, b"x" * 100_000]


def test_another_store_a_known_id_and_inputs(here: Path) -> None:
    first = towpath.run(filed, store=here / "mine.db", run_id="r", inputs={"sizes": [1]})
    again = towpath.run(filed, store=here / "mine.db", run_id="r", sizes=[1])
    assert (again.id, again.value[0].bytes()) == (first.id, b"x")
    assert not (here / "towpath.db").exists()


def test_a_store_in_memory_is_gone_with_its_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWPATH_STORE", "sqlite:///:memory:")
    run = towpath.run(filed, sizes=[3])
    assert run.status is ChainStatus.COMPLETED
    with pytest.raises(StoreFailed, match="gone with its run"):
        run.value[0].bytes()
    assert list(here.iterdir()) == []


def test_a_failed_chain_raises(here: Path) -> None:
    with pytest.raises(ChainFailed, match="step boom: ValueError: no luck") as raised:
        towpath.run(fails)
    assert raised.value.run["boom"].status == "failed"
    assert towpath.run(fails, check=False, store=None).status is ChainStatus.FAILED


def test_the_cure_names_the_store_of_the_run(here: Path) -> None:
    """A command without it would look into the default store; a store in memory has nothing to look at."""
    with pytest.raises(ChainFailed, match=r"`towpath show r --store '.*my own.db'`") as raised:
        towpath.run(fails, store=here / "my own.db", run_id="r")
    with pytest.raises(ChainFailed, match=r"towpath rerun r --store '.*my own.db'"):
        raised.value.run.raise_for_status()
    with pytest.raises(ChainFailed, match="its store is in memory, and gone with its engine") as raised:
        towpath.run(fails, store="sqlite:///:memory:")
    assert "towpath show" not in str(raised.value)
    with pytest.raises(ChainFailed, match=r"`towpath show d` shows it"):
        towpath.run(fails, store=None, run_id="d")


@pytest.mark.anyio
async def test_the_cure_names_the_store_of_the_engine(here: Path) -> None:
    """Of a run that failed, of one at a gate, and of a run as it is found later."""
    async with open_engine(here / "my own.db") as engine:
        with pytest.raises(ChainFailed, match=r"`towpath show r --store '.*my own.db'`"):
            await engine.run(fails, run_id="r")
        paused = await engine.run(gated, run_id="g")
        with pytest.raises(ChainFailed, match=r"`towpath resume g --store '.*my own.db'`"):
            paused.raise_for_status()
        with pytest.raises(ChainFailed, match=r"towpath rerun r --store '.*my own.db'"):
            (await engine.snapshot("r")).raise_for_status()
    async with open_engine("sqlite:///:memory:") as engine:
        with pytest.raises(ChainFailed, match="its store is in memory"):
            await engine.run(fails)
    async with open_engine() as engine:
        with pytest.raises(ChainFailed, match=r"`towpath show d` shows it"):
            await engine.run(fails, run_id="d")


def test_a_run_is_copied_as_itself_and_not_pickled(here: Path) -> None:
    """The error that has it can be pickled, without it."""
    with pytest.raises(ChainFailed) as raised:
        towpath.run(fails)
    run = raised.value.run
    assert copy.deepcopy([run]) == [copy.copy(run)] == [run]
    with pytest.raises(TypeError, match="pass on its id"):
        pickle.dumps(run)
    assert pickle.loads(pickle.dumps(raised.value)).run is None


def test_a_gate_returns_a_paused_run_which_the_same_id_continues(here: Path) -> None:
    assert towpath.run(gated, run_id="g", store=None).status is ChainStatus.PAUSED

    async def approve() -> None:
        async with open_engine() as engine:
            (gate,) = await engine.approvals("g")
            await engine.approve(gate, by="Ann")

    asyncio.run(approve())
    assert towpath.run(gated, run_id="g", store=None).status is ChainStatus.COMPLETED


def test_a_running_loop_is_refused(here: Path) -> None:
    async def inside() -> None:
        towpath.run(fails)

    with pytest.raises(InputInvalid, match=r"await Engine\.open") as refused:
        asyncio.run(inside())
    assert refused.value.code == "E_LOOP"
    assert not (here / "towpath.db").exists()


def started(folder: Path, which: str) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if k not in ("TOWPATH_STORE", "DATABASE_URL", "TOWPATH_ADAPTER")}
    command = [sys.executable, "script.py", which]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_F6_a_failed_script_ends_with_1_and_one_traceback(here: Path) -> None:
    process = started(here, "broken")
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "no luck" in error
    assert "In step broken:" in error
    assert error.count("During handling") == error.count("direct cause") == 0


def test_ctrl_c_pauses_the_run_and_says_how_to_continue(here: Path) -> None:
    process = started(here, "slow")
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode not in (0, 1, None)
    assert "KeyboardInterrupt" in error

    async def left() -> list[tuple[str, str]]:
        async with open_engine(readonly=True) as engine:
            return [(row.id, row.status) for row in await engine.list_chains()]

    ((run_id, status),) = asyncio.run(left())
    assert status == "paused"
    assert f"`towpath resume {run_id}` continues it" in error
