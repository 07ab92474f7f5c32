"""Rows as nouns of the engine: JSON in text columns, status words checked when they are read. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from towpath.errors import StoreFailed
from towpath.model import ArtifactRow, Json

from .backend import Row

S = TypeVar("S", bound=StrEnum)

JSON_COLUMNS = frozenset(
    "chain_definition inputs workflow_definition parameters value error extra_metadata artifact_ids policy "
    "decision_parameters data owner tags".split()
)
NO_TAGS = "{}"
FLAGS = frozenset({"is_latest", "delivered"})


def encode(value: Json) -> str | None:
    """JSON text for a column; None stays NULL. Raises StoreFailed (E_DB_VALUE) for text that is not valid Unicode."""
    try:
        return None if value is None else msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise StoreFailed("E_DB_VALUE", f"a value cannot be kept in the database: {error}") from error


def encode_tags(tags: Mapping[str, str]) -> str:
    """The tags of a run for their column."""
    return msgspec.json.encode(dict(tags)).decode() if tags else NO_TAGS


def decode(text: str | bytes | None) -> Json:
    """The data in a JSON column. Bytes that are not JSON (a pickle, for example) are shown, never loaded."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return repr(text[:80])


class Record(dict[str, Any]):
    """A row for people and programs: `record.status` and `record["status"]`; JSON decoded, flags as bool."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no column {name}; there are {' '.join(self)}") from None


def record(row: Row) -> Record:
    """The row with its JSON decoded and its flags as booleans."""
    result = Record()
    for name, value in row.items():
        if name in JSON_COLUMNS:
            result[name] = decode(value)
        else:
            result[name] = bool(value) if name in FLAGS else value
    return result


def record_or_none(row: Row | None) -> Record | None:
    return None if row is None else record(row)


def word(kind: type[S], value: Any, table: str, row: str, column: str) -> S:
    """A status word. Raises StoreFailed (E_DB_VALUE) naming table, row and column for an unknown one."""
    try:
        return kind(value)
    except ValueError:
        raise StoreFailed(
            "E_DB_VALUE",
            f"{table}.{column} of row {row} holds an unknown word",
            found=value,
            allowed=" ".join(kind),
            cure="`towpath fsck` lists all such rows",
        ) from None


def artifact(row: Mapping[str, Any]) -> ArtifactRow:
    """A row of `artifacts` as the engine's noun."""
    return ArtifactRow(
        id=row["id"],
        workflow_id=row["workflow_id"],
        name=row["name"],
        version=row["version"],
        filename=row["filename"],
        media_type=row["media_type"],
        size=row["file_size"],
        digest=row["sha256"],
        is_latest=bool(row["is_latest"]),
        parent_artifact_id=row["parent_artifact_id"],
        approval_status=row["approval_status"],
        attempt=row["attempt"],
        created_at=row["created_at"],
    )
