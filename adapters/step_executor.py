"""How a started step is executed, also on ComfyUI servers. All drivers share this module."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import anyio

from towpath.attempt import (
    Outcome,
    Unsaved,
    disk_failed,
    failure,
    keep_outcome,
    keep_value,
    outcome_later,
    outcome_now,
    timed_out,
)
from towpath.attempt import attempt as run_attempt
from towpath.context import StepContext
from towpath.errors import FeatureMissing, Place, StepCrashed, StepTimedOut, StepUnkept, TowpathError
from towpath.ledger import Ledger, LedgerRow
from towpath.log_lines import KEPT, Kept
from towpath.model import ErrorInfo, Plan, StepPlan, StepStatus
from towpath.ports import EngineStore, Listener, Store
from towpath.retry_rules import RetryRule
from towpath.secrets import Secret, opened, revealed
from towpath.steps import Step
from towpath.user_code import LoopTurn, call_step, own_task, prepared_call
from towpath.values import Found, copied

from .comfyui.workflow_try import RecordFacts, WorkflowTry
from .process_pool import ProcessPool
from .slots import ServerSlots
from .telemetry import Spans

Key = tuple[str, int | None]

THREADS = 40  # threads for plain functions in one process
LOST_LIMIT = 3  # a step fails after its process has died so often
SUSPECT = 2  # after so many deaths it runs alone: if the process dies again, this step is the cause


@dataclass(slots=True, eq=False)
class Work:
    """A step or item that is to run: its plan, its row, its arguments, and the scope that stops it."""

    step: StepPlan
    row: LedgerRow
    arguments: dict[str, Any]
    tries: int = 0
    deadline: float | None = None
    scope: anyio.CancelScope | None = None  # of the attempt, while it works in a task of towpath
    task: asyncio.Task[Any] | None = None  # of the step's async function, while it runs
    timer: asyncio.TimerHandle | None = None  # for its timeout, its end after a cancel, or its next attempt
    timed_out: bool = False
    context: StepContext | None = None
    cancelled: bool = False
    has_slot: bool = False
    counted: bool = False  # it has a place under its limits
    idle: bool = False  # it has one while it waits for a run
    lost: int = 0  # attempts during which the process died
    is_alone: bool = False  # it has the slot of suspects
    lend: Callable[[Work, int], AbstractContextManager[None]] | None = None  # called with it, and its attempt
    lent: int = 0  # how many runs it waits for
    seat: Any = None  # a slot of a server, for a step that runs on one
    recorded: bool = True

    @property
    def key(self) -> Key:
        return self.row.step, self.row.item

    def set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        """Use this timer instead of the one before."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = timer

    @property
    def suspect(self) -> bool:
        """Does it run alone, because processes have died during it?"""
        return self.lost >= SUSPECT


class Farm(ServerSlots, Protocol):
    """Servers that execute steps. `towpath.adapters.comfyui.farm` implements it."""

    def with_resources(self, plan: Plan) -> Plan:
        """The plan with everything that its steps need from outside. Raises ChainInvalid for a plan that cannot run."""
        ...

    async def run(self, work: WorkflowTry) -> Any:
        """Make one attempt at a step; returns what the step returns."""
        ...

    async def abandon(self, server: str, prompt_id: str) -> None:
        """Cancel a prompt by its id, if the server can be reached. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What an engine or worker opens once, for all its runs.

    `threads` limits plain functions that run at the same time; `processes` are for steps with `process=True`.
    `farm`: the ComfyUI servers; None without any. `listeners` may change at any time. `spans`: None without
    OpenTelemetry. `limits`: the named limits, and how many steps that name one may run at the same time.
    `kept`: what the logs of attempts keep by themselves.
    """

    store: EngineStore
    farm: Farm | None = None
    threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(THREADS))
    listeners: list[Listener] = field(default_factory=list)
    spans: Spans | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    processes: ProcessPool = field(default_factory=ProcessPool)
    kept: Kept = KEPT


def needs_farm(plan: Plan, farm: Farm | None) -> bool:
    """Has a chain, or a chain inside it, a ComfyUI step? Raises FeatureMissing if there is one and no server."""
    workflow = _first_workflow(plan)
    if workflow is not None and farm is None:
        raise FeatureMissing(
            "E_FEATURE_MISSING",
            f"step {workflow.id} is a ComfyUI workflow, and no server is configured",
            place=Place(step=workflow.id, field="workflow"),
            found=workflow.target,
            cure="add [[servers]] with name and url to towpath.toml (for Temporal's workers too), or pass "
            'servers=["http://host:8188"] to open_engine',
        )
    return workflow is not None


def with_resources(plan: Plan, farm: Farm | None) -> Plan:
    """The plan of a new run with its workflows in it. Raises ChainInvalid, FeatureMissing."""
    return farm.with_resources(plan) if needs_farm(plan, farm) and farm is not None else plan


