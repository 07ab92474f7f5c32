"""What is read together is of one moment, over SQLite."""

from __future__ import annotations

import pytest

from tests.conformance.moments import *  # noqa: F403

pytestmark = pytest.mark.anyio
