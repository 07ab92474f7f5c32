"""Time and keys as the tables hold them."""

from __future__ import annotations

import sys
import time

import uuid_utils


def now() -> int:
    """UTC microseconds since 1970. For people and for other hosts; the order of facts is their sequence number."""
    return time.time_ns() // 1000


def since_boot() -> int:
    """Microseconds since this host was started, its sleep included. This clock cannot be set."""
    if sys.platform == "linux":
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    return time.monotonic_ns() // 1000


def new_id() -> str:
    """A UUIDv7: unique whatever the clock says, and near its neighbours in an index while it runs.

    Ids are ordered by time only while the clock is not set back.
    """
    return str(uuid_utils.uuid7())
