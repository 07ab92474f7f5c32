"""The local adapter: the runs of one process, their leases and limits, and requests to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from types import CodeType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from towpath.errors import Fenced, RunRefused, StoreFailed, TowpathError
from towpath.events import ChainPaused
from towpath.late import Late
from towpath.ledger import Ledger, chain_value, restored_ledger
from towpath.logs import guarded_logger
from towpath.model import ChainStatus, Plan
from towpath.new_run import Reads, new_run
from towpath.ports import Birth, Ended, EngineStore, Lease, NewRun, Request, RunRow
from towpath.secrets import check_kept, marks_in
from towpath.steps import Step, find_step

from .attempt_news import figures_of, record_all_the_time
from .inner_runs import InnerEnd, Outer
from .limits import Limits, refuse_unknown_limits
from .listening import Audience
from .local_run import LocalRun
from .slots import Slots
from .step_executor import Resources, Work, abandon_left, needs_farm, with_resources
from .task_group import background_tasks
from .watchdog import Watchdog

if TYPE_CHECKING:
    from towpath import changed_code
else:  # only resumed runs need it
    changed_code = Late("towpath.changed_code")

CONCURRENCY = 256  # steps that run at the same time in one process; more tasks make each task slower
ENDED = 1_000  # ended runs whose functions are still remembered
POLL = 0.5  # seconds between polls for requests of other processes

_log = guarded_logger("towpath")


class LocalAdapter:
    """Executes runs in this process. Open it with `async with local_adapter(store) as adapter`."""

    def __init__(self, resources: Resources, concurrency: int, lease_seconds: float) -> None:
        self.resources = resources
        self._store = resources.store
        self.slots = Slots(concurrency)
        self.suspects = Slots(1)
        self.limits = Limits(resources.limits)
        self._lease_seconds = lease_seconds
        self._closing = False
        self._runs: dict[str, LocalRun] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._unborn: dict[str, NewRun] = {}  # adopted runs that are not recorded yet
        self._executing: set[str] = set()
        self._delivering = anyio.Lock()
        self._edits = 0  # number of the last event that was searched for edits
        self._functions: dict[str, dict[str, Step[..., Any]]] = {}
        self._ended: dict[str, dict[str, Step[..., Any]]] = {}  # the same for the last ended runs
        self.listeners = resources.listeners
        self._audience = Audience(self.listeners)

    # ---- the engine's port

    def with_resources(self, plan: Plan) -> Plan:
        """The plan of a new run, with its ComfyUI workflows in it. Raises ChainInvalid, FeatureMissing."""
        refuse_unknown_limits(plan, self.resources.limits)
        return with_resources(plan, self.resources.farm)

    def adopt(self, new: NewRun) -> bool:
        """Take a new run, which `execute` records together with its first steps."""
        self._unborn[new.id] = new
        return True

    async def abandon(self, run_id: str) -> None:
        """Cancel the prompts that a run without an owner has left on servers."""
        await abandon_left(self._store, self.resources.farm, run_id)

    def resolve_steps(self, plan: Plan, given: Mapping[str, Step[..., Any]]) -> dict[str, Step[..., Any]]:
        """The functions of all steps of a plan, by name. Raises StepNotRegistered, FeatureMissing."""
        needs_farm(plan, self.resources.farm)
        refuse_unknown_limits(plan, self.resources.limits)
        return dict(_resolved(plan, given))

    def keep(self, run_id: str, functions: Mapping[str, Step[..., Any]]) -> None:
        """Remember the functions of a run. Each run has its own: two closures may have the same name."""
        self._functions[run_id] = dict(functions)

    def kept(self, run_id: str) -> Mapping[str, Step[..., Any]]:
        """The functions of a run, also of one of the last ended runs."""
        return self._functions.get(run_id) or self._ended.get(run_id, {})

    async def execute(self, run_id: str, on_claimed: Callable[[], None] | None = None) -> Ended:
        """Claim a run and drive it until it ends or pauses. `on_claimed` is called as soon as the run is claimed.

        Raises RunRefused (E_RUN_OWNED, …), Fenced, StoreFailed. If the task is cancelled (Ctrl-C), the run is
        `paused` with the reason `interrupted`.
        """
        self._executing.add(run_id)
        try:
            run = await self._drive(run_id, on_claimed=on_claimed)
            while run.status is ChainStatus.PAUSED and await self._requested_meanwhile(run):
                run = await self._drive(run_id)
        finally:
            self._executing.discard(run_id)
            self._unborn.pop(run_id, None)
        return Ended(run.status, run.reason, run.error, run.ledger)

    async def _requested_meanwhile(self, run: LocalRun) -> bool:
        """Did a decision or a cancel arrive while the run was pausing? After the engine's end it stays recorded."""
        if self._closing:
            return False
        requests = await self._store.requests([run.id])
        return any(
            request.kind == "cancel" or (request.kind != "pause" and run.reason == "approval") for request in requests
        )

    async def deliver_requests(self) -> None:
        """Read the requests to the runs of this process now, not at the next poll."""
        async with self._delivering:  # who comes second finds delivered what the first one has read
            await self._deliver_edits()
            for request in await self._store.requests(list(self._runs)) if self._runs else ():
                run = self._runs.get(request.run_id)
                if run is not None:
                    run.obey(request)

    async def _deliver_edits(self) -> None:
        """After it, steps that start get the files that people have put in place."""
        if self._runs:
            last, edited = await self._store.edits(list(self._runs), self._edits)
            for request in edited:
                run = self._runs.get(request.run_id)
                if run is not None:
                    await run.take_edit(request)
            self._edits = last

    def working(self, run_id: str) -> bool:
        """Is the run driven by this process?"""
        return run_id in self._runs or run_id in self._executing

    def finishes_alone(self, run_id: str) -> bool:
        """Always False: a local run continues only where it is executed."""
        return False

    def progress(self, run_id: str) -> dict[tuple[str, int | None], tuple[float, float | None]]:
        """The progress that running steps report with `context().progress`: (done, total) by step and item."""
        run = self._runs.get(run_id)
        return {} if run is None else figures_of(run.working.values())

    # ---- driving

    async def _drive(
        self,
        run_id: str,
        parent: Outer | None = None,
        work: Work | None = None,
        on_claimed: Callable[[], None] | None = None,
    ) -> LocalRun:
        if self._closing:
            raise StoreFailed("E_DB_CLOSED", "the engine is being closed", cure="open it again, and resume the run")
        lease, row, birth = await self._claimed(run_id)
        try:
            given = self._functions.get(run_id, {}) if parent is None else parent.functions
            functions = self.resolve_steps(row.plan, given)
            if birth is None:  # else its plan was made of these functions just now
                over = {row.step for row in row.rows if row.item is None and row.status.final}
                changed_code.refuse_other_parameters(row.plan, functions, over)
            self.keep(run_id, functions)
            await _check_secrets(row, self._store)
            run = self._make(lease, row, None if parent is None else parent.variables, birth)
            if self.resources.spans is not None:
                self.resources.spans.begins(row)
        except BaseException:
            await self._release(lease)
            raise
        scope = anyio.CancelScope()
        self._runs[run_id], self._scopes[run_id] = run, scope
        try:
            with scope:
                await run.drive(first=_standing(parent, work), on_claimed=on_claimed)
            if scope.cancelled_caught and self._closing:
                await self._interrupted(lease, run)
                run.status, run.reason = ChainStatus.PAUSED, "interrupted"
            elif scope.cancelled_caught:
                raise Fenced(run_id)
        except Exception:
            await self._release(lease)
            raise
        except BaseException:
            await self._interrupted(lease, run)
            raise
        finally:
            if self._runs.get(run_id) is run:  # else it was paused, and is driven again already
                del self._runs[run_id], self._scopes[run_id]
            if run.status.final:
                self._over(run_id, self._functions.pop(run_id, {}), inner=parent is not None)
        return run

    async def _claimed(self, run_id: str) -> tuple[Lease, RunRow, Birth | None]:
        """The lease and the row of a run. An adopted run is born claimed: nothing is recorded or read for it."""
        new = self._unborn.pop(run_id, None)
        if new is not None:
            return self._store.newborn(new)
        lease = await self._store.claim(run_id)
        try:
            return lease, await self._store.load(run_id), None
        except BaseException:
            await self._release(lease)
            raise

    def _over(self, run_id: str, functions: dict[str, Step[..., Any]], *, inner: bool) -> None:
        """Remember the functions of an ended run: a rerun, or a second run with its id, needs them."""
        if not inner:
            self._ended[run_id] = functions
        while len(self._ended) > ENDED:
            del self._ended[next(iter(self._ended))]

    def _make(self, lease: Lease, row: RunRow, variables: Context | None, birth: Birth | None) -> LocalRun:
        listener = self._audience.notify if self.listeners else None
        functions = self._functions[row.id]
        return LocalRun(lease, row, functions, self, listener, variables, birth)

    async def _release(self, lease: Lease) -> None:
        with anyio.CancelScope(shield=True), suppress(TowpathError):
            await self._store.release(lease)

    async def _interrupted(self, lease: Lease, run: LocalRun) -> None:
        with anyio.CancelScope(shield=True), suppress(TowpathError):
            await self._store.record(lease, [*run.left_news(), ChainPaused("interrupted")])

    async def stop(self) -> None:
        """Pause all runs of this process, and wait until that is recorded."""
        self._closing = True
        while self._runs or self._executing:  # several tasks drive runs, and some have just begun
            for scope in list(self._scopes.values()):
                scope.cancel()
            await anyio.sleep(0.01)

    # ---- chains inside steps

    async def run_inner(self, parent: Outer, work: Work) -> InnerEnd:
        """Run or resume the chain inside a step. It is a run of its own, found again by the step's row."""
        assert work.step.chain is not None
        run_id = parent.children.get(work.row.id)
        if run_id is None:
            run_id = self._store.new_id()
            new = await new_run(
                self._store,
                run_id,
                work.step.chain,
                work.arguments,
                reads=Reads.WRITTEN,
                parent_workflow_id=work.row.id,
            )
            await self._store.create_run(new)
            parent.children[work.row.id] = run_id
        recorded = await self._store.load(run_id)
        if recorded.status.final:
            ledger = await restored_ledger(self._store, recorded)
            return InnerEnd(recorded.status, _value(ledger, recorded.status), recorded.error)
        if self._closing:
            await anyio.sleep_forever()  # the run around it is being stopped
        try:
            run = await self._drive(run_id, parent, work)
        except RunRefused as refused:
            if refused.code != "E_RUN_OVER":
                raise
            return await self.run_inner(parent, work)  # cancelled since it was loaded
        return InnerEnd(run.status, _value(run.ledger, run.status), run.error, run.reason)

    def obey_inner(self, parent: Outer, work: Work, kind: str) -> None:
        """Cancel or pause the chain inside a step. A chain that has not started obeys when it starts."""
        run = self._runs.get(parent.children.get(work.row.id, ""))
        if run is not None:
            run.obey(Request(run.id, kind))

    # ---- keeping in touch with the store

    async def _keep_in_touch(self) -> None:
        renewed = anyio.current_time()
        while True:
            await anyio.sleep(min(POLL, self._lease_seconds / 6))
            try:
                await self.deliver_requests()
                if self._runs and anyio.current_time() - renewed > self._lease_seconds / 3:
                    renewed = anyio.current_time()
                    await self._renew()
            except Fenced as error:
                _log.warning("%s", error)
            except StoreFailed as error:
                _log.warning("the store does not answer; retrying: %s", error)
            except Exception:
                _log.exception("polling the store failed; retrying")

    async def _record_news(self) -> int:
        size = 0
        for run in list(self._runs.values()):
            try:
                size += await run.record_news()
            except TowpathError as error:
                _log.warning("log lines of run %s are not stored yet: %s", run.id, error)
        return size

    async def _renew(self) -> None:
        leases = {run_id: run.lease for run_id, run in self._runs.items()}
        for run_id in await self._store.renew(list(leases.values())):
            run = self._runs.get(run_id)
            if run is not None and run.lease == leases[run_id]:  # else the run was released meanwhile
                _log.warning("another process took over run %s; its steps are stopped here", run_id)
                self._scopes[run_id].cancel()

    def _codes(self) -> dict[CodeType, str]:
        return {
            step.function.__code__: name
            for run in list(self._runs.values())
            for name, step in run.functions.items()
            if hasattr(step.function, "__code__")
        }