def _first_workflow(plan: Plan) -> StepPlan | None:
    for step in plan.steps:
        found = step if step.kind == "workflow" else _first_workflow(step.chain) if step.chain is not None else None
        if found is not None:
            return found
    return None


async def abandon_left(store: Store, farm: Farm | None, run_id: str) -> None:
    """Cancel the prompts that a run without an owner has left on servers."""
    if farm is None:
        return
    row = await store.load(run_id)
    async with anyio.create_task_group() as tasks:
        for step in row.rows:
            if step.status is StepStatus.CANCELLED and step.server_address and step.prompt_id:
                tasks.start_soon(farm.abandon, step.server_address, step.prompt_id)


class StepExecutor:
    """Executes the started work of one run: attempts at steps, and gathering the values of mapped steps."""

    def __init__(
        self,
        run_id: str,
        resources: Resources,
        ledger: Ledger,
        functions: Mapping[str, Step[..., Any]],
        record: RecordFacts,
    ) -> None:
        self.variables: Context | None = None  # context variables for steps; default: those of the caller of `attempt`
        self._run_id = run_id
        self._spans = resources.spans
        self._store = resources.store
        self._ledger = ledger
        self._functions = functions
        self._threads = resources.threads
        self._processes = resources.processes
        self._farm = resources.farm
        self._kept = resources.kept
        self._record = record
        self._work_folder = _work_folder(resources.store.files.folder)

    # ---- an attempt in the caller's task

    async def attempt(self, work: Work) -> Outcome:
        """Make one attempt. Cancelling this task stops the step."""
        if self._too_late(work):
            return failure(total_timeout(work.step))
        context, timeout = self._context_of(work), limit_of(work)
        outcome = await run_attempt(
            self._call(work, context),
            context,
            self._store.files,
            self._store.new_id,
            self._ledger.versions(work.row),
            timeout,
            self._retry_rule(work.step),
        )
        if outcome.error is not None and outcome.error.code == "E_STEP_TIMEOUT":
            await self.abandon(work)
            return self._timed_out(work, outcome)
        return outcome

    def _too_late(self, work: Work) -> bool:
        if work.step.total_timeout is not None and work.deadline is None:
            work.deadline = time.monotonic() + work.step.total_timeout
        return work.deadline is not None and work.deadline <= time.monotonic()

    def _context_of(self, work: Work) -> StepContext:
        step, row = work.step, work.row
        context = work.context = StepContext(self._run_id, step.id, row.item, row.attempt, self._work_folder)
        if self._kept is not KEPT and self._kept != KEPT:
            context.kept = self._kept
        if step.approval is not None:
            context.asks_approval = True
        if row.regenerations:
            context.regeneration = row.regenerations
        if work.lend is not None:
            context.lend = partial(work.lend, work, row.attempt)
        return context

    def _timed_out(self, work: Work, outcome: Outcome) -> Outcome:
        """The outcome of an attempt that was stopped: the limit may have been that of all attempts together."""
        total = work.deadline is not None and work.deadline <= time.monotonic()
        return failure(total_timeout(work.step)) if total else outcome

    def _retry_rule(self, step: StepPlan) -> RetryRule | None:
        predicate = self._functions[step.target].options.retry_if if step.kind == "python" else None
        return RetryRule(step.retry_on, predicate) if step.retry_on or predicate is not None else None

    def _call(self, work: Work, context: StepContext) -> Callable[[], Awaitable[Any]]:
        if work.step.kind == "workflow":
            revealed(work.arguments)  # raises SecretMissing before the attempt, so the step does not fail
            return partial(self._on_server, work, self._arguments(work), context)
        function = self._functions[work.step.target]
        arguments = self._arguments(work, function)
        if work.step.process and not function.stands_in:  # another process would call the real function
            call = partial(self._processes.call, function, arguments, context, work.step.retry_on)
        else:
            call = partial(call_step, function, arguments, context, self._threads, self.variables, self._span(work))
        return partial(_in_secret, call) if work.step.secret or function.is_secret else call

    def _arguments(self, work: Work, function: Step[..., Any] | None = None) -> dict[str, Any]:
        """The arguments for this attempt, with secrets in the open."""
        arguments = copied(work.arguments) if work.step.retry.attempts > 1 else work.arguments
        secrets = frozenset[str]() if function is None else function.secrets_among(arguments)
        if function is not None and (secrets or self._ledger.has_secrets):
            return opened(arguments, secrets)
        return arguments

    # ---- an attempt of an async function, in a task of its own

    def begin(self, work: Work, turn: LoopTurn) -> Outcome | None:
        """Start the step's function in `work.task`. Returns an outcome only if its time is over already."""
        if self._too_late(work):
            return failure(total_timeout(work.step))
        function, context = self._functions[work.step.target], self._context_of(work)
        variables = self.variables or copy_context()
        call, own = prepared_call(function, self._arguments(work, function), context, variables)
        work.task = own_task(call, own, None if self._spans is None else self._span(work), turn)
        return None

    def outcome_now(
        self, work: Work, value: Any, error: BaseException | None
    ) -> Outcome | Found | Unsaved | BaseException:
        """The outcome of the ended function; or what it found, for `outcome_later` to make the outcome from."""
        assert work.context is not None
        if error is None and value is not None and (work.step.secret or self._functions[work.step.target].is_secret):
            value = _secret(value)
        outcome = outcome_now(value, error, work.context, self._retry_rule(work.step))
        if isinstance(outcome, Outcome):
            work.context.end()
        return outcome

    async def outcome_later(self, work: Work, found: Found | Unsaved | BaseException) -> Outcome:
        """The outcome of the ended function, after its files are kept. Raises StoreFailed if the disk failed."""
        assert work.context is not None
        try:
            files, versions = self._store.files, self._ledger.versions(work.row)
            rule = self._retry_rule(work.step)
            return await outcome_later(found, work.context, files, self._store.new_id, versions, rule)
        finally:
            work.context.end()

    def timed_out(self, work: Work) -> Outcome:
        """The outcome of an attempt that was stopped because of its limit."""
        assert work.context is not None
        return self._timed_out(work, timed_out(work.context, work.step.timeout or 0, self._retry_rule(work.step)))

    def _span(self, work: Work) -> AbstractContextManager[None]:
        """Inside this block, spans that the step makes are inside the span of the attempt."""
        row = work.row
        return nullcontext() if self._spans is None else self._spans.current(self._run_id, row.id, row.attempt)

    async def _on_server(self, work: Work, arguments: dict[str, Any], context: StepContext) -> Any:
        assert self._farm is not None
        workflow = self._ledger.plan.workflows[work.step.target]
        given = WorkflowTry(self._run_id, work.step, work.row, arguments, workflow, context, self._record, work.seat)
        try:
            with self._span(work):
                return await self._farm.run(given)
        finally:
            work.seat = given.slot

    async def abandon(self, work: Work) -> None:
        """Cancel the prompt of a stopped step by its id: a server may still work on it."""
        row = work.row
        if self._farm is not None and row.server is not None and row.prompt is not None:
            await self._farm.abandon(row.server, row.prompt)
            row.prompt = None

    async def gather(self, work: Work) -> Outcome:
        """The value of a mapped step. Its items hold the files; only the list itself is kept here."""
        assert work.row.count is not None
        value = self._ledger.collected(work.step.id, work.row.count)
        context = StepContext(self._run_id, work.step.id, None, 1)
        try:
            stored = await keep_value(value, context, self._store.files, self._store.new_id, {})
        except TowpathError as error:
            if disk_failed(error):
                raise
            return failure(error)
        return Outcome(value, stored)

    async def keep_inner(self, work: Work, value: Any) -> Outcome:
        """Store the value of a chain inside a step as the value of the step; its files are shared, not copied."""
        context = StepContext(self._run_id, work.step.id, work.row.item, work.row.attempt)
        context.asks_approval = work.step.approval is not None
        versions = self._ledger.versions(work.row)
        if work.step.secret:
            value = Secret(revealed(value))
        try:
            return await keep_outcome(value, context, self._store.files, self._store.new_id, versions)
        except TowpathError as error:
            if disk_failed(error):
                raise
            return failure(error)


