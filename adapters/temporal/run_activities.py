"""The activities of runs: claim, record commands, read requests. They touch the store; workflows never do.

All are short and harmless to repeat: a command about a final row has been recorded before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
from temporalio import activity

from towpath.adapters.run_facts import restored
from towpath.adapters.step_executor import Resources, Work
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
from towpath.errors import RunRefused, StoreFailed, TowpathError
from towpath.events import ChainPaused, ChainResumed, Fact, StepReady
from towpath.ledger import LedgerRow
from towpath.model import StepStatus
from towpath.ports import Lease, RunRow

from . import messages
from .failures import as_application_errors, is_transient
from .run_cache import CachedRun, RunCache, value_executor
from .step_activities import InnerActivities, StepActivities
from .step_attempt import Recorder

MAX_TEXT = 1_600_000  # characters of plan and rows; the server accepts 2 MB in all


class RunActivities:
    """The activities of one worker: those of runs, and with `steps` and `inner` those of their steps."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._store = resources.store
        self._spans = resources.spans
        self._recorder = Recorder(resources)
        self._cache = RunCache(resources.store)
        self.steps = StepActivities(self._recorder, self._cache)
        self.inner = InnerActivities(self._recorder, self._cache)

    @property
    def all(self) -> list[Callable[..., Any]]:
        """Every activity that the workflows call."""
        return [
            self.begin_run,
            self.advance_run,
            self.look_at_run,
            self.give_up_run,
            self.steps.run_step,
            self.steps.run_steps,
            self.steps.lose_step,
            self.inner.open_inner_run,
            self.inner.close_inner_run,
        ]

    # ---- claiming and leaving a run

    @activity.defn(name=messages.BEGIN)
    @as_application_errors
    async def begin_run(self, start: messages.ChainStart) -> messages.ClaimedRun:
        """Claim a run and return its state. A run that continues as new is claimed already."""
        epoch = start.epoch
        if not epoch:
            try:
                lease = await self._store.claim(start.run, messages.SERVICE)
            except RunRefused as refused:
                if refused.code != "E_RUN_OVER":
                    raise
                return messages.ClaimedRun(0, over=(await self._store.status_of(start.run)).status.value)
            epoch = lease.epoch
            if self._spans is not None:
                self._spans.begins(await self._store.load(start.run), start.trace)
            await self._recorder.record(lease, [ChainResumed()])
        elif self._spans is not None:
            self._spans.adopt(start.run, start.trace)
        self._cache.forget(start.run)
        try:
            claimed = _claimed(epoch, await self._store.load(start.run))
        except Exception as error:
            if not isinstance(error, StoreFailed) or not is_transient(error):
                with suppress(TowpathError):  # the workflow will fail, so the run must not stay `running`
                    await self._interrupt(Lease(start.run, epoch))
            raise
        own = "" if self._spans is None else self._spans.passed_on(start.run)
        return replace(claimed, trace=own or start.trace)

    @activity.defn(name=messages.GIVE_UP)
    @as_application_errors
    async def give_up_run(self, abandoned: messages.AbandonedRun) -> messages.StatusReply:
        """Record a run as paused because its workflow failed. A resume continues it."""
        self._cache.forget(abandoned.run)
        now = await self._store.status_of(abandoned.run)
        if not now.status.final and now.epoch == abandoned.epoch:
            await self._interrupt(Lease(abandoned.run, abandoned.epoch))
        return messages.StatusReply(now.status.value, now.reason)

    async def _interrupt(self, lease: Lease) -> None:
        await self._recorder.record(lease, [ChainPaused("interrupted")])

    # ---- requests

    @activity.defn(name=messages.LOOK)
    @as_application_errors
    async def look_at_run(self, query: messages.StatusQuery) -> messages.StatusReply:
        """Read a run's status and its pending requests. If the query says so, record a cancel first."""
        if query.cancel and not (await self._store.status_of(query.run)).cancel_requested:
            with suppress(RunRefused):
                await self._store.request(query.run, "cancel")
        pending = await self._store.requests([query.run])
        now = await self._store.status_of(query.run)
        requests = [
            messages.RunRequest(one.kind, one.step, one.item, one.approval, one.action)
            for one in pending
            if one.run_id == query.run
        ]
        cancelled = bool(await self._store.cancelled_among([query.run]))
        return messages.StatusReply(now.status.value, now.reason, requests[: messages.MAX_REQUESTS], cancelled)

    # ---- commands

    @activity.defn(name=messages.ADVANCE)
    @as_application_errors
    async def advance_run(self, request: messages.Advance) -> messages.Advanced:
        """Record commands in one transaction, and return the answers to them."""
        run = await self._cache.get(request.run)
        commands = messages.unpack_commands(request.commands)
        facts: list[Fact] = []
        answers: list[messages.Answer] = []
        try:
            await self._read_for(run, commands, request)
            for command in commands:
                await self._carry_out(run, command, facts, answers)
            self._queue(run, request.queued, facts)
            await self._recorder.record(Lease(request.run, request.epoch), facts)
        except BaseException:
            self._cache.forget(request.run)
            raise
        await self._abandon_prompts(run, commands)
        if any(isinstance(command, Finish | Pause) for command in commands):
            self._cache.forget(request.run)
        return messages.Advanced(answers)

    async def _read_for(self, run: CachedRun, commands: Sequence[Command], request: messages.Advance) -> None:
        """Read the rows that commands are about, and the decisions behind them."""
        keys = [(c.step, getattr(c, "item", None)) for c in commands if not isinstance(c, Finish | Pause)]
        keys += [(step, None) for step in request.queued]
        if not keys:
            return
        whole = [c.step for c in commands if isinstance(c, Collect) or (isinstance(c, Fail) and c.failed)]
        for command in commands:
            if isinstance(command, Decide | Expand):
                await run.refresh_for(run.steps[command.step], None)
        await run.refresh(whole, keys)
        if request.decided:
            await self._read_decisions(run, request.decided)

    async def _read_decisions(self, run: CachedRun, decided: Sequence[messages.Decision]) -> None:
        approvals = {decision.approval for decision in decided}
        rows = await self._store.rows_of(
            run.id,
            sorted({decision.step for decision in decided if decision.item is None}),
            [(decision.step, decision.item) for decision in decided if decision.item is not None],
        )
        for row in rows:
            if row.decision is not None and row.decision.approval in approvals:
                run.facts.decisions[row.step, row.item] = row.decision

    async def _carry_out(
        self, run: CachedRun, command: Command, facts: list[Fact], answers: list[messages.Answer]
    ) -> None:
        match command:
            case Decide(step):
                holds = run.facts.holds(run.steps[step])
                answers.append(messages.Answer("failed" if holds is None else "decided", step, int(bool(holds))))
            case Expand(step):
                count = self._expand(run, step, facts)
                answers.append(messages.Answer("failed" if count is None else "expanded", step, count or 0))
            case Collect(step, failed):
                answers.append(messages.Answer(await self._collect(run, step, failed, facts), step))
            case Regenerate(step, item):
                if (step, item) in run.facts.decisions:
                    run.facts.regenerate(step, item, facts)
            case Finish():
                recorded = await self._store.load(run.id)
                if not recorded.status.final:
                    await run.ledger.take(row for row in recorded.rows if row.status is StepStatus.FAILED)
                    run.facts.record(command, facts)
            case Pause():
                run.facts.record(command, facts)
            case _:
                await self._end_row(run, command, facts)

    async def _abandon_prompts(self, run: CachedRun, commands: Sequence[Command]) -> None:
        """Cancel the prompts that dead workers left at servers."""
        farm = self._resources.farm
        if farm is None:
            return
        async with anyio.create_task_group() as tasks:
            for command in commands:
                row = run.ledger.row(command.step, command.item) if isinstance(command, Cancel) else None
                if row is not None and row.server is not None and row.prompt is not None:
                    tasks.start_soon(farm.abandon, row.server, row.prompt)

    def _queue(self, run: CachedRun, steps: Sequence[str], facts: list[Fact]) -> None:
        """Make `queued` rows. The arguments of these steps are recorded when they start."""
        for step in steps:
            if run.ledger.row(step) is None:
                row = run.ledger.add(LedgerRow(self._store.new_id(), step))
                facts.append(StepReady(row.id, step, None, run.steps[step].target, False, 0))

    async def _end_row(self, run: CachedRun, command: Any, facts: list[Fact]) -> None:
        row = run.ledger.row(command.step, command.item)
        if row is not None and row.status.final:
            return  # recorded before
        if isinstance(command, Cancel) and row is not None and run.steps[command.step].kind == "chain":
            await self._cancel_inner(run.id, row)
        run.facts.record(command, facts)

    async def _cancel_inner(self, run_id: str, row: LedgerRow) -> None:
        """Cancel the run inside a step: it may be waiting for a person."""
        inner = (await self._store.load(run_id)).children.get(row.id)
        if inner is not None:
            with suppress(RunRefused):
                await self._store.request(inner, "cancel")

    def _expand(self, run: CachedRun, step: str, facts: list[Fact]) -> int | None:
        """The number of items of a mapped step, or None if its list cannot be computed."""
        row, plan = run.ledger.row(step), run.steps[step]
        if row is not None and row.count is not None:
            return row.count
        partner = run.ledger.row(plan.pairs_with) if plan.pairs_with is not None else None
        return run.facts.expand(plan, None if partner is None else partner.count, facts)

    async def _collect(self, run: CachedRun, step: str, failed: tuple[int, ...], facts: list[Fact]) -> str:
        row = run.ledger.row(step)
        assert row is not None
        if row.status.final:
            return "failed" if row.status is StepStatus.FAILED else "collected"
        run.facts.keep_failed_items(row, failed)
        outcome = await value_executor(self._resources, run).gather(Work(run.steps[step], row, {}))
        run.facts.outcomes[step, None] = outcome
        run.facts.record(Fail(step) if outcome.error is not None else Complete(step), facts)
        return "failed" if outcome.error is not None else "collected"


def _claimed(epoch: int, run: RunRow) -> messages.ClaimedRun:
    decided = [
        messages.Decision(row.step, row.item, row.decision.approval, row.decision.action)
        for row in run.rows
        if row.decision is not None and row.status is StepStatus.WAITING_APPROVAL
    ]
    plan, rows = messages.pack_plan(run.plan), messages.pack_rows([restored(row) for row in run.rows])
    if len(plan) + len(rows) > MAX_TEXT:
        raise StoreFailed(
            "E_PLAN_SIZE",
            "the plan and the rows of the run are too large for a workflow",
            found=f"{(len(plan) + len(rows)) / 1e6:.1f} MB packed",
            allowed=f"{MAX_TEXT / 1e6:.1f} MB",
            cure="split the chain into chains inside steps, or run it on the local adapter",
        )
    requested = run.cancel_requested, run.pause_requested
    return messages.ClaimedRun(epoch, plan, rows, *requested, decided[: messages.MAX_REQUESTS])
