"""What has one obvious JSON form, and that form.

Types of libraries are known by their names or found in `sys.modules`: nothing is imported that the program has not
imported.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import math
import sys
import types
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from .artifact import Artifact, File, KeptFile
from .secrets import Secret

NOT_NATURAL: Final[Any] = object()
"""What `to_data` gives for a value that has no obvious JSON form."""

MAX_VALUE = 64 * 1024 * 1024  # bytes of JSON
MAX_DEPTH = 100  # lists, mappings and objects inside each other
MOST_NUMBERS = 32 * 1024 * 1024  # of a range: its JSON would be larger than any value may be
MANY = 250_000  # lists, mappings and objects, or 16 numbers each: a walk over more is a long one

_Encode = Callable[[Any], Any]


def to_data(value: object) -> Any:
    """The JSON form of a value, one level deep: what is inside may have a form of its own, or be a file.

    `NOT_NATURAL` if there is no obvious form. Raises what the methods of the value's class raise.
    """
    kind: type = type(value)
    encode = _encoder(kind)
    return NOT_NATURAL if encode is None else encode(value)


def plain_form(value: str | int | float) -> str | int | float:
    """An object of a subclass of text or of a number, as plain text or as a plain number, without its own methods."""
    if isinstance(value, str):
        return str.__str__(value)
    return int.__index__(value) if isinstance(value, int) else float.__float__(value)


def has_form(kind: type) -> bool:
    """Have objects of this class an obvious JSON form?"""
    return _encoder(kind) is not None


@lru_cache(4096)
def _encoder(kind: type) -> _Encode | None:
    if issubclass(kind, _OTHERS):
        return None
    record = record_of(kind)
    if record is not None:
        return record.fields_of
    return _of_library(kind) or next((encode for base, encode in _FORMS if issubclass(kind, base)), None)


def full_name(kind: Any) -> str:
    """The name of a class for people: `module.Class`, without the private modules where libraries define it."""
    name = getattr(kind, "__qualname__", None) or str(kind)
    parts = str(getattr(kind, "__module__", "builtins")).split(".")
    public = [part for part in parts if not part.startswith("_")] or parts
    return name if parts in (["builtins"], ["__main__"]) else ".".join((*public, name))


def names_of(kind: type) -> Iterable[str]:
    """The names of a class and its base classes, each with the library that defines it."""
    return (f"{str(base.__module__).partition('.')[0]}.{base.__qualname__}" for base in type.mro(kind))


# ---- size

_ATOMS = frozenset({type(None), bool, int, float, str})


class TooLarge(Exception):
    """A value has more than `MAX_VALUE` bytes of JSON."""


class Count:
    """Counts what a walk over a value visits: lists, mappings and objects.

    A list that holds one list twice, which holds one list twice, … is small in memory, and a walk over it has no end.
    So a long walk remembers what it was at. If it often comes to the same again, the size is found in another way.
    """

    __slots__ = ("_again", "_left", "_root", "_seen")

    def __init__(self, root: Any, visits: int = 0) -> None:
        self._left = MANY - visits  # until it remembers
        self._root = root
        self._seen: set[int] = set()
        self._again = 0

    def visit(self, value: Any, length: int = 0) -> None:
        """One of them, with so many members. Raises TooLarge if the whole value is."""
        self._left -= 1 + length // 16
        if self._left >= 0:
            return
        at = id(value)
        if at in self._seen:
            self._again += 1
            if self._again > _OFTEN:
                self._left = sys.maxsize  # if it is not too large, the walk ends soon
                refuse_too_large(self._root)
        elif len(self._seen) < _OFTEN or at % 1024 < 16:  # of many, one in 64 is enough
            self._seen.add(at)


_OFTEN = 4096


def refuse_too_large(value: Any, *without: type) -> None:
    """Raises TooLarge if the JSON of a value is surely too large. Objects of the classes `without` do not count."""
    if type(value) not in _ATOMS and _Sizes(_ATOMS.union(without)).of(value, 0) > MAX_VALUE:
        raise TooLarge


class _Sizes:
    """At least how many bytes of JSON values have. What stands in several places counts in each of them, but is looked
    at once.
    """

    def __init__(self, atoms: frozenset[type]) -> None:
        self._atoms = atoms
        self._known: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no other object gets an id that is known

    def of(self, value: Any, depth: int) -> int:
        known = self._known.get(id(value))
        if known is not None:
            return known
        if depth > MAX_DEPTH:  # who walks over the value refuses it there
            return 1
        self._alive.append(value)
        self._known[id(value)] = 0  # it may contain itself
        size = self._known[id(value)] = self._of_parts(value, depth)
        return size

    def _of_parts(self, value: Any, depth: int) -> int:
        data = value if type(value) in (list, tuple, dict) else _unsorted(value)
        keys = 0
        if isinstance(data, dict):
            keys = sum(len(key) for key in data if isinstance(key, str))
            data = data.values()
        elif not isinstance(data, list | tuple):
            data = (data,)
        size = 2 * len(data) + keys
        for inner in data:
            if type(inner) is str:
                size += len(inner)
            elif type(inner) not in self._atoms:
                size += self.of(inner, depth + 1)
        return size


def _unsorted(value: Any) -> Any:
    """As `to_data`, without a look at what is inside; None if there is no form."""
    try:
        if isinstance(value, collections.abc.Set):
            return list(value)
        data = _pydantic_fields(value) if hasattr(type(value), "__pydantic_validator__") else to_data(value)
    except Exception:  # it is code of the user; who walks over the value refuses it
        return None
    return None if data is NOT_NATURAL else data


# ---- classes with fields


class Record:
    """How objects of a class with named fields are taken apart. The names are those of the JSON form."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def fields_of(self, value: Any) -> Any:
        """The values of the fields by name. A field without a value is left out."""
        raise NotImplementedError


