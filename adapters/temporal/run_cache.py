"""A worker's cache of the runs whose steps it executes: their plans, and the rows that steps read.

The store has the truth. A final row never changes, so a process reads it once. All other rows are read again each time
they are needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from towpath.adapters.run_facts import Key, RunFacts
from towpath.adapters.step_executor import Resources, StepExecutor
from towpath.binding import steps_used
from towpath.events import Fact
from towpath.ledger import INPUTS, Ledger
from towpath.model import Plan, StepPlan
from towpath.ports import EngineStore, RunRow

MAX_RUNS = 64


class CachedRun:
    """What a worker knows of one run. `active` are the rows that it works on now."""

    def __init__(self, store: EngineStore, run: RunRow, event: int) -> None:
        self.id = run.id
        self.plan: Plan = run.plan
        self.ledger = Ledger(run.plan, store.files, run.inputs, run.label)
        self.facts = RunFacts(run.plan, self.ledger, store.new_id)
        self.steps = {step.id: step for step in run.plan.steps}
        self.active: set[Key] = set()
        self._store = store
        self._event = event  # edits up to this event are known

    async def refresh(self, steps: Iterable[str] = (), items: Iterable[Key] = ()) -> None:
        """Read the rows that are not final yet: all rows of `steps`, and the single rows in `items`.

        An active row is read only if it is in `items`: this process knows it better than the store.
        """
        single = [(step, item) for step, item in items]
        whole = {step for step in steps if not self._is_complete(step)}
        whole |= {step for step, item in single if item is None}
        found = await self._store.rows_of(
            self.id, sorted(whole), [(s, i) for s, i in single if i is not None and not self._is_final(s, i)]
        )
        named = set(single)
        keep = [r for r in found if (r.step, r.item) in named or (r.step, r.item) not in self.active]
        await self.ledger.take(r for r in keep if (r.step, r.item) in named or not self._is_final(r.step, r.item))

    async def refresh_for(self, step: StepPlan, item: int | None) -> None:
        """Read what a step or item needs: its own row, and the rows that its arguments come from."""
        items: list[Key] = [(step.id, item)]
        if item is not None:
            items.append((step.id, None))
        if item is not None and step.pairs_with is not None:
            items.append((step.pairs_with, item))
        used = steps_used(step)
        await self._apply_edits()
        await self.refresh(sorted(used - {step.pairs_with} if item is not None else used), items)

    async def _apply_edits(self) -> None:
        """Read files that people have replaced: later steps get the new ones, also from final rows."""
        self._event, edited = await self._store.edits([self.id], self._event)
        for edit in edited:
            row = self.ledger.row(edit.step, edit.item)
            if row is not None and row.status.done:
                await self.ledger.refresh(row, await self._store.latest_artifacts(row.id))

    def _is_final(self, step: str, item: int | None) -> bool:
        row = self.ledger.row(step, item)
        return row is not None and row.status.final

    def _is_complete(self, step: str) -> bool:
        """Are all rows of a step final and known?"""
        row = self.ledger.row(step)
        if row is None or not row.status.final:
            return False
        return row.count is None or all(self._is_final(step, item) for item in range(row.count))


class RunCache:
    """The `MAX_RUNS` runs that were used last."""

    def __init__(self, store: EngineStore) -> None:
        self._store = store
        self._runs: OrderedDict[str, CachedRun] = OrderedDict()

    async def get(self, run_id: str) -> CachedRun:
        """The run, loaded if it is not cached. Raises RunRefused (E_RUN_MISSING)."""
        cached = self._runs.get(run_id)
        if cached is None:
            event, _ = await self._store.edits([], 0)
            row = await self._store.load(run_id)
            loaded = CachedRun(self._store, row, event)
            await loaded.ledger.take(r for r in row.rows if r.status.final or r.step == INPUTS)
            cached = self._runs.setdefault(run_id, loaded)
            while len(self._runs) > MAX_RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(run_id)
        return cached

    def forget(self, run_id: str) -> None:
        """Drop a run that is over, or whose cached rows may be wrong."""
        self._runs.pop(run_id, None)


def value_executor(resources: Resources, run: CachedRun) -> StepExecutor:
    """An executor that keeps values of mapped steps and of chains inside steps. It calls no function."""

    async def record(_: Sequence[Fact]) -> None:
        raise AssertionError("only a step that calls a function records facts on its way")

    return StepExecutor(run.id, resources, run.ledger, {}, record)
