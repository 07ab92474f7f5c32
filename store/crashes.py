"""How many processes died during attempts at a step, read from the audit trail.

An attempt that ends leaves a line: it ended, was retried, was decided, or was released in order. If none of these
follows a start, but only the next start, then the process died.
"""

from __future__ import annotations

from collections.abc import Iterable

from towpath.events import GateFact
from towpath.model import StepStatus

from .backend import Row
from .core import sa, t
from .statements import Statement
from .statements import param as b

RELEASED = "RunReleased"  # a process left a run that had neither ended nor paused
_START = "StepStarted"
_ROW_WORDS = ("StepRetried", "AttemptReleased", str(GateFact.APPLIED))
_RUN_WORDS = ("ChainPaused", RELEASED)

STARTS = Statement(
    lambda: (
        sa.select(t.events.c.type, t.events.c.workflow_id)
        .select_from(t.events.outerjoin(t.workflows, t.workflows.c.id == t.events.c.workflow_id))
        .where(
            t.events.c.chain_id == b("run"),
            t.events.c.type.in_((_START, *_ROW_WORDS, *_RUN_WORDS)),
            sa.or_(t.events.c.workflow_id.is_(None), t.workflows.c.status == StepStatus.EXECUTING),
        )
        .order_by(t.events.c.seq)
    )
)
LET_GO = Statement(
    lambda: (
        # One line is enough, because a run that cannot be resumed is claimed and released many times. No line is added
        # if another process has taken the run over.
        sa.insert(t.events).from_select(
            ["chain_id", "type", "at", "data"],
            sa.select(t.chains.c.id, sa.literal(RELEASED), b("at"), sa.literal("{}")).where(
                t.chains.c.id == b("run"),
                t.chains.c.epoch == b("epoch"),
                sa.func.coalesce(
                    sa.select(t.events.c.type)
                    .where(t.events.c.chain_id == b("run"))
                    .order_by(t.events.c.seq.desc())
                    .limit(1)
                    .scalar_subquery(),
                    "",
                )
                != RELEASED,
            ),
        )
    )
)


def lost_attempts(lines: Iterable[Row]) -> dict[str, int]:
    """The number of lost attempts by row, from the lines of a run with `STARTS`, in order."""
    lost: dict[str, int] = {}
    for line in lines:
        row, kind = line["workflow_id"], line["type"]
        if row is None:
            lost.clear()
        elif kind == _START:
            lost[row] = lost.get(row, 0) + 1
        else:
            lost.pop(row, None)
    return lost
