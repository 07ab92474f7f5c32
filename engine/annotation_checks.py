"""Annotations of step functions that surely cannot work: found when a chain is compiled, before any work is done.

Only what is certain is refused: a concrete class whose objects have no JSON form and no codec. What may work is not
looked at: `Any`, protocols, abstract classes, names that cannot be resolved.
"""

from __future__ import annotations

import collections.abc
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any
from weakref import WeakSet

from .annotations import annotations_of, returned_annotation
from .artifact import Artifact, File, KeptFile
from .codecs import codec_for
from .cures import cure_of_class
from .errors import Place, Problem
from .json_form import full_name, has_form
from .natural import meaning, takes_files
from .secrets import Secret
from .steps import Step

_DEPTH = 20
_FILES = (bytes, bytearray, memoryview, Path, PathLike, File, Artifact, KeptFile, Secret)
_DATA = (str, int, float, list, tuple, dict, set, frozenset, type(None), *_FILES)
_AWAITED = (collections.abc.Awaitable, collections.abc.AsyncIterable)
_ITERATORS = (collections.abc.Iterator, collections.abc.Generator)
_COLLECTIONS = (collections.abc.Sequence, collections.abc.Set, collections.abc.Mapping)
_HOLDERS = (list, tuple, dict, set, frozenset, collections.abc.Sequence, collections.abc.Mapping)
_sound: WeakSet[Callable[..., Any]] = WeakSet()  # functions of which all annotations can work


def annotation_problems(step: Step[..., Any], arguments: Iterable[str]) -> list[Problem]:
    """What cannot work of the annotations of a step's function, for these of its parameters and for what it returns."""
    function = step.function
    try:
        if function in _sound:
            return []
    except TypeError:  # a callable object that has no hash
        pass
    wrong = dict(_wrong(step))
    if not wrong:
        _remember(function)
    return [problem for name, problem in wrong.items() if name == "return" or name in arguments]


def _remember(function: Callable[..., Any]) -> None:
    try:
        _sound.add(function)
    except TypeError:
        return


def _wrong(step: Step[..., Any]) -> Iterator[tuple[str, Problem]]:
    hints = annotations_of(step.function, step.signature)
    for name, hint in hints.items():
        kind = _impossible(hint, _cannot_receive)
        if kind is not None:
            message = f"{step.name} cannot get {name}: no data and no file becomes a {full_name(kind)}"
            yield name, Problem("E_ANNOTATION", message, _place(step, name), _found(hint), _GIVEN, _cure_for(kind))
    returned = returned_annotation(step.function, step.signature)
    kind = _impossible(returned, _cannot_return)
    if kind is not None:
        message = f"{step.name} cannot return a {full_name(kind)}, which has neither a JSON form nor a file"
        cure = cure_of_class(kind)
        yield "return", Problem("E_ANNOTATION", message, _place(step, "return"), _found(returned), _KEPT, cure)


_KEPT = "JSON data, and what has a JSON form or a codec; bytes, Path, File; Any for what is known later"
_GIVEN = "JSON types, classes with fields, dates, Enum, …; Artifact, Path, bytes; classes with a codec; Any"


def _cure_for(kind: type) -> str:
    names = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type.mro(kind)}
    if "matplotlib.FigureBase" in names:
        return "a figure is kept as a PNG file: annotate PIL.Image.Image, Path or Artifact"
    if names & {"pandas.Series", "polars.Series"}:
        return "annotate the DataFrame, or list, and make it of that"
    codec = f"towpath.codec({kind.__name__}, save, load, '.ext')"
    return f"annotate the data or file that it is made of; or register {codec}"


def _found(hint: Any) -> str:
    return inspect.formatannotation(hint)


def _place(step: Step[..., Any], field: str) -> Place:
    function = inspect.unwrap(step.function)
    code = getattr(getattr(function, "func", function), "__code__", None)
    if code is None:
        return Place(step=step.name, field=field)
    return Place(code.co_filename, code.co_firstlineno, 1, step.name, field)


# ---- what is certain


def _impossible(hint: Any, cannot: Callable[[type], bool], depth: int = 0) -> type | None:
    """The class because of which an annotation cannot work; None if it may."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if depth > _DEPTH or origin is typing.Literal or isinstance(hint, typing.TypeVar):
        return None
    if origin in (typing.Union, types.UnionType):
        found = [_impossible(arm, cannot, depth + 1) for arm in arguments]
        return None if None in found else found[0]
    meant = meaning(hint, origin, arguments)
    if meant is not hint:
        return _impossible(meant, cannot, depth + 1)
    kind = origin or hint
    if not isinstance(kind, type):
        return None
    if cannot(kind):
        return kind
    inside = arguments if issubclass(kind, _HOLDERS) else ()
    return next((one for one in (_impossible(arm, cannot, depth + 1) for arm in inside) if one is not None), None)


def _is_open(kind: type) -> bool:
    """May objects of this annotation be of another class: is it abstract, a protocol, or the base of one that works?"""
    if kind is object or kind is type or inspect.isabstract(kind) or getattr(kind, "_is_protocol", False):
        return True
    if kind.__module__ in ("typing", "typing_extensions", "numbers", "contextlib") or issubclass(kind, numbers.Number):
        return not issubclass(kind, complex) and kind.__module__ != "builtins"
    if any(base.__name__ == "ABC" for base in kind.__bases__):
        return True
    return any(_works(inner) for inner in _subclasses(kind))


def _subclasses(kind: type) -> Iterator[type]:
    below: list[type] = type.__subclasses__(kind)
    for inner in below:
        yield inner
        yield from _subclasses(inner)


def _works(kind: type) -> bool:
    return has_form(kind) or codec_for(kind) is not None or issubclass(kind, _DATA)


def _cannot_return(kind: type) -> bool:
    if kind in _ITERATORS:
        return True
    if issubclass(kind, _AWAITED):
        return False
    return not (_works(kind) or _is_open(kind))


def _cannot_receive(kind: type) -> bool:
    codec = codec_for(kind)
    if codec is not None:
        return codec.load is None
    if issubclass(kind, (*_DATA, *_ITERATORS, *_COLLECTIONS)) or takes_files(kind):
        return False
    return not _is_open(kind)
