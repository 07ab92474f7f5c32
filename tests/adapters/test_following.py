"""`towpath logs -f`: lines as they come, each once, from another process (F4)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance.chain_steps import PATIENCE
from towpath import chain, step
from towpath.adapters.cli import show

pytestmark = pytest.mark.anyio


@step
async def talk(folder: str) -> None:
    """Says a line for each file that a test makes."""
    for name in ("one", "two", "three"):
        while not await anyio.Path(folder, name).exists():  # noqa: ASYNC110 - a test says so with a file
            await anyio.sleep(0.01)
        print(f"{name} of three")
    print("a line without an end", end="")


@chain
def talking(folder: str):
    return talk(folder)


async def test_lines_are_printed_as_they_come(open_engine: OpenEngine, store: Path, tmp_path: Path) -> None:
    async with open_engine() as engine:
        handle = await engine.start(talking, folder=str(tmp_path))
        command = [sys.executable, "-m", "towpath", "logs", handle.id, "-f", "--store", str(store)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:  # noqa: ASYNC220
            out = following.stdout
            assert out is not None
            seen: list[str] = []
            with anyio.fail_after(PATIENCE):
                for name in ("one", "two"):
                    await anyio.Path(tmp_path, name).touch()
                    seen.append(await anyio.to_thread.run_sync(out.readline))
                    assert (await engine.snapshot(handle.id)).status == "running"
                await anyio.Path(tmp_path, "three").touch()
                seen += await anyio.to_thread.run_sync(out.readlines)
            assert following.wait() == 0
        told = ["one of three", "two of three", "three of three", "a line without an end"]
        assert [line.partition("stdout: ")[2].rstrip("\n") for line in seen] == told
        assert all(line.startswith("talk 20") for line in seen)
        await handle.result()


def _log(text: str) -> dict[str, Any]:
    return {"step_id": "s", "item_index": None, "attempt": 1, "text": text}


def test_a_log_whose_oldest_lines_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line once, and a line without an end only when nothing follows."""
    lines = [f"line {n} {'x' * 50}\n" for n in range(300)]
    printed: dict[tuple[str, int], str] = {}
    for end in (10, 150, 151, 280, 300):
        partial = "12 %|#" if end == 150 else ""
        show._print_new(_log("".join(lines[max(0, end - 200) : end]) + partial), printed, whole=False)
    show._print_new(_log("".join(lines[100:]) + "the end"), printed, whole=True)
    told = [line.removeprefix("s ") for line in capsys.readouterr().out.splitlines()]
    assert told == [*(line.rstrip("\n") for line in lines), "the end"]
