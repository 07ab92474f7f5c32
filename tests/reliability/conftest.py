"""What the reliability tests need of a machine, and what an unbroken run comes to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.reliability.invariants import Picture, unbroken_picture


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Picture]:
    """What a chain comes to when nobody hurts it: `unbroken("diamond", size=40_000)`."""

    @cache
    def picture_of(chain: str, **inputs: int) -> Picture:
        return unbroken_picture(Path(tmp_path_factory.mktemp("unbroken")), chain, inputs)

    return picture_of