@lru_cache(16)
def _work_folder(kept: Path) -> Path:
    """Where the work folders of attempts are, beside the files that are kept in a folder."""
    return kept / "work"


async def _in_secret(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call a step whose value is secret: what it returns is wrapped in a `Secret`."""
    return _secret(await call())


def _secret(value: Any) -> Any:
    return value if value is None or isinstance(value, Secret) else Secret(revealed(value))


def limit_of(work: Work) -> float | None:
    """The seconds that the attempt may take: its own limit, or what is left for all attempts, if that is less."""
    left = None if work.deadline is None else max(work.deadline - time.monotonic(), 0)
    limit = work.step.timeout
    return left if limit is None or (left is not None and left < limit) else limit


def crashed(step: StepPlan, lost: int) -> StepCrashed:
    """The error of a step that is not tried again, because processes died during its attempts."""
    return StepCrashed(
        "E_STEP_CRASHES",
        f"the process died {lost} times while this step was tried, so it is not tried again",
        place=Place(step=step.id),
        cure="look at its memory and its native code, then `towpath rerun`",
    )


def fault(error: Exception) -> TowpathError:
    """The failure of a step because of an error of towpath after the end of its function."""
    message = f"its outcome could not be stored: {type(error).__name__}"
    return StepUnkept(
        "E_STEP_KEEP", message, cure="report this bug with the log of this process; until then, return another value"
    )


def total_timeout(step: StepPlan, last: ErrorInfo | None = None) -> StepTimedOut:
    message = f"all attempts together took longer than {step.total_timeout:g} s"
    if last is not None:
        message = f"no time for another attempt within {step.total_timeout:g} s; the last one failed: {last.message}"
    return StepTimedOut("E_STEP_TOTAL_TIMEOUT", message, place=Place(step=step.id), retryable=False)
