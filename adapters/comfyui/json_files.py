"""JSON files that people write: read safely, with the place of every error; only what JSON allows is accepted."""

from __future__ import annotations

import json
import os
import re
import stat
from math import isfinite
from pathlib import Path
from typing import NoReturn

from towpath.errors import InputInvalid, Place
from towpath.model import Json

MAX_BYTES = 32 * 1024 * 1024
MAX_DEPTH = 100  # lists and objects inside each other

_INTEGERS = range(-(2**63), 2**64)  # the seeds of ComfyUI use all 64 bits, without a sign
_TEXT_OR_CONSTANT = re.compile(r'"(?:[^"\\]++|\\.)*+"|(-?Infinity|NaN)')
_PLAIN = "a regular JSON file"
_TOO_DEEP = f"lists or objects nested more than {MAX_DEPTH} levels deep"
_TOO_LARGE = "an integer that does not fit 64 bits"


def read_bytes(path: Path, code: str) -> bytes:
    """The bytes of a regular file of at most 32 MB. Raises InputInvalid with `code`."""
    place = Place(str(path))
    try:
        # Without O_NONBLOCK, opening a FIFO blocks until another process writes into it.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise InputInvalid(code, "it is not a regular file", place=place, allowed=_PLAIN)
            with open(number, "rb", closefd=False) as file:
                content = file.read(MAX_BYTES + 1)
        finally:
            os.close(number)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputInvalid(code, f"it cannot be read: {reason(error)}", place=place, allowed=_PLAIN) from None
    if len(content) > MAX_BYTES:
        raise InputInvalid(code, "the file is too large", place=place, allowed=f"{MAX_BYTES:,} bytes")
    return content


def reason(error: Exception) -> str:
    """The text of a file system error, for the end of a sentence."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def parse(content: bytes, path: Path, code: str) -> Json:
    """The JSON in the bytes of `path`. Raises InputInvalid with `code`, with line and column where known."""
    place = Place(str(path))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        place = _at(place, before, len(before))
        raise InputInvalid(code, "it is not UTF-8 text", place=place, cure="save it as UTF-8") from None
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = Place(place.file, error.lineno, error.colno)
        raise InputInvalid(code, f"it is not JSON: {error.msg}", place=place) from None
    except _ConstantFound:
        hit = next(match for match in _TEXT_OR_CONSTANT.finditer(text) if match[1])
        place = _at(place, text, hit.start())
        raise InputInvalid(code, "it is not JSON: this number is not finite", place=place, found=hit[0]) from None
    except (RecursionError, ValueError) as error:  # ValueError: too many digits for Python
        why = _TOO_DEEP if isinstance(error, RecursionError) else _TOO_LARGE
        raise InputInvalid(code, f"it holds {why}", place=place) from None
    if why := unfit(data):
        raise InputInvalid(code, f"it holds {why}", place=place)
    return data


class _ConstantFound(ValueError):
    """NaN or Infinity, which Python reads and JSON does not have."""


def _refuse_constant(constant: str) -> NoReturn:
    raise _ConstantFound(constant)


def _at(place: Place, text: str, index: int) -> Place:
    return Place(place.file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def unfit(value: object) -> str:
    """Why a value is not JSON that every server and store accepts, for the end of a sentence; "" if it is."""
    rest: list[tuple[object, int]] = [(value, 0)]
    while rest:
        item, depth = rest.pop()
        if why := _unfit_alone(item):
            return why
        if depth > MAX_DEPTH:
            return _TOO_DEEP
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                return "a key that is not text"
            rest += ((inner, depth + 1) for pair in item.items() for inner in pair)
        elif isinstance(item, list):
            rest += ((inner, depth + 1) for inner in item)
    return ""


def _unfit_alone(value: object) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "half a character (a lone surrogate)"
        return ""
    if isinstance(value, bool | dict | list) or value is None:
        return ""
    if isinstance(value, int):
        return "" if value in _INTEGERS else _TOO_LARGE
    if isinstance(value, float):
        return "" if isfinite(value) else "a number that is not finite"
    return f"a {type(value).__name__}, which is not JSON"
