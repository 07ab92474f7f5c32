"""What ends with a run that is over: everything open in it, and in the runs inside its steps."""

from __future__ import annotations

from . import server_facts
from .core import sa, t
from .run_tree import inside
from .statements import Expression, Query, Statement, json_object, one_of
from .statements import param as b


def close_gates(where: sa.ColumnElement[bool]) -> Expression:
    """Close gates that no owner can act on any more. A decision that came too late stays recorded."""
    return (
        sa.update(t.approvals)
        .where(where, t.approvals.c.delivered == 0)
        .values(
            status=sa.case((t.approvals.c.status == "pending", "cancelled"), else_=t.approvals.c.status),
            decided_at=sa.func.coalesce(t.approvals.c.decided_at, b("at")),
            delivered=1,
            updated_at=b("at"),
        )
    )


def _open_rows() -> sa.ColumnElement[bool]:
    """The open rows of a run and of the runs inside it."""
    words = ("queued", "executing", "waiting_approval")
    return sa.and_(t.workflows.c.chain_id.in_(inside(b("run"))), one_of(t.workflows.c.status, words))


def _open_chains() -> sa.ColumnElement[bool]:
    words = ("pending", "running", "paused")
    return sa.and_(t.chains.c.id.in_(inside(b("run"))), one_of(t.chains.c.status, words))


def _row_events() -> Expression:
    row, item = t.workflows.c, t.workflows.c.item_index
    about = sa.case((item.is_(None), json_object(step=row.step_id)), else_=json_object(step=row.step_id, item=item))
    cancelled = sa.select(row.chain_id, row.id, sa.literal_column("'StepCancelled'"), b("at"), about)
    return sa.insert(t.events).from_select(
        ["chain_id", "workflow_id", "type", "at", "data"], cancelled.where(_open_rows()).order_by(row.id)
    )


def _chain_events() -> Expression:
    data: sa.ColumnClause[str] = sa.literal_column("""'{"status":"cancelled"}'""")
    cancelled = sa.select(t.chains.c.id, sa.literal_column("'ChainEnded'"), b("at"), data)
    return sa.insert(t.events).from_select(["chain_id", "type", "at", "data"], cancelled.where(_open_chains()))


_END_TREE = (
    Statement(_row_events),
    Statement(lambda: close_gates(t.approvals.c.chain_id.in_(inside(b("run"))))),
    Statement(lambda: server_facts.close(sa.select(t.workflows.c.id).where(_open_rows()), "cancelled")),
    Statement(
        lambda: (
            sa.update(t.workflows)
            .where(_open_rows())
            .values(status="cancelled", completed_at=b("at"), updated_at=b("at"))
        )
    ),
    Statement(_chain_events),
    Statement(
        lambda: (
            sa.update(t.chains)
            .where(_open_chains())
            .values(
                status="cancelled",
                completed_at=b("at"),
                updated_at=b("at"),
                owner=None,
                lease_until=None,
                epoch=t.chains.c.epoch + 1,
            )
        )
    ),
)


def end_tree(run: str, at: int) -> list[Query]:
    """End everything open in a run and in the runs inside its steps as cancelled."""
    return [statement(run=run, at=at) for statement in _END_TREE]
