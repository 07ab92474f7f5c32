"""Chain definitions: up to 16 KiB of JSON in the row of the run; larger ones once per content, in a table of their own.

The row of a run is written with every renewal of its lease, and its epoch is read at every commit. SQLite rewrites and
reads a row as a whole: with a definition of a megabyte in it, the cost of a long chain would be quadratic.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

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


@dataclass(frozen=True, slots=True)
class Kept:
    """A plan in the row of a run: its column, its hash, and the statement that stores a large one."""

    column: str
    sha256: str
    large: tuple[Write, ...]


_RECENT = 8
_recent: deque[tuple[Plan, Kept]] = deque(maxlen=_RECENT)
"""Plans that began runs lately. Plans never change, so each object is encoded once and not again for each run."""


def kept(plan: Plan) -> Kept:
    """How a plan is kept, with the SHA-256 of its canonical JSON without the place it was loaded from."""
    for known, found in tuple(_recent):  # another thread may add one
        if known is plan:
            return found
    made = _kept(plan)
    _recent.append((plan, made))
    return made


def _kept(plan: Plan) -> Kept:
    encoded = msgspec.json.encode(plan)
    canonical = hashlib.sha256(msgspec.json.encode(replace(plan, folder=""), order="sorted")).hexdigest()
    if len(encoded) <= INLINE:
        return Kept(encoded.decode(), canonical, ())
    digest = hashlib.sha256(encoded).hexdigest()
    keep = write(_KEEP(sha256=digest, definition=encoded.decode()))
    return Kept(f'{_MARK}{digest}"}}', canonical, (keep,))


def elsewhere(text: object) -> str | None:
    """The digest of a definition that is stored in `definitions`; None if the definition is in the row."""
    if isinstance(text, dict):
        found = text.get("$definition")
        return found if isinstance(found, str) else None
    return text[len(_MARK) : len(_MARK) + 64] if isinstance(text, str) and text.startswith(_MARK) else None
