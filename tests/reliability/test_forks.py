"""A child that a step forks never goes on as a second engine, and is never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RETURNED, RAISED, LEFT, CAME_BACK = 0, 1, 7, 70  # exit codes of the child
CHILDREN = {
    "returns": RETURNED,
    "raises": RAISED,
    "exits": LEFT,
    "returns_async": RETURNED,
    "awaits": RAISED,  # the loop it asks for is not there in a child
    "yields": CAME_BACK,
    "gathers": CAME_BACK,
    "in_awaitable": RETURNED,
}
GOOD = ("by_multiprocessing", "by_pool", "with_own_loop", "by_subprocess")


def forked(name: str, folder: Path, *adapter: str) -> tuple[list[Any], list[str], str]:
    """What a run told, what its steps noted, and its errors. Nothing of it is alive afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.forking", name, str(folder), *adapter],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=60)  # a child that is left holds the pipes open
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, errors
    notes = folder / "notes"
    return [json.loads(line) for line in out.splitlines()], notes.read_text().splitlines(), errors


@pytest.mark.parametrize("name", CHILDREN)
def test_a_forked_child_ends_where_it_would_come_back(name: str, tmp_path: Path) -> None:
    """One process runs the chain; its child has ended before the engine is closed, and did nothing more."""
    told, notes, errors = forked(name, tmp_path)
    (one, status, ended), (other, closed) = told
    assert (one, status, closed) == (other, "completed", "closed")
    assert ended != "stuck"
    assert os.waitstatus_to_exitcode(ended) == CHILDREN[name]
    assert notes == ["ticked"]
    assert "Traceback" not in errors


@pytest.mark.parametrize("name", GOOD)
def test_children_that_end_by_themselves_work(name: str, tmp_path: Path) -> None:
    """`multiprocessing` forks too, and so does a pool; they end their children before these come back to us."""
    told, notes, _ = forked(name, tmp_path)
    assert [line[1] for line in told] == ["completed", "closed"]
    assert sorted(notes) == ["ticked", "worked"]
