"""Looking at a run that works, on the local adapter."""

from __future__ import annotations

import pytest

from tests.conformance.looks import *  # noqa: F403

pytestmark = pytest.mark.anyio
