"""The tables as SQL, and the schema versions that this towpath can use. Knows no driver."""

from __future__ import annotations

from towpath.errors import StoreFailed

from .core import sa, t

SCHEMA_VERSION = 5
OLDEST = 4
"""The oldest schema that can be migrated: stores of towpath 0.1 have it."""
APPLICATION_ID = 0x746F7770  # "towp"


def definitions(dialect: sa.Dialect) -> list[str]:
    """The whole schema in one dialect, tables before indexes."""
    made = [str(sa.schema.CreateTable(table).compile(dialect=dialect)) for table in t.metadata.sorted_tables]
    for table in t.metadata.sorted_tables:
        made.extend(str(sa.schema.CreateIndex(index).compile(dialect=dialect)) for index in _indexes(table))
    return made


def names(table: sa.Table) -> list[str]:
    """A table's name and those of its indexes."""
    return [table.name, *(str(index.name) for index in _indexes(table))]


def _indexes(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def is_ours(found: int | None) -> bool:
    """Is this the schema of this towpath? If not, it can be made, or the database can be migrated to it.

    Raises StoreFailed: E_SCHEMA_NEWER, E_SCHEMA_OLDER if there is no way from it to ours.
    """
    if found == SCHEMA_VERSION:
        return True
    if found is not None and found > SCHEMA_VERSION:
        raise _other("E_SCHEMA_NEWER", found, "install the newer towpath")
    if found is not None and found < OLDEST:
        raise _other("E_SCHEMA_OLDER", found, "it is from before the first release: start with a new store")
    return False


def not_migrated(found: int) -> StoreFailed:
    """The error for a database that must be migrated, where it is only read."""
    cure = "copy the database, then migrate it: start or resume any run in it, or `towpath fsck --repair`"
    return _other("E_SCHEMA_OLDER", found, cure)


def _other(code: str, found: int, cure: str) -> StoreFailed:
    return StoreFailed(
        code, f"the database has schema {found}, this towpath works with schema {SCHEMA_VERSION}", cure=cure
    )


def not_ours() -> StoreFailed:
    """The error for a database that another program made."""
    return StoreFailed("E_DB_NOT_TOWPATH", "this database belongs to another program", cure="name another --store")
