"""One run on the local adapter: carries out the commands of the pure state.

A turn is what follows from one event: a step ended, a person decided, a slot came. Everything that a turn decides is
recorded together: the outcome, and the rows of the steps that became ready. They start only when that is durable.
How facts are gathered is in `run_units`, which step may start in `waiting_steps`, how it runs in `running_steps`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from typing import Any

import anyio
import anyio.abc

from towpath.attempt import Outcome, failure
from towpath.commands import (
    Collect,
    Command,
    Complete,
    Decide,
    Expand,
    Pause,
    Regenerate,
    Start,
    StartItems,
)
from towpath.errors import (
    ExpressionFailed,
    InputInvalid,
    RunRefused,
    TowpathError,
    ValueRefused,
)
from towpath.events import (
    ChainEnded,
    ChainPaused,
    ChainResumed,
    Fact,
    LogKept,
    StepReady,
    StepRetried,
)
from towpath.ledger import Ledger, LedgerRow
from towpath.model import ChainStatus, ErrorInfo, GateAction, Plan, StepPlan, StepStatus
from towpath.ports import Birth, Lease, Listener, Request, RunRow
from towpath.progress import RunState
from towpath.steps import Step

from .attempt_news import due, last_news_of, news_of
from .inner_runs import HELD, Inner, InnerEnd
from .run_facts import RunFacts, asks, inner_failure, restored
from .run_units import RunUnits
from .running_steps import RunningSteps
from .step_executor import LOST_LIMIT, SUSPECT, Key, StepExecutor, Work, crashed, total_timeout
from .task_group import callback_context, first_error
from .waiting_steps import Items, WaitingSteps

_NAPS = Outcome()  # stands for: the next attempt follows after a delay


class LocalRun:
    """Executes one claimed run: make it, then await `drive()`."""

    def __init__(
        self,
        lease: Lease,
        run: RunRow,
        functions: Mapping[str, Step[..., Any]],
        inner: Inner,
        listener: Listener | None = None,
        variables: Context | None = None,
        birth: Birth | None = None,
    ) -> None:
        store = inner.resources.store
        self.id = run.id
        self.plan: Plan = run.plan
        self.lease = lease
        self.ledger = Ledger(run.plan, store.files, run.inputs, run.label)
        self.status = run.status
        self.reason = ""
        self.error: ErrorInfo | None = run.error
        self.children = dict(run.children)
        self.functions = functions
        self.variables = copy_context() if variables is None else variables
        self.working: dict[Key, Work] = {}
        self._store = store
        self._run = run
        self._inner = inner
        self._listener = listener
        self._steps = {step.id: step for step in run.plan.steps}
        self._state = RunState(run.plan)
        self._facts = RunFacts(run.plan, self.ledger, store.new_id, run.level if run.rows else -1)
        self._turn: list[Fact] = []  # what the current turn has decided
        self._starting: list[Work] = []
        self._loop = asyncio.get_running_loop()
        self._context = callback_context()
        self._units = RunUnits(store, lease, birth, self._on_durable, self._fail)
        self._waiting = WaitingSteps(
            inner.slots.for_run(run.plan.concurrency, self._slot_came),
            inner.suspects.for_run(None, self._slot_came),
            inner.resources.farm,
            inner.limits,
            self._item,
            self._slot_came,
        )
        executor = StepExecutor(run.id, inner.resources, self.ledger, functions, self._note)
        executor.variables = self.variables
        self._executor = executor
        self._running = RunningSteps[InnerEnd](executor, self._is_async, self._outcome, self._settle, self._fail)
        self._lost: dict[str, int] = {}
        self._napping: dict[Key, Work] = {}
        self._first = ""  # the request that the run obeys as it begins: `cancel`, `pause`, or none
        self._leaving = False  # the end or the pause is being recorded: no fact may follow it
        self._begun = self._stopped = False
        self._recorded = asyncio.Event()  # the first facts are recorded
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None
        self._pausing = ""
        self._cancelled = False
        self._tasks: anyio.abc.TaskGroup | None = None

    # ---- driving

    async def drive(self, *, first: str = "", on_claimed: Callable[[], None] | None = None) -> ChainStatus:
        """Work until the run is over, or until nothing can happen without a person. Returns the status.

        `first` is a request that was made before: `cancel` or `pause`. `on_claimed` is called when the run is recorded
        as running.

        Raises Fenced if another process took the run over, StoreFailed if nothing can be recorded any
        more. Both leave the run as recorded, to be resumed.
        """
        self._first = self._first or first
        try:
            async with anyio.create_task_group() as self._tasks:
                self._running.open(self._tasks)
                await self._work(on_claimed)
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            self._tasks = None
            self._running.close()
            self._take_unstarted()
            await self._running.closed()
            self._waiting.close(self.working.values())
        return self.status

    async def _work(self, on_claimed: Callable[[], None] | None) -> None:
        try:
            await self._begin()
            await self._recorded.wait()
            if on_claimed is not None and self._failure is None:
                on_claimed()
            await self._ended.wait()
            if self._failure is not None:
                raise self._failure
        except BaseException as error:
            if not isinstance(error, TowpathError):
                await self._say_leaving()
            self._running.close()
            raise

    async def _say_leaving(self) -> None:
        """Record now that this process leaves the run: its steps may take long to end, and it may be killed by then."""
        with anyio.CancelScope(shield=True), suppress(TowpathError):
            await self._store.leaving(self.lease)

    async def _begin(self) -> None:
        await self.ledger.restore(self._run)
        if any(row.status is StepStatus.EXECUTING and row.count is None for row in self._run.rows):
            self._lost = await self._store.lost_attempts(self.id)
            self._waiting.quarantine = {row for row, lost in self._lost.items() if SUSPECT <= lost < LOST_LIMIT}
        self._begun = True
        self._turn.append(ChainResumed())
        cancel = self._run.cancel_requested or self._first == "cancel"
        pause = self._first == "pause" and not cancel
        self._pausing = "requested" if pause else ""  # already now: what begins here only becomes ready
        self._execute(self._state.begin([restored(row) for row in self._run.rows]))
        for row in self._run.rows:
            here = self.ledger.row(row.step, row.item)
            # An earlier decision (a rejection) may have closed this gate already.
            if row.decision is not None and here is not None and here.status is StepStatus.WAITING_APPROVAL:
                self._decide(row.decision)
        if cancel:
            self._cancel()
        elif pause:
            self._pause("requested")
        self._end_turn()

    # ---- recording

    def _end_turn(self) -> None:
        """Start what may start now, and record what this turn decided."""
        if not self._pausing and not self._leaving:
            for work in self._waiting.started():
                self._begin_attempt(work)
        self._waiting.settle(pausing=bool(self._pausing))
        turn, self._turn = self._turn, []
        starting, self._starting = self._starting, []
        if self._pausing and not self.working and not any(isinstance(fact, ChainEnded | ChainPaused) for fact in turn):
            # Queued rows stay queued: they start when the run is resumed.
            turn.append(ChainPaused(self._pausing))
        if self._leaving:
            return
        self._leaving = bool(turn) and isinstance(turn[-1], ChainEnded | ChainPaused)
        self._units.add(turn, starting, now=len(self.working) == len(starting))

    def _on_durable(self, facts: Sequence[Fact], starting: Sequence[Work]) -> None:
        if facts:
            self._recorded.set()
        if self._listener is not None:
            for fact in facts:
                self._listener(self.id, fact)
        if facts and self._leaving:
            self._left(facts[-1])
        self._running.start(starting)

    def _left(self, last: Fact) -> None:
        if isinstance(last, ChainEnded):
            self.status, self.error = last.status, last.error
            self._ended.set()
        elif isinstance(last, ChainPaused):
            self.status, self.reason = ChainStatus.PAUSED, last.reason
            self._ended.set()

    def _fail(self, error: BaseException) -> None:
        """End the work on this run in this process: nothing of it can be recorded any more."""
        self._failure = self._failure or error
        self._leaving = True
        self._recorded.set()
        self._ended.set()

    async def _note(self, facts: Sequence[Fact]) -> None:
        """Record what a running step reports before its end."""
        await self._store.record(self.lease, facts)
        for fact in facts:
            if self._listener is not None:
                self._listener(self.id, fact)

    async def record_news(self) -> int:
        """Make the lines and the progress of running steps visible to others. Returns the number of characters."""
        made = await news_of(due(self.working.values()))
        facts = [fact for work, fact in made if self._is_current(work, fact.attempt)]
        if facts and not self._leaving:
            await self._store.record(self.lease, facts)
        return sum(len(fact.text) for fact in facts)

    def left_news(self) -> list[LogKept]:
        """What the stopped steps of an interrupted run have logged."""
        left = [last_news_of(work, failed=True) for work in self.working.values()]
        return [news for news in left if news is not None]

    # ---- requests

    def obey(self, request: Request) -> None:
        """Act on a cancel, a pause or a decision. A second delivery is harmless.

        This runs as a task of the run: it continues if the caller is cancelled, and its failure ends the run.
        """
        if not self._begun and request.kind in ("cancel", "pause"):
            self._first = self._first if self._first == "cancel" else request.kind
        elif self._tasks is not None and self._begun and not self._leaving:
            if request.kind == "pause" and not self._pausing:
                self._pause("requested")  # now, in the runs inside steps too: no step may start before the task does
            self._tasks.start_soon(self._obey, request)
        # else it stays recorded, and a later poll finds it

    async def take_edit(self, request: Request) -> None:
        """A person replaced files of a completed row: steps that start from now on get the new version."""
        row = self.ledger.row(request.step, request.item)
        if row is not None and row.status.done and not self._leaving:
            await self.ledger.refresh(row, await self._store.latest_artifacts(row.id))

    async def _obey(self, request: Request) -> None:
        row = self.ledger.row(request.step, request.item)
        if self._leaving:
            return
        if request.kind == "cancel":
            await self._abandon_waiting()
            if not self._leaving and not self._cancelled:
                self._cancel()
        elif row is not None and row.status is StepStatus.WAITING_APPROVAL:
            if request.kind == "decision":
                await self._obey_decision(request, row)
            elif request.kind == "inner" and not self._pausing:
                self._execute(self._state.woken(request.step, request.item))
        self._end_turn()

    async def _obey_decision(self, request: Request, row: LedgerRow) -> None:
        latest, highest = await self._store.latest_artifacts(row.id), await self._store.versions(row.id)
        if asks(row, request):
            await self.ledger.refresh(row, latest)
            row.highest = highest
            if self._comes_to(request) is GateAction.STOP:
                await self._abandon_waiting()
            if asks(row, request) and not self._leaving:
                self._decide(request)

    async def _abandon_waiting(self) -> None:
        """Cancel the chains inside steps that wait for a person: their result is not needed any more."""
        for step in self.plan.steps:
            row = self.ledger.row(step.id) if step.kind == "chain" else None
            if row is not None and row.status is StepStatus.WAITING_APPROVAL and row.id in self.children:
                await self._abandon(self.children[row.id])

    async def _abandon(self, run_id: str) -> None:
        with suppress(RunRefused):  # the run is over already
            await self._store.request(run_id, "cancel")

    def _comes_to(self, request: Request) -> GateAction:
        return self._state.comes_to(request.step, request.item, GateAction(request.action))

    def _decide(self, request: Request) -> None:
        self._facts.decisions[request.step, request.item] = request
        action = self._comes_to(request)
        if action is GateAction.APPROVE:
            self._execute(self._state.approved(request.step, request.item))
            return
        self._stopped = self._stopped or action is GateAction.STOP
        unstarted = self._take_unstarted() if action is GateAction.STOP else []
        self._execute(self._state.rejected(request.step, request.item, action))
        for key in unstarted:
            self._execute(self._state.cancelled(*key))

    def _take_unstarted(self) -> list[Key]:
        """Remove all work that waits for a slot or for its next attempt."""
        made, items = self._waiting.clear()
        napping, self._napping = self._napping, {}
        for work in made:
            self._waiting.quarantine.discard(work.row.id)
        for work in napping.values():
            work.set_timer(None)
        return [*(work.key for work in made), *items, *napping]

    def _cancel(self) -> None:
        self._cancelled = True
        unstarted = self._take_unstarted()
        self._execute(self._state.cancel())
        for key in unstarted:
            self._execute(self._state.cancelled(*key))
        for work in list(self.working.values()):
            if work.step.kind != "chain":
                self._running.stop(work)
                continue
            work.cancelled = True
            self._inner.obey_inner(self, work, "cancel")

    def _pause(self, reason: str) -> None:
        self._pausing = reason
        self._state.pause()
        for work in self.working.values():
            if work.step.kind == "chain":
                self._inner.obey_inner(self, work, "pause")

    # ---- commands

    def _execute(self, commands: list[Command]) -> None:
        """Execute commands in order, and those that follow from their answers."""
        if self._turn and isinstance(self._turn[-1], ChainPaused):
            self._turn.pop()  # an earlier answer paused the run: the latest one decides
        todo = deque(commands)
        while todo:
            command = todo.popleft()
            match command:
                case Complete(step, item):
                    self._facts.end_row(step, item, StepStatus.COMPLETED, self._turn)
                case Start(step, item):
                    todo.extend(self._start(self._steps[step], item))
                case StartItems(step, first, stop):
                    self._waiting.add_items(Items(self._steps[step], first, stop))
                case Decide(step):
                    todo.extend(self._evaluate(self._steps[step]))
                case Expand(step):
                    todo.extend(self._expand(self._steps[step]))
                case Collect(step, failed):
                    self._collect(self._steps[step], failed)
                case Regenerate(step, item):
                    row = self._facts.regenerate(step, item, self._turn)
                    self.children.pop(row.id, None)  # the chain inside the step runs again, as a new run
                case Pause() if self._pausing:
                    pass
                case _:
                    self._facts.record(command, self._turn)

    def _start(self, step: StepPlan, item: int | None) -> list[Command]:
        work = self._made(step, item)
        if work is None:
            return self._state.failed(step.id, item)
        if not self._pausing and self._waiting.take_slot(work):
            self._begin_attempt(work)
            return []
        self._waiting.add(work)
        if item is None and not work.recorded:
            # An item's row is recorded when it starts: the row of the mapped step has the number of items.
            row = work.row
            self._turn.append(StepReady(row.id, step.id, None, step.target, False, 0, row.parameters))
            work.recorded = True
            self.ledger.add(row)
        return []

    def _item(self, step: StepPlan, item: int) -> Work | None:
        """The work of an item whose turn has come; None if it failed at once."""
        work = self._made(step, item)
        if work is None:
            self._execute(self._state.failed(step.id, item))
        return work

    def _made(self, step: StepPlan, item: int | None) -> Work | None:
        """The work of a step or item. None if it fails at once: bad arguments, or too many processes died in it."""
        row = self.ledger.row(step.id, item)
        arguments = self._facts.call_with(step, item)
        if arguments is None:
            self._waiting.quarantine.discard(row.id if row is not None else "")
            return None
        lost = self._lost.pop(row.id, 0) if row is not None and step.kind == "python" else 0
        if lost >= LOST_LIMIT:
            self._facts.outcomes[step.id, item] = failure(crashed(step, lost))
            return None
        parameters = self._facts.parameters(step, row, arguments, self.functions.get(step.target))
        work = Work(step, row or LedgerRow(self._store.new_id(), step.id, item), arguments, recorded=row is not None)
        work.lost, work.lend = lost, self._lend
        work.row.parameters = parameters
        return work

    def _begin_attempt(self, work: Work) -> None:
        work.tries += 1
        work.timed_out = False
        self._facts.begin_attempt(work.step, work.row, self._turn, recorded=work.recorded)
        work.recorded = True
        self.working[work.key] = work
        self._starting.append(work)

    def _evaluate(self, step: StepPlan) -> list[Command]:
        holds = self._facts.holds(step)
        return self._state.failed(step.id) if holds is None else self._state.decided(step.id, holds)

    def _expand(self, step: StepPlan) -> list[Command]:
        pairs = self._state.count(step.pairs_with) if step.pairs_with else None
        count = self._facts.expand(step, pairs, self._turn)
        return self._state.failed(step.id) if count is None else self._state.expanded(step.id, count)

    def _collect(self, step: StepPlan, failed: tuple[int, ...]) -> None:
        """Gather the value of a mapped step in a task: a large value may have to be written."""
        row = self.ledger.row(step.id)
        assert row is not None and row.count is not None
        self._facts.keep_failed_items(row, failed)
        work = Work(step, row, {})
        self.working[work.key] = work
        self._starting.append(work)

    # ---- slots

    def _slot_came(self) -> None:
        """Called when another run gave up a slot, which is now set aside for this run."""
        if self._tasks is not None and self._begun and not self._ended.is_set():
            self._loop.call_soon(self._use_slots, context=self._context)

    def _use_slots(self) -> None:
        try:
            if self._tasks is not None and not self._leaving:
                self._end_turn()
        except Exception as error:
            self._fail(error)

    @contextmanager
    def _lend(self, work: Work, attempt: int) -> Iterator[None]:
        """Give up the slot of a step while it waits for other runs. Otherwise 256 such steps would wait for ever."""
        if not self._is_current(work, attempt):
            yield  # the attempt is over; only its thread still runs
            return
        threads = self._inner.resources.threads
        work.lent += 1
        if work.lent == 1:
            self._waiting.lend(work)
            threads.total_tokens += self._holds_thread(work)
            self._slot_came()
        try:
            yield
        finally:
            work.lent -= 1
            if not work.lent:
                threads.total_tokens -= self._holds_thread(work)
                if self._is_current(work, attempt) and not self._ended.is_set():
                    self._waiting.take_back(work)

    def _is_current(self, work: Work, attempt: int) -> bool:
        return work.row.attempt == attempt and self.working.get(work.key) is work

    def _holds_thread(self, work: Work) -> bool:
        return not self.functions[work.step.target].is_async

    # ---- running steps

    def _is_async(self, work: Work) -> bool:
        if work.row.count is not None or work.step.kind != "python":
            return False
        return self.functions[work.step.target].is_async

    async def _outcome(self, work: Work) -> Outcome | InnerEnd | None:
        if work.row.count is not None:
            return await self._executor.gather(work)
        if work.step.kind == "chain":
            return await self._run_inner(work)
        return await self._executor.attempt(work)

    def _settle(self, work: Work, outcome: Outcome | InnerEnd | None) -> None:
        """Decide what follows from an outcome (None: the step was stopped)."""
        try:
            self._take_outcome(work, outcome)
        except Exception as error:  # for example: this process cannot read a secret
            self._fail(error)

    def _take_outcome(self, work: Work, outcome: Outcome | InnerEnd | None) -> None:
        self.working.pop(work.key, None)
        self._waiting.quarantine.discard(work.row.id)
        self._waiting.give_back(work)
        if work.context is not None and work.context.has_news:
            self._add_last_news(work, outcome)
        if isinstance(outcome, Outcome) and outcome.error is not None and self._tries_again(work, outcome):
            outcome = self._nap(work, outcome.error)
        if outcome is not _NAPS and outcome is not HELD:
            self._execute(self._answer(work, outcome))
        self._end_turn()

    def _add_last_news(self, work: Work, outcome: Outcome | InnerEnd | None) -> None:
        news = last_news_of(work, failed=not isinstance(outcome, Outcome) or outcome.error is not None)
        if news is not None:
            self._turn.append(news)

    def _answer(self, work: Work, outcome: Outcome | InnerEnd | None) -> list[Command]:
        if outcome is None:
            return self._state.cancelled(*work.key)
        if isinstance(outcome, InnerEnd):
            return self._state.waiting(*work.key)
        self._facts.outcomes[work.key] = outcome
        if outcome.error is not None:
            return self._state.failed(*work.key)
        if work.row.count is not None:
            return self._state.collected(work.step.id)
        return self._state.succeeded(*work.key)

    # ---- retrying

    def _tries_again(self, work: Work, outcome: Outcome) -> bool:
        return outcome.retryable and work.tries < work.step.retry.attempts and not work.cancelled

    def _nap(self, work: Work, error: ErrorInfo) -> Outcome:
        """Wait for the next attempt, without a slot: `_NAPS`. If no time is left for one, the failure."""
        delay = work.step.retry.wait(work.tries, random.random())  # noqa: S311 - jitter, not a secret
        if work.deadline is not None and time.monotonic() + delay >= work.deadline:
            return failure(total_timeout(work.step, error))
        self._turn.append(StepRetried(work.row.id, *work.key, work.row.attempt, error, delay))
        self._napping[work.key] = work
        work.set_timer(self._loop.call_later(delay, self._wake_up, work, context=self._context))
        return _NAPS

    def _wake_up(self, work: Work) -> None:
        del self._napping[work.key]
        self._waiting.add(work)
        self._use_slots()

    # ---- chains inside steps

    @property
    def stands(self) -> str:
        """The request that a chain inside a step must obey from its start: `pause`, or ""."""
        return "pause" if self._pausing else ""

    async def _run_inner(self, work: Work) -> Outcome | InnerEnd | None:
        try:
            end = await self._inner.run_inner(self, work)
        except (InputInvalid, ValueRefused, ExpressionFailed) as error:
            return failure(error)  # wrong inputs of the inner chain, or its value comes from a skipped step
        if end.status is ChainStatus.PAUSED and (self._stopped or work.cancelled):
            await self._abandon(self.children[work.row.id])
            return None
        if end.status is ChainStatus.PAUSED:
            return HELD if self._pausing and end.reason == "requested" else end
        if end.status is ChainStatus.CANCELLED and (work.cancelled or self._stopped):
            return None
        if end.status is not ChainStatus.COMPLETED:
            return inner_failure(work.step, end.status, end.error)
        return await self._executor.keep_inner(work, end.value)
