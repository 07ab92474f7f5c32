"""Every block of code in the documentation does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from .following import Reader
from .pages import blocks, page_names, read

# What cannot be run here, and how often a page has it.
NOT_RUN: dict[tuple[str, str], int] = {}
# Pages that show what is not built yet. Empty before a release.
PENDING: dict[str, str] = {}


def pages() -> list[object]:
    return [
        pytest.param(name, marks=pytest.mark.xfail(reason=PENDING[name], strict=True)) if name in PENDING else name
        for name in page_names()
    ]


@pytest.mark.parametrize("page", pages())
def test_a_page_can_be_followed(page: str, tmp_path: Path) -> None:
    """Programs run, sessions show what is printed, chain files and settings are valid."""
    Reader(page, tmp_path).follow()


def test_what_is_not_run_is_known() -> None:
    """Each block that is left out has a reason of the list."""
    found: dict[tuple[str, str], int] = {}
    for page in page_names():
        for block in blocks(read(page)):
            if block.why_not:
                found[page, block.why_not] = found.get((page, block.why_not), 0) + 1
    assert found == NOT_RUN
