"""SQLite as a dialect: its spelling is imported late, its statements are rendered ahead in `rendered.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.late import Late

from ..rendered import Rendered
from ..statements import Dialect

if TYPE_CHECKING:
    from . import spelling
else:
    spelling = Late("towpath.store.sqlite.spelling")


def _as_json(values: Sequence[Any]) -> str:
    return msgspec.json.encode(list(values)).decode()


DIALECT = Dialect(spelling, Rendered("sqlite", Path(__file__).with_name("rendered.json")), _as_json)
