"""The long form of `test_replay.py`: every chain of the suites on a worker that keeps no workflow in memory."""

from __future__ import annotations

import pytest

from tests.temporal.test_conformance import *  # noqa: F403
from tests.temporal.test_gates import *  # noqa: F403
from tests.temporal.test_replay import nothing_cached

__all__ = ["nothing_cached"]

pytestmark = [pytest.mark.anyio, pytest.mark.full]  # type: ignore[assignment]
