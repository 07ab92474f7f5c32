"""Making the tables in a new file, migrating those of an older one, and refusing files of other programs.

Runs on a connection's thread.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from towpath.late import Late
from towpath.logs import guarded_logger

from ..clock import now
from ..schema import APPLICATION_ID, SCHEMA_VERSION, definitions, is_ours, not_ours
from .dialect import DIALECT

if TYPE_CHECKING:
    from . import migrations
else:
    migrations = Late("towpath.store.sqlite.migrations")

_log = guarded_logger("towpath")


def version(connection: sqlite3.Connection) -> int | None:
    """The version of the schema that is there; None in a new file. Raises StoreFailed (E_DB_NOT_TOWPATH)."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if "schema_version" not in tables or connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise not_ours()
    found: int | None = connection.execute("SELECT max(version) FROM schema_version").fetchone()[0]
    return found or 0


def make(connection: sqlite3.Connection) -> None:
    """Make all tables and indexes, or migrate them, inside a write transaction. Raises StoreFailed (E_SCHEMA_…)."""
    found = version(connection)
    if is_ours(found):  # another process has made them
        return
    if found is None:
        _create(connection)
    else:
        _migrate(connection, found)


def _create(connection: sqlite3.Connection) -> None:
    for statement in DIALECT.rendered.schema or definitions(DIALECT.spelling.core):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    _made(connection, SCHEMA_VERSION)


def _migrate(connection: sqlite3.Connection, found: int) -> None:
    for following in range(found + 1, SCHEMA_VERSION + 1):
        for statement in migrations.STEPS[following]:
            connection.execute(statement)
        _made(connection, following)
    _log.info("the store was migrated from schema %d to schema %d", found, SCHEMA_VERSION)


def _made(connection: sqlite3.Connection, made: int) -> None:
    connection.execute("INSERT INTO schema_version (version, applied_at) VALUES (?, ?)", (made, now()))
