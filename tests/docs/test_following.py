"""A page is compared loosely: with what differs from run to run left out, and with nothing else."""

from __future__ import annotations

import pytest

from .following import alike, session
from .pages import blocks

RUN = "01a22cc6-e4b3-723a-90cb-5a8e8b5955aa", "01a22cb9-0000-723a-90cb-5a8e8b5955aa"


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("14:06:01 ✓ load  165 ms", "09:12:59 ✓ load  1.2 s"),
        (f"completed  sales  {RUN[0]}", f"completed  sales  {RUN[1]}"),
        ("clean 2026-11-30 14:06:02,339 INFO  one", "clean 2026-12-01 01:00:00,1 INFO one"),
        ("out/a.png  10.9 kB", "out/a.png  11 kB"),
        ("a\n…\nz", "a\nb\nc\nz"),
        ("a\nb", "b\na"),
        ("the key is tp_…", "the key is tp_abc"),
    ],
)
def test_what_may_differ(shown: str, printed: str) -> None:
    assert alike(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [("✓ load", "✗ load"), ("score 6", "score 7"), ("a", "a\nb"), ("a\nb", "a"), ("2 completed", "1 completed")],
)
def test_what_may_not_differ(shown: str, printed: str) -> None:
    assert not alike(shown, printed)


def test_a_session_is_commands_and_what_they_show() -> None:
    assert session("$ a \\\n  b\none\n$ c\n") == (["a \\\n  b", "c"], ["one\n", ""])


def test_a_block_that_uses_names_of_others_continues() -> None:
    page = "```python\nfrom m import f\n\nf()\n```\n\n```python\nimport towpath\n\ntowpath.run(f)\n```\n"
    assert [block.begins for block in blocks(page)] == [True, False]
