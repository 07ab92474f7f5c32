"""The audit trail: the table `events`, append-only, one line per fact. Writes lines, and reads them as a feed over all
runs. Also: how far webhooks have read, and what steps logged.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from towpath.model import Json

from .backend import Write, add
from .clock import now
from .core import sa, t
from .rows import Record, encode, record
from .session import Session
from .statements import Phase, Query, Statement
from .statements import param as b

MOST = 1_000  # lines read at once
END = 500  # characters of a log in which its last line is searched

LINE = Statement(
    lambda: sa.insert(t.events).values(
        chain_id=b("run"), workflow_id=b("row"), type=b("type"), at=b("at"), data=b("data")
    ),
    "run row type at data",
    Phase.TOLD,
)


# ---- writing


def line(run: str | None, row: str | None, kind: str, at: int, data: Json = None) -> Query:
    """The statement that adds one line."""
    return LINE(run=run, row=row, type=kind, at=at, data=encode(data) if data else "{}")


def log_event(out: list[Write], run: str, row: str | None, kind: str, at: int, data: Json = None) -> None:
    """Add one line to a unit."""
    add(out, line(run, row, kind, at, data))


def log_step(
    out: list[Write], run: str, row: str, kind: str, at: int, step: str, item: int | None, attempt: int | None = None
) -> None:
    """Add the line of a step or item that waits, starts or completes: the same as `log_event` adds, at less cost."""
    data = _named(step)
    if item is not None:
        data += f',"item":{item}'
    if attempt:
        data += f',"attempt":{attempt}'
    out.append((LINE, (run, row, kind, at, data + "}"), None))


@lru_cache(maxsize=4096)
def _named(step: str) -> str:
    """The beginning of an object that names a step."""
    return f'{{"step":{encode(step)}'


class AboutStep(Protocol):
    """A fact about a step, or about one item of a mapped step."""

    @property
    def step(self) -> str: ...

    @property
    def item(self) -> int | None: ...


def about(fact: AboutStep, **more: Json) -> dict[str, Json]:
    """The data of a line about a fact; empty values are left out."""
    return about_step(fact.step, fact.item, **more)


def about_step(step: str | None, item: int | None, **more: Json) -> dict[str, Json]:
    """The data of a line about a step or an item, by their names in a row."""
    data: dict[str, Json] = {} if step is None else {"step": step}
    if item is not None:
        data["item"] = item
    data.update({name: value for name, value in more.items() if value})
    return data


async def note(session: Session, kind: str, by: str, *, run: str | None = None, **data: Json) -> None:
    """Add a line about an action of a person, in the same transaction."""
    await session.note(line(run, None, kind, now(), {**data, "by": by}))


# ---- reading


async def last_event(session: Session) -> int:
    """The highest number of a line of the audit trail; 0 before the first."""
    row = await session.fetch_one(sa.select(sa.func.coalesce(sa.func.max(t.events.c.seq), 0).label("seq")))
    assert row is not None
    return int(row["seq"])


async def events_after(
    session: Session, seq: int, *, chain_id: str | None = None, types: tuple[str, ...] = (), limit: int = MOST
) -> list[Record]:
    """Lines with a higher number, in order: `seq chain_id workflow_id type at data`.

    A line gets its number when it is committed, by one writer at a time. So no line appears later below a number
    that was read.
    """
    query = sa.select(t.events).where(t.events.c.seq > seq)
    if chain_id is not None:
        query = query.where(t.events.c.chain_id == chain_id)
    if types:
        query = query.where(t.events.c.type.in_(types))
    return [record(row) for row in await session.fetch_all(query.order_by(t.events.c.seq).limit(limit))]


async def logs_after(
    session: Session, chain_id: str, after: tuple[int, str] | None, *, step_id: str | None = None, limit: int
) -> list[Record]:
    """What attempts at steps of a run logged: `workflow_id step_id item_index attempt text updated_at`.

    `after` is the attempt and workflow id of the last text that was read. A text is at most as long as a log may be.
    """
    row, attempt = t.workflows.c.id, t.step_logs.c.attempt
    query = (  # a row without a text only has figures
        sa.select(
            row.label("workflow_id"),
            t.workflows.c.step_id,
            t.workflows.c.item_index,
            attempt,
            t.step_logs.c.text,
            t.step_logs.c.updated_at,
        )
        .join(t.workflows, row == t.step_logs.c.workflow_id)
        .where(t.workflows.c.chain_id == chain_id, t.step_logs.c.text != "")
    )
    if step_id is not None:
        query = query.where(t.workflows.c.step_id == step_id)
    if after is not None:
        query = query.where(sa.and_(row >= after[1], sa.or_(row > after[1], attempt > after[0])))
    return [record(found) for found in await session.fetch_all(query.order_by(row, attempt).limit(limit))]


async def latest_news(
    session: Session, chain_id: str, *, step_id: str | None = None, limit: int = MOST
) -> list[Record]:
    """What the executing steps and items of a run reported last: `step_id item_index attempt status done total end
    updated_at`, where `end` is the end of the log. Also of those that failed or were cancelled with a progress.
    """
    steps, logs = t.workflows.c, t.step_logs.c
    stopped = sa.and_(steps.status.in_(("failed", "cancelled")), logs.done.is_not(None))
    query = (
        sa.select(
            steps.step_id,
            steps.item_index,
            steps.attempt,
            steps.status,
            logs.done,
            logs.total,
            sa.func.substr(logs.text, -END).label("end"),
            sa.func.coalesce(logs.updated_at, steps.started_at).label("updated_at"),
        )
        .select_from(
            t.workflows.outerjoin(t.step_logs, sa.and_(logs.workflow_id == steps.id, logs.attempt == steps.attempt))
        )
        .where(steps.chain_id == chain_id, sa.or_(steps.status == "executing", stopped))
        .order_by(steps.step_id, steps.item_index)
    )
    if step_id is not None:
        query = query.where(steps.step_id == step_id)
    return [record(found) for found in await session.fetch_all(query.limit(limit))]


async def outermost(session: Session, chain_id: str) -> bool:
    """Is this a run that is not inside another one's step?"""
    row = await session.fetch_one(sa.select(t.chains.c.parent_workflow_id).where(t.chains.c.id == chain_id))
    return row is not None and row["parent_workflow_id"] is None


async def cursor_of(session: Session, target_sha256: str) -> int:
    """The last line that a webhook has received. A new webhook starts after the last line there is."""
    query = sa.select(t.webhook_cursors.c.seq).where(t.webhook_cursors.c.target_sha256 == target_sha256)
    row = await session.fetch_one(query)
    if row is None:
        await session.begin()
        row = await session.fetch_one(query)
    if row is not None:
        return int(row["seq"])
    start = await last_event(session)
    values = {"target_sha256": target_sha256, "seq": start, "updated_at": now()}
    await session.execute(sa.insert(t.webhook_cursors).values(values))
    return start


async def move_cursor(session: Session, target_sha256: str, seq: int) -> None:
    """Move the cursor of a webhook forward to `seq`; never back."""
    change = sa.update(t.webhook_cursors).where(
        t.webhook_cursors.c.target_sha256 == target_sha256, t.webhook_cursors.c.seq < seq
    )
    await session.execute(change.values(seq=seq, updated_at=now()))
