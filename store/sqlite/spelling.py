"""How SQLite spells the statements of the store, for Core. Imported when an expression is compiled."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.sqlite import insert, pysqlite
from sqlalchemy.ext.compiler import compiles

from ..spellings import AnyOf, JsonMember, JsonObject, JsonText

__all__ = ["core", "insert"]

core = pysqlite.dialect(paramstyle="qmark")


@compiles(AnyOf, "sqlite")
def _any_of(element: AnyOf, compiler: Any, **kw: Any) -> str:
    column, values = compiler.process(element.column, **kw), compiler.process(element.values, **kw)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - compiled by Core


@compiles(JsonText, "sqlite")
def _json_text(element: JsonText, compiler: Any, **kw: Any) -> str:
    return f"json_extract({compiler.process(element.column, **kw)}, '$.{element.key}')"


@compiles(JsonMember, "sqlite")
def _json_member(element: JsonMember, compiler: Any, **kw: Any) -> str:
    column, key = compiler.process(element.column, **kw), compiler.process(element.member, **kw)
    return f"""json_extract({column}, '$."' || {key} || '"')"""


@compiles(JsonObject, "sqlite")
def _json_object(element: JsonObject, compiler: Any, **kw: Any) -> str:
    pairs = (f"'{key}', {compiler.process(value, **kw)}" for key, value in element.items)
    return f"json_object({', '.join(pairs)})"
