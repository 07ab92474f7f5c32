"""What a step may return, and how it is stored.

A returned value is JSON data, or has a JSON form (`json_form.py`), and may contain files: `bytes`, a `pathlib.Path`, an
async byte stream, a `File`, or an `Artifact` of an earlier step. Each file is taken out and gets a name from its place
(`output`, `key`, `key[i]`); `{"$artifact": name}` replaces it. `restore` puts artifacts back. A `Secret` becomes its
mark (`secrets.py`). `str` is always text, never a path.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .artifact import Artifact, File, KeptFile, Origin
from .codecs import codec_for
from .cures import ALLOWED, SMALLER, TOO_LARGE, Refused, cure_of, form_of, pretender, refused
from .errors import Place, ValueRefused
from .json_form import (
    MANY,
    MAX_DEPTH,
    MAX_VALUE,
    NOT_NATURAL,
    Count,
    TooLarge,
    full_name,
    plain_form,
    to_data,
)
from .model import Json
from .redaction import HIDDEN
from .secrets import MARK, NOT_KEPT, Secret

REFERENCE = "$artifact"
STORED_VALUE = "$stored"  # in a row: the artifact of this name holds the value
RETURNED = "the returned value"
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1  # what JSON parsers of other languages read exactly
SHORT_TEXTS = 1024 * 1024  # characters of a list, guessed by its first and last: below that, they are not counted
INLINE_VALUE = 64 * 1024  # bytes of JSON that a row holds itself; larger values become the artifact `value`


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file found in a returned value, on its way into the store."""

    name: str
    data: bytes | Path | AsyncIterable[bytes] | Artifact | KeptFile
    filename: str | None = None
    media_type: str | None = None
    origin: Origin | None = None


class Found(NamedTuple):
    """A value taken apart: its data, its files, and its secrets that must be encrypted, each with the mark in the data
    that will hold it.
    """

    data: Json
    files: list[NewFile]
    secrets: list[tuple[dict[str, Json], Secret[Any]]]


def take_apart(value: object, place: Place, what: str = RETURNED) -> tuple[Json, list[NewFile]]:
    """Split a returned value into JSON data with references, and its files.

    `what` names the value in messages, if it is not a returned value.

    Raises:
        ValueRefused: E_VALUE_TYPE with the place inside the value; E_VALUE_SIZE; E_ARTIFACT_NAME_TWICE.
    """
    data, files, secrets = take_apart_with_secrets(value, place, what)
    if secrets:
        raise ValueRefused(
            "E_SECRET_PLACE", "a secret cannot be kept here", place=place, cure="declare an input `Secret[str]`"
        )
    return data, files


def take_apart_with_secrets(value: object, place: Place, what: str = RETURNED) -> Found:
    """As `take_apart`, where secrets are allowed."""
    if is_plain(value):
        return Found(value, [], [])
    walk = Walk(value, place, what)
    data = walk.whole()
    names = [file.name for file in walk.files]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueRefused("E_ARTIFACT_NAME_TWICE", f"two files would both be called {twice}", place=place)
    return Found(data, walk.files, walk.secrets)


def is_plain(value: object) -> bool:
    """Is the value stored as it is, without a look at its parts? False says nothing."""
    if type(value) is int:
        return MIN_INTEGER <= value <= MAX_INTEGER
    return value is None or type(value) is bool or (type(value) is str and value.isascii())


_SCALARS = frozenset({int, float, bool, str, type(None)})


def holds_scalars(values: list[Any]) -> bool:
    """Has the list no lists, mappings or files? Nothing has to be done then for each of its values."""
    return set(map(type, values)) <= _SCALARS


