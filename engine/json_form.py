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
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from .artifact import Artifact, File, KeptFile
from .secrets import Secret

NOT_NATURAL: Final[Any] = object()
"""What `to_data` gives for a value that has no obvious JSON form."""

MOST_NUMBERS = 32 * 1024 * 1024  # of a range: its JSON would be larger than any value may be

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
        foreign = {name: inner for name, inner in _pydantic_fields(value).items() if not _is_known_to_pydantic(inner)}
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


def _is_known_to_pydantic(value: Any, depth: int = 0) -> bool:
    """Can pydantic dump it without loss: no file in it, no secret, no type of another library?"""
    kind = type(value)
    if kind in _OF_PYDANTIC or isinstance(value, enum.Enum):
        return True
    if depth > 100:
        return False
    if hasattr(kind, "__pydantic_validator__"):
        return all(_is_known_to_pydantic(inner, depth + 1) for inner in _pydantic_fields(value).values())
    if isinstance(value, dict):
        return all(_is_known_to_pydantic(inner, depth + 1) for inner in value.values())
    if isinstance(value, list | tuple):  # a set would lose its order
        return all(_is_known_to_pydantic(inner, depth + 1) for inner in value)
    return str(kind.__module__).startswith("pydantic.networks")


_OF_PYDANTIC = frozenset({
    type(None), bool, int, float, str, datetime.date, datetime.datetime, datetime.time, decimal.Decimal, uuid.UUID,
})  # fmt: skip


# ---- forms


def _isoformat(value: Any) -> Any:
    return value.isoformat() if value == value else NOT_NATURAL  # noqa: PLR0124 - not so for pandas.NaT


def _seconds(value: datetime.timedelta) -> Any:
    return value.total_seconds() if value == value else NOT_NATURAL  # noqa: PLR0124


def _decimal(value: decimal.Decimal) -> Any:
    return str(value) if value.is_finite() else math.nan  # which is refused, with its place


def _range(value: range) -> Any:
    return list(value) if value.stop - value.start < MOST_NUMBERS * abs(value.step) else NOT_NATURAL


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=sort_key)


def sort_key(value: Any) -> tuple[Any, ...]:
    """An order for the members of a set that does not depend on the process: None, numbers, texts, and then others, by
    their JSON form: lists, mappings, files.
    """
    if value is None:
        return (0,)
    if isinstance(value, int | float):
        return (1, value)
    if isinstance(value, str):
        return (2, str.__str__(value))
    if isinstance(value, list | tuple):
        return (3, tuple(map(sort_key, value)))
    if isinstance(value, dict):
        return (4, tuple((str(key), sort_key(inner)) for key, inner in value.items()))
    data = to_data(value)
    return (5, str(value)) if data is NOT_NATURAL else sort_key(data)


_FORMS: tuple[tuple[type, _Encode], ...] = (
    (enum.Enum, lambda value: value.value),
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
