"""What tests need of the machine that they run on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache

import pytest

PROGRAMS = {"strace": "strace", "gcc": "gcc", "ext4": "mkfs.ext4", "faketime": "faketime"}


def skip_if(why: str) -> None:
    """Skip a test if there is a reason. With TOWPATH_CI set it fails instead: there everything has to run."""
    if why and os.environ.get("TOWPATH_CI"):
        pytest.fail(f"TOWPATH_CI is set, and {why}")
    if why:
        pytest.skip(why)


def needs(tool: str) -> None:
    """Skip a test where the machine lacks a tool: `strace`, `gcc`, `ext4`, `faketime`, `mount` or `device`.

    `permissions` is for tests that start a process with `without_the_power_of_root`.
    """
    if tool == "ext4":
        needs("mount")
    skip_if(_lacking(tool))


@cache
def _lacking(tool: str) -> str:
    """Why the tool cannot be used here; empty if it can."""
    if tool in PROGRAMS and shutil.which(PROGRAMS[tool]) is None:
        return f"there is no {PROGRAMS[tool]} on this machine"
    if tool == "strace":
        traced = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False)
        return "" if traced.returncode == 0 else "strace may not trace here"
    if tool == "permissions":
        return "" if sys.platform == "linux" or os.geteuid() != 0 else "root reads and writes everything here"
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


def without_the_power_of_root() -> None:
    """Permissions of files hold for root too, once the process that is started next has no right to pass over them."""
    if sys.platform == "linux" and os.geteuid() == 0:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2, 3):  # DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
            assert libc.prctl(24, capability, 0, 0, 0) == 0
