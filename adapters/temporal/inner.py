"""Chains inside steps: the run inside a step begins, and what it comes to is recorded for the step."""

from __future__ import annotations

from contextlib import suppress

import anyio
from temporalio import activity

from towpath.adapters.run_facts import inner_failure
from towpath.adapters.step_arguments import recorded_parameters
from towpath.adapters.step_executor import Work
from towpath.attempt import Outcome, failure
from towpath.commands import AskApproval, Cancel, Command, Complete, Fail, Wait
from towpath.errors import ExpressionFailed, InputInvalid, RunRefused, ValueRefused
from towpath.events import Fact
from towpath.ledger import LedgerRow, chain_value, restored_ledger
from towpath.model import ChainStatus, StepStatus
from towpath.new_run import Reads, new_run
from towpath.ports import EngineStore, Lease, RunRow

from . import messages as m
from .telling import told
from .trying import Recorder
from .views import RunView, RunViews, gathering


class InnerActivities:
    """The activities of steps that are chains."""

    def __init__(self, store: EngineStore, views: RunViews, recorder: Recorder, threads: anyio.CapacityLimiter) -> None:
        self._store = store
        self._views = views
        self._recorder = recorder
        self._threads = threads

    @activity.defn(name=m.OPEN_INNER)
    @told
    async def open_inner_run(self, task: m.StepTask) -> m.InnerRun:
        """Begin (or go on with) the chain inside a step: a run of its own, found again by the step's row."""
        view = await self._views.of(task.run)
        spans = self._recorder.spans
        if spans is not None:
            spans.adopt(task.run, task.trace)
        step, facts = view.steps[task.step], list[Fact]()
        await view.look_around(step, task.item)
        row = view.ledger.row(task.step, task.item)
        if row is not None and row.status.final:
            done = m.FAILED if row.status is StepStatus.FAILED else m.SUCCEEDED if row.status.done else m.CANCELLED
            return m.InnerRun(result=m.StepResult(done))
        try:
            arguments = view.facts.call_with(step, task.item)
            if arguments is None:
                return await self._end_step(view, task, Fail(task.step, task.item))
            known = row is not None
            row = row or LedgerRow(self._store.new_id(), task.step, task.item)
            row.parameters = recorded_parameters(arguments, step)
            view.facts.begin_attempt(step, row, facts, recorded=known)
            await self._recorder.record(Lease(task.run, task.epoch), facts)
            inner = (await self._store.load(task.run)).children.get(row.id)
            if inner is None:
                inner = self._store.new_id()
                assert step.chain is not None
                new = await new_run(
                    self._store, inner, step.chain, arguments, reads=Reads.WRITTEN, parent_workflow_id=row.id
                )
                await self._store.create_run(new)
        except (InputInvalid, ValueRefused, ExpressionFailed) as error:
            view.facts.outcomes[task.step, task.item] = failure(error)
            return await self._end_step(view, task, Fail(task.step, task.item))
        except BaseException:
            self._views.forget(task.run)
            raise
        return m.InnerRun(inner, trace="" if spans is None else spans.passed_on(task.run, row.id) or task.trace)

    async def _end_step(self, view: RunView, task: m.StepTask, command: Command) -> m.InnerRun:
        facts: list[Fact] = []
        view.facts.record(command, facts)
        await self._recorder.record(Lease(task.run, task.epoch), facts)
        return m.InnerRun(result=m.StepResult(m.FAILED))

    @activity.defn(name=m.CLOSE_INNER)
    @told
    async def close_inner_run(self, ended: m.InnerEnded) -> m.StepResult:
        """Record for the step what its chain came to."""
        task = ended.task
        view = await self._views.of(task.run)
        await view.look([], [(task.step, task.item)])
        inner = await self._store.load(ended.run)
        row = view.ledger.row(task.step, task.item)
        assert row is not None
        if row.status.final:
            return m.StepResult(m.CANCELLED if row.status is StepStatus.CANCELLED else m.SUCCEEDED)
        stopped = await self._nobody_asks(task.run)
        if ended.called_off and not stopped and not inner.status.final:
            return m.StepResult(m.CANCELLED, recorded=False)  # for its chain to say, if that still lives
        command, status = await self._of_inner(view, task, row, inner, stopped=stopped)
        facts: list[Fact] = []
        try:
            view.facts.record(command, facts)
            await self._recorder.record(Lease(task.run, task.epoch), facts)
        except BaseException:
            self._views.forget(task.run)
            raise
        return m.StepResult(status)

    async def _nobody_asks(self, run_id: str) -> bool:
        """Is the run being cancelled, or stopped by a rejection?"""
        run = await self._store.load(run_id)
        return run.cancel_requested or any(row.rejected for row in run.rows)

    async def _of_inner(
        self, view: RunView, task: m.StepTask, row: LedgerRow, inner: RunRow, *, stopped: bool
    ) -> tuple[Command, str]:
        key, step = (task.step, task.item), view.steps[task.step]
        if not inner.status.final:
            if not stopped:
                return Wait(*key), m.WAITING
            with suppress(RunRefused):
                await self._store.request(inner.id, "cancel")
            return Cancel(*key), m.CANCELLED
        if inner.status is ChainStatus.CANCELLED and stopped:
            return Cancel(*key), m.CANCELLED
        outcome = inner_failure(step, inner.status, inner.error)
        if inner.status is ChainStatus.COMPLETED:
            outcome = await self._inner_outcome(view, Work(step, row, {}), inner)
        view.facts.outcomes[key] = outcome
        if outcome.error is not None:
            return Fail(*key), m.FAILED
        return (Complete(*key) if step.approval is None else AskApproval(*key)), m.SUCCEEDED

    async def _inner_outcome(self, view: RunView, work: Work, inner: RunRow) -> Outcome:
        try:
            value = chain_value(await restored_ledger(self._store, inner))
        except (InputInvalid, ValueRefused, ExpressionFailed) as error:
            return failure(error)
        return await gathering(self._store, view, self._threads).keep_inner(work, value)
