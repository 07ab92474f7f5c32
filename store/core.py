"""SQLAlchemy Core and our tables, imported when the first expression is made.

Most processes make none: the SQL of the statements that a run needs is rendered ahead, see `rendered.py`. That saves
half of the start of a script. Modules whose expressions are functions import `sa` and `t` from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.late import Late

__all__ = ["sa", "t"]

if TYPE_CHECKING:
    import sqlalchemy as sa

    from . import tables as t
else:
    sa, t = Late("sqlalchemy"), Late("towpath.store.tables")
