"""Version numbers ever given to outputs. Deleted versions leave a row, so that no number is given twice."""

from __future__ import annotations

from functools import cache
from typing import Any

from .core import sa, t


@cache
def given() -> sa.Subquery:
    """Every version that is or was there: `workflow_id name version`."""
    tables = (t.artifacts, t.artifact_deletions)
    return sa.union_all(*(sa.select(one.c.workflow_id, one.c.name, one.c.version) for one in tables)).subquery()


def highest(*where: sa.ColumnElement[bool]) -> sa.Select[*tuple[Any, ...]]:
    """The highest number per output: `workflow_id name highest`."""
    versions = given().c
    columns = (versions.workflow_id, versions.name)
    return sa.select(*columns, sa.func.max(versions.version).label("highest")).where(*where).group_by(*columns)
