"""Disks that can be filled or lose their power: a small tmpfs, and ext4 in a file behind a loop device."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, u32)
WITHOUT_FLUSHING_THE_LOG = 2

NO_SYNC = """
int fsync(int fd) { return 0; }
int fdatasync(int fd) { return 0; }
"""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size: str = "4m") -> Iterator[Path]:
    """A tmpfs of `size`, gone at the end."""
    folder.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "towpath-test", str(folder))
    try:
        yield folder
    finally:
        _unmount(folder)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves about `leave` free bytes."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - leave))
    return ballast


class LosingDisk:
    """An ext4 that keeps in memory what was not synced, until its power is cut."""

    def __init__(self, folder: Path) -> None:
        memory = Path("/dev/shm")  # what is behind the loop device need not survive this process
        number, name = tempfile.mkstemp(".img", "towpath-", memory if memory.is_dir() else folder)
        os.ftruncate(number, 48 * 1024 * 1024)
        os.close(number)
        self.image = Path(name)
        self.folder = folder / "disk"
        self.folder.mkdir()
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard", str(self.image))

    def mount(self) -> None:
        """Mount it, replaying its journal. Nothing is written on its own for ten minutes."""
        _run("mount", "-o", "loop,commit=600", str(self.image), str(self.folder))

    def cut_the_power(self) -> None:
        """Stop the file system at once: what was not flushed is lost."""
        root = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(root)

    def unmount(self) -> None:
        """Let go of it, and of its loop device."""
        _unmount(self.folder)


@contextmanager
def losing_disk(folder: Path) -> Iterator[LosingDisk]:
    """A mounted `LosingDisk`, gone at the end."""
    folder.mkdir()
    disk = LosingDisk(folder)
    try:
        disk.mount()
        yield disk
    finally:
        disk.unmount()
        disk.image.unlink()


def _unmount(folder: Path) -> None:
    for _ in range(50):
        if not os.path.ismount(folder):
            return
        done = subprocess.run(["umount", str(folder)], capture_output=True, check=False)
        if done.returncode:
            time.sleep(0.1)
    _run("umount", "-l", str(folder))


def without_sync(folder: Path) -> dict[str, str]:
    """The environment in which fsync does nothing, as on a disk that lies."""
    source, library = folder / "nosync.c", folder / "nosync.so"
    source.write_text(NO_SYNC)
    _run("gcc", "-shared", "-fPIC", "-o", str(library), str(source))
    return {"LD_PRELOAD": str(library)}
