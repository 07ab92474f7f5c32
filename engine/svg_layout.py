"""The layout of a run's or a plan's picture: steps by levels, from left to right, as coordinates for an SVG. Pure.

The steps of a large level are folded into one box that counts their statuses. Of many levels only a window is drawn.
So a person can read the picture of 1,000 steps.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .model import StepPlan

ATTENTION = ("failed", "waiting_approval", "executing", "queued", "cancelled", "skipped", "cached", "completed")
"""Step statuses, the ones that need attention first."""
NODE_WIDTH = 176
NODE_HEIGHT = 48
GAP_X = 60
GAP_Y = 16
MARGIN = 6
TOP = 26  # room for the words above a column
WIDEST = 10  # boxes in a column before it is folded
COLUMNS = 14  # levels drawn at once
_SWEEPS = 4
_LANE = 12  # height that a passing edge takes in a column


@dataclass(frozen=True, slots=True)
class Box:
    """A step, or (if `folded` is above 0) several steps of a level."""

    key: str
    x: float
    y: float
    folded: int = 0
    counts: tuple[tuple[str | None, int], ...] = ()


@dataclass(frozen=True, slots=True)
class SvgLayout:
    """Boxes and the paths between them. `first` and `last` are the first and last level drawn, of `levels`."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    paths: tuple[str, ...]
    columns: tuple[tuple[int, float, int], ...]
    first: int
    last: int
    levels: int


@dataclass(slots=True)
class _Slot:
    """A position in a column: a box, or the lane of an edge that passes through."""

    key: str
    lane: bool = False
    fold: bool = False
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    rank: float = 0.0
    y: float = 0.0

    @property
    def height(self) -> float:
        return _LANE if self.lane else NODE_HEIGHT


def layout(steps: Sequence[StepPlan], statuses: Mapping[str, str | None], start: int | None = None) -> SvgLayout:
    """The layout of a plan. `start` is the first level to draw; the default is near the steps that need attention."""
    levels: dict[int, list[StepPlan]] = {}
    for step in steps:
        levels.setdefault(step.level, []).append(step)
    first = _window(levels, statuses, start)
    last = min(len(levels), first + COLUMNS) - 1
    shown: dict[str, str] = {}
    boxes: dict[str, tuple[int, int, list[str]]] = {}
    for level in range(first, last + 1):
        for key, folded, ids in _fold(levels[level], level, statuses):
            boxes[key] = (level, folded, ids)
            shown.update(dict.fromkeys(ids, key))
    edges = {(shown[d], shown[s.id]) for s in steps if s.id in shown for d in s.depends_on if d in shown}
    columns, chains = _slots(boxes, sorted(edges), first, last)
    _order(columns)
    height = _place(columns)
    x_of = {level: MARGIN + i * (NODE_WIDTH + GAP_X) for i, level in enumerate(range(first, last + 1))}
    slots = {slot.key: (slot, level) for level, column in columns.items() for slot in column}
    return SvgLayout(
        width=MARGIN * 2 + len(columns) * (NODE_WIDTH + GAP_X) - GAP_X,
        height=height,
        boxes=tuple(
            Box(key, x_of[level], slots[key][0].y, folded, _counts(ids, statuses) if folded else ())
            for key, (level, folded, ids) in boxes.items()
        ),
        paths=tuple(_path([slots[key] for key in chain], x_of) for chain in chains),
        columns=tuple((level, x_of[level], len(levels[level])) for level in range(first, last + 1)),
        first=first,
        last=last,
        levels=len(levels),
    )


def _window(levels: Mapping[int, list[StepPlan]], statuses: Mapping[str, str | None], start: int | None) -> int:
    latest = max(0, len(levels) - COLUMNS)
    if start is not None or not latest:
        return min(max(0, start or 0), latest)
    for word in ATTENTION[:4]:
        for level, steps in sorted(levels.items()):
            if any(statuses.get(step.id) == word for step in steps):
                return min(max(0, level - 2), latest)
    return 0


