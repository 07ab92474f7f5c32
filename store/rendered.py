"""SQL that was rendered ahead from the Core expressions, so that most processes need not import SQLAlchemy.

`python -m towpath.store.render FILE` writes it. It is used only while every source that it was made from is
unchanged; otherwise, and for statements that are not in it, the expressions are compiled as they are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

ROOT = Path(__file__).parent.parent  # the package `towpath`, as it is installed


class Form(NamedTuple):
    """A statement in one dialect: its SQL, its parameters in order, their fixed values, and those that are lists."""

    sql: str
    names: Sequence[str]
    defaults: Mapping[str, Any]
    lists: Sequence[str]


class Contents(msgspec.Struct, frozen=True):
    """What the file holds."""

    sources: Mapping[str, int]
    """The checksum of each source, by its path in the package."""
    schema: Sequence[str]
    statements: Mapping[str, Sequence[Form]]
    """By module, in the order in which the module defines them."""


class Rendered:
    """What was rendered for one dialect. Reads the file on first use."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    def form(self, module: str, number: int) -> Form | None:
        """A statement, if it was rendered from the source that is there now."""
        forms = self._contents.statements.get(module, ())
        return forms[number] if number < len(forms) else None

    @property
    def schema(self) -> Sequence[str]:
        """The statements that make all tables and indexes, in order; empty if they must be rendered now."""
        return self._contents.schema

    @cached_property
    def _contents(self) -> Contents:
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=Contents)
        except (OSError, msgspec.MsgspecError):
            return Contents({}, (), {})
        fresh = all(checksum(source) in (known, None) for source, known in found.sources.items())
        return found if fresh else Contents({}, (), {})


def checksum(source: str) -> int | None:
    """The checksum of a source file of the package. None if there is no such file: then nobody can have changed it."""
    try:
        return crc32((ROOT / source).read_bytes())
    except OSError:
        return None
