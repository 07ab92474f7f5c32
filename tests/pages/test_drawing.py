"""The picture of a run: every step is in it or counted in a fold, edges go from left to right, nothing overlaps."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.model import StepPlan
from towpath.svg_layout import COLUMNS, GAP_Y, NODE_HEIGHT, NODE_WIDTH, WIDEST, layout


def plan(edges: dict[str, tuple[str, ...]]) -> list[StepPlan]:
    """Steps with their levels, in an order that fits."""
    levels: dict[str, int] = {}
    for name, before in edges.items():
        levels[name] = max((levels[b] + 1 for b in before), default=0)
    return [StepPlan(n, "python", "m:f", depends_on=b, level=levels[n]) for n, b in edges.items()]


@st.composite
def plans(draw_: st.DrawFn) -> list[StepPlan]:
    count = draw_(st.integers(1, 40))
    names = [f"s{n}" for n in range(count)]
    return plan(
        {
            name: tuple(sorted(draw_(st.sets(st.sampled_from(names[:n]), max_size=3)))) if n else ()
            for n, name in enumerate(names)
        }
    )


WORDS = st.sampled_from([None, "queued", "executing", "waiting_approval", "completed", "failed", "skipped"])


@settings(deadline=None, max_examples=150)
@given(plans(), st.data())
def test_every_step_of_the_window_is_drawn_or_counted_once(steps: list[StepPlan], data: st.DataObject) -> None:
    statuses = {step.id: data.draw(WORDS) for step in steps}
    drawing = layout(steps, statuses)
    inside = [step.id for step in steps if drawing.first <= step.level <= drawing.last]
    alone = [box.key for box in drawing.boxes if not box.folded]
    assert len(alone) + sum(box.folded for box in drawing.boxes) == len(inside)
    assert set(alone) <= set(inside)
    assert all(sum(count for _, count in box.counts) == box.folded for box in drawing.boxes if box.folded)
    assert drawing.last - drawing.first < COLUMNS


@settings(deadline=None, max_examples=150)
@given(plans())
def test_boxes_do_not_overlap_and_are_inside(steps: list[StepPlan]) -> None:
    drawing = layout(steps, {})
    columns: dict[float, list[float]] = {}
    for box in drawing.boxes:
        columns.setdefault(box.x, []).append(box.y)
        assert 0 <= box.x <= drawing.width - NODE_WIDTH
        assert 0 <= box.y <= drawing.height - NODE_HEIGHT
    for tops in columns.values():
        tops.sort()
        assert all(b - a >= NODE_HEIGHT + GAP_Y - 0.001 for a, b in itertools.pairwise(tops))


def test_a_large_level_shows_what_asks_for_attention() -> None:
    """998 steps in one level: those that failed or wait are boxes of their own, the rest is counted."""
    edges: dict[str, tuple[str, ...]] = {"a": ()}
    edges.update({f"b{n}": ("a",) for n in range(998)})
    edges["c"] = tuple(f"b{n}" for n in range(998))
    statuses = {f"b{n}": "completed" for n in range(998)} | {"b700": "failed", "b701": "waiting_approval"}
    drawing = layout(plan(edges), statuses)
    assert {"a", "b700", "b701", "c"} <= {box.key for box in drawing.boxes}
    (fold,) = (box for box in drawing.boxes if box.folded)
    assert fold.counts == (("completed", 998 - (WIDEST - 3)),)
    assert len(drawing.boxes) == 1 + (WIDEST - 3) + 1 + 1
    assert drawing.height < 1_000


def test_of_many_levels_a_window_is_drawn_where_something_goes_on() -> None:
    line: dict[str, tuple[str, ...]] = {f"s{n}": (f"s{n - 1}",) if n else () for n in range(1_000)}
    statuses = {f"s{n}": "completed" for n in range(500)} | {"s500": "executing"}
    drawing = layout(plan(line), statuses)
    assert drawing.first == 498 and drawing.last == 498 + COLUMNS - 1 and drawing.levels == 1_000
    assert layout(plan(line), statuses, 0).first == 0
    assert layout(plan(line), statuses, 5_000).last == 999


def test_an_edge_over_several_levels_goes_around_the_boxes_between() -> None:
    """In a diamond with a shortcut the shortcut has a lane of its own."""
    drawing = layout(plan({"a": (), "b": ("a",), "c": ("a", "b")}), {})
    assert len(drawing.paths) == 3
    (shortcut,) = (path for path in drawing.paths if "H" in path)
    middle = next(box for box in drawing.boxes if box.key == "b")
    lane = float(shortcut.split("C")[1].split("H")[0].split()[-1])
    assert not middle.y <= lane <= middle.y + NODE_HEIGHT
