"""Saved results, and which ratios fell since then. Ratios, because seconds of two days or machines mean nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import cast

from .results import FORMAT, Results, Row, ratios


class NotABaseline(Exception):
    """The file holds no saved results of this format."""


@dataclass(frozen=True)
class Change:
    """A ratio of towpath to another system, before and now. More is better."""

    name: str
    before: float
    now: float

    @property
    def by(self) -> float:
        """The share that was lost (negative) or won."""
        return self.now / self.before - 1


def save(results: Results, path: Path) -> None:
    """Write results as JSON."""
    path.write_text(json.dumps(results, indent=1) + "\n")


def load(path: Path) -> Results:
    """Saved results. Raises NotABaseline, OSError."""
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT or not isinstance(found["rows"], list):
            raise NotABaseline(f"{path} has format {found['format']}, not {FORMAT}")
        if not all(0 < ratio < inf for ratio in _sized(found["rows"])[1].values()):
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise NotABaseline(f"{path} was not written by `towpath bench --save`") from error
    return cast("Results", found)


def compare(before: Results, now: Results) -> list[Change]:
    """All ratios that both results have, of workloads of the same size; the ratio that fell most comes first."""
    sizes, old = _sized(before["rows"])
    new = ratios([row for row in now["rows"] if (row["workload"], row["size"]) in sizes])
    return sorted((Change(name, old[name], new[name]) for name in new if name in old), key=lambda change: change.by)


def _sized(rows: list[Row]) -> tuple[set[tuple[str, int]], dict[str, float]]:
    """What a comparison needs of saved rows: the sizes of their workloads, and their ratios."""
    return {(row["workload"], row["size"]) for row in rows}, ratios(rows)


def fallen(changes: list[Change], tolerance: float) -> list[Change]:
    """Those that fell by more than the tolerance, a share such as 0.2."""
    return [change for change in changes if change.by < -tolerance]
