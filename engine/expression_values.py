"""How expressions work with values: paths through them, their form as text, and the functions of the language.

Each function refuses (`Refused`) values that it is not made for, and results that would be too large. Nothing here
reads an attribute of a Python object, except the name of a file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .errors import ExpressionFailed, Place, shown, similar
from .expression_syntax import SIZE, Reference

TEXT_LIMIT = 1_000_000  # characters of a rendered text
LIST_LIMIT = 100_000  # values of a list that + makes
SHOWN_KEYS = 10
COMPARED_NAMES = 100  # names among which a similar one is looked for
INTEGER_LIMIT = 2**127

UNDEFINED = "E_TEMPLATE_UNDEFINED"
FAILED = ("E_TEMPLATE_FAILED", "E_COND_TYPE")


class Refused(Exception):
    """A function met values that it cannot work with."""

    def __init__(self, message: str, found: str = "", *, size: bool = False) -> None:
        super().__init__(message)
        self.message, self.found, self.size = message, found, size

    def failure(self, use: int, place: Place) -> ExpressionFailed:
        return ExpressionFailed((SIZE if self.size else FAILED)[use], self.message, place=place, found=self.found)


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands for a path that does not exist, where that is allowed; `error` is its failure otherwise."""

    error: ExpressionFailed


def carried(value: object) -> object:
    """Refuse what MiniJinja would silently change."""
    if isinstance(value, int) and not -INTEGER_LIMIT <= value < INTEGER_LIMIT:
        raise Refused("the number is too large for an expression", f"{value.bit_length()} bits")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused("the text is not valid Unicode", shown(value)) from None
    return value


# -- paths through values


class _Absent(Exception):
    """A key is not there; `there` says what is."""

    def __init__(self, there: str, cure: str = "") -> None:
        super().__init__(there)
        self.there, self.cure = there, cure


def look_up(value: object, reference: Reference, start: int = 0) -> object:
    """Follow `reference.keys[start:]` through mappings and lists.

    Raises ExpressionFailed E_TEMPLATE_UNDEFINED naming the step, the key and what is there instead.
    """
    keys = reference.keys
    for at in range(start, len(keys)):
        try:
            value = _part(value, keys[at])
        except _Absent as absent:
            before = Reference(reference.root, reference.step, reference.part, keys[:at])
            owner = f"step {shown(reference.step)}: " if reference.step else ""
            raise ExpressionFailed(
                UNDEFINED,
                f"{owner}{before} has no {json.dumps(shown(keys[at]))}",
                found=str(reference),
                allowed=absent.there,
                cure=absent.cure,
            ) from None
    return value


def _part(value: object, key: object) -> object:
    """One step of a path. Only mappings and lists have anything in them."""
    if isinstance(value, dict):
        if isinstance(key, str) and key in value:
            return value[key]
        names = [k for k, _ in zip(value, range(COMPARED_NAMES), strict=False) if isinstance(k, str)]
        raise _Absent(listed(names, len(value)) or "it is empty", similar(str(key), names))
    if isinstance(value, (list, tuple)):
        if isinstance(key, int) and not isinstance(key, bool) and -len(value) <= key < len(value):
            return value[key]
        raise _Absent(f"0 to {len(value) - 1}" if value else "it is empty")
    raise _Absent(f"nothing: it is {kind_of_value(value)}")


def kind_of_value(value: object) -> str:
    """The type of a value in the words of JSON."""
    if value is None:
        return "none"
    names = {
        bool: "boolean",
        int: "number",
        float: "number",
        str: "text",
        list: "list",
        tuple: "list",
        dict: "mapping",
    }
    return names.get(type(value), "a file" if _filename(value) else type(value).__name__)


def _filename(value: object) -> str:
    name = getattr(value, "filename", None)
    return name if isinstance(name, str) else ""


# -- text