def _all_plain(values: Sequence[Any]) -> bool:
    """Are all values stored as they are? A long list of numbers is common, and this is several times faster."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return bool(min(values) >= MIN_INTEGER and max(values) <= MAX_INTEGER)
    if kinds == {float}:
        return all(map(math.isfinite, values))
    return kinds == {str} and all(map(str.isascii, values))


def _texts_in(values: Sequence[Any]) -> int:
    """The characters in a list of texts, where they may be too many."""
    most = (len(values[0]) + len(values[-1])) * len(values)
    return 0 if most < SHORT_TEXTS else sum(map(len, values))


def key_text(key: object) -> str | None:
    """The key of a mapping as text: numbers, true and false as JSON writes them, dates as ISO 8601, …; else None."""
    data = key if type(key) in (str, int, float, bool) else to_data(key)
    if data is NOT_NATURAL and isinstance(key, str | int | float):
        data = plain_form(key)
    if isinstance(data, str):
        return str.__str__(data)
    if not isinstance(data, int | float) or (isinstance(data, float) and not math.isfinite(data)):
        return None
    return msgspec.json.encode(data).decode()


class Walk:
    """One walk over a returned value. The place is carried as text, for names and errors."""

    __slots__ = ("_count", "_texts", "_visited", "files", "place", "secrets", "value", "what")

    def __init__(self, value: object, place: Place, what: str = RETURNED) -> None:
        self.value = value
        self.files: list[NewFile] = []
        self.place = place
        self.what = what
        self.secrets: list[tuple[dict[str, Json], Secret[Any]]] = []
        self._texts = 0  # characters: one large text may stand in many places
        self._visited = 0
        self._count: Count | None = None

    def whole(self) -> Json:
        """The data of the value. Raises ValueRefused."""
        try:
            data = self.visit(self.value, "", 0)
        except TooLarge:
            data = TooLarge
        if data is TooLarge or self._texts > MAX_VALUE:
            raise self._refused("", TOO_LARGE, cure=SMALLER, code="E_VALUE_SIZE")
        return data

    def visit(self, value: Any, path: str, depth: int) -> Json:
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        if issubclass(kind, str):
            return self._text(value, path)
        if issubclass(kind, int):
            return self._integer(value, path)
        if issubclass(kind, float):
            return self._number(value, path)
        if depth > MAX_DEPTH:
            raise self._refused(path, f"nested more than {MAX_DEPTH} levels deep", f"a {full_name(kind)}")
        self._visited += 1
        if self._visited > MANY:
            self._look(value)
        if issubclass(kind, dict):
            return self._mapping(value, path, depth)
        if issubclass(kind, (list, tuple)):
            if _all_plain(value):
                self._visited += len(value) // 16
                self._texts += _texts_in(value) if type(value[0]) is str else 0
                return list(value)
            return [self.visit(v, f"{path or 'output'}[{i}]", depth + 1) for i, v in enumerate(value)]
        return self._object(value, path, depth)

    def _look(self, value: object) -> None:
        if self._count is None:
            self._count = Count(self.value, MANY)
        self._count.visit(value)

    def _object(self, value: object, path: str, depth: int) -> Json:
        false = pretender(value)
        if false is not None:
            return self._natural(false, path, depth)
        return self._file(value, path) or self._natural(value, path, depth)

    def _text(self, value: str, path: str) -> str:
        """A plain `str` of a subclass too, without its own methods: parsers and arrays often return such text."""
        text = str.__str__(value)
        self._texts += len(text)
        try:
            if not text.isascii():
                text.encode()
        except UnicodeEncodeError as error:
            why = "text that is not valid Unicode (a file name that is not UTF-8?)"
            raise self._refused(path, why, ascii(text[max(0, error.start - 20) : error.end + 20])) from None
        return text

    def _integer(self, value: int, path: str) -> int:
        number = int.__index__(value)
        if not MIN_INTEGER <= number <= MAX_INTEGER:
            found = f"{number.bit_length()} bits"
            raise self._refused(path, "an integer that does not fit 64 bits", found, "return str(…), or a float")
        return number

    def _number(self, value: float, path: str) -> float:
        number = float.__float__(value)
        if not math.isfinite(number):
            raise self._refused(path, "not a finite number", number, cure_of(number))
        return number

    def _mapping(self, value: dict[Any, object], path: str, depth: int) -> Json:
        result = {}
        for key, inner in value.items():
            name = self._text(key if isinstance(key, str) else self._key(key, path), path)
            if name in (REFERENCE, STORED_VALUE, MARK):
                raise self._refused(path, "a mapping with a reserved key", name)
            if name in result:
                cure = "make all keys texts, or return a list of pairs: list(mapping.items())"
                raise self._refused(path, "a mapping with two keys of the same text", name, cure)
            result[name] = self.visit(inner, f"{path}.{name}" if path else name, depth + 1)
        return result

    def _key(self, key: object, path: str) -> str:
        text = key_text(key)
        if text is None:
            cure = "make all keys texts, or return a list of pairs: list(mapping.items())"
            raise self._refused(path, f"a mapping with a key of type {full_name(type(key))}", key, cure)
        return text

    def _natural(self, value: object, path: str, depth: int) -> Json:
        """What has an obvious JSON form, in that form."""
        data = value if isinstance(value, Refused) else form_of(value)
        if data is NOT_NATURAL:
            data = _unsaved(value) if codec_for(type(value)) is not None else refused(value)
        if isinstance(data, Refused):
            raise self._refused(path, f"of type {data.type}, {data.why}", cure=data.cure, code=data.code)
        if type(data) is dict:
            return self._mapping(data, path, depth)
        return self.visit(data, path, depth if type(data) in (dict, list) else depth + 1)

    def _file(self, value: object, path: str) -> Json:
        """The reference to a file, or the mark of a secret; None for other values."""
        name = path or "output"
        if isinstance(value, Secret):
            return self._secret(value, path)
        if isinstance(value, File):
            new = NewFile(name, value.data, value.filename, value.media_type, value.origin)
        elif isinstance(value, bytes | bytearray | memoryview):
            new = NewFile(name, bytes(value))
        elif isinstance(value, Path):
            new = NewFile(name, value, value.name)
        elif isinstance(value, Artifact):
            new = NewFile(name, value, value.filename, value.media_type)
        elif isinstance(value, AsyncIterable):
            new = NewFile(name, value)
        else:
            return None
        self.files.append(new)
        return {REFERENCE: name}

    def _secret(self, secret: Secret[Any], path: str) -> Json:
        if secret.mark is not None:
            return secret.mark
        data, files = take_apart(secret.reveal(), self.place)
        if files:
            raise self._refused(path, "a secret with a file in it: a secret is data", "a file")
        mark: dict[str, Json] = {MARK: {}}
        self.secrets.append((mark, secret if data is secret.reveal() else Secret(data)))
        return mark

    def _refused(
        self, path: str, why: str, found: object = "", cure: str = "", code: str = "E_VALUE_TYPE"
    ) -> ValueRefused:
        inside = f"{path.removeprefix('output')} in {self.what}" if path and self.what != RETURNED else path
        return ValueRefused(
            code,
            f"{inside or self.what} is {why}",
            place=self.place,
            found=found,
            allowed=ALLOWED,
            cure=cure,
        )


def _unsaved(value: object) -> Refused:
    """An object that has a codec, where no file can be written: in a chain's text, or as a default."""
    why = "which is kept in a file, and no file can be written here"
    return Refused(full_name(type(value)), why, "make it in a step, or give it to each run as an input")


