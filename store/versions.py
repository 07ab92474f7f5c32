"""Version numbers ever given to outputs. Deleted versions leave a row, so that no number is given twice."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from .tables import artifact_deletions, artifacts

GIVEN = sa.union_all(
    *(sa.select(t.c.workflow_id, t.c.name, t.c.version) for t in (artifacts, artifact_deletions))
).subquery()
"""Every version that is or was there: `workflow_id name version`."""


def highest(*where: sa.ColumnElement[bool]) -> sa.Select[*tuple[Any, ...]]:
    """The highest number per output: `workflow_id name highest`."""
    columns = (GIVEN.c.workflow_id, GIVEN.c.name)
    return sa.select(*columns, sa.func.max(GIVEN.c.version).label("highest")).where(*where).group_by(*columns)
