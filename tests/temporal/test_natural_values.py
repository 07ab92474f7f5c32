"""Natural values on a worker."""

from __future__ import annotations

import pytest

from tests.conformance.adapter.natural_values import *  # noqa: F403
from tests.conformance.runs import folder

__all__ = ["folder"]

pytestmark = pytest.mark.anyio
