"""Expressions that databases spell differently: each backend compiles them with `sqlalchemy.ext.compiler`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa


class Listed(sa.types.TypeEngine[Any]):
    """A list as one value: an array, or JSON text for databases without arrays."""


class AnyOf(sa.sql.expression.ColumnElement[bool]):
    """Is `column` one of the values in the list `values`?"""

    inherit_cache = False
    type = sa.Boolean()

    def __init__(self, column: sa.ColumnElement[Any], name: str) -> None:
        self.column = column
        self.values = sa.bindparam(name, type_=Listed(), required=False)


class JsonText(sa.sql.expression.ColumnElement[str]):
    """The text under `key` of the JSON object in `column`."""

    inherit_cache = False
    type = sa.Text()

    def __init__(self, column: sa.ColumnElement[Any], key: str) -> None:
        self.column = column
        self.key = key


class JsonMember(sa.sql.expression.ColumnElement[str]):
    """The text under a key that a caller gives, in the JSON object in `column`. The key has no quotation marks."""

    inherit_cache = False
    type = sa.Text()

    def __init__(self, column: sa.ColumnElement[Any], key: str) -> None:
        self.column = column
        self.member = sa.literal(key, sa.Text)


class JsonObject(sa.sql.expression.ColumnElement[str]):
    """A JSON object as text, made of columns."""

    inherit_cache = False
    type = sa.Text()

    def __init__(self, items: Iterable[tuple[str, sa.ColumnElement[Any]]]) -> None:
        self.items = tuple(items)
