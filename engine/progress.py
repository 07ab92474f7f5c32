"""The pure state of one run: it gets a plan and what happened, and decides what happens next.

No await, no clock, no randomness, no I/O, and a fixed order everywhere. So both drivers (anyio in this
process, a generic Temporal workflow) decide the same, and a replay decides the same again.

A driver calls one method for each fact, and executes the commands that it returns, in order. It must answer
`Start`, `StartItems`, `Decide`, `Expand` and `Collect` by a later call; it records all others, which need no answer.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from enum import IntEnum

from .commands import (
    AskApproval,
    Cancel,
    Collect,
    Command,
    Complete,
    Decide,
    Expand,
    Fail,
    Finish,
    Pause,
    Regenerate,
    RestoredRow,
    Skip,
    Start,
    StartItems,
    Wait,
)
from .model import ChainStatus, GateAction, Plan, StepPlan, StepStatus


class Phase(IntEnum):
    """The phase of a step or an item. COMPLETED and all after it are final."""

    BLOCKED = 0
    ACTIVE = 1
    GATE = 2
    COLLECTING = 3
    COMPLETED = 4
    FAILED = 5
    SKIPPED = 6
    CANCELLED = 7


_BLOCKED_RUN = re.compile(bytes([Phase.BLOCKED]) + b"+")
_FINAL_PHASE = {
    StepStatus.COMPLETED: Phase.COMPLETED,
    StepStatus.CACHED: Phase.COMPLETED,
    StepStatus.FAILED: Phase.FAILED,
    StepStatus.SKIPPED: Phase.SKIPPED,
    StepStatus.CANCELLED: Phase.CANCELLED,
}


class _Items:
    """The items of one mapped step."""

    __slots__ = ("failed", "open", "phases")

    def __init__(self, count: int) -> None:
        self.phases = bytearray(count)
        self.open = count
        self.failed: list[int] = []


class RunState:
    """Decides what a run does next. See the module's docstring for the protocol."""

    def __init__(self, plan: Plan) -> None:
        self._steps: tuple[StepPlan, ...] = plan.steps
        self._index = {step.id: i for i, step in enumerate(plan.steps)}
        self._dependents: list[list[int]] = [[] for _ in plan.steps]
        self._paired: list[list[int]] = [[] for _ in plan.steps]
        self._missing = [len(step.depends_on) for step in plan.steps]
        for i, step in enumerate(plan.steps):
            for dependency in step.depends_on:
                self._dependents[self._index[dependency]].append(i)
            if step.pairs_with is not None:
                self._paired[self._index[step.pairs_with]].append(i)
        self._phase = [Phase.BLOCKED] * len(plan.steps)
        self._items: dict[int, _Items] = {}
        self._kept: set[int] = set()
        self._regenerated: dict[tuple[int, int | None], int] = {}
        self._open = len(plan.steps)
        self._owed = 0
        self._gates = 0
        self._held: list[Command] = []
        self._todo: deque[tuple[int, int | None]] = deque()
        self._out: list[Command] = []
        self._pausing = self._stopping = self._cancelling = self._finished = False

    # ---- what a driver may ask

    @property
    def waiting_for_people(self) -> int:
        """The number of rows that wait for a decision."""
        return self._gates

    @property
    def over(self) -> bool:
        """Every step has ended."""
        return self._open == 0

    def comes_to(self, step: str, item: int | None, action: GateAction) -> GateAction:
        """The action that a decision has: `regenerate` becomes `stop` once `max_retries` regenerations are used up."""
        i = self._index[step]
        policy = self._steps[i].approval
        left = 0 if policy is None else policy.max_retries - self._regenerated.get((i, item), 0)
        return GateAction.STOP if action is GateAction.REGENERATE and left <= 0 else action

    def waits(self, step: str, item: int | None = None) -> bool:
        """Does the step or item wait for a person?"""
        i = self._index.get(step, -1)
        if i < 0 or item is None:
            return i >= 0 and self._phase[i] == Phase.GATE
        return i in self._items and self._items[i].phases[item] == Phase.GATE

    def completed(self, step: str) -> bool:
        """Did the step complete?"""
        return self._phase[self._index[step]] == Phase.COMPLETED

    def count(self, step: str) -> int:
        """The number of items of an expanded mapped step."""
        return len(self._items[self._index[step]].phases)

    def completed_items(self, step: str) -> list[bool]:
        """Per item of a mapped step: did it complete?"""
        return [phase == Phase.COMPLETED for phase in self._items[self._index[step]].phases]

    # ---- what happened

    def begin(self, rows: Iterable[RestoredRow] = ()) -> list[Command]:
        """Start, or continue from what a store has recorded."""
        seen: dict[int, RestoredRow] = {}
        items: list[RestoredRow] = []
        for row in rows:
            if row.step not in self._index:
                continue
            self._stopping = self._stopping or row.rejected
            if row.regenerations:
                self._regenerated[self._index[row.step], row.item] = row.regenerations
            if row.item is not None:
                items.append(row)
                continue
            i = self._index[row.step]
            seen[i] = row
            if row.count is not None:
                self._items[i] = _Items(row.count)
        opened = self._restore_items(items)
        for i in range(len(self._steps)):
            if i in seen and seen[i].status.final:
                self._restore_final(i, seen[i])
        for i in range(len(self._steps)):
            if self._phase[i] == Phase.BLOCKED:
                self._restore_open(i, seen.get(i), opened.get(i, []))
        return self._answer()

    def decided(self, step: str, holds: bool) -> list[Command]:
        """The condition of a step was evaluated."""
        i = self._answered(step)
        if self._refused(i):
            pass
        elif holds:
            self._open_step(i)
        else:
            self._skip(i, "condition is false")
        return self._answer()

    def expanded(self, step: str, count: int) -> list[Command]:
        """A mapped step has `count` items."""
        i = self._answered(step)
        if not self._refused(i):
            self._items[i] = _Items(count)
            self._open_items(i)
        return self._answer()

    def succeeded(self, step: str, item: int | None = None) -> list[Command]:
        """The step's function, or one item of it, returned."""
        i = self._answered(step)
        if self._steps[i].approval is None:
            self._out.append(Complete(step, item))
            self._end(i, item, Phase.COMPLETED)
        elif self._cancelling or self._stopping:
            # No decision can come any more, and unapproved work must not count as completed.
            self._call_off(i, item)
        else:
            self._gates += 1
            self._set(i, item, Phase.GATE)
            self._out.append(AskApproval(step, item))
        return self._answer()

    def failed(self, step: str, item: int | None = None) -> list[Command]:
        """The step, one item, its condition or its fan-out failed for good."""
        i = self._answered(step)
        self._out.append(Fail(step, item))
        self._end(i, item, Phase.FAILED)
        return self._answer()

    def collected(self, step: str) -> list[Command]:
        """The value of a mapped step is gathered."""
        i = self._answered(step)
        self._out.append(Complete(step))
        self._end(i, None, Phase.COMPLETED)
        return self._answer()

    def cancelled(self, step: str, item: int | None = None) -> list[Command]:
        """A started step was stopped by a cancel."""
        self._call_off(self._answered(step), item)
        return self._answer()

    def waiting(self, step: str, item: int | None = None) -> list[Command]:
        """The chain inside the step waits for a person."""
        i = self._answered(step)
        if self._cancelling or self._stopping:
            self._call_off(i, item)
        else:
            self._gates += 1
            self._set(i, item, Phase.GATE)
            self._out.append(Wait(step, item))
        return self._answer()

    def woken(self, step: str, item: int | None = None) -> list[Command]:
        """A decision was made in the chain inside a waiting step."""
        i = self._left_gate(step, item)
        self._set(i, item, Phase.ACTIVE)
        self._work(Start(step, item))
        return self._answer()

    def approved(self, step: str, item: int | None = None) -> list[Command]:
        """A person (or a policy) approved the waiting step or item."""
        i = self._left_gate(step, item)
        self._out.append(Complete(step, item))
        self._end(i, item, Phase.COMPLETED)
        return self._answer()

    def rejected(self, step: str, item: int | None = None, action: GateAction = GateAction.STOP) -> list[Command]:
        """A person (or a policy) rejected the waiting step or item.

        `stop`: nothing new starts, running steps finish, the chain fails. `skip`: the row is skipped. `regenerate`: it
        runs again, and then waits at its gate again; once `max_retries` are used up, it acts as `stop`.
        """
        comes_to = self.comes_to(step, item, action)
        i = self._left_gate(step, item)
        if comes_to is GateAction.REGENERATE:
            self._regenerated[i, item] = self._regenerated.get((i, item), 0) + 1
            self._set(i, item, Phase.ACTIVE)
            self._out.append(Regenerate(step, item))
            self._work(Start(step, item))
        elif comes_to is GateAction.SKIP:
            self._out.append(Skip(step, "rejected", item))
            self._end(i, item, Phase.SKIPPED)
        else:
            self._out.append(Fail(step, item))
            self._end(i, item, Phase.FAILED)
            self._stopping = True
            self._drop_unstarted()
        return self._answer()

    def pause(self) -> list[Command]:
        """Start nothing more until `unpause`."""
        self._pausing = True
        return self._answer()

    def unpause(self) -> list[Command]:
        """Continue after `pause`."""
        self._pausing = False
        held, self._held = self._held, []
        for command in held:
            self._work(command)
        return self._answer()

    def cancel(self) -> list[Command]:
        """Cancel: the driver stops running steps, all others are cancelled here."""
        if not self._cancelling:
            self._cancelling = True
            self._drop_unstarted()
        return self._answer()

    # ---- how it decides

    def _answer(self) -> list[Command]:
        while self._todo:
            i, k = self._todo.popleft()
            if k is None:
                self._consider(i)
            else:
                self._follow(i, k)
        if self._owed == 0 and not self._finished:
            if self._open == 0:
                self._finished = True
                self._out.append(Finish(self._result()))
            elif self._pausing:
                self._out.append(Pause("requested"))
            else:
                assert self._gates, "a run with open steps, no running step and no gate would hang"
                self._out.append(Pause("approval"))
        out, self._out = self._out, []
        return out

    def _answered(self, step: str) -> int:
        self._owed -= 1
        return self._index[step]

    def _left_gate(self, step: str, item: int | None) -> int:
        i = self._index[step]
        at = self._phase[i] if item is None else self._items[i].phases[item]
        assert at == Phase.GATE, f"{step} does not wait for a decision"
        self._gates -= 1
        return i

    def _work(self, command: Command) -> None:
        if self._pausing:
            self._held.append(command)
        else:
            self._owed += command.stop - command.first if isinstance(command, StartItems) else 1
            self._out.append(command)

    def _consider(self, i: int) -> None:
        """Check a step after one of its dependencies ended, or after its partner was expanded."""
        step = self._steps[i]
        if self._phase[i] == Phase.ACTIVE and i in self._items:
            self._close_map(i)
        if self._phase[i] != Phase.BLOCKED or self._refused(i):
            return
        partner = None if step.pairs_with is None else self._index[step.pairs_with]
        if partner is not None and partner in self._items:
            if self._missing[i] == (0 if self._phase[partner] >= Phase.COMPLETED else 1):
                self._release(i, [d for d in self._needs(i) if d != partner])
        elif self._missing[i] == 0:
            self._release(i, self._needs(i))

    def _needs(self, i: int) -> list[int]:
        return [self._index[d] for d in self._steps[i].depends_on]

    def _release(self, i: int, needs: list[int]) -> None:
        step = self._steps[i]
        for d in needs:
            if self._phase[d] != Phase.COMPLETED and self._steps[d].id not in step.watches:
                self._skip(i, f"{self._steps[d].id} {self._phase[d].name.lower()}")
                return
        if step.condition is not None:
            self._phase[i] = Phase.ACTIVE
            self._work(Decide(step.id))
        else:
            self._open_step(i)

    def _open_step(self, i: int) -> None:
        self._phase[i] = Phase.ACTIVE
        step = self._steps[i]
        self._work(Expand(step.id) if step.mapped else Start(step.id))

    def _open_items(self, i: int) -> None:
        items = self._items[i]
        partner = self._steps[i].pairs_with
        if partner is None:
            self._start_blocked(i, items)
        else:
            for k in range(len(items.phases)):
                self._follow(i, k)
        for d in self._paired[i]:
            self._todo.append((d, None))
        self._close_map(i)

    def _start_blocked(self, i: int, items: _Items) -> None:
        """Start all items that are blocked, one command for all that follow one another."""
        for run in _BLOCKED_RUN.finditer(bytes(items.phases)):
            first, stop = run.span()
            items.phases[first:stop] = bytes([Phase.ACTIVE]) * (stop - first)
            step = self._steps[i].id
            self._work(StartItems(step, first, stop) if stop - first > 1 else Start(step, first))

    def _start_item(self, i: int, k: int) -> None:
        self._items[i].phases[k] = Phase.ACTIVE
        self._work(Start(self._steps[i].id, k))

    def _follow(self, i: int, k: int) -> None:
        """Check item k of a paired step: item k of its partner may have ended."""
        step = self._steps[i]
        assert step.pairs_with is not None
        partner = Phase(self._items[self._index[step.pairs_with]].phases[k])
        if self._items[i].phases[k] != Phase.BLOCKED or partner < Phase.COMPLETED:
            return
        if partner == Phase.COMPLETED:
            self._start_item(i, k)
            return
        self._out.append(Skip(step.id, f"{step.pairs_with}[{k}] {partner.name.lower()}", k))
        self._end(i, k, Phase.SKIPPED)

    def _skip(self, i: int, reason: str) -> None:
        self._out.append(Skip(self._steps[i].id, reason))
        self._end(i, None, Phase.SKIPPED)

    def _refused(self, i: int) -> bool:
        """Nothing new starts after a cancel or a stop; the step ends here instead."""
        if not (self._cancelling or self._stopping):
            return False
        self._drop(i)
        return True

    def _drop(self, i: int) -> None:
        if self._cancelling:
            self._call_off(i, None)
        else:
            self._skip(i, "the chain was stopped by a rejection")

    def _call_off(self, i: int, item: int | None) -> None:
        self._out.append(Cancel(self._steps[i].id, item))
        self._end(i, item, Phase.CANCELLED)

    def _drop_unstarted(self) -> None:
        """After a cancel or a stop: close gates, and drop work that has not started."""
        held, self._held = self._held, []
        for command in held:
            self._drop_held(command)
        for i in range(len(self._steps)):
            if i in self._items and self._phase[i] == Phase.ACTIVE:
                self._drop_items(i)
            elif self._phase[i] == Phase.GATE:
                self._gates -= 1
                self._call_off(i, None)
            elif self._phase[i] == Phase.BLOCKED:
                self._drop(i)

    def _drop_held(self, command: Command) -> None:
        assert isinstance(command, Start | StartItems | Decide | Expand)
        i = self._index[command.step]
        if isinstance(command, StartItems):
            for item in range(command.first, command.stop):
                self._call_off(i, item)
        elif isinstance(command, Start) and command.item is not None:
            self._call_off(i, command.item)
        else:
            self._drop(i)

    def _drop_items(self, i: int) -> None:
        """The same for the items of a mapped step; those that waited for their partner never get a row."""
        items = self._items[i]
        for k, phase in enumerate(items.phases):
            if phase == Phase.GATE:
                self._gates -= 1
                self._call_off(i, k)
            elif phase == Phase.BLOCKED:
                items.phases[k] = Phase.CANCELLED
                items.open -= 1
        self._close_map(i)

    def _set(self, i: int, item: int | None, phase: Phase) -> None:
        if item is None:
            self._phase[i] = phase
        else:
            self._items[i].phases[item] = phase

    def _end(self, i: int, item: int | None, phase: Phase) -> None:
        """End a step or an item; steps that depend on it are checked next."""
        if item is not None:
            self._end_item(i, item, phase)
            return
        self._phase[i] = phase
        self._open -= 1
        for d in self._dependents[i]:
            self._missing[d] -= 1
            if self._missing[d] == 0 or self._steps[d].pairs_with is not None:
                self._todo.append((d, None))

    def _end_item(self, i: int, k: int, phase: Phase) -> None:
        items = self._items[i]
        items.phases[k] = phase
        items.open -= 1
        if phase == Phase.FAILED:
            items.failed.append(k)
        for d in self._paired[i]:
            if d in self._items and self._phase[d] == Phase.ACTIVE:
                self._todo.append((d, k))
        self._close_map(i)

    def _close_map(self, i: int) -> None:
        """End a mapped step whose items are all over, once its partner is over too."""
        step, items = self._steps[i], self._items[i]
        partner = None if step.pairs_with is None else self._phase[self._index[step.pairs_with]]
        if items.open or self._phase[i] != Phase.ACTIVE:
            return
        if partner is not None and partner < Phase.COMPLETED:
            return
        failed = tuple(sorted(items.failed))
        if failed and step.on_item_failure != "keep":
            self._out.append(Fail(step.id, None, failed))
            self._end(i, None, Phase.FAILED)
        elif Phase.CANCELLED in items.phases:
            self._out.append(Cancel(step.id))
            self._end(i, None, Phase.CANCELLED)
        elif partner is not None and partner != Phase.COMPLETED:
            self._skip(i, f"{step.pairs_with} {partner.name.lower()}")
        else:
            if failed:
                self._kept.add(i)
            self._phase[i] = Phase.COLLECTING
            self._owed += 1
            self._out.append(Collect(step.id, failed))

    def _result(self) -> ChainStatus:
        """The status of a run all of whose steps are over (README, "What it promises")."""
        if self._cancelling:
            return ChainStatus.CANCELLED
        failed = [i for i, phase in enumerate(self._phase) if phase == Phase.FAILED]
        if self._stopping or any(not self._handled(i) for i in failed):
            return ChainStatus.FAILED
        kept = any(self._phase[i] == Phase.COMPLETED for i in self._kept)
        return ChainStatus.PARTIAL if failed or kept else ChainStatus.COMPLETED

    def _handled(self, i: int) -> bool:
        name = self._steps[i].id
        return any(self._phase[d] == Phase.COMPLETED and name in self._steps[d].watches for d in self._dependents[i])

    # ---- continuing a recorded run

    def _restore_items(self, rows: list[RestoredRow]) -> dict[int, list[RestoredRow]]:
        """Mark the items that have ended; returns the others by step, in item order."""
        opened: dict[int, list[RestoredRow]] = {}
        for row in sorted(rows, key=lambda r: r.item or 0):
            assert row.item is not None
            i = self._index[row.step]
            items = self._items[i]
            if row.status.final:
                items.phases[row.item] = _FINAL_PHASE[row.status]
                items.open -= 1
                if row.status is StepStatus.FAILED:
                    items.failed.append(row.item)
            else:
                opened.setdefault(i, []).append(row)
        return opened

    def _restore_final(self, i: int, row: RestoredRow) -> None:
        self._phase[i] = _FINAL_PHASE[row.status]
        self._open -= 1
        if row.failed_items and row.status.done:
            self._kept.add(i)
        if i in self._items:
            # Items without a row were dropped by a cancel or a stop.
            phases = self._items[i].phases
            self._items[i].phases = phases.replace(bytes([Phase.BLOCKED]), bytes([Phase.CANCELLED]))
        for d in self._dependents[i]:
            self._missing[d] -= 1

    def _restore_open(self, i: int, row: RestoredRow | None, opened: list[RestoredRow]) -> None:
        if row is None:
            # Its row is written when it becomes ready; a mapped or conditional step may still lack one.
            self._todo.append((i, None))
        elif row.count is not None:
            self._phase[i] = Phase.ACTIVE
            for item in opened:
                self._restore_started(i, item.item, item)
            if self._stopping:
                self._drop_items(i)
            else:
                self._open_items(i)
        else:
            self._restore_started(i, None, row)

    def _restore_started(self, i: int, item: int | None, row: RestoredRow) -> None:
        if row.waits_for_person:
            self._gates += 1
            self._set(i, item, Phase.GATE)
        else:
            self._set(i, item, Phase.ACTIVE)
            self._work(Start(self._steps[i].id, item))
