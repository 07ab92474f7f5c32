"""Owners of runs: a lease in the row of the run, with an epoch that fences off earlier owners.

An owner is named by host, boot, process and start time of the process. So a dead owner on the same host is recognised
at once; on another host its lease must expire. On the owner's host the lease is measured by a clock that cannot be
set, which all processes of a boot share; other hosts use the time of day.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import msgspec

LEASE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, different from all others on any host at any time."""

    host: str
    boot: str
    pid: int
    started: int
    steady_until: int = field(default=0, compare=False)  # end of the lease, in monotonic microseconds of its host

    @property
    def service(self) -> bool:
        """A service such as Temporal: it is not a process, and never dead."""
        return self.pid == 0

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @property
    def here(self) -> bool:
        """Does it (or did it) run on this host?"""
        return self.host == socket.gethostname()

    @property
    def dead(self) -> bool:
        """Is it certainly dead? False if that cannot be known from this host."""
        if self.service or not self.here:
            return False
        return self.boot != this_boot() or _started(self.pid) != self.started

    def leased(self, seconds: float) -> Owner:
        """The same with a lease that begins now."""
        return replace(self, steady_until=_steady() + int(seconds * 1e6))

    def left(self, until: int, at: int) -> float:
        """Seconds until its lease expires; negative if the lease or the owner has ended. `until` and `at` are times of
        day.
        """
        if self.dead:
            return -1.0
        return (self.steady_until - _steady() if self.here and self.steady_until else until - at) / 1e6

    def __str__(self) -> str:
        return self.host if self.service else f"process {self.pid} on {self.host}"


def _steady() -> int:
    return time.monotonic_ns() // 1000


@cache
def this_boot() -> str:
    """The id of this boot of the host; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> int:
    """When a process started, in clock ticks after boot; 0 if there is no such process (any more)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _alive_without_proc(pid)
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


def _alive_without_proc(pid: int) -> int:
    if Path("/proc/self").exists():
        return 0
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    except PermissionError:
        pass
    return 1


def this_process() -> Owner:
    """This process as an owner."""
    pid = os.getpid()
    return Owner(socket.gethostname(), this_boot(), pid, _started(pid))


def service(name: str) -> Owner:
    """A service as an owner."""
    return Owner(name, "", 0, 0)


def parse(text: str | None) -> Owner | None:
    """The owner in a row, if any."""
    return None if not text else msgspec.json.decode(text, type=Owner)
