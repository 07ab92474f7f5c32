"""The tables as SQL, and the schema versions that this towpath can use. Knows no driver."""

from __future__ import annotations

from towpath.errors import StoreFailed

from .core import sa, t

SCHEMA_VERSION = 4
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


def check_version(found: int | None) -> None:
    """Refuse a schema of another version. Raises StoreFailed: E_SCHEMA_NEWER, E_SCHEMA_OLDER."""
    if found == SCHEMA_VERSION:
        return
    newer = found is not None and found > SCHEMA_VERSION
    raise StoreFailed(
        "E_SCHEMA_NEWER" if newer else "E_SCHEMA_OLDER",
        f"the database has schema {found}, this towpath works with {SCHEMA_VERSION}",
        cure="install the newer towpath" if newer else "start with a new store; upgrades come with the first release",
    )


def not_ours() -> StoreFailed:
    """The error for a database that another program made."""
    return StoreFailed("E_DB_NOT_TOWPATH", "this database belongs to another program", cure="name another --store")
