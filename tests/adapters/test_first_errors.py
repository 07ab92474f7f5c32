"""The first error of a run, on the local adapter."""

from __future__ import annotations

import pytest

from tests.conformance.first_errors import *  # noqa: F403

pytestmark = pytest.mark.anyio