def restore(
    value: Json, find: Callable[[str, int | None], object], secret: Callable[[Json], object] = Secret.kept
) -> Any:
    """The value with its references replaced by what `find(name, item)` gives, and marks by what `secret` does."""
    if isinstance(value, dict):
        if REFERENCE in value:
            return find(value[REFERENCE], value.get("item"))
        if MARK in value:
            return secret(value)
        return {key: restore(inner, find, secret) for key, inner in value.items()}
    if isinstance(value, list):
        return list(value) if holds_scalars(value) else [restore(inner, find, secret) for inner in value]
    return value


def copied(value: Any) -> Any:
    """A deep copy of lists and dicts, which the receiver may change."""
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return list(value) if holds_scalars(value) else [copied(inner) for inner in value]
    return value


@dataclass(frozen=True, slots=True)
class Replacement:
    """What replaces a stored value. Each of `secrets` is a mark inside `value` with the plain value that it will hold;
    `changed` says that `value` differs from what was sent.
    """

    value: Json
    secrets: tuple[tuple[dict[str, Json], Json], ...] = ()
    changed: bool = False


def check_replacement(encoded: bytes, place: Place, before: Json, *, secret: bool = False) -> Replacement:
    """Check the bytes that replace the stored value `before`, and return the new value.

    It may contain only files and secrets that `before` contains: a person cannot name others. Where a secret was, there
    is a secret again: `***` keeps it, anything else becomes a new one. With `secret` the whole value is one.

    Raises ValueRefused: E_VALUE_TYPE, E_VALUE_SIZE.
    """
    if len(encoded) > MAX_VALUE:
        raise ValueRefused(
            "E_VALUE_SIZE", "the value is too large to be stored as data", place=place, allowed="64 MiB of JSON"
        )
    try:
        value = msgspec.json.decode(encoded)
        take_apart(restore(value, lambda name, item: None, lambda mark: None), place)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueRefused(
            "E_VALUE_TYPE", f"the new version of a value must be JSON: {error}", place=place, allowed="JSON, in UTF-8"
        ) from None
    if _references(value) - _references(before):
        allowed = "the files and secrets that the value named before"
        raise ValueRefused("E_VALUE_TYPE", "the value names another file or secret", place=place, allowed=allowed)
    secrets: list[tuple[dict[str, Json], Json]] = []
    if secret and not _is_mark(before):
        before = NOT_KEPT
    kept = _with_secrets(value, before, secrets, place)
    return Replacement(kept, tuple(secrets), kept != value)


