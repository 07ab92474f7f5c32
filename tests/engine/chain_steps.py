"""Step functions that the chain files of the tests name."""

from __future__ import annotations

from typing import Any

from towpath.steps import step


@step
def work(**anything: Any) -> None:
    """Takes whatever a chain gives it."""


@step(retries=4, timeout=9, total_timeout="1m", requires_approval=True, on_item_failure="keep", cheap=True)
def settled(photo: Any = None) -> None:
    """Every option set by its decorator."""


@step
async def sheet(photo: Any, /, title: str, *, size: int = 3) -> None:
    """Needs two arguments and takes a third."""


def undecorated() -> None: ...