def as_text(value: object) -> str:
    """A value inside of a text: text as it is, true, false, none, a file by its name, the rest as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    if not isinstance(value, (bool, int, float, list, tuple, dict)) and _filename(value):
        return _filename(value)
    return _as_json(value)


def _as_json(value: object) -> str:
    def plain(other: object) -> str:
        if name := _filename(other):
            return name
        raise Refused("a value has no JSON form", kind_of_value(other))

    pieces, size = [], 0
    try:
        for piece in json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=plain).iterencode(value):
            pieces.append(piece)
            size += len(piece)
            if size > TEXT_LIMIT:
                break
    except (TypeError, ValueError, RecursionError):
        raise Refused("the value has no JSON form", kind_of_value(value)) from None
    return joined(pieces)


def joined(parts: list[str]) -> str:
    size = sum(map(len, parts))
    if size > TEXT_LIMIT:
        raise Refused(f"the text is longer than {TEXT_LIMIT} characters", size=True)
    return "".join(parts)


def listed(names: Iterable[str], total: int = 0) -> str:
    """At most ten names, and how many more of `total` there are."""
    ordered = sorted(names)
    more = max(total, len(ordered)) - SHOWN_KEYS
    return ", ".join(shown(n) for n in ordered[:SHOWN_KEYS]) + (f" … and {more} more" if more > 0 else "")


# -- functions of the language; each refuses what it is not made for


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _order(left: Any, sign: str, right: Any) -> bool:
    if not (_number(left) and _number(right)) and not (isinstance(left, str) and isinstance(right, str)):
        raise Refused(
            f"{sign} compares two numbers or two texts", f"{kind_of_value(left)} {sign} {kind_of_value(right)}"
        )
    if sign in {"<", "<="}:
        return bool(left < right if sign == "<" else left <= right)
    return bool(left > right if sign == ">" else left >= right)


def _present(value: object, holder: object) -> bool:
    if isinstance(holder, (list, tuple)):
        return value in holder
    if isinstance(holder, (dict, str)) and isinstance(value, str):
        return value in holder
    raise Refused("in looks for a text in a text or mapping, or for a value in a list", kind_of_value(holder))


def _arithmetic(value: Any, *rest: Any) -> object:
    """`value sign value sign value …`, from left to right."""
    for sign, other in zip(rest[::2], rest[1::2], strict=True):
        value = _calculated(value, sign, other)
    return value


def _calculated(left: Any, sign: str, right: Any) -> object:
    if sign == "+" and isinstance(left, str) and isinstance(right, str):
        return joined([left, right])
    if sign == "+" and isinstance(left, list) and isinstance(right, list):
        if len(left) + len(right) > LIST_LIMIT:
            raise Refused(f"the list is longer than {LIST_LIMIT} values", size=True)
        return left + right
    if not (_number(left) and _number(right)):
        raise Refused(f"{sign} needs two numbers", f"{kind_of_value(left)} {sign} {kind_of_value(right)}")
    try:
        if sign in {"+", "-"}:
            return _finite(left + right if sign == "+" else left - right)
        return _finite(left / right if sign == "/" else left // right)
    except (ZeroDivisionError, OverflowError) as error:
        raise Refused(str(error), f"{left} {sign} {right}") from None


def _finite(value: Any) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("the number is too large", str(value))
    return carried(value)


def _item(value: object, key: object) -> object:
    found = _find(value, key)
    if isinstance(found, Missing):
        raise found.error
    return found


def _find(value: object, key: object) -> object:
    if isinstance(value, Missing):
        return value
    try:
        return carried(_part(value, key))
    except _Absent as absent:
        message = f"the value has no {json.dumps(shown(key))}"
        return Missing(ExpressionFailed(UNDEFINED, message, allowed=absent.there, cure=absent.cure))


def _default(value: object, other: object, falsy: object = False) -> object:
    """`falsy`: replace values such as "" and none, too."""
    if isinstance(value, Missing) or (falsy and not value):
        value = other
    if isinstance(value, Missing):
        raise value.error
    return value


def _end(name: str, index: int) -> Callable[[object], object]:
    def end(value: object) -> object:
        if not isinstance(value, (list, tuple, str)) or not value:
            raise Refused(f"{name} needs a list or text that is not empty", kind_of_value(value))
        return carried(value[index])

    return end


def _on_text(name: str, change: Callable[..., str]) -> Callable[..., str]:
    def changed(value: object, *given: object) -> str:
        if not isinstance(value, str) or not all(isinstance(g, str) for g in given):
            raise Refused(f"{name} needs a text", kind_of_value(value))
        return change(value, *given)

    return changed


def _length(value: object) -> int:
    if isinstance(value, (str, list, tuple, dict)):
        return len(value)
    raise Refused("length needs a text, list or mapping", kind_of_value(value))


def _join(values: object, between: object = "") -> str:
    if not isinstance(values, (list, tuple)) or not isinstance(between, str):
        raise Refused("join needs a list and a text", kind_of_value(values))
    if len(between) * len(values) > TEXT_LIMIT:
        raise Refused(f"the text is longer than {TEXT_LIMIT} characters", size=True)
    texts = [as_text(v) for v in values]
    return joined([between.join(texts)] if sum(map(len, texts)) <= TEXT_LIMIT else texts)


def _round(value: Any, digits: Any = 0) -> object:
    if not _number(value) or not isinstance(digits, int) or not 0 <= digits <= 15:
        raise Refused("round needs a number, and 0 to 15 digits", kind_of_value(value))
    return round(value, digits)


_WRITTEN = re.compile(r"[ \t\r\n]*[+-]?[0-9]{1,38}(?:\.[0-9]{1,38})?(?:[eE][+-]?[0-9]{1,3})?[ \t\r\n]*")


def _converted(value: object, *otherwise: object) -> Any:
    """A number, or the number that a text holds."""
    if _number(value):
        return value
    if isinstance(value, str) and len(value) < 100 and _WRITTEN.fullmatch(value):
        return int(value) if value.strip().lstrip("+-").isdigit() else float(value)
    if otherwise:
        return otherwise[0]
    raise Refused("this is not a number", f"{kind_of_value(value)} {shown(value)}")


def _int(value: object, *otherwise: object) -> object:
    number = _finite(_converted(value, *otherwise))
    return carried(int(number)) if isinstance(number, float) else number


def _float(value: object, *otherwise: object) -> object:
    number = _converted(value, *otherwise)
    return _finite(float(number)) if _number(number) else number


FUNCTIONS: dict[str, Callable[..., object]] = {
    "order": _order,
    "present": _present,
    "absent": lambda value, holder: not _present(value, holder),
    "arithmetic": _arithmetic,
    "text": lambda *values: joined([as_text(v) for v in values]),
    "item": _item,
    "find": _find,
    "defined": lambda value: not isinstance(value, Missing),
    "undefined": lambda value: isinstance(value, Missing),
    "default": _default,
    "join": _join,
    "length": _length,
    "lower": _on_text("lower", str.lower),
    "upper": _on_text("upper", str.upper),
    "trim": _on_text("trim", str.strip),
    "first": _end("first", 0),
    "last": _end("last", -1),
    "tojson": _as_json,
    "round": _round,
    "int": _int,
    "float": _float,
    "string": as_text,
}
