"""What the reliability tests need of a machine, and what an unbroken run comes to."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.reliability.invariants import Picture, unbroken_picture

PROGRAMS = {"strace": "strace", "gcc": "gcc", "ext4": "mkfs.ext4", "faketime": "faketime"}


def needs(tool: str) -> None:
    """Skip a test where the machine lacks a tool: `strace`, `gcc`, `ext4`, `faketime` or `mount`.

    With TOWPATH_CI set the test fails instead: there everything has to run.
    """
    if tool == "ext4":
        needs("mount")
    why = _lacking(tool)
    if why and os.environ.get("TOWPATH_CI"):
        pytest.fail(f"TOWPATH_CI is set, and {why}")
    if why:
        pytest.skip(why)


@cache
def _lacking(tool: str) -> str:
    """Why the tool cannot be used here; empty if it can."""
    if tool in PROGRAMS and shutil.which(PROGRAMS[tool]) is None:
        return f"there is no {PROGRAMS[tool]} on this machine"
    if tool == "strace":
        traced = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False)
        return "" if traced.returncode == 0 else "strace may not trace here"
    if tool == "device":
        return "" if os.geteuid() == 0 else "only root makes devices"
    if tool == "mount":
        with tempfile.TemporaryDirectory() as folder:
            mounted = subprocess.run(["mount", "-t", "tmpfs", "x", folder], capture_output=True, check=False)
            if mounted.returncode == 0:
                subprocess.run(["umount", folder], check=True)
                return ""
        return "this user may not mount (root with CAP_SYS_ADMIN may)"
    return ""


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Picture]:
    """What a chain comes to when nobody hurts it: `unbroken("diamond", size=40_000)`."""

    @cache
    def picture_of(chain: str, **inputs: int) -> Picture:
        return unbroken_picture(Path(tmp_path_factory.mktemp("unbroken")), chain, inputs)

    return picture_of
