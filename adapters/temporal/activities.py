"""What workflows ask of a worker: the only place where a run's store, functions and servers are touched.

`run_step` calls user code and is a regular activity. All others are towpath's own, short, and harmless to
repeat: a command whose row is over already is done.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from towpath.adapters.facts import Key, first_error, restored
from towpath.adapters.work import Farm, Work
from towpath.attempt import Outcome, failure
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
    ServerFailed,
    StoreFailed,
    TowpathError,
)
from towpath.events import ChainPaused, ChainResumed, Fact, LogKept, StepReady
from towpath.ledger import LedgerRow
from towpath.model import StepStatus
from towpath.ports import Lease, Listener, RunRow, Store

from . import messages as m
from .inner import InnerActivities
from .telling import passes, told
from .trying import Recorder, TryAgain, Trying
from .views import RunView, RunViews, gathering

MOST_TEXT = 1_600_000  # characters of plan and rows; the server takes 2 MB with all around them


class RunActivities:
    """The activities of one worker."""

    def __init__(
        self,
        store: Store,
        farm: Farm | None = None,
        threads: int = 40,
        listeners: list[Listener] | None = None,
    ) -> None:
        self._store = store
        self._farm = farm
        self._threads = anyio.CapacityLimiter(threads)
        self._recorder = Recorder(store, listeners if listeners is not None else [])
        self._views = RunViews(store)
        self._inner = InnerActivities(store, self._views, self._recorder, self._threads)
        self.in_hand: set[Trying] = set()

    @property
    def all(self) -> list[Callable[..., Any]]:
        """Every activity that the workflows ask for."""
        return [
            self.begin_run,
            self.advance_run,
            self.look_at_run,
            self.give_up_run,
            self.run_step,
            self.run_steps,
            self.lose_step,
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
                return m.Begun(0, over=(await self._store.standing(start.run)).status.value)
            epoch = lease.epoch
            await self._recorder.record(lease, [ChainResumed()])
        self._views.forget(start.run)
        try:
            return _begun(epoch, await self._store.load(start.run))
        except Exception as error:
            if not isinstance(error, StoreFailed) or not passes(error):
                with suppress(TowpathError):  # nobody will work on it: it must not look as if somebody did
                    await self._recorder.record(Lease(start.run, epoch), [ChainPaused("interrupted")])
            raise

    @activity.defn(name=m.LOOK)
    @told
    async def look_at_run(self, look: m.Look) -> m.Seen:
        """How a run stands, and what is asked of it."""
        if look.cancel and not (await self._store.standing(look.run)).cancel_requested:
            with suppress(RunRefused):
                await self._store.wish(look.run, "cancel")
        wishes = await self._store.wishes([look.run])
        standing = await self._store.standing(look.run)
        asked = [m.Asked(w.kind, w.step, w.item, w.approval, w.action) for w in wishes if w.run_id == look.run]
        called_off = bool(await self._store.called_off([look.run]))
        return m.Seen(standing.status.value, standing.reason, asked[: m.MOST_ASKED], called_off)

    @activity.defn(name=m.GIVE_UP)
    @told
    async def give_up_run(self, given: m.GaveUp) -> m.Seen:
        """A workflow cannot go on: the run is left to be resumed, and not as if somebody worked on it."""
        self._views.forget(given.run)
        standing = await self._store.standing(given.run)
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
                    view.facts.error = run.error or first_error(run.rows)
                    view.facts.record(command, facts)
            case Pause():
                view.facts.record(command, facts)
            case _:
                await self._end_row(view, command, facts)

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
                await self._store.wish(inner, "cancel")

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

    # ---- steps

    @activity.defn(name=m.RUN_STEP)
    @told
    async def run_step(self, task: m.StepTask) -> m.StepResult:
        """Try a step once and record what came of it; what is recorded already is the answer."""
        trying = await self._trying(task)
        found = await trying.recorded()
        if found is not None:
            return _shown(found, "recorded earlier")
        if await self._called_off(task):
            trying.called_off = True
        if not await self._begun(trying):
            return _shown(m.StepResult(m.FAILED), "no arguments")
        async with self._holding(trying):
            outcome = await self._attempt(trying)
            try:
                result = await trying.end(outcome)
            except TryAgain as again:
                raise ApplicationError(
                    again.error.message,
                    type=again.error.code,
                    next_retry_delay=datetime.timedelta(seconds=again.delay),
                    category=ApplicationErrorCategory.BENIGN,
                ) from None
            except BaseException:
                self._views.forget(task.run)
                raise
        error = outcome.error if outcome is not None else None
        return _shown(result, error.message if error else "", error.code if error else "E_STEP_FAILED")

    @activity.defn(name=m.RUN_STEPS)
    @told
    async def run_steps(self, task: m.StepTask) -> m.StepResult:
        """Carry out the members of a group, as soon as those before them in it have completed."""
        came: dict[Key, m.StepResult] = {}
        view = await self._views.of(task.run)
        waiting = [(step, item) for step, item in task.members]
        beating = asyncio.create_task(_beat(task.heartbeat / 3))
        try:
            while waiting:
                inside = {step for step, _ in waiting}
                wave = [key for key in waiting if not inside.intersection(view.steps[key[0]].depends_on)]
                waiting = [key for key in waiting if key not in set(wave)]
                await self._wave(view, task, wave, came)
                waiting = [key for key in waiting if _may_follow(view, key, came)]
        finally:
            beating.cancel()
        return m.StepResult(m.SUCCEEDED, members=[(*key, result.status) for key, result in came.items()])

    async def _wave(self, view: RunView, task: m.StepTask, wave: list[Key], came: dict[Key, m.StepResult]) -> None:
        """Members that do not wait for each other, at the same time: their transactions are one commit."""
        off = await self._called_off(task)

        async def one(key: Key) -> None:
            member = dataclasses.replace(task, step=key[0], item=key[1], kind="python", members=[])
            trying = Trying(view, member, self._recorder, self._threads, self._farm, 1, activity.info().scheduled_time)
            trying.called_off = off
            came[key] = await self._tried(trying)

        ended = await asyncio.gather(*(one(key) for key in wave), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _tried(self, trying: Trying) -> m.StepResult:
        found = await trying.recorded()
        if found is not None:
            return found
        if not await self._begun(trying):
            return m.StepResult(m.FAILED)
        async with self._holding(trying):
            outcome = await self._attempt(trying)
            try:
                return await trying.end(outcome)
            except BaseException:
                self._views.forget(trying.task.run)
                raise

    async def _begun(self, trying: Trying) -> bool:
        try:
            return await trying.begin()
        except BaseException:
            self._views.forget(trying.task.run)
            raise

    async def _attempt(self, trying: Trying) -> Outcome | None:
        if trying.called_off:
            return None
        try:
            return await trying.attempt()
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            if details is None or not details.cancel_requested or not await self._called_off(trying.task):
                # This worker stops, or is too late: the step is somebody else's now. Or the workflows around it
                # are gone, without anybody having asked for the end of the run.
                raise
            await trying.abandon()
            return None
        except TowpathError as error:
            if isinstance(error, StoreFailed):
                raise
            return failure(error)

    async def _trying(self, task: m.StepTask) -> Trying:
        info = activity.info()
        view = await self._views.of(task.run)
        since = info.scheduled_time
        return Trying(view, task, self._recorder, self._threads, self._farm, info.attempt, since)

    async def _called_off(self, task: m.StepTask) -> bool:
        """Is the run being cancelled? Told late, a try would begin only to be stopped."""
        return bool(await self._store.called_off([task.run]))

    @asynccontextmanager
    async def _holding(self, trying: Trying) -> AsyncIterator[None]:
        """While a step works: heartbeats, and its name among those that can be called off."""
        key = (trying.task.step, trying.task.item)
        beating = asyncio.create_task(_beat(trying.task.heartbeat / 3))
        self.in_hand.add(trying)
        trying._view.in_hand.add(key)
        try:
            yield
        finally:
            beating.cancel()
            self.in_hand.discard(trying)
            trying._view.in_hand.discard(key)

    @activity.defn(name=m.LOSE_STEP)
    @told
    async def lose_step(self, lost: m.Lost) -> m.StepResult:
        """Record that a step is lost, unless it is recorded what came of it."""
        view = await self._views.of(lost.task.run)
        error = ServerFailed(
            "E_STEP_LOST",
            f"nobody knows what became of the step: {lost.why}",
            cure="its worker vanished again and again; look at the worker's memory and log, then rerun",
            retryable=False,
        )
        trying = Trying(
            view, lost.task, self._recorder, self._threads, self._farm, 1, datetime.datetime.now(datetime.UTC)
        )
        return await trying.lose(error, called_off=await self._called_off(lost.task))

    # ---- beside the work

    async def look_at_work(self) -> None:
        """Stop steps whose runs are being cancelled, and let others see what working steps have logged."""
        working = [t for t in self.in_hand if t.work is not None]
        if not working:
            return
        off = set(await self._store.called_off(sorted({t.task.run for t in working})))
        for trying in working:
            if trying.task.run in off and not trying.called_off:
                trying.call_off()
        for trying in working:
            context = trying.work.context if trying.work is not None else None
            if context is not None and context.log is not None and context.log.changed and trying in self.in_hand:
                assert trying.work is not None
                kept = LogKept(trying.work.row.id, trying.work.row.attempt, context.log.text())
                with suppress(TowpathError):
                    await self._store.record(Lease(trying.task.run, trying.task.epoch), [kept])


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


def _shown(result: m.StepResult, message: str, code: str = "E_STEP_FAILED") -> m.StepResult:
    """A failed step is a failed activity, for those who look at Temporal's pages."""
    if result.status != m.FAILED:
        return result
    raise ApplicationError(message, m.FAILED, type=code, non_retryable=True, category=ApplicationErrorCategory.BENIGN)


def _may_follow(view: RunView, key: Key, came: dict[Key, m.StepResult]) -> bool:
    """Did everything complete so far that the member needs? Else the chain decides about it."""
    results = (came.get((needed, None)) for needed in view.steps[key[0]].depends_on)
    return all(result is None or result.status == m.SUCCEEDED for result in results)


async def _beat(interval: float) -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(interval)
