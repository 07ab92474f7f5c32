"""Steps in the hands of a worker: the activities that call user code, alone or for groups, and what watches them."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from towpath.adapters.run_facts import Key
from towpath.adapters.step_executor import Farm
from towpath.attempt import Outcome, failure
from towpath.errors import RunRefused, SecretMissing, ServerFailed, StoreFailed, TowpathError
from towpath.events import LogKept
from towpath.ports import EngineStore, Lease

from . import messages as m
from .telling import told
from .trying import Recorder, TryAgain, Trying
from .views import RunView, RunViews


class StepActivities:
    """The activities of steps on one worker."""

    def __init__(
        self, store: EngineStore, views: RunViews, recorder: Recorder, threads: anyio.CapacityLimiter, farm: Farm | None
    ) -> None:
        self._store = store
        self._views = views
        self._recorder = recorder
        self._threads = threads
        self._farm = farm
        self.in_hand: set[Trying] = set()

    @activity.defn(name=m.RUN_STEP)
    @told
    async def run_step(self, task: m.StepTask) -> m.StepResult:
        """Try a step once and record what came of it; what is recorded already is the answer."""
        trying = await self._trying(task)
        found = await trying.recorded()
        if found is not None:
            return _shown(found, "recorded earlier")
        async with self._holding(trying):
            found = await self._dropped(trying)
            if found is not None:
                return found
            if not await self._begun(trying):
                return _shown(m.StepResult(m.FAILED), "no arguments")
            outcome = await self._attempt(trying)
            try:
                result = await trying.end(outcome)
            except TryAgain as again:
                raise ApplicationError(
                    again.error.code,
                    m.ERROR,
                    again.error.message,
                    type=again.error.code,
                    next_retry_delay=datetime.timedelta(seconds=again.delay),
                    category=ApplicationErrorCategory.BENIGN,
                ) from None
            except BaseException:
                await self._let_go(trying)
                raise
        error = outcome.error if outcome is not None else None
        return _shown(result, error.message if error else "", error.code if error else "E_STEP_FAILED")

    async def _dropped(self, trying: Trying) -> m.StepResult | None:
        """What came of a step that nobody wants any more, or not from this delivery, before it begins here."""
        if await self._called_off(trying.task):
            return await trying.drop()
        if trying.waits_for_server and not await self._seated(trying):
            return await trying.drop()
        return await trying.recorded() if trying.waits_for_server else None

    async def _seated(self, trying: Trying) -> bool:
        try:
            return await trying.seated()
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            if details is None or not details.cancel_requested or not await self._called_off(trying.task):
                raise
            return False

    @activity.defn(name=m.RUN_STEPS)
    @told
    async def run_steps(self, task: m.StepTask) -> m.StepResult:
        """Carry out the members of a group, as soon as those before them in it have completed."""
        came: dict[Key, m.StepResult] = {}
        view = await self._views.of(task.run)
        self._adopt(task)
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

        async def one(key: Key) -> None:
            member = dataclasses.replace(task, step=key[0], item=key[1], kind="python", members=[])
            trying = Trying(view, member, self._recorder, self._threads, self._farm, 1, activity.info().scheduled_time)
            came[key] = await self._tried(trying)

        ended = await asyncio.gather(*(one(key) for key in wave), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _tried(self, trying: Trying) -> m.StepResult:
        found = await trying.recorded()
        if found is not None:
            return found
        async with self._holding(trying):
            found = await self._dropped(trying)
            if found is not None:
                return found
            if not await self._begun(trying):
                return m.StepResult(m.FAILED)
            outcome = await self._attempt(trying)
            try:
                return await trying.end(outcome)
            except BaseException:
                await self._let_go(trying)
                raise

    async def _let_go(self, trying: Trying) -> None:
        self._views.forget(trying.task.run)
        await trying.release()

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
                await trying.release()
                raise
            await trying.abandon()
            return None
        except TowpathError as error:
            if isinstance(error, StoreFailed | SecretMissing):
                raise
            return failure(error)

    async def _trying(self, task: m.StepTask) -> Trying:
        info = activity.info()
        view = await self._views.of(task.run)
        self._adopt(task)
        since = info.scheduled_time
        return Trying(view, task, self._recorder, self._threads, self._farm, info.attempt, since)

    def _adopt(self, task: m.StepTask) -> None:
        if self._recorder.spans is not None:
            self._recorder.spans.adopt(task.run, task.trace)

    async def _called_off(self, task: m.StepTask) -> bool:
        """Is the run being cancelled? Told late, a try would begin only to be stopped."""
        return bool(await self._store.cancelled_among([task.run]))

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
            trying.leave_seat()
            self.in_hand.discard(trying)
            trying._view.in_hand.discard(key)

    @activity.defn(name=m.LOSE_STEP)
    @told
    async def lose_step(self, lost: m.Lost) -> m.StepResult:
        """Record that a step is lost, unless it is recorded what came of it."""
        view = await self._views.of(lost.task.run)
        trying = Trying(
            view, lost.task, self._recorder, self._threads, self._farm, 1, datetime.datetime.now(datetime.UTC)
        )
        if await trying.recorded() is None and await self._called_off(lost.task):
            return await trying.drop()
        await self._end_inner(lost.task, view)
        result = await trying.lose(_lost(lost))
        if lost.cancelled:
            await trying.abandon()
        return result

    async def _end_inner(self, task: m.StepTask, view: RunView) -> None:
        """The chain inside a step that is lost has nobody to report to."""
        if view.steps[task.step].chain is None:
            return
        run = await self._store.load(task.run)
        for row in run.rows:
            if (row.step, row.item) == (task.step, task.item) and not row.status.final and row.id in run.children:
                with suppress(RunRefused):
                    await self._store.request(run.children[row.id], "cancel")

    # ---- beside the work

    async def look_at_work(self) -> None:
        """Stop steps whose runs are being cancelled, and let others see what working steps have logged."""
        working = list(self.in_hand)
        if not working:
            return
        off = set(await self._store.cancelled_among(sorted({t.task.run for t in working})))
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


def _shown(result: m.StepResult, message: str, code: str = "E_STEP_FAILED") -> m.StepResult:
    """A failed step is a failed activity, for those who look at Temporal's pages."""
    if result.status != m.FAILED:
        return result
    raise ApplicationError(
        code, m.FAILED, message, type=code, non_retryable=True, category=ApplicationErrorCategory.BENIGN
    )


def _lost(lost: m.Lost) -> ServerFailed:
    if lost.cancelled:
        return ServerFailed(
            "E_STEP_CANCELLED",
            "somebody cancelled the step's workflow, and nobody asked for the end of the run",
            cure="`towpath cancel` ends a run; `towpath rerun` runs this step and what follows again",
            retryable=False,
        )
    return ServerFailed(
        "E_STEP_LOST",
        f"nobody knows what became of the step: {lost.why}",
        cure="its worker vanished again and again; look at the worker's memory and log, then rerun",
        retryable=False,
    )


def _may_follow(view: RunView, key: Key, came: dict[Key, m.StepResult]) -> bool:
    """Did everything complete so far that the member needs? Else the chain decides about it."""
    results = (came.get((needed, None)) for needed in view.steps[key[0]].depends_on)
    return all(result is None or result.status == m.SUCCEEDED for result in results)


async def _beat(interval: float) -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(interval)
