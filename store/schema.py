"""Making the tables, and refusing files that are not ours or not of this version."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from towpath.errors import StoreFailed

from .clock import now
from .session import DIALECT, Database
from .tables import APPLICATION_ID, SCHEMA_VERSION, metadata


def statements() -> list[str]:
    """The whole schema as SQL, tables before indexes."""
    made = [str(sa.schema.CreateTable(table).compile(dialect=DIALECT)) for table in metadata.sorted_tables]
    for table in metadata.sorted_tables:
        made.extend(str(sa.schema.CreateIndex(index).compile(dialect=DIALECT)) for index in _indexes(table))
    return made


def _indexes(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


async def init_schema(database: Database) -> None:
    """Create what is missing in a new file; check the version of one that is there.

    Raises:
        StoreFailed: E_DB_NOT_TOWPATH for somebody else's database, E_SCHEMA_NEWER, E_SCHEMA_OLDER,
            E_DB_READONLY for a new file that is only to be looked at.
    """
    if not await database.read(_checked):
        await database.write(_create)


def _checked(connection: sqlite3.Connection) -> bool:
    """Is the schema there, in this version?"""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return False
    if "schema_version" not in tables or connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreFailed("E_DB_NOT_TOWPATH", "this database belongs to another program", cure="name another --store")
    found = connection.execute("SELECT max(version) FROM schema_version").fetchone()[0]
    if found == SCHEMA_VERSION:
        return True
    newer = found is not None and found > SCHEMA_VERSION
    raise StoreFailed(
        "E_SCHEMA_NEWER" if newer else "E_SCHEMA_OLDER",
        f"the database has schema {found}, this towpath works with {SCHEMA_VERSION}",
        cure="install the newer towpath" if newer else "start with a new store; upgrades come with the first release",
    )


def _create(connection: sqlite3.Connection) -> None:
    if _checked(connection):  # another process was faster
        return
    for statement in statements():
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("INSERT INTO schema_version (version, applied_at) VALUES (?, ?)", (SCHEMA_VERSION, now()))
