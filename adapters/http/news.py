"""What the executing steps of a run report while they work: their progress, and the last lines of their logs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import safe_text

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")
Key = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class News:
    """What an executing step or item reported last: its progress, and the last line of its log.

    `status` may also be `failed` or `cancelled`: then it had a progress. `at` is the time of the record.
    """

    attempt: int
    status: str
    done: float | None
    total: float | None
    line: str
    at: int

    @property
    def words(self) -> str:
        """The last line of the log without its time."""
        return _TIME.sub("", self.line)

    @property
    def figures(self) -> tuple[float, float | None] | None:
        """The progress: how much is done, and of how much."""
        return None if self.done is None else (self.done, self.total)


def by_key(found: Iterable[Mapping[str, Any]]) -> dict[Key, News]:
    """What was recorded, by step and item."""
    return {(row["step_id"], row["item_index"]): _news(row) for row in found}


def _news(row: Mapping[str, Any]) -> News:
    lines = (row["end"] or "").rstrip("\n").rsplit("\n", 1)
    return News(row["attempt"], row["status"], row["done"], row["total"], safe_text(lines[-1]), row["updated_at"] or 0)


def with_figures(found: Mapping[Key, News], here: Mapping[Key, tuple[float, float | None]]) -> dict[Key, News]:
    """The news with the progress that the steps of this process report now."""
    return {
        key: replace(news, done=here[key][0], total=here[key][1]) if key in here else news
        for key, news in found.items()
    }
