"""Imports on first use: what a process does not need, it does not load."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


class Late:
    """A module that is imported when an attribute of it is first used. An import that fails raises its own error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspection of the object itself
            raise AttributeError(name)
        value = self.__dict__[name] = getattr(_imported(self._name), name)
        return value


class LateNames:
    """A module whose names are passed on now and used later. It is imported when one of them is first used."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> LateName:
        return LateName(self._module, name)


class LateName:
    """A name of a module. Calls and attributes go to the object that it stands for."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    @cached_property
    def meant(self) -> Any:
        """What the name stands for."""
        return getattr(_imported(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.meant(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.meant, name)


def meant(value: T) -> T:
    """The object itself, if `value` is a late name; otherwise `value`."""
    late: Any = value
    found: T = late.meant if isinstance(late, LateName) else value
    return found


def names_of(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package (PEP 562) whose names are imported when they are asked for.

    `homes` gives the names of each module.
    """
    sys.modules[package].__class__ = _Package
    home_of = {name: module for module, names in homes.items() for name in names.split()}

    def found(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(_imported(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return found


class _Package(ModuleType):
    """A package whose public names hide submodules of the same name (`towpath.context`), whichever comes first."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in self.__dict__["__all__"]):
            super().__setattr__(name, value)


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except AttributeError as error:
        # An AttributeError here would look as if the package did not have the name.
        raise ImportError(f"{name} cannot be imported: {error}", name=name) from error
