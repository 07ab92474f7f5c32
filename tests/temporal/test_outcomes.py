"""Outcomes of steps on Temporal: the suite of all adapters, on a real server."""

from __future__ import annotations

import pytest

from tests.conformance.outcomes import *  # noqa: F403

pytestmark = pytest.mark.anyio
