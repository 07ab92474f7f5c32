"""`towpath serve --execute` continues when its output cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.adapters.conftest import check
from tests.http.test_serve import environment, ready, until, verb

from .serving import PATIENCE

CHAIN = """
name: served
steps:
  - id: note
    python: tests.http.steps:write
    parameters: { text: served }
"""


def gone() -> tuple[int, int]:
    """Standard error whose reader has gone before the first line."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer, -1


def full() -> tuple[int, int]:
    """A disk without space, where logs go as a rule."""
    return os.open("/dev/full", os.O_WRONLY), -1


def stuck() -> tuple[int, int]:
    """A full pipe without a reader: a write there would block for ever."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    return writer, reader


@pytest.mark.parametrize("trouble", [gone, full, stuck])
def test_a_server_works_on_without_a_reader(tmp_path: Path, trouble: Callable[[], tuple[int, int]]) -> None:
    """Every request is logged, and the one who read what it says has gone after the first line."""
    store = tmp_path / "towpath.db"
    writer, reader = trouble()
    arguments = (
        "--port",
        "0",
        "--store",
        str(store),
        "--json",
        "--execute",
        "--access-log",
        "--import",
        "tests.http.steps",
    )
    with subprocess.Popen(
        verb("serve", *arguments), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=writer, text=True
    ) as process:
        try:
            assert process.stdout is not None
            told = ""
            while not told.endswith("}\n"):
                line = process.stdout.readline()
                assert line, process.wait(PATIENCE)
                told += line
            process.stdout.close()
            url = json.loads(told)["url"]
            ready(url)
            for _ in range(3):
                run = httpx.post(f"{url}/api/v1/chains", json={"yaml": CHAIN}).json()["id"]
                until(url, run, "completed")
            process.terminate()
            assert process.wait(PATIENCE) == 0  # who is told to end waits for no reader
        finally:
            process.kill()
            for descriptor in {writer, reader} - {-1}:
                os.close(descriptor)
    check(store)
