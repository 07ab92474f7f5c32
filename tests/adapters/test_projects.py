"""The projects of `tests/projects` on the local adapter."""

from __future__ import annotations

import pytest

from tests.conformance.projects import *  # noqa: F403
from tests.conformance.runs import folder  # noqa: F401

pytestmark = pytest.mark.anyio
