"""What a worker registers: the two workflows, towpath's activities, and functions under names of their own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from temporalio import activity

from . import messages as m
from .telling import told

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Registered:
    """The names that a worker answers to."""

    workflows: tuple[str, ...]
    activities: tuple[str, ...]


def as_activities(functions: Mapping[str, Callable[..., Awaitable[Any]]]) -> list[Callable[..., Any]]:
    """Async functions as activities under their names. Keyword-only parameters keep their defaults."""
    return [_activity(name, function) for name, function in functions.items()]


def _activity(name: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def call(*given: Any) -> Any:
        return await function(*given)

    signature = inspect.signature(function)
    positional = [
        # Data comes as JSON: what it has to be is for the function to say.
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
        if p.kind in _POSITIONAL
    ]
    wrapped = told(call)
    wrapped.__signature__ = signature.replace(parameters=positional)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {}
    wrapped.__name__, wrapped.__doc__ = name, function.__doc__
    return activity.defn(name=name)(wrapped)


def registered(functions: Mapping[str, Any]) -> Registered:
    """The names that a worker with these functions answers to."""
    return Registered((m.CHAIN, m.STEP), (*m.ACTIVITIES, *sorted(functions)))
