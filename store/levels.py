"""The level of a run: the highest one of which a step has started.

A run reaches many levels a second, and its row is large. So a process that owns a run keeps the level in memory, and
writes it when the run pauses or ends, and with the lease. The level of a running run is computed from its steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from towpath.events import ChainEnded, ChainPaused, Fact, LevelReached
from towpath.model import ChainStatus

from .backend import Script
from .core import sa, t
from .definitions import FIND, elsewhere
from .rows import Record
from .session import Session
from .statements import Statement, any_of, word_of
from .statements import param as b

_RUNNING = Statement(
    lambda: sa.select(t.chains.c.id, t.chains.c.current_level, t.chains.c.chain_definition).where(
        any_of(t.chains.c.id, "runs"), t.chains.c.status == word_of(ChainStatus.RUNNING)
    )
)
_STARTED = Statement(
    lambda: (
        # Rows that a rerun took over were not started in it. Of a mapped step only its own row is read, not its items.
        sa.select(t.workflows.c.step_id)
        .where(
            t.workflows.c.chain_id == b("run"),
            t.workflows.c.item_index.is_(None),
            t.workflows.c.attempt > 0,
            t.workflows.c.workflow_name != "cached",
        )
        .distinct()
    )
)
_WRITE = Statement(
    lambda: (
        sa.update(t.chains)
        .where(t.chains.c.id == b("run"), t.chains.c.current_level < b("level"))
        .values(current_level=b("level"))
    )
)
_KINDS = {LevelReached, ChainPaused, ChainEnded}


class _Step(msgspec.Struct):
    id: str
    level: int = 0


class _Steps(msgspec.Struct):
    """What is needed here of a plan."""

    steps: list[_Step] = []


class Levels:
    """The levels of the runs of this process that are not written yet."""

    def __init__(self) -> None:
        self._recorded: dict[str, int] = {}  # of facts that are durable
        self._queued: dict[str, int] = {}  # of these, and of units that are not recorded yet

    def held_back(self, run: str, facts: Sequence[Fact]) -> tuple[Sequence[Fact], int]:
        """The facts to record now: without new levels, and with the level if the run pauses or ends.

        Also the level of the unit that they make, 0 if it has none; what becomes of it is told with `ended`.
        """
        if _KINDS.isdisjoint(map(type, facts)):
            return facts, 0
        kept: list[Fact] = []
        level = 0
        for fact in facts:
            if isinstance(fact, LevelReached):
                level = max(level, fact.level)
                self._queued[run] = max(level, self._queued.get(run, 0))
                continue
            if isinstance(fact, ChainPaused | ChainEnded) and self._queued.get(run):
                kept.append(LevelReached(self._queued[run]))
            kept.append(fact)
        return kept, level

    def ended(self, run: str, level: int, *, recorded: bool) -> None:
        """A unit of this level is durable, or was refused: then its level is not reached."""
        if recorded:
            self._recorded[run] = max(level, self.of(run))
            self._queued[run] = max(level, self._queued.get(run, 0))
        else:
            self._queued[run] = self.of(run)

    def forget(self, run: str) -> int:
        """The level that was recorded last, 0 if none was; from now on the run has none here."""
        self._queued.pop(run, None)
        return self._recorded.pop(run, 0)

    def of(self, run: str) -> int:
        return self._recorded.get(run, 0)


def of_runs(runs: Sequence[str]) -> Script[dict[str, int]]:
    """The level of each of these runs that is running."""
    found: dict[str, int] = {}
    for row in (yield _RUNNING(runs=runs)).rows:
        definition = row["chain_definition"] or ""
        digest = elsewhere(definition)
        if digest is not None:
            large = (yield FIND(sha256=digest)).first()
            definition = large["definition"] if large else ""
        started = {step["step_id"] for step in (yield _STARTED(run=row["id"])).rows}
        found[row["id"]] = max(row["current_level"], _highest(definition, started))
    return found


def _highest(definition: str, started: Collection[str]) -> int:
    try:
        steps = msgspec.json.decode(definition, type=_Steps).steps
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0  # a chain that was recorded by hand has no plan
    return max((step.level for step in steps if step.id in started), default=0)


def show(chain: Record, steps: Iterable[Record]) -> None:
    """Set the level of a row of `chains` that is running, from its steps as they were read."""
    if chain["status"] != ChainStatus.RUNNING:
        return
    started = {
        step["step_id"]
        for step in steps
        if step["item_index"] is None and step["attempt"] > 0 and step["workflow_name"] != "cached"
    }
    plan = chain["chain_definition"] or {}
    reached = (step.get("level", 0) for step in plan.get("steps", ()) if step.get("id") in started)
    chain["current_level"] = max([chain["current_level"], *reached])


def written(runs: Sequence[str]) -> Script[None]:
    """Write the levels of running runs that have lost their owner, before their status changes."""
    for run, level in (yield from of_runs(runs)).items():
        yield _WRITE(run=run, level=level)


async def shown(session: Session, found: Sequence[Record]) -> None:
    """Set the level of rows of `chains` that are running, as people see it."""
    running = [row["id"] for row in found if row["status"] == ChainStatus.RUNNING]
    if not running:
        return
    levels = await session.read(of_runs, running)
    for row in found:
        row["current_level"] = levels.get(row["id"], row["current_level"])
