"""The name of a step function, `module:function`, and whether two functions have the same name.

A plan names its functions. If two functions have one name, a recorded run cannot tell which one it meant, so such
names are refused. A function that is defined again is not a second one, for example after a reload of its module,
or when a notebook cell runs again.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, Protocol

from .errors import InputInvalid, Place, Problem, shown
from .step_modules import program_name

ALLOWED = "up to 100 letters, digits, _ and -, not beginning with -"
CURE = 'give each a name of its own, @step(name="…"); in a decorator, use functools.wraps'
MAINS = ("__main__", "__mp_main__")
_PLAIN = (str, bytes, int, float, bool, complex, type(None))
_DEPTH = 20  # closures inside closures that are compared


class Named(Protocol):
    """A step: here only its name and its function matter."""

    name: str
    function: Callable[..., Any]


class Alike:
    """A wrapper that does nothing but call the function that it wraps: a step."""

    __wrapped__: Callable[..., Any]


def step_name(function: Callable[..., Any], given: str | None = None) -> str:
    """`module:function`, or `module:given`; for a script run as `__main__` the module is the stem of its file.

    Raises:
        InputInvalid: E_FIELD_TYPE for a given name that is not allowed.
    """
    if given is not None and not _allowed(given):
        raise InputInvalid("E_FIELD_TYPE", "this is not a valid name for a step", found=given, allowed=ALLOWED)
    return f"{module_name(function)}:{given or function.__qualname__}"


def module_name(defined: Callable[..., Any]) -> str:
    """The module of a function or class, by the name that another process can import.

    Of `python -m pkg.flow` it is `pkg.flow`, of a script the stem of its file; also in a child process that
    `multiprocessing` made, which calls it `__mp_main__`. What was typed in keeps `__main__`: nothing can import it.
    """
    if defined.__module__ not in (*MAINS, None):  # a function that `exec` made may have no module
        return defined.__module__
    main = _main_of(defined)
    spec, file = main.get("__spec__"), main.get("__file__")
    if spec is not None and spec.name not in MAINS:
        code = _code(defined)  # `python -m asyncio`, -m IPython: what is typed in there is no part of that module
        return "__main__" if code is not None and _typed_in(defined, code) else str(spec.name)
    return program_name(file) if file else "__main__"


def _main_of(defined: Callable[..., Any]) -> Mapping[str, Any]:
    """The names of the main program. Profilers execute a script apart from `sys.modules["__main__"]`."""
    own: Mapping[str, Any] = getattr(defined, "__globals__", {})
    if own.get("__name__") in MAINS:
        return own
    module = sys.modules.get(defined.__module__)
    return {} if module is None else vars(module)


def _allowed(name: object) -> bool:
    if not isinstance(name, str) or not 0 < len(name) <= 100 or name.startswith("-") or not name.isascii():
        return False
    return all(c.isalnum() or c in "_-" for c in name)


def same_function(one: Any, other: Any, depth: int = 0) -> bool:
    """Do both do the same? They have the same code, module, defaults and closure values."""
    if one is other:
        return True
    if type(one) is not type(other) or depth > _DEPTH:
        return False
    if isinstance(one, MethodType):
        return one.__self__ is other.__self__ and same_function(one.__func__, other.__func__, depth + 1)
    if isinstance(one, FunctionType):
        same = one.__code__ == other.__code__ and one.__globals__ is other.__globals__
        return same and _same_values(_held(one), _held(other), depth)
    if isinstance(one, functools.partial):
        given = [*one.args, *(value for _, value in sorted(one.keywords.items()))]
        others = [*other.args, *(value for _, value in sorted(other.keywords.items()))]
        same = one.keywords.keys() == other.keywords.keys() and same_function(one.func, other.func, depth + 1)
        return same and _same_values(given, others, depth)
    if isinstance(one, functools._lru_cache_wrapper | Alike):
        # Other objects have `__wrapped__` too, but may do more than call it.
        return same_function(one.__wrapped__, other.__wrapped__, depth + 1)
    return False


def _held(function: FunctionType) -> list[Any]:
    """The values that a function carries: its closure and its defaults."""
    named = sorted((function.__kwdefaults__ or {}).items())
    cells = function.__closure__ or ()
    return [_content(cell) for cell in cells] + list(function.__defaults__ or ()) + [value for _, value in named]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not bound yet


def _same_values(ones: list[Any], others: list[Any], depth: int) -> bool:
    return len(ones) == len(others) and all(
        _same_value(one, other, depth) for one, other in zip(ones, others, strict=True)
    )


def _same_value(one: Any, other: Any, depth: int) -> bool:
    if one is other:
        return True
    if type(one) is type(other) and type(one) in _PLAIN:
        return repr(one) == repr(other)  # 0.0 is not -0.0
    if type(one) is type(other) is tuple and depth < _DEPTH:
        return _same_values(list(one), list(other), depth + 1)
    return callable(one) and callable(other) and same_function(one, other, depth + 1)


def defined_again(old: Callable[..., Any], new: Callable[..., Any], specs: tuple[object, object]) -> bool:
    """Is `new` a new definition of `old`, and not a second function with its name?

    `specs` are the specs of the module when each was defined: a module that is reloaded gets another one.
    """
    if "<" in old.__qualname__ or "<" in new.__qualname__:
        return False  # made by a factory, or a lambda: each one is a different function
    main = sys.modules.get("__main__")
    if new.__module__ == "__main__" and getattr(main, "__file__", None) is None:
        return True  # typed in, or a cell of a notebook
    one, other = _code(old), _code(new)
    if one is None or other is None:
        return specs[0] is not specs[1]
    if _typed_in(new, other):
        return True
    if one.co_filename != other.co_filename:
        return not (os.path.exists(one.co_filename) and os.path.exists(other.co_filename))
    executed_again = getattr(old, "__globals__", None) is not getattr(new, "__globals__", None)
    return executed_again or specs[0] is not specs[1]


def _typed_in(function: Callable[..., Any], code: CodeType) -> bool:
    """Does it come from no file: a notebook cell whose kernel gives `__main__` a file, or text passed to `exec`?"""
    module = sys.modules.get(function.__module__)
    loose = function.__module__ == "__main__" or getattr(module, "__spec__", None) is None
    return loose and code.co_filename != getattr(module, "__file__", None) and not os.path.exists(code.co_filename)


def spec_now(function: Callable[..., Any]) -> object:
    """The spec of the function's module now; another object after a reload."""
    return getattr(sys.modules.get(function.__module__), "__spec__", None)


