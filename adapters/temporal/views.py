"""What a worker knows of the runs whose steps it works on: their plans, and the rows that steps look at.

The store has the truth. Rows that are over do not change any more and are read once per process; all
others are read when they are needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import anyio

from towpath.adapters.run_facts import Key, RunFacts
from towpath.adapters.step_executor import Farm, StepExecutor
from towpath.binding import steps_used
from towpath.events import Fact
from towpath.ledger import INPUTS, Ledger
from towpath.model import Plan, StepPlan
from towpath.ports import EngineStore, RunRow

MAX_VIEWS = 64


class RunView:
    """One run as a worker sees it."""

    def __init__(self, store: EngineStore, run: RunRow, event: int) -> None:
        self.id = run.id
        self.plan: Plan = run.plan
        self.ledger = Ledger(run.plan, store.files, run.inputs)
        self.facts = RunFacts(run.plan, self.ledger, store.new_id)
        self.steps = {step.id: step for step in run.plan.steps}
        self.in_hand: set[Key] = set()
        self._store = store
        self._event = event  # the one up to which we know of edits

    async def look(self, steps: Iterable[str] = (), items: Iterable[Key] = ()) -> None:
        """Read what is not over yet of some steps (with all their items) and of some single rows.

        Rows that are being worked on here are left alone: what is known of them is newer.
        """
        single = [(step, item) for step, item in items]
        whole = {step for step in steps if not self._over(step)}
        whole |= {step for step, item in single if item is None}
        found = await self._store.rows_of(
            self.id, sorted(whole), [(s, i) for s, i in single if i is not None and not self._final(s, i)]
        )
        asked = set(single)
        keep = [r for r in found if (r.step, r.item) in asked or (r.step, r.item) not in self.in_hand]
        await self.ledger.take(r for r in keep if (r.step, r.item) in asked or not self._final(r.step, r.item))

    async def look_around(self, step: StepPlan, item: int | None) -> None:
        """Read what the arguments of a step or item are made of, and its own row."""
        items: list[Key] = [(step.id, item)]
        if item is not None:
            items.append((step.id, None))
        if item is not None and step.pairs_with is not None:
            items.append((step.pairs_with, item))
        used = steps_used(step)
        await self._look_for_edits()
        await self.look(sorted(used - {step.pairs_with} if item is not None else used), items)

    async def _look_for_edits(self) -> None:
        """What people replace is what steps get that start later, even if it was over and known."""
        self._event, edited = await self._store.edits([self.id], self._event)
        for edit in edited:
            row = self.ledger.row(edit.step, edit.item)
            if row is not None and row.status.done:
                await self.ledger.refresh(row, await self._store.latest_artifacts(row.id))

    def _final(self, step: str, item: int | None) -> bool:
        row = self.ledger.row(step, item)
        return row is not None and row.status.final

    def _over(self, step: str) -> bool:
        """Is everything of a step over and known?"""
        row = self.ledger.row(step)
        if row is None or not row.status.final:
            return False
        return row.count is None or all(self._final(step, item) for item in range(row.count))


class RunViews:
    """The views of the runs that were worked on last."""

    def __init__(self, store: EngineStore) -> None:
        self._store = store
        self._views: OrderedDict[str, RunView] = OrderedDict()

    async def of(self, run_id: str) -> RunView:
        """The view of a run. Raises RunRefused (E_RUN_MISSING)."""
        view = self._views.get(run_id)
        if view is None:
            event, _ = await self._store.edits([], 0)
            row = await self._store.load(run_id)
            made = RunView(self._store, row, event)
            await made.ledger.take(r for r in row.rows if r.status.final or r.step == INPUTS)
            view = self._views.setdefault(run_id, made)
            while len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
        self._views.move_to_end(run_id)
        return view

    def forget(self, run_id: str) -> None:
        """The run is over, or what is known of it is in doubt."""
        self._views.pop(run_id, None)


def gathering(
    store: EngineStore, view: RunView, threads: anyio.CapacityLimiter, farm: Farm | None = None
) -> StepExecutor:
    """What keeps values that no function returned: those of mapped steps, and of chains inside steps."""

    async def note(_: Sequence[Fact]) -> None:
        raise AssertionError("only a step that works has something to note")

    return StepExecutor(view.id, store, view.ledger, {}, threads, farm, note)
