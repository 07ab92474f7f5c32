"""One run on the local adapter. Over 600 lines: driving, slots and runs inside steps share one state.

Executes the commands of the pure state with anyio.

When a step ends, everything that follows from it is decided at once, and recorded in one transaction: the outcome,
and the rows of the steps that became ready. These steps start only when the transaction is durable. A step needs
no thread, connection or transaction of its own.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.abc

from towpath.attempt import Outcome, failure
from towpath.commands import (
    Collect,
    Command,
    Decide,
    Expand,
    Pause,
    Regenerate,
    Start,
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
from towpath.logs import guarded_logger
from towpath.model import ChainStatus, ErrorInfo, GateAction, Plan, StepPlan, StepStatus
from towpath.ports import EngineStore, Lease, Listener, Request, RunRow
from towpath.progress import RunState
from towpath.steps import Step

from .run_facts import RunFacts, asks, inner_failure, restored
from .slots import Lines, Slots
from .step_arguments import recorded_parameters
from .step_executor import LOST_LIMIT, SUSPECT, Key, Resources, StepExecutor, Work, crashed, fault, total_timeout

_log = guarded_logger("towpath")


@dataclass(frozen=True, slots=True)
class InnerEnd:
    """How the chain inside a step ended: its status, and its value with artifacts in place."""

    status: ChainStatus
    value: Any = None
    error: ErrorInfo | None = None


class Inner(Protocol):
    """Runs chains inside steps, and has what all runs of the process share."""

    @property
    def resources(self) -> Resources: ...

    @property
    def suspects(self) -> Slots:
        """One slot, for steps on which processes have died."""
        ...

    async def run_inner(self, parent: LocalRun, work: Work) -> InnerEnd: ...

    async def cancel_inner(self, parent: LocalRun, work: Work) -> None: ...


class LocalRun:
    """Executes one claimed run: make it, then await `drive()`."""

    def __init__(
        self,
        store: EngineStore,
        lease: Lease,
        run: RunRow,
        functions: Mapping[str, Step[..., Any]],
        slots: Slots,
        inner: Inner,
        listener: Listener | None = None,
        variables: Context | None = None,
    ) -> None:
        self.id = run.id
        self.plan: Plan = run.plan
        self.lease = lease
        self.ledger = Ledger(run.plan, store.files, run.inputs)
        self.status = run.status
        self.reason = ""
        self.error: ErrorInfo | None = run.error
        self.children = dict(run.children)
        self.working: dict[Key, Work] = {}
        self._store = store
        self._run = run
        self.functions = functions
        self._slots = slots.for_run(run.plan.concurrency, self._slot_came)
        self._inner = inner
        self._threads = inner.resources.threads
        self._farm = inner.resources.farm
        self.variables = copy_context() if variables is None else variables
        self._executor = StepExecutor(run.id, inner.resources, self.ledger, functions, self._note)
        self._executor.variables = self.variables
        self._listener = listener
        self._state = RunState(run.plan)
        self._steps = {step.id: step for step in run.plan.steps}
        self._facts = RunFacts(run.plan, self.ledger, store.new_id, run.level if run.rows else -1)
        self._waiting: deque[Work] = deque()
        self._alone = inner.suspects.for_run(None, self._slot_came)
        self._suspects: deque[Work] = deque()
        self._quarantine: set[str] = set()  # rows of suspects: nothing else starts until they have ended
        self._lost: dict[str, int] = {}
        self._lines: Lines[Work] = Lines()
        self._napping: dict[Key, Work] = {}
        self._starting: list[Work] = []
        self._leaving = False  # the end or the pause is being recorded: no fact may follow it
        self._begun = self._stopped = False
        self._ended = anyio.Event()
        self._pausing = ""
        self._cancelled = False
        self._tasks: anyio.abc.TaskGroup | None = None

    # ---- driving

    async def drive(self, *, cancel_first: bool = False, on_claimed: Callable[[], None] | None = None) -> ChainStatus:
        """Work until the run is over, or until nothing can happen without a person. Returns the status.
        `on_claimed` is called when the run is recorded as running.

        Raises Fenced if another process took the run over, StoreFailed if nothing can be recorded any
        more. Both leave the run as recorded, to be resumed.
        """
        try:
            async with anyio.create_task_group() as self._tasks:
                await self._begin(cancel_first)
                if on_claimed is not None:
                    on_claimed()
                try:
                    await self._ended.wait()
                except BaseException:
                    await self._say_leaving()
                    raise
                self._tasks.cancel_scope.cancel()  # at most waits before a retry are left
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            self._tasks = None
            self._slots.close()
            self._alone.close()
            self._leave_servers()
        return self.status

    async def _say_leaving(self) -> None:
        """Record that this process leaves the run: its steps may take long to end, and it may be killed before."""
        with anyio.CancelScope(shield=True), suppress(TowpathError):
            await self._store.leaving(self.lease)

    async def _begin(self, cancel_first: bool) -> None:
        await self.ledger.restore(self._run)
        if any(row.status is StepStatus.EXECUTING and row.count is None for row in self._run.rows):
            self._lost = await self._store.lost_attempts(self.id)
            self._quarantine = {row for row, lost in self._lost.items() if SUSPECT <= lost < LOST_LIMIT}
        facts: list[Fact] = [ChainResumed()]
        self._begun = True
        self._execute(self._state.begin([restored(row) for row in self._run.rows]), facts)
        for row in self._run.rows:
            here = self.ledger.row(row.step, row.item)
            # An earlier decision (a rejection) may have closed this gate already.
            if row.decision is not None and here is not None and here.status is StepStatus.WAITING_APPROVAL:
                self._decide(row.decision, facts)
        if self._run.cancel_requested or cancel_first:
            self._cancel(facts)
        await self._record(facts)

    async def _record(self, facts: list[Fact]) -> None:
        """Make facts durable, then start the steps that they allow. Every change of the run is made here."""
        for work in await self._make_durable(facts):
            self._spawn(work)

    async def _make_durable(self, facts: list[Fact]) -> list[Work]:
        starting, self._starting = self._starting, []
        if not facts:
            return starting
        self._leaving = self._leaving or any(isinstance(fact, ChainEnded | ChainPaused) for fact in facts)
        await self._store.record(self.lease, facts)
        for fact in facts:
            if self._listener is not None:
                self._listener(self.id, fact)
            if isinstance(fact, ChainEnded):
                self.status, self.error = fact.status, fact.error
                self._ended.set()
            elif isinstance(fact, ChainPaused):
                self.status, self.reason = ChainStatus.PAUSED, fact.reason
                self._ended.set()
        return starting

    async def _note(self, facts: Sequence[Fact]) -> None:
        """Record what a running step reports before its end."""
        await self._store.record(self.lease, facts)
        for fact in facts:
            if self._listener is not None:
                self._listener(self.id, fact)

    def _spawn(self, work: Work) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self._perform, work)

    async def flush_logs(self) -> None:
        """Make the lines that running steps have logged visible to others."""
        logs = [work for work in self.working.values() if work.context is not None and work.context.log is not None]
        facts: list[Fact] = [
            LogKept(work.row.id, work.row.attempt, work.context.log.text())
            for work in logs
            if work.context is not None and work.context.log is not None and work.context.log.changed
        ]
        if facts:
            await self._store.record(self.lease, facts)

    # ---- requests

    def obey(self, request: Request) -> None:
        """Act on a cancel, a pause or a decision. A second delivery is harmless.

        This runs as a task of the run: it continues if the caller is cancelled, and its failure ends the run.
        """
        if self._tasks is not None and self._begun and not self._leaving:
            self._tasks.start_soon(self._obey, request)  # else it stays recorded, and a later poll finds it

    async def take_edit(self, request: Request) -> None:
        """A person replaced files of a completed row: steps that start from now on get the new version."""
        row = self.ledger.row(request.step, request.item)
        if row is not None and row.status.done and not self._leaving:
            await self.ledger.refresh(row, await self._store.latest_artifacts(row.id))

    async def _obey(self, request: Request) -> None:
        facts: list[Fact] = []
        row = self.ledger.row(request.step, request.item)
        if self._leaving:
            return
        if request.kind == "cancel":
            await self._abandon_waiting()
            if not self._leaving and not self._cancelled:
                self._cancel(facts)
        elif request.kind == "pause":
            if not self._pausing:
                self._pause("requested", facts)
        elif row is not None and row.status is StepStatus.WAITING_APPROVAL:
            if request.kind == "decision":
                await self._obey_decision(request, row, facts)
            elif request.kind == "inner" and not self._pausing:
                self._execute(self._state.woken(request.step, request.item), facts)
        await self._record(facts)

    async def _obey_decision(self, request: Request, row: LedgerRow, facts: list[Fact]) -> None:
        latest, highest = await self._store.latest_artifacts(row.id), await self._store.versions(row.id)
        if asks(row, request):
            await self.ledger.refresh(row, latest)
            row.highest = highest
            if self._comes_to(request) is GateAction.STOP:
                await self._abandon_waiting()
            if asks(row, request) and not self._leaving:
                self._decide(request, facts)

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

    def _decide(self, request: Request, facts: list[Fact]) -> None:
        self._facts.decisions[request.step, request.item] = request
        action = self._comes_to(request)
        if action is GateAction.APPROVE:
            self._execute(self._state.approved(request.step, request.item), facts)
            return
        self._stopped = self._stopped or action is GateAction.STOP
        unstarted = self._take_unstarted() if action is GateAction.STOP else []
        self._execute(self._state.rejected(request.step, request.item, action), facts)
        for work in unstarted:
            self._execute(self._state.cancelled(*work.key), facts)

    def _take_unstarted(self) -> list[Work]:
        """Remove and return the work that waits for a slot or for its next attempt. The caller ends it."""
        unstarted = [*self._waiting, *self._suspects, *self._lines, *self._napping.values()]
        self._waiting.clear()
        self._suspects.clear()
        self._quarantine.clear()
        self._lines.clear()
        self._napping.clear()
        return unstarted

    def _cancel(self, facts: list[Fact]) -> None:
        self._cancelled = True
        unstarted = self._take_unstarted()
        self._execute(self._state.cancel(), facts)
        for work in unstarted:
            self._execute(self._state.cancelled(*work.key), facts)
        for work in list(self.working.values()):
            work.cancelled = True
            if work.step.kind != "chain":
                work.scope.cancel()
            elif self._tasks is not None:
                self._tasks.start_soon(self._inner.cancel_inner, self, work)

    def _pause(self, reason: str, facts: list[Fact]) -> None:
        self._pausing = reason
        self._state.pause()
        self._pause_if_idle(facts)

    def _pause_if_idle(self, facts: list[Fact]) -> None:
        """Record the pause if no step is running. Queued rows stay queued: they start when the run is resumed."""
        if self._pausing and not self.working and not any(isinstance(f, ChainEnded | ChainPaused) for f in facts):
            facts.append(ChainPaused(self._pausing))

    # ---- commands

    def _execute(self, commands: list[Command], facts: list[Fact]) -> None:
        """Execute commands in order, and those that follow from their answers."""
        _forget_pause(facts)
        todo = deque(commands)
        while todo:
            command = todo.popleft()
            match command:
                case Start(step, item):
                    todo.extend(self._start(self._steps[step], item, facts))
                case Decide(step):
                    todo.extend(self._evaluate(self._steps[step]))
                case Expand(step):
                    todo.extend(self._expand(self._steps[step], facts))
                case Collect(step, failed):
                    self._collect(self._steps[step], failed)
                case Regenerate(step, item):
                    row = self._facts.regenerate(step, item, facts)
                    self.children.pop(row.id, None)  # the chain inside the step runs again, as a new run
                case Pause() if self._pausing:
                    pass
                case _:
                    self._facts.record(command, facts)

    def _start(self, step: StepPlan, item: int | None, facts: list[Fact]) -> list[Command]:
        row = self.ledger.row(step.id, item)
        arguments = self._facts.call_with(step, item)
        if arguments is None:
            self._quarantine.discard(row.id if row is not None else "")
            return self._state.failed(step.id, item)
        lost = self._lost.pop(row.id, 0) if row is not None and step.kind == "python" else 0
        if lost >= LOST_LIMIT:
            self._facts.outcomes[step.id, item] = failure(crashed(step, lost))
            return self._state.failed(step.id, item)
        parameters = recorded_parameters(arguments, step, self.functions.get(step.target))
        work = Work(step, row or LedgerRow(self._store.new_id(), step.id, item), arguments, recorded=row is not None)
        work.lost, work.lend = lost, partial(self._lend, work)
        work.row.parameters = parameters
        if not self._pausing and self._take_slot(work):
            self._begin_attempt(work, facts)
            return []
        self._queue_up(work)
        if item is None and not work.recorded:
            # An item's row is recorded when it starts: the row of the mapped step has the number of items.
            facts.append(StepReady(work.row.id, step.id, None, step.target, False, 0, parameters))
            work.recorded = True
            self.ledger.add(work.row)
        return []

    def _take_slot(self, work: Work) -> bool:
        """Take a slot for the work. False if there is none."""
        if work.step.kind == "chain":
            return True  # it needs none: else it would wait for its own steps, and they for its slot
        if work.suspect:
            work.is_alone = self._alone.take()
            return work.is_alone
        if self._quarantine and work.step.kind == "python":
            return False
        if work.step.kind == "workflow":
            assert self._farm is not None
            work.seat = self._farm.take(work.step, self._slot_came)
            return work.seat is not None
        work.has_slot = self._slots.take()
        return work.has_slot

    def _give_slot_back(self, work: Work) -> None:
        if work.has_slot:
            work.has_slot = False
            self._slots.give_back()
        if work.is_alone:
            work.is_alone = False
            self._alone.give_back()
        if work.seat is not None and self._farm is not None:
            seat, work.seat = work.seat, None
            self._farm.give_back(seat)

    @contextmanager
    def _lend(self, work: Work, attempt: int) -> Iterator[None]:
        """Lend out the slot of a step while it waits for other runs: else 256 such steps would wait for ever."""
        if work.row.attempt != attempt or self.working.get(work.key) is not work:
            yield  # its attempt is over, only its thread is still running
            return
        work.lent += 1
        if work.lent == 1:
            self._give_slot_back(work)
            self._threads.total_tokens += self._holds_thread(work)
            self._slot_came()
        try:
            yield
        finally:
            work.lent -= 1
            if not work.lent:
                self._threads.total_tokens -= self._holds_thread(work)
                if work.row.attempt == attempt and self.working.get(work.key) is work and not self._ended.is_set():
                    (self._alone if work.suspect else self._slots).take_back()
                    work.is_alone, work.has_slot = work.suspect, not work.suspect

    def _holds_thread(self, work: Work) -> bool:
        return not self.functions[work.step.target].is_async

    def _queue_up(self, work: Work) -> None:
        if work.step.kind == "workflow" and self._farm is not None:
            self._lines.add(self._farm.need(work.step), work)
        elif work.suspect:
            self._suspects.append(work)
        else:
            self._waiting.append(work)

    def _leave_servers(self) -> None:
        """Give back the slots of servers: the run is over, or this process leaves it."""
        if self._farm is not None:
            self._farm.settle(self._slot_came, wants=False)
            for work in self.working.values():
                self._give_slot_back(work)

    def _begin_attempt(self, work: Work, facts: list[Fact]) -> None:
        row, step = work.row, work.step
        if work.tries:
            work.scope = anyio.CancelScope()  # the scope of the last attempt cannot be used again
        work.tries += 1
        self._facts.begin_attempt(step, row, facts, recorded=work.recorded)
        work.recorded = True
        self.working[work.key] = work
        self._starting.append(work)

    def _fill_slots(self, facts: list[Fact]) -> None:
        """Start waiting work while there are slots."""
        while self._waiting and not self._pausing and self._take_slot(self._waiting[0]):
            self._begin_attempt(self._waiting.popleft(), facts)
        if self._suspects and not self._pausing and self._take_slot(self._suspects[0]):
            self._begin_attempt(self._suspects.popleft(), facts)
        self._alone.settle(wants=bool(self._suspects) and not self._pausing)
        if self._lines and not self._pausing:
            for work in self._lines.starting(self._take_slot):
                self._begin_attempt(work, facts)
        self._slots.settle(wants=bool(self._waiting) and not self._pausing and not self._quarantine)
        if self._farm is not None:
            self._farm.settle(self._slot_came, wants=bool(self._lines) and not self._pausing)

    def _slot_came(self) -> None:
        """Called when another run gave up a slot, which is now set aside for this run."""
        if self._tasks is not None and not self._ended.is_set():
            self._tasks.start_soon(self._use_slots)

    async def _use_slots(self) -> None:
        facts: list[Fact] = []
        self._fill_slots(facts)
        await self._record(facts)

    def _evaluate(self, step: StepPlan) -> list[Command]:
        holds = self._facts.holds(step)
        return self._state.failed(step.id) if holds is None else self._state.decided(step.id, holds)

    def _expand(self, step: StepPlan, facts: list[Fact]) -> list[Command]:
        pairs = self._state.count(step.pairs_with) if step.pairs_with else None
        count = self._facts.expand(step, pairs, facts)
        return self._state.failed(step.id) if count is None else self._state.expanded(step.id, count)

    def _collect(self, step: StepPlan, failed: tuple[int, ...]) -> None:
        """Gather the value of a mapped step in a task: a large value may have to be written."""
        row = self.ledger.row(step.id)
        assert row is not None and row.count is not None
        self._facts.keep_failed_items(row, failed)
        work = Work(step, row, {})
        self.working[work.key] = work
        self._starting.append(work)

    # ---- running steps

    async def _perform(self, work: Work | None) -> None:
        """Run a step and record its outcome, then run the first step that this allows."""
        while work is not None:
            outcome: Outcome | InnerEnd | None = None
            if not work.cancelled:  # a cancel may have come after the record
                with work.scope:
                    outcome = await self._recordable(work)
                if work.scope.cancelled_caught and work.step.kind == "workflow":
                    await self._executor.abandon(work)
            started = await self._settle(work, None if work.scope.cancelled_caught else outcome)
            for extra in started[1:]:
                self._spawn(extra)
            work = started[0] if started else None

    async def _settle(self, work: Work, outcome: Outcome | InnerEnd | None) -> list[Work]:
        """Decide and record what follows from an outcome (None: the step was cancelled). Returns the work to start."""
        self.working.pop(work.key, None)
        self._quarantine.discard(work.row.id)
        self._give_slot_back(work)
        facts: list[Fact] = []
        if work.context is not None and work.context.log is not None:
            facts.append(LogKept(work.row.id, work.row.attempt, work.context.log.text()))
        delay = None
        if isinstance(outcome, Outcome) and outcome.error is not None and self._tries_again(work, outcome):
            delay = work.step.retry.wait(work.tries, random.random())  # noqa: S311 - jitter, not a secret
            if work.deadline is not None and time.monotonic() + delay >= work.deadline:
                outcome, delay = failure(total_timeout(work.step, outcome.error)), None
        if delay is not None and isinstance(outcome, Outcome) and outcome.error is not None:
            self._nap(work, outcome.error, delay, facts)
        else:
            self._execute(self._answer(work, outcome), facts)
        self._fill_slots(facts)
        self._pause_if_idle(facts)
        return await self._make_durable(facts)

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

    def _nap(self, work: Work, error: ErrorInfo, delay: float, facts: list[Fact]) -> None:
        """Wait without a slot for the next attempt, then queue up again."""
        facts.append(StepRetried(work.row.id, *work.key, work.row.attempt, error, delay))
        self._napping[work.key] = work
        assert self._tasks is not None
        self._tasks.start_soon(self._wake_up, work, delay)

    async def _wake_up(self, work: Work, delay: float) -> None:
        await anyio.sleep(delay)
        if self._napping.pop(work.key, None) is None:
            return
        self._queue_up(work)
        facts: list[Fact] = []
        self._fill_slots(facts)
        await self._record(facts)

    async def _recordable(self, work: Work) -> Outcome | InnerEnd | None:
        """The outcome. An error of towpath after the end of the function becomes the failure of the step."""
        try:
            return await self._outcome(work)
        except TowpathError:
            raise  # the store failed, or another process owns the run now
        except Exception as error:
            _log.exception("step %s of run %s ended in a fault of towpath's own", work.step.id, self.id)
            return failure(fault(error))

    async def _outcome(self, work: Work) -> Outcome | InnerEnd | None:
        if work.row.count is not None:
            return await self._executor.gather(work)
        if work.step.kind == "chain":
            return await self._run_inner(work)
        return await self._executor.attempt(work)

    async def _run_inner(self, work: Work) -> Outcome | InnerEnd | None:
        try:
            end = await self._inner.run_inner(self, work)
        except (InputInvalid, ValueRefused, ExpressionFailed) as error:
            return failure(error)  # wrong inputs of the inner chain, or its value comes from a skipped step
        if end.status is ChainStatus.PAUSED and (self._stopped or work.cancelled):
            await self._abandon(self.children[work.row.id])
            return None
        if end.status is ChainStatus.PAUSED:
            return end
        if end.status is ChainStatus.CANCELLED and (work.cancelled or self._stopped):
            return None
        if end.status is not ChainStatus.COMPLETED:
            return inner_failure(work.step, end.status, end.error)
        return await self._executor.keep_inner(work, end.value)


def _forget_pause(facts: list[Fact]) -> None:
    """Remove an earlier pause: only the latest answer knows whether nothing more can happen."""
    if facts and isinstance(facts[-1], ChainPaused):
        facts.pop()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a task group. Errors of towpath come before their consequences."""
    found: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        at = todo.pop(0)
        if isinstance(at, BaseExceptionGroup):
            todo.extend(at.exceptions)
        else:
            found.append(at)
    return next((e for e in found if isinstance(e, TowpathError)), found[0])
