"""How single values are taken: the JSON text or number of an Enum, a date, a UUID, … as an object of that class."""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from .artifact import Artifact
from .json_form import NOT_NATURAL, names_of, to_data
from .secrets import Secret

NOTHING, FILES, ALL = 0, 1, 2  # what must be rebuilt for an annotation: nothing, files in the data, everything


class Taker(NamedTuple):
    """How data is taken for one annotation.

    `take(data, at)` returns what the annotation says; `at` is the place inside the argument. `fits(data)` says whether
    the data is that already. `needs` says for which data `take` has something to do.
    """

    take: Callable[[Any, str], Any]
    fits: Callable[[Any], bool]
    needs: int


class Misfit(Exception):
    """The data at a place inside an argument does not fit."""

    def __init__(self, at: str, found: object, allowed: str, cure: str = "") -> None:
        super().__init__(at)
        self.at, self.found, self.allowed, self.cure = at, found, allowed, cure


def taken(taker: Taker, data: Any, at: str) -> Any:
    """The data as the taker gives it; None and secrets stay."""
    return data if data is None or type(data) is Secret else taker.take(data, at)


def same(data: Any, at: str) -> Any:
    return data


ANYTHING = Taker(same, lambda data: True, NOTHING)


def data_of(value: Any) -> bytes:
    """The JSON text of a value, for comparing. Values without one get a text that equals no other."""

    def whole(inner: Any) -> Any:
        data = to_data(inner) if not isinstance(inner, str | int | float | list | tuple | dict) else inner
        if data is NOT_NATURAL:
            return f"{type(inner)} {id(inner)}"
        if isinstance(data, dict):
            return {str(key): whole(one) for key, one in data.items()}
        if isinstance(data, list | tuple):
            return [whole(one) for one in data]
        return data.value if isinstance(data, enum.Enum) else data

    return msgspec.json.encode(None if value is None else whole(value), order="sorted")


_TEXTS: tuple[type, ...] = (decimal.Decimal, uuid.UUID, pathlib.PurePath)
_TEXT_NAMES = frozenset({
    "fractions.Fraction", "ipaddress._BaseAddress", "ipaddress._BaseNetwork", "zoneinfo.ZoneInfo", "yarl.URL",
    "httpx.URL",
})  # fmt: skip


def one_value(kind: type) -> Taker | None:
    """The taker of a class whose objects are one text or one number in JSON."""
    if issubclass(kind, enum.Enum):
        make: Callable[[Any], Any] = partial(_member, kind, {data_of(member.value): member for member in kind})
        allowed = f"a value of {kind.__name__}: {' '.join(str(member.value) for member in kind)[:200]}"
    elif issubclass(kind, datetime.timedelta):
        make, allowed = partial(_duration, kind), "seconds, or an ISO 8601 duration like PT30S"
    elif issubclass(kind, datetime.date | datetime.time):
        without = ", without a time of day" if kind is datetime.date else ""
        make, allowed = partial(_moment, kind), f"ISO 8601 text of a {kind.__name__}{without}"
    elif issubclass(kind, _TEXTS) or not _TEXT_NAMES.isdisjoint(names_of(kind)):
        make, allowed = partial(_of_text, kind), f"the text of a {kind.__name__}"
    elif issubclass(kind, str | int | float) or _is_numpy_scalar(kind):
        make, allowed = partial(_subclass, kind), f"what a {kind.__name__} can be made of"
    else:
        return None

    def take(data: Any, at: str) -> Any:
        if isinstance(data, kind):
            return data
        try:
            return make(data)
        except (ValueError, TypeError, ArithmeticError, KeyError) as error:
            raise Misfit(at, data, allowed) from error

    return Taker(take, lambda data: isinstance(data, kind), ALL)


def _member(kind: Any, members: Mapping[bytes, Any], data: Any) -> Any:
    found = members.get(data_of(data))
    return kind(data) if found is None else found


def _duration(kind: Any, data: Any) -> Any:
    if isinstance(data, str):
        return msgspec.convert(data, datetime.timedelta)
    if isinstance(data, bool):
        raise TypeError(data)
    return kind(seconds=data)


def _moment(kind: Any, data: Any) -> Any:
    if not isinstance(data, str):
        raise TypeError(data)
    if str(kind.__module__).startswith("pandas"):
        return kind(data)
    if kind is datetime.date and data.endswith(_MIDNIGHT):  # a table's days are time stamps at midnight
        data = data.removesuffix(_MIDNIGHT)
    return kind.fromisoformat(data)


_MIDNIGHT = "T00:00:00"


def _of_text(kind: Any, data: Any) -> Any:
    if isinstance(data, str) or (kind.__name__ in ("Decimal", "Fraction") and isinstance(data, int | float)):
        return kind(str(data))
    raise TypeError(data)


_EXACT = 2**53 / 1e9  # seconds, 104 days: up to there a number has each nanosecond


def _subclass(kind: Any, data: Any) -> Any:
    """An object of a subclass of text or of a number. What its `__init__` refuses stays as it is, as in Python."""
    if isinstance(data, list | dict | Artifact):
        return data
    if str(getattr(kind, "__name__", "")) == "timedelta64" and isinstance(data, int | float):
        digits = 9 if abs(data) < _EXACT else 6  # what is below is noise of the number
        return kind(round(round(data, digits) * 10**digits) * 10 ** (9 - digits), "ns")
    try:
        return kind(data)
    except Exception:
        return data


def _is_numpy_scalar(kind: type) -> bool:
    generic = getattr(sys.modules.get("numpy"), "generic", None)
    return generic is not None and issubclass(kind, generic)