class DataclassRecord(Record):
    """Of `dataclasses`. Fields that `__init__` does not take are kept too: they may have been changed since."""

    def fields_of(self, value: Any) -> Any:
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}


class AttrsRecord(Record):
    """Of attrs. A private field `_x` is called `x`, as in `__init__`."""

    def fields_of(self, value: Any) -> Any:
        fields = type(value).__attrs_attrs__
        return {f.alias or f.name: getattr(value, f.name) for f in fields if hasattr(value, f.name)}


class StructRecord(Record):
    """Of msgspec. Its options `rename`, `tag` and `array_like` are followed."""

    def fields_of(self, value: Any) -> Any:
        config = value.__struct_config__
        fields = {f.encode_name: getattr(value, f.name) for f in msgspec.structs.fields(type(value))}
        if config.array_like:
            return [*([] if config.tag is None else [config.tag]), *fields.values()]
        return fields if config.tag is None else {config.tag_field: config.tag, **fields}


class PydanticRecord(Record):
    """Of pydantic: models and its dataclasses, by their own methods, except fields with files or foreign types."""

    def fields_of(self, value: Any) -> Any:
        foreign = {name: one for name, one in _pydantic_fields(value).items() if not _PydanticLook(one).is_known()}
        if foreign and hasattr(self.kind, "__pydantic_root_model__") and self.kind.__pydantic_root_model__:
            return value.root
        dump = pydantic_adapter(self.kind).dump_python
        data = dump(value, mode="json", round_trip=True, exclude=set(foreign) or None, by_alias=False)
        if not foreign:
            return data
        names = dict.fromkeys((*_pydantic_fields(value), *data))  # in the order of the class
        return {name: foreign[name] if name in foreign else data[name] for name in names if name in (foreign | data)}


def record_of(kind: type) -> Record | None:
    """How a class with fields is taken apart; None for other classes, and for files."""
    if issubclass(kind, (Artifact, File, KeptFile)):
        return None
    if issubclass(kind, msgspec.Struct):
        return StructRecord(kind)
    if "pydantic" in sys.modules and hasattr(kind, "__pydantic_validator__"):
        return PydanticRecord(kind)
    if hasattr(kind, "__attrs_attrs__"):
        return AttrsRecord(kind)
    return DataclassRecord(kind) if dataclasses.is_dataclass(kind) else None


def has_named_fields(kind: type) -> bool:
    """Is the JSON form of its objects a mapping of their fields?"""
    record = record_of(kind)
    if isinstance(record, StructRecord):
        return not kind.__struct_config__.array_like  # type: ignore[attr-defined]
    return record is not None and not getattr(kind, "__pydantic_root_model__", False)


@lru_cache(1024)
def pydantic_adapter(kind: Any) -> Any:
    """Validates and dumps a type of pydantic."""
    return sys.modules["pydantic"].TypeAdapter(kind)


def _pydantic_fields(value: Any) -> dict[str, Any]:
    kept = {name: getattr(value, name) for name in fields_of_pydantic(type(value)) if hasattr(value, name)}
    return {**kept, **(getattr(value, "__pydantic_extra__", None) or {})}


def fields_of_pydantic(kind: Any) -> Mapping[str, Any]:
    """The fields of a model or a dataclass of pydantic, by name."""
    fields: Mapping[str, Any] = getattr(kind, "__pydantic_fields__", None) or getattr(kind, "model_fields", {})
    return fields


class _PydanticLook:
    """Looks at one field of a model. What is too large is not given to pydantic, which would dump it without end."""

    def __init__(self, field: Any) -> None:
        self._field = field
        self._count = Count(field)

    def is_known(self) -> bool:
        """Can pydantic dump it without loss: no file in it, no secret, no type of another library?"""
        return self._is_known(self._field, 0)

    def _is_known(self, value: Any, depth: int) -> bool:
        kind = type(value)
        if kind in _OF_PYDANTIC or isinstance(value, enum.Enum):
            return True
        if depth > MAX_DEPTH:
            return False
        if hasattr(kind, "__pydantic_validator__"):
            inside: Collection[Any] = _pydantic_fields(value).values()
        elif isinstance(value, dict):
            inside = value.values()
        elif isinstance(value, list | tuple):  # a set would lose its order
            inside = value
        else:
            return str(kind.__module__).startswith("pydantic.networks")
        self._count.visit(value, len(inside))
        return all(self._is_known(inner, depth + 1) for inner in inside)