def _code(function: Any) -> CodeType | None:
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None) or getattr(getattr(function, "__wrapped__", None), "__code__", None)
    return code if isinstance(code, CodeType) else None


def where(function: Callable[..., Any]) -> str:
    """`file.py:12`, where a function is written; empty if unknown."""
    code = _code(function)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code is not None else ""


def cure_of(name: str) -> str:
    """The cure for a step that no module was found to hold."""
    module = name.partition(":")[0]
    if "<lambda>" in name:
        return 'a lambda has no name: give it one, @step(name="…")'
    if "<locals>" in name:
        return (
            'define it at the top level of a module, or name it, @step(name="…"), and pass --import with the module; '
            "in a decorator, functools.wraps"
        )
    if module == "__main__":
        return (
            "its program came from no file (python -c, a prompt, a notebook): continue it there, with "
            "engine.resume(run_id); or put the steps into a file and start a new run"
        )
    if module.endswith(".__main__"):
        return "pass --import with the folder or archive (.pyz) that was started"
    return f"pass --import {module} (or the path of its file), or import it before running"


def named_twice(name: str, one: Named, other: Named, place: Place) -> Problem:
    """The problem of two functions with one name."""
    places = " and ".join(filter(None, (where(one.function), where(other.function))))
    message = f"two different functions have the name {shown(name)}"
    return Problem("E_STEP_NAME_TWICE", message, place, places, "one function for each name in a chain", CURE)
