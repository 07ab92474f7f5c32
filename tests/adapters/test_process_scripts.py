"""Process steps in scripts, and steps in the process pools of others (python-trial 19, newcomer F19)."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conformance import chain_steps, process_steps
from tests.conformance.chain_steps import PATIENCE

ROOT = Path(__file__).parents[2]

STEPS = """
import asyncio, os, sys
from towpath import chain, open_engine, step

@step(process=True)
def elsewhere(n: int) -> int:
    print("inside", __name__, flush=True)
    return n

@step(process=True)
def endless() -> None:
    print(os.getpid(), flush=True)
    while True:
        sum(range(1000))

@chain
def one(n: int):
    return elsewhere(n)

@chain
def never():
    return endless()

async def main(what):
    async with open_engine(sys.argv[1], durability="normal", processes=1) as engine:
        run = await (engine.run(one, n=5, check=False) if what == "one" else engine.run(never, check=False))
        print(run.status, run.value if run.status == "completed" else run["elsewhere"].error.code)
"""
GUARDED = (
    STEPS
    + """
if __name__ == "__main__":
    asyncio.run(main(sys.argv[2]))
"""
)
UNGUARDED = (
    STEPS
    + """
asyncio.run(main(sys.argv[2]))
"""
)
POOLS = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from towpath import step

@step(retries=2)
def double(n: int) -> int:
    return 2 * n

if __name__ == "__main__":
    for method in ("spawn", "fork"):
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            print(list(pool.map(double, [1, 2, 3])), list(pool.map(double.with_options(retries=1), [4])))
"""


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "flow.py").write_text(script)
    command = [sys.executable, str(folder / "flow.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_step_of_a_script_runs_in_a_process(tmp_path: Path) -> None:
    """What it prints goes where it always goes."""
    done = run(tmp_path, GUARDED, str(tmp_path / "t.db"), "one")
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["inside __mp_main__", "completed 5"]), done.stderr


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    """The process imports the script, which opens an engine: that is refused, before anything is done twice."""
    done = run(tmp_path, UNGUARDED, str(tmp_path / "t.db"), "one")
    assert done.stdout.split("\n")[0] == "failed E_STEP_PROCESS", done.stdout + done.stderr
    assert 'below `if __name__ == "__main__":`' in done.stderr


def test_no_process_outlives_a_killed_engine(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(GUARDED)
    command = [sys.executable, str(tmp_path / "flow.py"), str(tmp_path / "t.db"), "never"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        end = time.monotonic() + PATIENCE
        while is_alive(child) and time.monotonic() < end:
            time.sleep(0.02)
    assert not is_alive(child)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # in a container nobody may collect it


def test_a_step_runs_in_the_process_pools_of_others(tmp_path: Path) -> None:
    done = run(tmp_path, POOLS)
    assert done.stdout.splitlines() == ["[2, 4, 6] [8]"] * 2, done.stderr


def test_a_step_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(chain_steps.number)) is chain_steps.number
    changed = process_steps.where.with_options(retries=3)
    again = pickle.loads(pickle.dumps(changed))
    assert (again.function, again.options) == (changed.function, changed.options)
    assert os.getpid() == again(1)[1], "called, it is the plain function"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_step_is_pickled_in_every_protocol(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(chain_steps.number, protocol)) is chain_steps.number
