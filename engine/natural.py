"""What a parameter gets: JSON data, and files in it, as what its annotation says.

An annotation is compiled once, to a `Taker`. Data that fits is not changed. As in Python, an annotation alone refuses
nothing: only what cannot be made of the data is refused, and in the fields of classes also a text for a number.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import enum
import inspect
import os
import pathlib
import types
import typing
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import msgspec

from .artifact import Artifact
from .class_fields import taker_with_fields
from .codecs import codec_for, load_file, registrations
from .errors import InputInvalid, Place, shown
from .takers import ALL, ANYTHING, FILES, NOTHING, Misfit, Taker, data_of, one_value, same, taken

MOST_READ = 64 * 1024 * 1024  # bytes of a file for a parameter that takes `bytes` or `str`
_FREE = frozenset({Any, object, int, float, bool, dict, list, type(None), None, inspect.Parameter.empty, Artifact})


def receives(annotation: Any) -> bool:
    """Must data be rebuilt for this annotation? If not, its JSON form fits as it is (int, str, dict, Any, …)."""
    return not _is_free(annotation) and annotation is not str and taker_of(annotation).needs == ALL


def takes_files(annotation: Any) -> bool:
    """Does an artifact become something else for this annotation: a path, bytes, text, an object of a codec?"""
    return not _is_free(annotation) and taker_of(annotation).needs != NOTHING


def rebuild(data: Any, annotation: Any, place: Place | None = None) -> Any:
    """JSON data, in which artifacts may stand, as what an annotation says. It blocks where it reads a file.

    None and secrets are returned as they are, and so is data that fits already. `place` is that of the argument.

    Raises:
        InputInvalid: E_ARGUMENT_TYPE with the place inside the data.
    """
    if data is None or _is_free(annotation):
        return data
    taker = taker_of(annotation)
    if taker.needs == NOTHING:
        return data
    try:
        return taken(taker, data, "")
    except Misfit as misfit:
        where = place or Place()
        name = f" {where.field}{misfit.at}" if where.field else ""
        raise InputInvalid(
            "E_ARGUMENT_TYPE",
            f"the argument{name} does not fit its annotation {shown(inspect.formatannotation(annotation))}",
            place=dataclasses.replace(where, field=f"{where.field}{misfit.at}"),
            found=misfit.found,
            allowed=misfit.allowed,
            cure=misfit.cure,
        ) from None


def _is_free(annotation: Any) -> bool:
    try:
        return annotation in _FREE or type(annotation) is str
    except TypeError:  # it has no hash: there is a list in it
        return False


def taker_of(annotation: Any, *, strict: bool = False) -> Taker:
    """The taker for an annotation. A strict one refuses a text for a number."""
    try:
        return _compiled(annotation, strict, registrations())
    except TypeError:
        return _compile(annotation, strict)


@lru_cache(4096)
def _compiled(annotation: Any, strict: bool, registrations: int) -> Taker:
    return _compile(annotation, strict)


def _compile(hint: Any, strict: bool) -> Taker:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return _literal(arguments, strict)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, strict)
    meant = meaning(hint, origin, arguments)
    if meant is not hint:
        return taker_of(meant, strict=strict)
    kind = origin or hint
    return _of_class(kind, arguments, hint, strict) if isinstance(kind, type) else ANYTHING


_WRAPPERS = frozenset({typing.Annotated, typing.Required, typing.NotRequired, typing.Final, typing.ClassVar})


def meaning(hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    """The type behind an alias, `Annotated`, a `NewType` or a type variable; else the annotation itself."""
    if hint is None:
        return type(None)
    if origin in _WRAPPERS:
        return arguments[0]
    if isinstance(hint, dataclasses.InitVar):
        return hint.type
    if isinstance(hint, typing.NewType):
        return hint.__supertype__
    if isinstance(hint, typing.TypeVar):
        allowed = hint.__constraints__ or (hint.__bound__ or Any,)
        return typing.Union[allowed]  # noqa: UP007 - there is no other way to build one of a tuple
    return hint if isinstance(hint, type) else getattr(hint, "__value__", hint)  # `type X = …`


# ---- plain data


def _number(allowed: str, data: Any, at: str) -> Any:
    if isinstance(data, str | list | dict | Artifact):
        raise Misfit(at, data, allowed)
    return data


def _text(strict: bool, data: Any, at: str) -> Any:
    if isinstance(data, Artifact):
        return _whole(data, at).text()
    if strict and isinstance(data, list | dict):
        raise Misfit(at, data, "text")
    return data


def _plain(kind: type, strict: bool) -> Taker | None:
    """The taker of a type of JSON; None for other classes."""
    if kind is str:
        return Taker(partial(_text, strict), lambda data: isinstance(data, str), FILES)
    if kind in (int, float, bool):
        number = partial(_number, {int: "an integer", float: "a number", bool: "true or false"}[kind])
        kinds = (int, float) if kind is float else kind
        fits = lambda data: isinstance(data, kinds) and (kind is bool or not isinstance(data, bool))  # noqa: E731
        return Taker(number if strict else same, fits, NOTHING)
    if kind is type(None):
        return Taker(same, lambda data: data is None, NOTHING)
    if issubclass(kind, Artifact):
        return Taker(same, lambda data: isinstance(data, Artifact), NOTHING)
    return ANYTHING if kind is object else None


def _literal(constants: tuple[Any, ...], strict: bool) -> Taker:
    others = {data_of(one): one for one in constants if isinstance(one, enum.Enum)}

    def fits(data: Any) -> bool:
        return any(type(one) is type(data) and one == data for one in constants)

    def take(data: Any, at: str) -> Any:
        value = others.get(data_of(data), data) if others else data
        if strict and not fits(value):
            raise Misfit(at, data, " or ".join(map(repr, constants)))
        return value

    return Taker(take if others or strict else same, fits, ALL if others else NOTHING)


# ---- unions


def _union(arms: tuple[Any, ...], strict: bool) -> Taker:
    takers = [(arm, taker_of(arm, strict=strict)) for arm in arms if arm is not type(None)]
    if len(takers) == 1:
        return takers[0][1]
    strictly = [(arm, taker_of(arm, strict=True)) for arm, _ in takers]
    needs = max((taker.needs for _, taker in takers), default=NOTHING)
    fits = lambda data: any(taker.fits(data) for _, taker in strictly)  # noqa: E731
    return Taker(partial(_one_of, strictly), fits, needs)


def _one_of(arms: list[tuple[Any, Taker]], data: Any, at: str) -> Any:
    """The data as the arm of a union that fits best says."""
    if isinstance(data, dict):
        named = [pair for pair in arms if _names_of(pair[0]) == data.keys()]
        fitting = [value for value in (_tried(taker, data, at) for _, taker in named) if value is not None]
        if len(fitting) > 1:
            kinds = " and ".join(type(value).__name__ for value in fitting)
            raise Misfit(
                at, data, "data that fits one of the classes", f"{kinds} have equal fields: add a field that differs"
            )
        if fitting:
            return fitting[0]
    if any(taker.fits(data) for _, taker in arms):
        return data
    rank = _rank_for_files if isinstance(data, Artifact) else _rank
    why: Misfit | None = None
    for _, taker in sorted(arms, key=lambda pair: rank(pair[0])):
        try:
            return taker.take(data, at)
        except Misfit as misfit:
            why = why or misfit
    allowed = " or ".join(inspect.formatannotation(arm) for arm, _ in arms)
    raise why if why is not None and why.at != at else Misfit(at, data, allowed)


def _tried(taker: Taker, data: Any, at: str) -> Any:
    try:
        return taker.take(data, at)
    except Misfit:
        return None


def _names_of(hint: Any) -> Any:
    """The names of all fields of a class with fields, as data has them."""
    kind = typing.get_origin(hint) or hint
    taker = taker_of(hint).take if isinstance(kind, type) else None
    return getattr(taker, "names", None)


def _rank(hint: Any) -> int:
    """The order in which data is tried: the text of a date also fits a time of that day, but not the other way."""
    return 0 if hint is datetime.date else 1


def _rank_for_files(hint: Any) -> int:
    """The order in which an artifact is tried: as an object of a codec, a path, bytes, and text last."""
    order = {bytes: 2, str: 3}
    return 0 if isinstance(hint, type) and codec_for(hint) is not None else order.get(hint, 1)


# ---- classes


def _of_class(kind: type, arguments: tuple[Any, ...], hint: Any, strict: bool) -> Taker:
    found = _plain(kind, strict) or _file(kind)
    if found is not None:
        return found
    if kind in _LISTS or (kind in _MAKERS and kind not in _DICTS):
        return _list(kind, arguments, strict)
    if kind is tuple:
        return _tuple(arguments, strict)
    if kind in _DICTS:
        return _dict(kind, arguments, strict)
    return one_value(kind) or taker_with_fields(kind, hint, taker_of) or ANYTHING


def _file(kind: type) -> Taker | None:
    """The taker of a class that is made of a file."""
    if codec_for(kind) is not None:
        take = lambda data, at: _loaded(data, kind, at) if isinstance(data, Artifact) else data  # noqa: E731
    elif issubclass(kind, pathlib.Path) or kind is os.PathLike:
        as_path = kind if kind in (pathlib.Path, pathlib.PosixPath, pathlib.WindowsPath) else pathlib.Path
        take = lambda data, at: as_path(os.fspath(data)) if isinstance(data, Artifact) else data  # noqa: E731
    elif kind is bytes or kind is bytearray:
        take = lambda data, at: kind(_whole(data, at).bytes()) if isinstance(data, Artifact) else data  # noqa: E731
    else:
        return None
    return Taker(take, lambda data: isinstance(data, kind), ALL)


def _whole(artifact: Artifact, at: str) -> Artifact:
    """An artifact that may be read whole because of an annotation: several steps may do it at the same time."""
    if artifact.size <= MOST_READ:
        return artifact
    cure = "annotate Path, and read the file in parts; or Artifact, and read it whole with artifact.bytes()"
    raise Misfit(at, f"{artifact.filename}, {artifact.size} bytes", "a file of at most 64 MiB", cure)


def _loaded(artifact: Artifact, kind: type, at: str) -> Any:
    try:
        return load_file(pathlib.Path(os.fspath(artifact)), kind)
    except InputInvalid as error:
        raise Misfit(at, error.problem.message, f"a file that holds a {kind.__name__}", error.problem.cure) from None


_Make = Callable[[list[Any]], Any]


def _range(items: list[Any]) -> range:
    step = items[1] - items[0] if len(items) > 1 else 1
    found = range(items[0], items[-1] + (1 if step > 0 else -1), step) if items else range(0)
    if list(found) != items:
        raise ValueError(items)
    return found


_MAKERS: dict[Any, _Make] = {
    set: set, frozenset: frozenset, collections.deque: collections.deque, range: _range,
    collections.abc.Set: set, collections.abc.MutableSet: set,
    collections.UserList: collections.UserList,
}  # fmt: skip
_LISTS = frozenset({
    list, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Collection,
    collections.abc.Iterable, collections.abc.Reversible,
})  # fmt: skip


def _list(kind: Any, arguments: tuple[Any, ...], strict: bool) -> Taker:
    inner = taker_of(arguments[0], strict=strict) if arguments else ANYTHING
    make = _MAKERS.get(kind)
    held = list if make is None else kind if kind is not range else range
    take = partial(_items, inner, make, kind.__name__, strict)
    fits = lambda data: isinstance(data, held) and all(map(inner.fits, data))  # noqa: E731
    return Taker(take, fits, ALL if make is not None else inner.needs)


def _items(inner: Taker, make: _Make | None, name: str, strict: bool, data: Any, at: str) -> Any:
    if not isinstance(data, list):
        if (make is None and not strict) or (make is not None and type(data).__name__ == name):
            return data
        raise Misfit(at, data, "a list")
    items = data if inner is ANYTHING else [taken(inner, one, f"{at}[{i}]") for i, one in enumerate(data)]
    try:
        return items if make is None else make(items)
    except (TypeError, ValueError, IndexError) as error:
        raise Misfit(at, data, f"a list that a {name} can be made of: {error}") from None


def _tuple(arguments: tuple[Any, ...], strict: bool) -> Taker:
    each = len(arguments) == 2 and arguments[1] is Ellipsis
    inner = [taker_of(one, strict=strict) for one in (arguments[:1] if each else arguments) if one != ()]

    def take(data: Any, at: str) -> Any:
        if not isinstance(data, list | tuple):
            raise Misfit(at, data, "a list")
        takers = inner * len(data) if each else inner
        if len(takers) != len(data):
            if strict:
                raise Misfit(at, data, f"a list of {len(takers)}")
            return tuple(data)
        return tuple(taken(one, value, f"{at}[{i}]") for i, (one, value) in enumerate(zip(takers, data, strict=True)))

    return Taker(take if arguments else lambda data, at: tuple(data) if isinstance(data, list) else take(data, at),
                 lambda data: isinstance(data, tuple), ALL)  # fmt: skip


# ---- mappings

_DICTS: dict[Any, Callable[[dict[Any, Any], tuple[Any, ...]], Any] | None] = {
    dict: None, collections.abc.Mapping: None, collections.abc.MutableMapping: None,
    collections.OrderedDict: lambda data, _: collections.OrderedDict(data),
    collections.defaultdict: lambda data, hints: collections.defaultdict(_factory(hints), data),
    collections.Counter: lambda data, _: collections.Counter(data),
    types.MappingProxyType: lambda data, _: types.MappingProxyType(data),
    types.SimpleNamespace: lambda data, _: types.SimpleNamespace(**data),
    collections.UserDict: lambda data, _: collections.UserDict(data),
}  # fmt: skip


def _factory(hints: tuple[Any, ...]) -> Any:
    made = typing.get_origin(hints[1]) or hints[1] if len(hints) == 2 else None
    return made if made in (int, float, str, bool, list, dict, set) else None


def _dict(kind: Any, arguments: tuple[Any, ...], strict: bool) -> Taker:
    key = key_of(arguments[0]) if arguments else None
    inner = taker_of(arguments[1], strict=strict) if len(arguments) == 2 else ANYTHING
    make = _DICTS[kind]
    held = kind if make is not None else dict
    needs = ALL if make is not None or key is not None else inner.needs

    def take(data: Any, at: str) -> Any:
        if not isinstance(data, dict):
            if needs != ALL or isinstance(data, held):
                return data
            raise Misfit(at, data, "a mapping")
        result = {
            name if key is None else key(name, at): value
            if inner is ANYTHING
            else taken(inner, value, f"{at}[{name!r}]")
            for name, value in data.items()
        }
        return result if make is None else make(result, arguments)

    fits = lambda data: key is None and isinstance(data, held) and all(map(inner.fits, data.values()))  # noqa: E731
    return Taker(take, fits, needs)


def key_of(hint: Any) -> Callable[[Any, str], Any] | None:
    """Makes the key of a mapping from its text; None if the keys are texts."""
    if hint in (Any, str, object) or isinstance(hint, typing.TypeVar | str):
        return None
    taker = taker_of(hint, strict=True)

    def key(name: Any, at: str) -> Any:
        if not isinstance(name, str):
            return name
        for read in (lambda: name, lambda: msgspec.json.decode(name)):
            try:
                value = read()
                made = value if taker.fits(value) else taker.take(value, at)
                hash(made)
                return made
            except (Misfit, msgspec.DecodeError, TypeError):
                continue
        raise Misfit(f"{at}[{name!r}]", name, f"the text of a key: {inspect.formatannotation(hint)}")

    return key
