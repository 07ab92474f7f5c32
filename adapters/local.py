"""The local adapter: all runs of one process, their leases, limits, and what people ask of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from types import CodeType
from typing import Any

import anyio
import anyio.abc

from towpath.errors import Fenced, RunRefused, StoreFailed, TowpathError
from towpath.events import ChainPaused
from towpath.ledger import Ledger, chain_value, restored_ledger
from towpath.logs import guarded_logger
from towpath.model import ChainStatus, Plan
from towpath.new_run import Reads, new_run
from towpath.ports import Ended, EngineStore, Lease, Listener, Request, RunRow
from towpath.secrets import check_kept, marks_in
from towpath.steps import Step, find_step

from .listening import Audience
from .local_run import InnerEnd, LocalRun
from .slots import Slots
from .step_executor import Farm, Work, abandon_left, needs_farm, with_resources
from .task_group import background_tasks
from .telemetry import Spans
from .watchdog import Watchdog

CONCURRENCY = 256  # steps working at the same time in one process; more tasks at once make each of them dearer
THREADS = 40
ENDED = 1_000  # runs that are over whose functions are still known
POLL = 0.5  # seconds between looks for what other processes asked of our runs

_log = guarded_logger("towpath")


class LocalAdapter:
    """Executes runs in this process. Use it as `async with local_adapter(store) as adapter`."""

    def __init__(
        self, store: EngineStore, concurrency: int, threads: int, lease_seconds: float, farm: Farm | None
    ) -> None:
        self._store = store
        self.farm = farm
        self.spans: Spans | None = None
        self._slots = Slots(concurrency)
        self.suspects = Slots(1)
        self.threads = anyio.CapacityLimiter(threads)
        self._lease_seconds = lease_seconds
        self._closing = False
        self._runs: dict[str, LocalRun] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._executing: set[str] = set()
        self._edits = 0  # the event up to which we know of edits
        self._functions: dict[str, dict[str, Step[..., Any]]] = {}
        self._ended: dict[str, dict[str, Step[..., Any]]] = {}  # the same, of the last runs that are over
        self.listeners: list[Listener] = []
        self._audience = Audience(self.listeners)

    # ---- the engine's port

    def with_resources(self, plan: Plan) -> Plan:
        """The plan of a new run with its workflows in it. Raises ChainInvalid, FeatureMissing."""
        return with_resources(plan, self.farm)

    async def abandon(self, run_id: str) -> None:
        """Cancel the prompts that a run which nobody works on has left at servers."""
        await abandon_left(self._store, self.farm, run_id)

    def resolve_steps(self, plan: Plan, given: Mapping[str, Step[..., Any]]) -> dict[str, Step[..., Any]]:
        """Every step of a plan, before anything of it starts. Raises StepNotRegistered, FeatureMissing."""
        needs_farm(plan, self.farm)
        return dict(_resolved(plan, given))

    def keep(self, run_id: str, functions: Mapping[str, Step[..., Any]]) -> None:
        """Each run keeps its own: two closures may go by the same name."""
        self._functions[run_id] = dict(functions)

    def kept(self, run_id: str) -> Mapping[str, Step[..., Any]]:
        """Those of a run that is over too, as far as it is one of the last."""
        return self._functions.get(run_id) or self._ended.get(run_id, {})

    async def execute(self, run_id: str, on_claimed: Callable[[], None] | None = None) -> Ended:
        """Own and work on a run until it is over, or paused. `on_claimed` is called when it is in hand.

        Raises RunRefused (E_RUN_OWNED, …), Fenced, StoreFailed. Cancelled from outside (Ctrl-C), it leaves
        the run `paused` with the reason `interrupted`.
        """
        self._executing.add(run_id)
        try:
            run = await self._drive(run_id, on_claimed=on_claimed)
            while run.status is ChainStatus.PAUSED and await self._asked_meanwhile(run):
                run = await self._drive(run_id)
        finally:
            self._executing.discard(run_id)
        return Ended(run.status, run.reason, run.error, run.ledger)

    async def _asked_meanwhile(self, run: LocalRun) -> bool:
        """Did somebody decide, or cancel, while the run was about to pause?"""
        asked = await self._store.requests([run.id])
        return any(
            request.kind == "cancel" or (request.kind != "pause" and run.reason == "approval") for request in asked
        )

    async def deliver_requests(self) -> None:
        """Find out now, not in half a second, what was asked of our runs."""
        if not self._runs:
            return
        self._edits, edited = await self._store.edits(list(self._runs), self._edits)
        for request in [*edited, *await self._store.requests(list(self._runs))]:
            run = self._runs.get(request.run_id)
            if run is not None:
                run.obey(request)

    def working(self, run_id: str) -> bool:
        """Does this process work on the run?"""
        return run_id in self._runs or run_id in self._executing

    def finishes_alone(self, run_id: str) -> bool:
        """Nothing goes on here by itself."""
        return False

    def progress(self, run_id: str) -> dict[str, tuple[float, float | None]]:
        """How far working steps say they are (`context().progress`): (done, total) by step."""
        run = self._runs.get(run_id)
        if run is None:
            return {}
        told = [(work.step.id, work.context) for work in run.working.values() if work.context is not None]
        return {step: (at.done, at.total) for step, at in told if at.total is not None}

    # ---- driving

    async def _drive(
        self,
        run_id: str,
        parent: LocalRun | None = None,
        work: Work | None = None,
        on_claimed: Callable[[], None] | None = None,
    ) -> LocalRun:
        if self._closing:
            raise StoreFailed("E_DB_CLOSED", "the engine is being closed", cure="open it again, and resume the run")
        lease = await self._store.claim(run_id)
        try:
            row = await self._store.load(run_id)
            given = self._functions.get(run_id, {}) if parent is None else parent.functions
            self.keep(run_id, self.resolve_steps(row.plan, given))
            await _check_secrets(row, self._store)
            run = self._make(lease, row, None if parent is None else parent.variables)
            if self.spans is not None:
                self.spans.begins(row)
        except BaseException:
            await self._let_go(lease)
            raise
        self._runs[run_id] = run
        try:
            with anyio.CancelScope() as self._scopes[run_id]:
                await run.drive(cancel_first=work is not None and work.cancelled, on_claimed=on_claimed)
            if self._scopes[run_id].cancelled_caught and self._closing:
                await self._interrupted(lease)
                run.status, run.reason = ChainStatus.PAUSED, "interrupted"
            elif self._scopes[run_id].cancelled_caught:
                raise Fenced(run_id)
        except Exception:
            await self._let_go(lease)
            raise
        except BaseException:
            await self._interrupted(lease)
            raise
        finally:
            del self._runs[run_id], self._scopes[run_id]
            if run.status.final:
                self._over(run_id, self._functions.pop(run_id, {}), inner=parent is not None)
        return run

    def _over(self, run_id: str, functions: dict[str, Step[..., Any]], *, inner: bool) -> None:
        """Its functions are wanted again by a rerun, or by whoever asks for its id with other functions."""
        if not inner:
            self._ended[run_id] = functions
        while len(self._ended) > ENDED:
            del self._ended[next(iter(self._ended))]

    def _make(self, lease: Lease, row: RunRow, variables: Context | None) -> LocalRun:
        listener = self._audience.tell if self.listeners else None
        functions = self._functions[row.id]
        return LocalRun(self._store, lease, row, functions, self._slots, self, listener, variables)

    async def _let_go(self, lease: Lease) -> None:
        with anyio.CancelScope(shield=True), suppress(TowpathError):
            await self._store.release(lease)

    async def _interrupted(self, lease: Lease) -> None:
        with anyio.CancelScope(shield=True), suppress(TowpathError):
            await self._store.record(lease, [ChainPaused("interrupted")])

    async def stop(self) -> None:
        """Pause the runs that other tasks still drive, and wait until that is recorded."""
        self._closing = True
        for scope in list(self._scopes.values()):
            scope.cancel()
        while self._runs or self._executing:  # noqa: ASYNC110 - several drivers, each with steps of its own
            await anyio.sleep(0.01)

    # ---- chains inside steps

    async def run_inner(self, parent: LocalRun, work: Work) -> InnerEnd:
        """Run (or go on with) the chain inside a step: a run of its own, found again by the step's row."""
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
        try:
            run = await self._drive(run_id, parent, work)
        except RunRefused as refused:
            if refused.code != "E_RUN_OVER":
                raise
            return await self.run_inner(parent, work)  # cancelled since it was looked at
        return InnerEnd(run.status, _value(run.ledger, run.status), run.error)

    async def cancel_inner(self, parent: LocalRun, work: Work) -> None:
        """Pass a cancel on to the chain inside a step; one that has not begun finds out when it does."""
        run = self._runs.get(parent.children.get(work.row.id, ""))
        if run is not None:
            run.obey(Request(run.id, "cancel"))

    # ---- keeping in touch with the store

    async def _keep_in_touch(self) -> None:
        renewed = anyio.current_time()
        while True:
            await anyio.sleep(min(POLL, self._lease_seconds / 6))
            try:
                await self.deliver_requests()
                await self._flush_logs()
                if self._runs and anyio.current_time() - renewed > self._lease_seconds / 3:
                    renewed = anyio.current_time()
                    await self._renew()
            except Fenced as error:
                _log.warning("%s", error)
            except StoreFailed as error:
                _log.warning("the store does not answer, trying again: %s", error)
            except Exception:
                _log.exception("a look at the store failed, trying again")

    async def _flush_logs(self) -> None:
        for run in list(self._runs.values()):
            try:
                await run.flush_logs()
            except TowpathError as error:
                _log.warning("lines that steps of run %s logged are not shown yet: %s", run.id, error)

    async def _renew(self) -> None:
        leases = {run_id: run.lease for run_id, run in self._runs.items()}
        for run_id in await self._store.renew(list(leases.values())):
            run = self._runs.get(run_id)
            if run is not None and run.lease == leases[run_id]:  # else it was let go meanwhile, in good order
                _log.warning("run %s was taken over by another process; its steps are stopped here", run_id)
                self._scopes[run_id].cancel()

    def _codes(self) -> dict[CodeType, str]:
        return {
            step.function.__code__: name
            for run in list(self._runs.values())
            for name, step in run.functions.items()
            if hasattr(step.function, "__code__")
        }


async def _check_secrets(row: RunRow, store: EngineStore) -> None:
    """The secrets that a run is made of can be had here. Raises SecretMissing; then nothing of it has started."""
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
    store: EngineStore,
    *,
    concurrency: int = CONCURRENCY,
    threads: int = THREADS,
    lease_seconds: float = 30.0,
    farm: Farm | None = None,
    spans: Spans | None = None,
) -> AsyncIterator[LocalAdapter]:
    """An adapter for this process and event loop; its runs end or are paused with it."""
    adapter = LocalAdapter(store, concurrency, threads, lease_seconds, farm)
    if spans is not None:
        adapter.spans = spans
        adapter.listeners.append(spans.heard)
    async with background_tasks() as tasks:
        tasks.start_soon(adapter._keep_in_touch)
        try:
            with Watchdog(adapter._codes):
                yield adapter
        finally:
            with anyio.CancelScope(shield=True):
                await adapter.stop()
