"""Gates on the local adapter: the suite of all adapters."""

from __future__ import annotations

import pytest

from tests.conformance.gates import *  # noqa: F403

pytestmark = pytest.mark.anyio
