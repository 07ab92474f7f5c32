"""Runs inside steps of other runs: all runs inside a run, and all runs around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .backend import Script
from .core import sa, t
from .statements import Statement, any_of

_DEEPEST = 1_000  # in a damaged store, runs may be inside each other: the query must end anyway


def inside(run: sa.ColumnElement[str]) -> sa.Select[tuple[str]]:
    """The ids of a run and of all runs inside its steps, as a select to use in `IN`."""
    tree = sa.select(run.label("id")).cte("tree", recursive=True)
    # One flat join: SQLite takes a join in brackets for a query of its own, which must not look at itself.
    steps = t.chains.join(t.workflows, t.chains.c.parent_workflow_id == t.workflows.c.id)
    children = sa.select(t.chains.c.id).select_from(steps.join(tree, t.workflows.c.chain_id == tree.c.id))
    return sa.select(tree.union(children).c.id)


class Around(NamedTuple):
    """A run around another one (depth 0: the run itself), with the step and item that the other one is inside."""

    id: str
    step: str | None = None
    item: int | None = None


def _around() -> sa.Select[tuple[str, str, str, int, int]]:
    no_step = sa.cast(sa.null(), sa.Text).label("step")
    no_item = sa.cast(sa.null(), sa.Integer).label("item")
    itself = sa.select(t.chains.c.id.label("start"), t.chains.c.id, no_step, no_item, sa.literal(0).label("depth"))
    up = itself.where(any_of(t.chains.c.id, "runs")).cte("up", recursive=True)
    parent = up.join(t.chains, t.chains.c.id == up.c.id).join(
        t.workflows, t.workflows.c.id == t.chains.c.parent_workflow_id
    )
    above = sa.select(
        up.c.start, t.workflows.c.chain_id, t.workflows.c.step_id, t.workflows.c.item_index, up.c.depth + 1
    ).select_from(parent)
    up = up.union_all(above.where(t.workflows.c.chain_id.is_not(None), up.c.depth < _DEEPEST))
    return sa.select(up).order_by(up.c.start, up.c.depth)


_AROUND = Statement(_around)


def around(runs: Sequence[str]) -> Script[dict[str, list[Around]]]:
    """For each of these runs: the runs around it, from the inside out."""
    found: dict[str, list[Around]] = {run: [] for run in runs}
    for row in (yield _AROUND(runs=runs)).rows if found else ():
        found[row["start"]].append(Around(row["id"], row["step"], row["item"]))
    return found
