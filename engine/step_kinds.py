"""What can be a step: a function, or another callable that is given a name."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from .errors import ChainInvalid, Problem, shown
from .step_names import Alike
from .tracing import user_module, user_place

_OF_CLASSES = (
    classmethod,
    property,
    functools.cached_property,
    functools.partialmethod,
    functools.singledispatchmethod,
)
_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType)


class Origin:
    """Where a callable without a name of its own was made a step: a partial, an object with `__call__`."""

    def __init__(self, module: str, name: str) -> None:
        self.__module__ = module
        self.__qualname__ = name


def origin_of(function: Callable[..., Any], name: str | None) -> Any:
    """What says to which module a step belongs: its function, or the place in the user's code."""
    return function if has_name(function) or name is None else Origin(user_module(), name)


def has_name(function: object) -> bool:
    """Has it a name by which its module could hold it?"""
    if isinstance(function, FunctionType):
        return True  # if `exec` made it, without a module
    return all(isinstance(getattr(function, key, None), str) for key in ("__module__", "__qualname__"))


def annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose annotations hold for a callable: that of a partial, or the `__call__` of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, _FUNCTIONS) or hasattr(function, "__wrapped__"):
        return function
    called: Any = getattr(type(function), "__call__", None)  # noqa: B004 - the method itself is wanted
    return called if isinstance(called, FunctionType) else function


def docstring(function: Callable[..., Any]) -> str:
    """The docstring of a callable, or of what a partial calls."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.getdoc(function) or ""


def positional_room(function: Any) -> float:
    """How many positional arguments it takes itself, whatever it wraps."""
    bound = 0
    if not isinstance(function, _FUNCTIONS):
        called = getattr(type(function), "__call__", None)  # noqa: B004 - the method itself is wanted
        function, bound = (called, 1) if isinstance(called, FunctionType) else (function, 0)
    elif isinstance(function, MethodType):
        function, bound = function.__func__, 1
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or code.co_flags & inspect.CO_VARARGS:
        return math.inf
    return code.co_argcount - bound


def is_method(function: Callable[..., Any], signature: inspect.Signature) -> bool:
    """Is it defined in the body of a class, with a parameter for the object?"""
    body = getattr(function, "__qualname__", "").rpartition(".")[0]
    return bool(body) and not body.endswith("<locals>") and next(iter(signature.parameters), "") in ("self", "cls")


def checked_signature(function: Any, name: str | None) -> inspect.Signature:
    """The parameters of a function that can be a step. Raises ChainInvalid (E_STEP_KIND)."""
    found, cure = _refusal(function, name)
    if not found:
        try:
            return inspect.signature(function)
        except (TypeError, ValueError):  # a function written in C may not say what it takes
            found, cure = "a function that does not say what it takes", "write a `def` around it"
    problem = Problem("E_STEP_KIND", "this cannot be a step", user_place(), f"it is {found}", "a function", cure)
    raise ChainInvalid([problem])


def _refusal(function: Any, name: str | None) -> tuple[str, str]:
    """What a callable is that cannot be a step, and the cure; empty texts if it can."""
    kind = shown(type(function).__name__)
    if isinstance(function, Alike):
        return "a step already", "@step once; `step_a.with_options(…)` is the same step with other options"
    if type(function).__module__ == "towpath.chains":
        return "a chain", "call it inside another chain: there it is one step"
    if isinstance(function, type):
        return "a class", "write a function that makes the object and returns data"
    if isinstance(function, _OF_CLASSES):
        return f"a {kind}, which belongs to a class", "write a function, or put @staticmethod above @step"
    if inspect.isgeneratorfunction(annotated(function)):
        return "a generator function", "return a list; an async generator of bytes is a file"
    if not callable(function):
        return f"{kind}, no function", "write a `def` around it"
    if name is None and not has_name(function):
        cure = 'give it one: step(…, name="clean"); other processes find it by importing this module'
        return f"{kind}, which has no name", cure
    return "", ""


def check_process(function: Callable[..., Any], *, named: str) -> None:
    """Refuse a function for `process=True` that another process cannot run. Raises ChainInvalid (E_STEP_KIND)."""
    short = named.rpartition(":")[2]
    if inspect.iscoroutinefunction(annotated(function)):
        found, cure = (
            "an async function",
            "write a plain `def`, or leave out process=True: async functions share a loop",
        )
    elif "<lambda>" in short or "<locals>" in short:
        found, cure = "a function inside a function", "move it to the top level of its module"
    else:
        return
    message = f"{named} cannot run in a process of its own: the process imports it by its name"
    problem = Problem("E_STEP_KIND", message, user_place(named), f"it is {found}", "a plain `def` of a module", cure)
    raise ChainInvalid([problem])
