"""What workflows ask of a worker: the only place where a run's store, functions and servers are touched.

`run_step` calls user code and is a regular activity. All others are towpath's own, short, and harmless to
repeat: a command whose row is over already is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
from temporalio import activity

from towpath.adapters.run_facts import restored
from towpath.adapters.step_executor import Farm, Work
from towpath.adapters.telemetry import Spans
from towpath.commands import (
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
)
from towpath.errors import (
    RunRefused,
    StoreFailed,
    TowpathError,
)
from towpath.events import ChainPaused, ChainResumed, Fact, StepReady
from towpath.ledger import LedgerRow
from towpath.model import StepStatus
from towpath.ports import EngineStore, Lease, Listener, RunRow

from . import messages as m
from .inner import InnerActivities
from .stepping import StepActivities
from .telling import passes, told
from .trying import Recorder
from .views import RunView, RunViews, gathering

MOST_TEXT = 1_600_000  # characters of plan and rows; the server takes 2 MB with all around them


class RunActivities:
    """The activities of one worker."""

    def __init__(
        self,
        store: EngineStore,
        farm: Farm | None = None,
        threads: int = 40,
        listeners: list[Listener] | None = None,
        spans: Spans | None = None,
    ) -> None:
        self._spans = spans
        self._store = store
        self._farm = farm
        self._threads = anyio.CapacityLimiter(threads)
        self._recorder = Recorder(store, listeners if listeners is not None else [], spans)
        self._views = RunViews(store)
        self._inner = InnerActivities(store, self._views, self._recorder, self._threads)
        self.steps = StepActivities(store, self._views, self._recorder, self._threads, farm)

    @property
    def all(self) -> list[Callable[..., Any]]:
        """Every activity that the workflows ask for."""
        return [
            self.begin_run,
            self.advance_run,
            self.look_at_run,
            self.give_up_run,
            self.steps.run_step,
            self.steps.run_steps,
            self.steps.lose_step,
            self._inner.open_inner_run,
            self._inner.close_inner_run,
        ]

    # ---- runs

    @activity.defn(name=m.BEGIN)
    @told
    async def begin_run(self, start: m.ChainStart) -> m.Begun:
        """Claim a run (one that continues as new is ours already) and say where it stands."""
        epoch = start.epoch
        if not epoch:
            try:
                lease = await self._store.claim(start.run, m.SERVICE)
            except RunRefused as refused:
                if refused.code != "E_RUN_OVER":
                    raise
                return m.Begun(0, over=(await self._store.status_of(start.run)).status.value)
            epoch = lease.epoch
            if self._spans is not None:
                self._spans.begins(await self._store.load(start.run), start.trace)
            await self._recorder.record(lease, [ChainResumed()])
        elif self._spans is not None:
            self._spans.adopt(start.run, start.trace)
        self._views.forget(start.run)
        try:
            begun = _begun(epoch, await self._store.load(start.run))
        except Exception as error:
            if not isinstance(error, StoreFailed) or not passes(error):
                with suppress(TowpathError):  # nobody will work on it: it must not look as if somebody did
                    await self._recorder.record(Lease(start.run, epoch), [ChainPaused("interrupted")])
            raise
        own = "" if self._spans is None else self._spans.passed_on(start.run)
        return replace(begun, trace=own or start.trace)

    @activity.defn(name=m.LOOK)
    @told
    async def look_at_run(self, look: m.Look) -> m.Seen:
        """How a run stands, and what is asked of it."""
        if look.cancel and not (await self._store.status_of(look.run)).cancel_requested:
            with suppress(RunRefused):
                await self._store.request(look.run, "cancel")
        requests = await self._store.requests([look.run])
        standing = await self._store.status_of(look.run)
        asked = [m.Asked(w.kind, w.step, w.item, w.approval, w.action) for w in requests if w.run_id == look.run]
        called_off = bool(await self._store.cancelled_among([look.run]))
        return m.Seen(standing.status.value, standing.reason, asked[: m.MOST_ASKED], called_off)

    @activity.defn(name=m.GIVE_UP)
    @told
    async def give_up_run(self, given: m.GaveUp) -> m.Seen:
        """A workflow cannot go on: the run is left to be resumed, and not as if somebody worked on it."""
        self._views.forget(given.run)
        standing = await self._store.status_of(given.run)
        if not standing.status.final and standing.epoch == given.epoch:
            await self._recorder.record(Lease(given.run, given.epoch), [ChainPaused("interrupted")])
        return m.Seen(standing.status.value, standing.reason)

    @activity.defn(name=m.ADVANCE)
    @told
    async def advance_run(self, asked: m.Advance) -> m.Advanced:
        """Carry out commands in one transaction; the answers that they owe."""
        view = await self._views.of(asked.run)
        commands = m.unpack_commands(asked.commands)
        facts: list[Fact] = []
        answers: list[m.Answer] = []
        try:
            await self._read_for(view, commands, asked)
            for command in commands:
                await self._carry_out(view, command, facts, answers)
            self._queue_up(view, asked.queued, facts)
            await self._recorder.record(Lease(asked.run, asked.epoch), facts)
        except BaseException:
            self._views.forget(asked.run)
            raise
        await self._leave_servers(view, commands)
        if any(isinstance(command, Finish | Pause) for command in commands):
            self._views.forget(asked.run)
        return m.Advanced(answers)

    async def _read_for(self, view: RunView, commands: Sequence[Command], asked: m.Advance) -> None:
        """Read the rows that commands are about, and the decisions behind them."""
        keys = [(c.step, getattr(c, "item", None)) for c in commands if not isinstance(c, Finish | Pause)]
        keys += [(step, None) for step in asked.queued]
        if not keys:
            return
        whole = [c.step for c in commands if isinstance(c, Collect) or (isinstance(c, Fail) and c.failed)]
        for command in commands:
            if isinstance(command, Decide | Expand):
                await view.look_around(view.steps[command.step], None)
        await view.look(whole, keys)
        if not asked.decided:
            return
        approvals = {d.approval for d in asked.decided}
        rows = await self._store.rows_of(
            view.id,
            sorted({d.step for d in asked.decided if d.item is None}),
            [(d.step, d.item) for d in asked.decided if d.item is not None],
        )
        for row in rows:
            if row.decision is not None and row.decision.approval in approvals:
                view.facts.decisions[row.step, row.item] = row.decision

    async def _carry_out(self, view: RunView, command: Command, facts: list[Fact], answers: list[m.Answer]) -> None:
        match command:
            case Decide(step):
                holds = view.facts.holds(view.steps[step])
                answers.append(m.Answer("failed" if holds is None else "decided", step, int(bool(holds))))
            case Expand(step):
                self._expand(view, step, facts, answers)
            case Collect(step, failed):
                answers.append(m.Answer(await self._collect(view, step, failed, facts), step))
            case Regenerate(step, item):
                if (step, item) in view.facts.decisions:
                    view.facts.regenerate(step, item, facts)
            case Finish():
                run = await self._store.load(view.id)
                if not run.status.final:
                    await view.ledger.take(row for row in run.rows if row.status is StepStatus.FAILED)
                    view.facts.record(command, facts)
            case Pause():
                view.facts.record(command, facts)
            case _:
                await self._end_row(view, command, facts)

    async def _leave_servers(self, view: RunView, commands: Sequence[Command]) -> None:
        """Cancel the prompts that dead workers left at servers."""
        if self._farm is None:
            return
        async with anyio.create_task_group() as tasks:
            for command in commands:
                row = view.ledger.row(command.step, command.item) if isinstance(command, Cancel) else None
                if row is not None and row.server is not None and row.prompt is not None:
                    tasks.start_soon(self._farm.abandon, row.server, row.prompt)

    def _queue_up(self, view: RunView, steps: Sequence[str], facts: list[Fact]) -> None:
        """What these steps are called with is recorded when they start."""
        for step in steps:
            if view.ledger.row(step) is None:
                row = view.ledger.add(LedgerRow(self._store.new_id(), step))
                facts.append(StepReady(row.id, step, None, view.steps[step].target, False, 0))

    async def _end_row(self, view: RunView, command: Any, facts: list[Fact]) -> None:
        row = view.ledger.row(command.step, command.item)
        if row is not None and row.status.final:
            return  # recorded already
        if isinstance(command, Cancel) and row is not None and view.steps[command.step].kind == "chain":
            await self._end_inner(view.id, row)
        view.facts.record(command, facts)

    async def _end_inner(self, run: str, row: LedgerRow) -> None:
        """The chain inside a step waits for a person: nobody needs their answer any more."""
        inner = (await self._store.load(run)).children.get(row.id)
        if inner is not None:
            with suppress(RunRefused):
                await self._store.request(inner, "cancel")

    def _expand(self, view: RunView, step: str, facts: list[Fact], answers: list[m.Answer]) -> None:
        row, plan = view.ledger.row(step), view.steps[step]
        count: int | None
        if row is not None and row.count is not None:
            count = row.count
        else:
            partner = view.ledger.row(plan.pairs_with) if plan.pairs_with is not None else None
            count = view.facts.expand(plan, None if partner is None else partner.count, facts)
        answers.append(m.Answer("failed" if count is None else "expanded", step, count or 0))

    async def _collect(self, view: RunView, step: str, failed: tuple[int, ...], facts: list[Fact]) -> str:
        row = view.ledger.row(step)
        assert row is not None
        if row.status.final:
            return "failed" if row.status is StepStatus.FAILED else "collected"
        view.facts.keep_failed_items(row, failed)
        outcome = await gathering(self._store, view, self._threads, self._farm).gather(Work(view.steps[step], row, {}))
        view.facts.outcomes[step, None] = outcome
        view.facts.record(Fail(step) if outcome.error is not None else Complete(step), facts)
        return "failed" if outcome.error is not None else "collected"


def _begun(epoch: int, run: RunRow) -> m.Begun:
    decided = [
        m.Decided(row.step, row.item, row.decision.approval, row.decision.action)
        for row in run.rows
        if row.decision is not None and row.status is StepStatus.WAITING_APPROVAL
    ]
    plan, rows = m.pack_plan(run.plan), m.pack_rows([restored(row) for row in run.rows])
    if len(plan) + len(rows) > MOST_TEXT:
        raise StoreFailed(
            "E_PLAN_SIZE",
            "the plan and the rows of the run are too large for a workflow",
            found=f"{(len(plan) + len(rows)) / 1e6:.1f} MB packed",
            allowed=f"{MOST_TEXT / 1e6:.1f} MB",
            cure="split the chain into chains inside steps, or run it on the local adapter",
        )
    return m.Begun(epoch, plan, rows, run.cancel_requested, run.pause_requested, decided[: m.MOST_ASKED])
