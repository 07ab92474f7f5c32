"""Making the tables in a new file, and refusing files of other programs. Runs on a connection's thread."""

from __future__ import annotations

import sqlite3

from ..clock import now
from ..schema import APPLICATION_ID, SCHEMA_VERSION, check_version, definitions, not_ours
from .dialect import DIALECT


def is_there(connection: sqlite3.Connection) -> bool:
    """Is the schema there, in this version? Raises StoreFailed: E_DB_NOT_TOWPATH, E_SCHEMA_…."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return False
    if "schema_version" not in tables or connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise not_ours()
    check_version(connection.execute("SELECT max(version) FROM schema_version").fetchone()[0])
    return True


def create(connection: sqlite3.Connection) -> None:
    """Make all tables and indexes, inside a write transaction."""
    if is_there(connection):  # another process has made them
        return
    for statement in DIALECT.rendered.schema or definitions(DIALECT.spelling.core):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("INSERT INTO schema_version (version, applied_at) VALUES (?, ?)", (SCHEMA_VERSION, now()))
