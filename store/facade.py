"""The seed's functions as methods, each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from . import approvals, artifacts, chains, transfers, workflows
from .runs import RunStore

_MODULES = (chains, workflows, artifacts, transfers, approvals)


def functions() -> dict[str, Callable[..., Awaitable[Any]]]:
    """Every function of the table modules that takes a session first, by name."""
    return {
        name: cast("Callable[..., Awaitable[Any]]", value)
        for module in _MODULES
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }


class Records:
    """`records.get_workflow(id)` opens a session, calls `towpath.store.get_workflow` with it, and commits."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._functions = functions()

    def __dir__(self) -> list[str]:
        return sorted(self._functions)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        function = self._functions.get(name)
        if function is None:
            raise AttributeError(f"no function {name}; there are {', '.join(self._functions)}")
        return partial(self._call, function)

    async def _call(self, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        async with self._store.session() as session:
            return await function(session, *args, **kwargs)