_OF_PYDANTIC = frozenset({
    type(None), bool, int, float, str, datetime.date, datetime.datetime, datetime.time, decimal.Decimal, uuid.UUID,
})  # fmt: skip


# ---- forms


def _member(value: enum.Enum) -> Any:
    """The value of a member. One that is None would come back as no member, and one that is bytes as a file."""
    return NOT_NATURAL if value.value is None or isinstance(value.value, bytes) else value.value


def _isoformat(value: Any) -> Any:
    return value.isoformat() if value == value else NOT_NATURAL  # noqa: PLR0124 - not so for pandas.NaT


def _seconds(value: datetime.timedelta) -> Any:
    return value.total_seconds() if value == value else NOT_NATURAL  # noqa: PLR0124


def _decimal(value: decimal.Decimal) -> Any:
    return str(value) if value.is_finite() else math.nan  # which is refused, with its place


def _range(value: range) -> Any:
    return list(value) if value.stop - value.start < MOST_NUMBERS * abs(value.step) else NOT_NATURAL


def _sorted(values: collections.abc.Set[Any]) -> list[Any]:
    return sorted(values, key=_Order(values).key)


class _Order:
    """An order for the members of a set that does not depend on the process: None, numbers, texts, and then others, by
    their JSON form: lists, mappings, files.
    """

    def __init__(self, members: collections.abc.Set[Any]) -> None:
        self._count = Count(members)

    def key(self, value: Any) -> tuple[Any, ...]:
        if value is None:
            return (0,)
        if isinstance(value, int | float):
            return (1, value)
        if isinstance(value, str):
            return (2, str.__str__(value))
        self._count.visit(value, len(value) if isinstance(value, Collection) else 0)
        if isinstance(value, list | tuple):
            return (3, tuple(map(self.key, value)))
        if isinstance(value, dict):
            return (4, tuple((str(key), self.key(inner)) for key, inner in value.items()))
        if isinstance(value, collections.abc.Set):
            return (3, tuple(sorted(map(self.key, value))))
        data = to_data(value)
        return (5, str(value)) if data is NOT_NATURAL else self.key(data)


_FORMS: tuple[tuple[type, _Encode], ...] = (
    (enum.Enum, _member),
    (datetime.date, _isoformat),  # datetime too
    (datetime.time, _isoformat),
    (datetime.timedelta, _seconds),
    (decimal.Decimal, _decimal),
    (uuid.UUID, str),
    (collections.abc.Mapping, lambda value: dict(value.items())),
    (range, _range),
    (collections.abc.MappingView, list),  # dict.keys() has an order, unlike other sets
    (collections.abc.Set, _sorted),
    (collections.abc.Sequence, list),
    (collections.deque, list),
    (types.SimpleNamespace, lambda value: dict(vars(value))),
)
_OTHERS = (Artifact, File, KeptFile, Secret, type, str, bytes, bytearray, memoryview)  # text, files, and classes


# ---- libraries


def _numpy_scalar(value: Any) -> Any:
    kind = value.dtype.kind
    if kind == "M":
        return str(value) if value == value else NOT_NATURAL  # noqa: PLR0124 - NaT
    if kind == "m":
        return _numpy_seconds(value)
    if kind == "f":
        return float(value)  # also longdouble, whose item() is no float
    return value.item() if kind in "biuSU" else NOT_NATURAL


_UNITS = frozenset("W D h m s ms us ns".split())  # of durations with a number of seconds
_LONGEST = 2**63 / 1e9  # seconds: 292 years, as pandas allows


def _numpy_seconds(value: Any) -> Any:
    numpy = sys.modules["numpy"]
    if numpy.isnat(value) or numpy.datetime_data(value.dtype)[0] not in _UNITS:
        return NOT_NATURAL
    seconds = float(value / numpy.timedelta64(1, "s"))
    return seconds if abs(seconds) < _LONGEST else NOT_NATURAL


_OF_LIBRARIES: dict[str, _Encode] = {
    "numpy.generic": _numpy_scalar,
    "collections.UserString": str,
    "pydantic._BaseUrl": str,
    "pydantic._BaseMultiHostUrl": str,
    "pydantic_core.Url": str,
    "argparse.Namespace": lambda value: dict(vars(value)),
    "fractions.Fraction": str,
    "ipaddress._BaseAddress": str,
    "ipaddress._BaseNetwork": str,
    "pathlib.PurePath": str,
    "zoneinfo.ZoneInfo": str,
    "yarl.URL": str,
    "httpx.URL": str,
}


def _of_library(kind: type) -> _Encode | None:
    return next((_OF_LIBRARIES[name] for name in names_of(kind) if name in _OF_LIBRARIES), None)
