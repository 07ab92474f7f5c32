"""Chain definitions: up to 16 KiB of JSON in the row of the run; larger ones once per content, in a table of their own.

The row of a run is written at every level, and its epoch is read at every commit. SQLite rewrites and reads a row as
a whole: with a definition of a megabyte in it, the cost of a long chain would be quadratic.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import msgspec

from towpath.model import Plan

from .backend import Write, write
from .core import sa, t
from .statements import Statement, Upsert, param

INLINE = 16 * 1024  # bytes of JSON
_MARK = '{"$definition":"'

_KEEP = Upsert(
    lambda insert: (
        insert(t.definitions).values(sha256=param("sha256"), definition=param("definition")).on_conflict_do_nothing()
    )
)
FIND = Statement(lambda: sa.select(t.definitions.c.definition).where(t.definitions.c.sha256 == param("sha256")))


def kept(plan: Plan) -> tuple[str, list[Write]]:
    """The column of a run's row for its plan, and the statement that stores a large one."""
    encoded = msgspec.json.encode(plan)
    if len(encoded) <= INLINE:
        return encoded.decode(), []
    digest = hashlib.sha256(encoded).hexdigest()
    return f'{_MARK}{digest}"}}', [write(_KEEP(sha256=digest, definition=encoded.decode()))]


def elsewhere(text: object) -> str | None:
    """The digest of a definition that is stored in `definitions`; None if the definition is in the row."""
    if isinstance(text, dict):
        found = text.get("$definition")
        return found if isinstance(found, str) else None
    return text[len(_MARK) : len(_MARK) + 64] if isinstance(text, str) and text.startswith(_MARK) else None


def definition_hash(plan: Plan) -> str:
    """SHA-256 of the canonical JSON of a plan, without the place it was loaded from."""
    return hashlib.sha256(msgspec.json.encode(replace(plan, folder=""), order="sorted")).hexdigest()
