"""Lines of the audit trail: the `events` table, append-only, one line per fact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import sqlalchemy as sa

from towpath.errors import TowpathError
from towpath.model import Json

from .batch import Write
from .clock import now
from .rows import encode
from .session import Session, Statement
from .session import value_of as b
from .tables import events

_EVENT = Statement(
    sa.insert(events).values(chain_id=b("run"), workflow_id=b("row"), type=b("type"), at=b("at"), data=b("data"))
)


async def note(session: Session, kind: str, by: str, *, run: str | None = None, **data: Json) -> None:
    """One more line of the audit trail about what a person did, in the transaction of the deed itself."""
    values = {"chain_id": run, "type": kind, "at": now(), "data": encode({**data, "by": by})}
    await session.execute(sa.insert(events).values(values))


class AboutStep(Protocol):
    """A fact about a step, or about one item of a mapped one."""

    @property
    def step(self) -> str: ...

    @property
    def item(self) -> int | None: ...


def add(
    made: list[Write], statement: tuple[str, list[object]], refuse: Callable[[], TowpathError] | None = None
) -> None:
    """One more statement; with `refuse` it must touch exactly one row."""
    made.append(Write(statement[0], statement[1], refuse))


def log_event(made: list[Write], run: str, row: str | None, kind: str, at: int, data: Json = None) -> None:
    """One more line of the audit trail."""
    add(made, _EVENT(run=run, row=row, type=kind, at=at, data=encode(data) if data else "{}"))


def about(fact: AboutStep, **more: Json) -> Json:
    """Which step a line is about, and what else is to be said of it; empty values are left out."""
    data: dict[str, Json] = {"step": fact.step}
    if fact.item is not None:
        data["item"] = fact.item
    data.update({name: value for name, value in more.items() if value})
    return data
