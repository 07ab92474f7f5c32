from __future__ import annotations
from tests.conformance.store import *  # noqa: F403
import pytest
pytestmark = pytest.mark.anyio
