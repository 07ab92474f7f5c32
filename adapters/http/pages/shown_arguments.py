"""The recorded arguments of a step, for a page: files are separated from data. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from towpath.adapters.http.responses import masked
from towpath.model import Json

from .filters import one_line

LONG = 60  # characters; a longer argument gets a field of several lines


@dataclass(frozen=True, slots=True)
class ShownArgument:
    """One argument of a step. `files` are the ids of all versions inside of it, at any depth."""

    name: str
    text: str
    files: tuple[str, ...] = ()
    is_text: bool = False

    @property
    def long(self) -> bool:
        """Does its field need several lines?"""
        return len(self.text) > LONG or "\n" in self.text


def shown_arguments(parameters: Json) -> list[ShownArgument]:
    """The arguments of a row. Values with the name of a secret are masked."""
    parameters = masked(parameters)
    if not isinstance(parameters, Mapping):
        return []
    found: list[ShownArgument] = []
    for name, value in parameters.items():
        files = tuple(dict.fromkeys(files_in(value)))
        text = _plain(value) if files else one_line(value)
        found.append(ShownArgument(str(name), text, files, isinstance(value, str)))
    return found


def files_in(value: Json) -> Iterator[str]:
    """The ids of all versions in a recorded argument, in order."""
    if isinstance(value, dict):
        if isinstance(value.get("$artifact"), str) and "version" in value:
            yield value["$artifact"]
            return
        for inner in value.values():
            yield from files_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from files_in(inner)


def changed_parameters(before: Json, form: Mapping[str, Any]) -> tuple[dict[str, Json], list[str]]:
    """The arguments that a form changed (fields `p.<name>`), and the names of those that are not JSON.

    A text argument stays text; any other is parsed as JSON, as it is shown.
    """
    changed: dict[str, Json] = {}
    wrong: list[str] = []
    for one in shown_arguments(before):
        text = form.get(f"p.{one.name}")
        if not isinstance(text, str) or one.files or _same(text, one.text):
            continue
        if one.is_text:
            changed[one.name] = text.replace("\r\n", "\n")
            continue
        try:
            changed[one.name] = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError):
            wrong.append(one.name)
    return changed, wrong


def _same(sent: str, shown: str) -> bool:
    """Are both texts equal? Browsers send carriage returns in text fields."""
    return sent.replace("\r\n", "\n") == shown.replace("\r\n", "\n")


def _plain(value: Json) -> str:
    """An argument with files in it as text: files by name and version."""
    if isinstance(value, dict) and isinstance(value.get("$artifact"), str):
        return f"{value.get('name', 'file')} v{value.get('version', '?')}"
    if isinstance(value, list):
        return f"{len(value)} values with files"
    return "data with files" if isinstance(value, dict) else one_line(value)
