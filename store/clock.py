"""Time and keys as the tables hold them."""

from __future__ import annotations

import time

import uuid_utils


def now() -> int:
    """UTC microseconds since 1970. For people and for leases; the order of facts is their sequence number."""
    return time.time_ns() // 1000


def new_id() -> str:
    """A UUIDv7: unique whatever the clock says, and near its neighbours in an index while it runs."""
    return str(uuid_utils.uuid7())