def _standing(parent: Outer | None, work: Work | None) -> str:
    """The request that the chain inside a step must obey from its start."""
    if work is not None and work.cancelled:
        return "cancel"
    return parent.stands if parent is not None else ""


async def _check_secrets(row: RunRow, store: EngineStore) -> None:
    """Check that this process can read all secrets of a run, before it starts. Raises SecretMissing."""
    values = [row.inputs, *(step.value for step in row.rows if step.status.done)]
    if any(any(marks_in(value)) for value in values):
        await anyio.to_thread.run_sync(check_kept, values, store.files.folder)


def _resolved(plan: Plan, given: Mapping[str, Step[..., Any]]) -> Iterator[tuple[str, Step[..., Any]]]:
    for step in plan.steps:
        if step.kind == "python":
            yield step.target, given.get(step.target) or find_step(step.target)
        elif step.chain is not None:
            yield from _resolved(step.chain, given)


def _value(ledger: Ledger, status: ChainStatus) -> Any:
    return chain_value(ledger) if status is ChainStatus.COMPLETED else None


@asynccontextmanager
async def local_adapter(
    resources: Resources, *, concurrency: int = CONCURRENCY, lease_seconds: float = 30.0
) -> AsyncIterator[LocalAdapter]:
    """An adapter for this process and event loop. Leaving the block pauses its runs."""
    adapter = LocalAdapter(resources, concurrency, lease_seconds)
    if resources.spans is not None:
        adapter.listeners.append(resources.spans.on_fact)
    async with background_tasks() as tasks:
        tasks.start_soon(adapter._keep_in_touch)
        tasks.start_soon(record_all_the_time, adapter._record_news)
        try:
            with Watchdog(adapter._codes):
                yield adapter
        finally:
            with anyio.CancelScope(shield=True):
                await adapter.stop()
