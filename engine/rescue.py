"""What is left of a returned value that is refused: its data, and its files, without what cannot be kept."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from .errors import Place, ValueRefused
from .json_form import MAX_VALUE
from .model import Json
from .redaction import HIDDEN
from .secrets import Secret
from .values import REFERENCE, NewFile, Walk

NAME = "rescued"  # of the artifact with the data; its files have names that begin so
NOTE = "$refused"
MOST_VISITS = 200_000
_TOO_MUCH: Json = {NOTE: "too much is refused"}


def parts_left(value: object, place: Place) -> tuple[Json, list[NewFile]]:
    """The data of a value, with `{"$refused": why}` where something cannot be kept, and the files that can."""
    walk = _Lenient(value, place)
    return named(walk.whole(), walk.files)


def named(data: Json, files: list[NewFile]) -> tuple[Json, list[NewFile]]:
    """The parts of a value under the names that they get when they are rescued. Streams are left out."""
    kept = [file for file in files if not isinstance(file.data, AsyncIterable)]
    new = {file.name: f"{NAME}-{file.name}" for file in kept}
    renamed = [NewFile(new[f.name], f.data, f.filename, f.media_type, f.origin) for f in kept]
    return _renamed(data, new), renamed


def holds_something(data: Json, files: list[NewFile]) -> bool:
    """Is there anything to keep?"""
    return bool(files) or not (data is None or data == HIDDEN or (isinstance(data, dict) and data.keys() == {NOTE}))


def _renamed(data: Json, names: dict[str, str]) -> Json:
    if isinstance(data, dict):
        if data.keys() == {REFERENCE}:
            return {"$file": names.get(data[REFERENCE], "")}
        return {name: _renamed(inner, names) for name, inner in data.items()}
    return [_renamed(inner, names) for inner in data] if isinstance(data, list) else data


class _Lenient(Walk):
    """A walk that notes what is refused, and goes on."""

    __slots__ = ("_open", "_visits")

    def __init__(self, value: object, place: Place) -> None:
        super().__init__(value, place)
        self._visits = 0
        self._open: set[int] = set()

    def whole(self) -> Json:
        data = self.visit(self.value, "", 0)
        return data if self._texts <= MAX_VALUE else _TOO_MUCH

    def visit(self, value: object, path: str, depth: int) -> Json:
        self._visits += 1 + (len(value) // 16 if type(value) in (list, tuple) else 0)  # type: ignore[arg-type]
        if self._visits > MOST_VISITS:  # a list that contains itself twice has no end
            return _TOO_MUCH
        if isinstance(value, str | int | float | None):
            return self._noted(value, path, depth)
        if id(value) in self._open:
            return {NOTE: "the value contains itself"}
        self._open.add(id(value))
        try:
            return self._noted(value, path, depth)
        finally:
            self._open.discard(id(value))

    def _noted(self, value: object, path: str, depth: int) -> Json:
        try:
            return super().visit(value, path, depth)
        except ValueRefused as refused:
            return {NOTE: refused.problem.message}
        except Exception as error:  # methods of the value's own classes are called
            return {NOTE: f"{type(error).__name__}: {error}"}

    def _secret(self, secret: Secret[Any], path: str) -> Json:
        return HIDDEN
