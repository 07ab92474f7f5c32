"""Which exceptions of a step are worth a retry: `retry_on=` and `retry_if=`.

A plan is plain data, so it holds the names of exceptions. A name is compared with the classes of the exception
when a step has failed. Every class that can match is loaded by then, so nothing is imported for the comparison.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import keyword
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .errors import InputInvalid, StepTimedOut, shown, similar
from .step_names import module_name

Predicate = Callable[[BaseException], bool]

ALLOWED = "exception types, or names such as ConnectionError and httpx.TransportError"


@dataclass(frozen=True, slots=True)
class RetryRule:
    """`names` of exceptions (empty: all), and a predicate that must hold as well.

    An attempt that took too long counts as a `TimeoutError`.
    """

    names: tuple[str, ...] = ()
    predicate: Predicate | None = None

    def allows(self, error: BaseException, members: Sequence[BaseException]) -> bool:
        """Is an exception worth a retry? A group is if it is named itself, or if all of its members are.

        Raises what the predicate raises.
        """
        named = not self.names or self._names(error) or all(self._names(member) for member in members)
        return named and (self.predicate is None or all(self.predicate(member) for member in members))

    def _names(self, error: BaseException) -> bool:
        kinds = (type(error), TimeoutError) if isinstance(error, StepTimedOut) else (type(error),)
        classes = {cls for kind in kinds for cls in kind.__mro__}
        names = {class_name(cls) for cls in classes}
        return any(name in names or _loaded(name) in classes for name in self.names)


def class_name(cls: type[Any]) -> str:
    """`module.Name` of a class; of a builtin one only its name."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{module_name(cls)}.{cls.__qualname__}"


def exception_names(given: Any) -> tuple[str, ...]:
    """What a user gave as `retry_on`, as names. Raises InputInvalid (E_FIELD_TYPE)."""
    if given is None:
        return ()
    many = given if isinstance(given, list | tuple | set | frozenset) else (given,)
    names = dict.fromkeys(_name(one) for one in many)
    return tuple(sorted(names) if isinstance(given, set | frozenset) else names)


def retry_predicate(given: Any) -> Predicate | None:
    """What a user gave as `retry_if`, checked. Raises InputInvalid (E_FIELD_TYPE)."""
    if given is not None and (not callable(given) or inspect.iscoroutinefunction(given)):
        allowed = "a plain function of the exception that returns True or False"
        raise InputInvalid("E_FIELD_TYPE", "retry_if cannot be this", found=given, allowed=allowed)
    return cast("Predicate | None", given)


def check_importable(names: Iterable[str]) -> None:
    """Refuse names under which no exception is found, importing their modules. Raises InputInvalid (E_FIELD_TYPE)."""
    for name in names:
        module = name.rpartition(".")[0]
        if module and not _is_exception(_imported(name)):
            cure = f"correct the name, or install the package that has {shown(module)}"
            raise InputInvalid("E_FIELD_TYPE", f"there is no exception {shown(name)}", found=name, cure=cure)


def _name(given: Any) -> str:
    if _is_exception(given):
        return class_name(given)
    if not isinstance(given, str) or not all(_is_word(part) for part in given.split(".")):
        raise InputInvalid("E_FIELD_TYPE", "retry_on cannot be this", found=given, allowed=ALLOWED)
    if "." not in given and not _is_exception(getattr(builtins, given, None)):
        known = [name for name, value in vars(builtins).items() if _is_exception(value)]
        cure = similar(given, known) or "write the module too: module.Name"
        raise InputInvalid("E_FIELD_TYPE", f"Python has no exception {shown(given)}", found=given, cure=cure)
    return given


def _is_word(part: str) -> bool:
    return part.isidentifier() and not keyword.iskeyword(part)


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _loaded(name: str) -> object:
    """What a name means in the modules that are loaded; None if nothing. A package may export a class of another."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        found: object = sys.modules.get(".".join(parts[:end]))
        if found is not None:
            for part in parts[end:]:
                found = getattr(found, part, None)
            return found
    return None


def _imported(name: str) -> object:
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        return _loaded(name)
    return None
