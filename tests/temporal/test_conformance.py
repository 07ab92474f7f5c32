"""The Temporal adapter: the suite of all adapters, on a real server."""

from __future__ import annotations

import pytest

from tests.conformance.adapter import *  # noqa: F403

pytestmark = pytest.mark.anyio