def _with_secrets(value: Json, before: Json, secrets: list[tuple[dict[str, Json], Json]], place: Place) -> Json:
    """The value with secrets where `before` has secrets; new ones are added to `secrets`."""
    if _is_mark(before):
        return _as_secret(value, before, secrets, place)
    if isinstance(value, dict) and isinstance(before, dict):
        return {key: _with_secrets(one, before.get(key), secrets, place) for key, one in value.items()}
    if isinstance(value, list) and isinstance(before, list):
        pairs = zip_longest(value, before[: len(value)])
        return [_with_secrets(one, old, secrets, place) for one, old in pairs]
    return value


def _as_secret(value: Json, before: Json, secrets: list[tuple[dict[str, Json], Json]], place: Place) -> Json:
    if value is None or _is_mark(value):
        return value
    if value == HIDDEN and before != NOT_KEPT:
        return before
    if _references(value):
        raise ValueRefused(
            "E_VALUE_TYPE", "a secret must not contain a file or another secret", place=place, allowed="data"
        )
    mark: dict[str, Json] = {MARK: {}}
    secrets.append((mark, value))
    return mark


def _is_mark(value: Json) -> bool:
    return isinstance(value, dict) and MARK in value and REFERENCE not in value


def without_marks(value: Json) -> Json:
    """Stored data for people: `***` in place of secrets."""
    if isinstance(value, dict):
        return HIDDEN if MARK in value else {key: without_marks(inner) for key, inner in value.items()}
    return [without_marks(inner) for inner in value] if isinstance(value, list) else value


def _references(value: Json) -> set[str]:
    """The files and secrets in a value, each as text."""
    found: set[str] = set()
    restore(value, lambda name, item: found.add(f"{name!r} {item!r}"), lambda mark: found.add(f"{mark!r}"))
    return found


def of_item(value: Json, item: int) -> Json:
    """An item's value inside the collected value of its mapped step."""
    if isinstance(value, dict):
        if REFERENCE in value:
            return {**value, "item": item}
        return {key: of_item(inner, item) for key, inner in value.items()}
    if isinstance(value, list):
        return value if holds_scalars(value) else [of_item(inner, item) for inner in value]
    return value


def recorded(value: object) -> Json:
    """A resolved parameter as kept in the row: artifacts by id, name and version, secrets by their mark."""
    if isinstance(value, Secret):
        return NOT_KEPT if value.mark is None else value.mark
    if isinstance(value, Artifact):
        return {REFERENCE: value.id, "name": value.name, "version": value.version}
    if isinstance(value, dict):
        return {key: recorded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return list(value) if holds_scalars(value) else [recorded(inner) for inner in value]
    return value
