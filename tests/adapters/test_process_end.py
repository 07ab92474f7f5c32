"""A process does not wait at its end for a plain function whose attempt is over, without saying which."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conformance.chain_steps import PATIENCE

ROOT = Path(__file__).parents[2]

SCRIPT = """
import asyncio, sys, time
import towpath.step_threads
from towpath import chain, context, open_engine, step

towpath.step_threads.AT_EXIT = float(sys.argv[3])

@step(timeout=sys.argv[2])
def blocked(polite: bool) -> None:
    print("began", flush=True)
    while not (polite and context().cancelled):
        time.sleep(0.05)
    print("went", flush=True)

@chain
def one(polite: bool):
    return blocked(polite)

async def main():
    async with open_engine(sys.argv[1], durability="normal") as engine:
        print((await engine.run(one, check=False, polite="polite" in sys.argv)).status, flush=True)

asyncio.run(main())
"""


def started(store: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(store), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "towpath.db"


def test_after_a_timeout_the_process_ends_and_names_the_step(store: Path) -> None:
    process = started(store, "0.2s", "0.3")
    out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out.split()) == (0, ["began", "failed"]), error
    assert "the function of attempt 1 at step blocked of run " in error
    assert "has not ended although the attempt is over: the process waits up to 0.3 s for it" in error
    assert "it is cut off" in error


def test_a_function_that_looks_for_its_end_delays_nothing(store: Path) -> None:
    process = started(store, "0.2s", "60", "polite")
    out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, sorted(out.split())) == (0, ["began", "failed", "went"]), error
    assert "cut off" not in error


def test_ctrl_c_ends_a_script_with_a_blocked_function(store: Path) -> None:
    process = started(store, "1h", "0.3")
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode not in (0, None)
    assert "the function of attempt 1 at step blocked of run " in error