def _fold(steps: list[StepPlan], level: int, statuses: Mapping[str, str | None]) -> list[tuple[str, int, list[str]]]:
    """(key, steps folded into it, their ids) for each box of a level."""
    if len(steps) <= WIDEST:
        return [(step.id, 0, [step.id]) for step in steps]
    urgent = sorted(steps, key=lambda step: _urgency(statuses.get(step.id)))[: WIDEST - 3]
    alone = {step.id for step in urgent}
    rest = [step.id for step in steps if step.id not in alone]
    boxes = [(step.id, 0, [step.id]) for step in steps if step.id in alone]
    return [*boxes, (f"level {level}", len(rest), rest)]


def _urgency(word: str | None) -> int:
    return ATTENTION.index(word) if word in ATTENTION[:4] else len(ATTENTION)


def _counts(ids: list[str], statuses: Mapping[str, str | None]) -> tuple[tuple[str | None, int], ...]:
    counted = Counter(statuses.get(step) for step in ids)
    order: list[str | None] = [*ATTENTION, None]
    return tuple((word, counted[word]) for word in order if counted[word])


def _slots(
    boxes: Mapping[str, tuple[int, int, list[str]]], edges: list[tuple[str, str]], first: int, last: int
) -> tuple[dict[int, list[_Slot]], list[list[str]]]:
    """The columns of boxes and lanes, and each edge as the keys of its slots."""
    columns: dict[int, list[_Slot]] = {level: [] for level in range(first, last + 1)}
    slots: dict[str, _Slot] = {}
    for key, (level, folded, _) in boxes.items():
        slots[key] = _Slot(key, fold=folded > 0)
        columns[level].append(slots[key])
    chains: list[list[str]] = []
    for source, target in edges:
        chain = [source]
        for level in range(boxes[source][0] + 1, boxes[target][0]):
            lane = _Slot(f"{source}\0{target}\0{level}", lane=True)
            slots[lane.key] = lane
            columns[level].append(lane)
            chain.append(lane.key)
        chain.append(target)
        for left, right in itertools.pairwise(chain):
            slots[left].after.append(right)
            slots[right].before.append(left)
        chains.append(chain)
    return columns, chains


def _order(columns: dict[int, list[_Slot]]) -> None:
    """Reduce crossings: sort slots by the mean position of their neighbours, in both directions. Folds stay last."""
    levels = sorted(columns)
    for sweep in range(_SWEEPS):
        forwards = sweep % 2 == 0
        ranks = {slot.key: float(i) for column in columns.values() for i, slot in enumerate(column)}
        for level in levels if forwards else reversed(levels):
            column = columns[level]
            for i, slot in enumerate(column):
                near = slot.before if forwards else slot.after
                slot.rank = sum(ranks[key] for key in near) / len(near) if near else float(i)
            column.sort(key=lambda slot: (slot.fold, slot.rank))
            ranks.update({slot.key: float(i) for i, slot in enumerate(column)})


def _place(columns: dict[int, list[_Slot]]) -> float:
    """Set the position of every slot in its column; columns are centred. Returns the height of the drawing."""
    tall = {level: sum(s.height + GAP_Y for s in column) - GAP_Y for level, column in columns.items()}
    height = max(tall.values(), default=0.0)
    for level, column in columns.items():
        y = TOP + (height - tall[level]) / 2
        for slot in column:
            slot.y = y
            y += slot.height + GAP_Y
    return TOP + height + MARGIN


def _path(chain: list[tuple[_Slot, int]], x_of: Mapping[int, float]) -> str:
    """A smooth line from the right side of one box, along its lanes, to the left side of another."""
    (start, level), *rest = chain
    x, y = x_of[level] + NODE_WIDTH, start.y + start.height / 2
    parts = [f"M{x:g} {y:g}"]
    for slot, at in rest:
        to_x, to_y = x_of[at], slot.y + slot.height / 2
        bend = (to_x - x) / 2
        parts.append(f"C{x + bend:g} {y:g} {to_x - bend:g} {to_y:g} {to_x:g} {to_y:g}")
        x, y = to_x, to_y
        if slot.lane:
            x += NODE_WIDTH
            parts.append(f"H{x:g}")
    return "".join(parts)
