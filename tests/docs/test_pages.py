"""Every block of code in the documentation does what the page says (newcomer F5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from .following import Reader
from .pages import blocks, page_names, read

# What cannot be run here, and how often a page has it.
NOT_RUN = {
    ("comfyui.md", "needs a ComfyUI server"): 1,
    ("coming-from/dagster.md", "needs Dagster"): 1,
    ("coming-from/prefect.md", "needs Prefect"): 1,
    ("coming-from/temporal.md", "needs a Temporal server"): 1,
    ("cookbook/mail.md", "a server runs until it is stopped"): 1,
    ("cookbook/mail.md", "needs the server, and a mail relay"): 1,
    ("cookbook/web.md", "FastAPI is not among the libraries of the tests"): 1,
    ("server.md", "a server runs until it is stopped"): 1,
    ("server.md", "needs the server that runs until it is stopped"): 1,
    ("temporal.md", "needs a Temporal server"): 1,
    ("ten-minutes.md", "a server runs until it is stopped"): 1,
}


@pytest.mark.parametrize("page", page_names())
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
