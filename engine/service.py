"""`RunService`: starts, watches, steers and repeats runs. The `Engine` of `open_engine` is a `RunService`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, overload

import anyio
import anyio.abc

from .artifact import File
from .chains import Chain, a_chain
from .context import own_run, waiting_for_a_run
from .errors import ApprovalRefused, ChainInvalid, InputInvalid, RunRefused, TowpathError
from .events import StepEnded
from .late import Late, LateNames
from .ledger import restored_ledger
from .logs import guarded_logger
from .model import ChainStatus
from .new_run import Reads, new_run, refuse_unbuilt
from .ports import Adapter, Ended, EngineStore, Gates, Removed, RunRow
from .rerun import regeneration_parameters, rerun_of
from .run import Run, failure_of
from .run_labels import Tags, check_run_id, relabelled, told_apart
from .same_run import refuse_other_inputs, refuse_other_plan
from .steps import is_ambiguous, refuse_other_functions
from .tracing import of_the_user

if TYPE_CHECKING:
    from . import changed_code
    from .chain_file import ChainFile
    from .records import ArtifactRecord, Gate, PendingGate
else:  # for `typing.get_type_hints`: the modules are imported only when somebody looks into these types
    changed_code = Late("towpath.changed_code")
    ChainFile = LateNames("towpath.chain_file").ChainFile
    _records = LateNames("towpath.records")
    ArtifactRecord, Gate, PendingGate = _records.ArtifactRecord, _records.Gate, _records.PendingGate

P = ParamSpec("P")

_log = guarded_logger("towpath")

POLL = 0.25  # seconds between polls of a run that another process works on, or that waits for a person


class RunService:
    """Starts, watches, steers and repeats runs: one store, one adapter. `Engine` adds the functions of the store."""

    def __init__(
        self,
        store: EngineStore,
        adapter: Adapter,
        gates: Gates,
        tasks: anyio.abc.TaskGroup,
        close: Callable[[], Awaitable[None]] | None = None,
        at: str | None = "",
    ) -> None:
        self.store = store
        self.at = at
        self.adapter = adapter
        self._gates = gates
        self._tasks = tasks
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._failed: dict[str, Exception] = {}

    async def close(self) -> None:
        """Pause the runs of this process and close the store. A second call does nothing."""
        self._here()
        if self._close is not None:
            await self._close()

    def _here(self) -> None:
        """Raises InputInvalid (E_LOOP) in an event loop that is not the engine's, before anything is changed."""
        if asyncio.get_running_loop() is not self._loop:
            raise InputInvalid(
                "E_LOOP",
                "this engine belongs to another event loop, and cannot be used from this one",
                cure="asyncio.run_coroutine_threadsafe(engine.run(…), loop).result(), with the engine's own loop",
            )

    # ---- starting

    # The inputs of a `@chain` are its function's parameters, and type checkers check them. They cannot beside another
    # keyword: with `run_id`, `wait`, `check` or `inputs` the inputs of a chain are checked when the run is made.

    @overload
    async def run(self, chain: Chain[P, Any], /, *args: P.args, **named: P.kwargs) -> Run: ...
    @overload
    async def run(
        self,
        chain: Chain[..., Any],
        *,
        run_id: str | None,
        wait: bool = False,
        check: bool = True,
        inputs: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Run: ...
    @overload
    async def run(
        self,
        chain: Chain[..., Any],
        *,
        wait: bool,
        check: bool = True,
        inputs: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Run: ...
    @overload
    async def run(
        self, chain: Chain[..., Any], *, check: bool, inputs: Mapping[str, Any] | None = None, **named: Any
    ) -> Run: ...
    @overload
    async def run(self, chain: Chain[..., Any], *, inputs: Mapping[str, Any] | None, **named: Any) -> Run: ...
    @overload
    async def run(self, chain: Chain[..., Any], *, name: str | None, **named: Any) -> Run: ...
    @overload
    async def run(self, chain: Chain[..., Any], *, tags: Tags | None, **named: Any) -> Run: ...
    @overload
    async def run(
        self,
        chain: ChainFile,
        *,
        run_id: str | None = None,
        wait: bool = False,
        check: bool = True,
        inputs: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Run: ...
    async def run(  # type: ignore[misc]  # pyright: ignore[reportInconsistentOverload]  # inputs have names: no *args
        self,
        chain: Chain[..., Any] | ChainFile,
        *,
        run_id: str | None = None,
        wait: bool = False,
        check: bool = True,
        inputs: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Run:
        """Run a chain and return its run: over, or paused at a gate (with `wait`, never paused at one).

        Inputs are keyword arguments (or `inputs={…}` where a name is taken). `name="media-12"` and
        `tags={"client": "x"}` are for people, to find the run again; several runs may have the same. If the chain has
        an input called `name` or `tags`, the keyword is that input, unless `inputs` has it.

        With the `run_id` of a run that was made of the same chain and inputs, that one is continued or, if it is over,
        returned as it is; it keeps its name and tags. A run with handled failures (`partial`) is returned, and logged
        as a warning.

        Raises:
            ChainFailed: the run failed or was cancelled; with `check=False` it is returned.
            ChainInvalid, InputInvalid, FeatureMissing, StepNotRegistered: before anything starts.
            RunRefused: E_RUN_CHAIN, E_RUN_INPUTS if `run_id` is a run of another chain, or with other inputs.
            StoreFailed, Fenced: on the way.
        """
        self._here()
        try:
            run_id, _ = await self._create(chain, run_id, inputs or {}, named)
        except ChainInvalid as error:
            raise of_the_user(error) from None
        run = await self._finish(run_id, wait)
        if failed := failure_of(run, check):
            raise failed
        return run

    @overload
    async def start(self, chain: Chain[P, Any], /, *args: P.args, **named: P.kwargs) -> RunHandle: ...
    @overload
    async def start(
        self,
        chain: Chain[..., Any],
        *,
        run_id: str | None,
        inputs: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> RunHandle: ...
    @overload
    async def start(self, chain: Chain[..., Any], *, inputs: Mapping[str, Any] | None, **named: Any) -> RunHandle: ...
    @overload
    async def start(self, chain: Chain[..., Any], *, name: str | None, **named: Any) -> RunHandle: ...
    @overload
    async def start(self, chain: Chain[..., Any], *, tags: Tags | None, **named: Any) -> RunHandle: ...
    @overload
    async def start(
        self,
        chain: ChainFile,
        *,
        run_id: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> RunHandle: ...
    async def start(  # type: ignore[misc]  # pyright: ignore[reportInconsistentOverload]  # as `run`
        self,
        chain: Chain[..., Any] | ChainFile,
        *,
        run_id: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> RunHandle:
        """Start a chain and return at once; the run continues in the background until the engine closes."""
        self._here()
        try:
            run_id, recorded = await self._create(chain, run_id, inputs or {}, named)
        except ChainInvalid as error:
            raise of_the_user(error) from None
        self._failed.pop(run_id, None)
        await self._tasks.start(self._execute_quietly, run_id)
        if not recorded and run_id in self._failed and not await self._recorded(run_id):
            raise self._failed.pop(run_id)  # it could not be recorded: there is no run to come back to
        return RunHandle(self, run_id)

    async def _create(
        self,
        chain: Chain[..., Any] | ChainFile,
        run_id: str | None,
        inputs: Mapping[str, Any],
        keywords: Mapping[str, Any],
    ) -> tuple[str, bool]:
        """The id of a new run, or of the one with this id; and whether it is recorded, or an adapter will do it."""
        described = chain.compile() if isinstance(chain, Chain) else a_chain(chain)
        plan = described.plan
        given, label = told_apart(plan, inputs, keywords)
        refuse_unbuilt(plan)
        plan = self.adapter.with_resources(plan)
        if run_id is not None:
            check_run_id(run_id)
        ours, adopted = run_id is None, False
        found = None if run_id is None else await self._recorded(run_id)
        if found is not None:
            refuse_other_plan(found.id, found.plan, plan)
        run_id = run_id or self.store.new_id()
        functions = self.adapter.resolve_steps(plan, described.steps)
        meant = found is not None and not given and any(spec.required for spec in plan.inputs)
        if not meant:  # without inputs that the chain requires, only the recorded run can be meant
            new = await new_run(self.store, run_id, plan, given, reads=Reads.ANYTHING, label=label)
            adopted = ours and not new.facts and self.adapter.adopt(new)
            if found is None and not adopted and not await self.store.create_run(new):
                found = await self.store.load(run_id)  # another caller took the id meanwhile
                refuse_other_plan(found.id, found.plan, plan)
            if found is not None:
                refuse_other_inputs(found, new, self.store.files.folder)
        if found is not None:
            refuse_other_functions(self.adapter.kept(run_id), functions)
        if found is None or not found.status.final:
            self.adapter.keep(run_id, functions)
        return run_id, not adopted

    async def _recorded(self, run_id: str) -> RunRow | None:
        try:
            return await self.store.load(run_id)
        except RunRefused:
            return None

    # ---- resuming and repeating

    async def resume(self, run_id: str, *, wait: bool = False, check: bool = True) -> Run:
        """Resume a run that is not over: after a crash, a pause, or a decision.

        On Temporal a run continues by itself after a decision. If it is over by now, it is returned unchanged.

        Raises:
            RunRefused: E_RUN_MISSING, E_RUN_OVER, E_RUN_OWNED. StepNotRegistered.
            ChainFailed: the run failed or was cancelled; with `check=False` it is returned.
        """
        self._here()
        run = await self._resumed(run_id, wait)
        if failed := failure_of(run, check):
            raise failed
        return run

    async def _resumed(self, run_id: str, wait: bool) -> Run:
        found = await self.store.load(run_id)
        if found.status.final and self.adapter.finishes_alone(run_id):
            return await self._snapshot(run_id)
        if found.status.final:
            raise RunRefused("E_RUN_OVER", f"run {run_id} is {found.status}", cure="`rerun` makes a new run of it")
        with waiting_for_a_run():
            ended = await self.adapter.execute(found.root or run_id)
        if found.root not in ("", run_id):
            return await self._snapshot(run_id)
        return await self._finish(run_id, wait, ended)

    async def rerun(
        self,
        run: Run | str,
        *,
        from_steps: Sequence[str] = (),
        inputs: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        wait: bool = False,
        check: bool = True,
        name: str | None = None,
        tags: Tags | None = None,
    ) -> Run:
        """A new run that reuses completed steps and runs the rest again.

        With `from_steps` these and their descendants run again; without, every step that did not complete
        and its descendants. `inputs` replaces inputs, `parameters` (`{"step.name": value}`) arguments. It
        has the name and the tags of the run before, unless `name` or `tags` replaces them.

        Raises:
            RunRefused: E_RUN_MISSING, E_RUN_ACTIVE if it is not over yet. InputInvalid: E_STEP_UNKNOWN, E_PARAMETER.
            ChainFailed: the new run failed or was cancelled; with `check=False` it is returned.
        """
        self._here()
        old = await self.store.load(run if isinstance(run, str) else run.id)
        label = relabelled(old.label, name, tags)
        new = await rerun_of(self.store, old, tuple(from_steps), inputs or {}, parameters or {}, Reads.ANYTHING, label)
        refuse_unbuilt(new.plan)
        new = replace(new, plan=self.adapter.with_resources(new.plan))
        known = {name: step for name, step in self.adapter.kept(old.id).items() if is_ambiguous(name)}
        functions = self.adapter.resolve_steps(new.plan, known)
        reused = {fact.step for fact in new.facts if isinstance(fact, StepEnded) and fact.item is None}
        changed_code.refuse_other_parameters(new.plan, functions, reused)
        await self.store.create_run(new)
        self.adapter.keep(new.id, functions)
        made = await self._finish(new.id, wait)
        if failed := failure_of(made, check):
            raise failed
        return made

    async def _finish(self, run_id: str, wait: bool, ended: Ended | None = None) -> Run:
        _refuse_own(run_id)
        with waiting_for_a_run():
            return await self._finished(run_id, wait, ended)

    async def _finished(self, run_id: str, wait: bool, ended: Ended | None) -> Run:
        while True:
            ended = ended or await self._work_on(run_id)
            interrupted = ended.reason == "interrupted"
            if ended.ledger is not None and (interrupted or ended.status is not ChainStatus.PAUSED):
                return Run(run_id, ended.status, ended.ledger, ended.error, ended.reason, self)
            snapshot = await self._snapshot(run_id)
            if interrupted or snapshot.status is not ChainStatus.RUNNING:  # else it was taken up again
                if snapshot.status.final or not (wait and snapshot.reason == "approval"):
                    return snapshot
                await self._decision(run_id)
            ended = None

    async def _work_on(self, run_id: str, on_claimed: Callable[[], None] = lambda: None) -> Ended:
        """Execute a run, or watch it if it has another owner; `on_claimed` is called when it has an owner."""
        while True:
            try:
                return await self.adapter.execute(run_id, on_claimed)
            except RunRefused as refused:
                if refused.code == "E_RUN_OVER":
                    return Ended((await self.store.load(run_id)).status)
                if refused.code != "E_RUN_OWNED":
                    raise
            on_claimed()
            await anyio.sleep(POLL)

    async def _decision(self, run_id: str) -> None:
        """Wait for a decision in a paused run, or for its end."""
        while not await self.store.requests([run_id]):
            if (await self.store.load(run_id)).status.final:
                return
            await anyio.sleep(POLL)

    async def _execute_quietly(self, run_id: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        claimed = False

        def on_claimed() -> None:
            nonlocal claimed
            if not claimed:
                claimed = True
                task_status.started()

        try:
            await self._work_on(run_id, on_claimed)
        except Exception as error:  # an error of one run does not concern the others
            if not isinstance(error, TowpathError):
                _log.exception("run %s stopped, and can be resumed", run_id)
            self._failed[run_id] = error  # raised by `RunHandle.result`
        on_claimed()

    # ---- looking and steering

    async def get(self, run_id: str) -> RunHandle:
        """A handle of any run in the store. Raises RunRefused (E_RUN_MISSING)."""
        self._here()
        await self.store.load(run_id)
        return RunHandle(self, run_id)

    async def snapshot(self, run_id: str) -> Run:
        """The run as recorded now."""
        self._here()
        return await self._snapshot(run_id)

    async def _snapshot(self, run_id: str) -> Run:
        row: RunRow = await self.store.load(run_id)
        ledger = await restored_ledger(self.store, row)
        return Run(run_id, row.status, ledger, row.error, row.reason, self)

    async def progress(self, run_id: str) -> dict[tuple[str, int | None], tuple[float, float | None]]:
        """How far the executing steps and items of a run are: (done, total) by step and item, where they report it
        with `context().progress()`. Of steps in this process as of now, of others as recorded about once a second.
        """
        self._here()
        recorded = {
            (row["step_id"], row["item_index"]): (row["done"], row["total"]) for row in await self.store.figures(run_id)
        }
        return {**recorded, **self.adapter.progress(run_id)}

    async def cancel(self, run_id: str, *, by: str = "") -> ChainStatus:
        """Request a cancel: recorded at once, carried out by the owner. `by` is written to the audit trail.

        Raises RunRefused (E_RUN_OVER).
        """
        self._here()
        status = await self.store.request(run_id, "cancel", by)
        if status is ChainStatus.CANCELLED:  # it had no owner, so its prompts are cancelled here
            await self.adapter.abandon(run_id)
        await self.adapter.deliver_requests()
        return status

    async def pause(self, run_id: str, *, by: str = "") -> ChainStatus:
        """Request a pause: running steps finish, no new ones start. `by` is written to the audit trail.

        Raises RunRefused (E_RUN_OVER).
        """
        self._here()
        status = await self.store.request(run_id, "pause", by)
        await self.adapter.deliver_requests()
        return status

    async def remove(self, run_id: str, *, by: str = "") -> Removed:
        """Delete a run that is over: its steps, files, gates, logs, the runs inside it, and its copies for people.

        Lines of the audit trail that name a person are kept, and one says that `by` removed it. Files that no other
        run has are collected later, by `towpath fsck --repair`.
        Raises RunRefused: E_RUN_MISSING, E_RUN_ACTIVE if it is not over, E_RUN_INSIDE for a part of another run.
        """
        self._here()
        return await self.store.remove(run_id, by)

    # ---- gates

    async def approvals(self, run_id: str | None = None) -> list[PendingGate]:
        """What waits for a person, oldest first: anywhere, or in a run and in the runs inside its steps.

        Each says `id run step item policy requested_at expires_at`, and `artifacts`: what to look at, each
        with its `id name version filename media_type size`. Times are UTC microseconds.
        """
        self._here()
        return await self._gates.get_pending_approvals(run_id, 10_000)

    async def approve(
        self,
        approval: str | Mapping[str, Any],
        *,
        by: str,
        seen: Collection[str] | None = None,
        reason: str = "",
    ) -> Gate:
        """Approve what waits at a gate: the artifact versions (ids) in `seen`.

        `approval` is an id, or one of `approvals`: then what it lists is what was seen. Without either it is
        what the step itself made, and it must not have been edited.

        Raises ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_EXPIRED, E_APPROVAL_STALE.
        """
        self._here()
        if seen is None and not isinstance(approval, str):
            seen = [artifact["id"] for artifact in approval["artifacts"]]
        gate = approval if isinstance(approval, str) else approval["id"]
        return await self._decided(gate, self._gates.approve(gate, by, seen=seen, reason=reason))

    async def reject(
        self,
        approval: str | Mapping[str, Any],
        *,
        by: str,
        reason: str = "",
        action: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Gate:
        """Reject what waits at a gate; `action` (`stop`, `skip`, `regenerate`) replaces the policy's `on_rejected`.

        `parameters` are arguments that the regeneration runs with, merged over the step's own, for this and
        for later regenerations of it.

        Raises:
            ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_EXPIRED, E_APPROVAL_SPENT if
                `regenerate` is asked for by name and `max_retries` are spent. InputInvalid: E_PARAMETER.
        """
        self._here()
        gate = approval if isinstance(approval, str) else approval["id"]
        given = await self._parameters(gate, parameters) if parameters else None
        decision = self._gates.reject(gate, by, reason=reason, action=action, parameters=given)
        return await self._decided(gate, decision)

    async def edit(
        self, artifact: str, data: bytes | Path | File, *, by: str, reason: str = "", approve: bool = False
    ) -> ArtifactRecord:
        """Replace an artifact (its id) by a new version, and return that version's row.

        A gate that waits for it lists the new version from now on; `approve` decides it in the same
        transaction. What runs already, or is over, does not change.

        Raises:
            InputInvalid: E_ARTIFACT_MISSING, E_ARTIFACT_BUSY while a step makes it again, E_APPROVAL_BY.
            ValueRefused: E_VALUE_TYPE if a value would be replaced by something else. ApprovalRefused:
                E_APPROVAL_EXPIRED with `approve`.
        """
        self._here()
        new = await self._gates.edit_artifact(artifact, data, by, reason=reason, approve=approve)
        await self.adapter.deliver_requests()
        return new

    async def _decided(self, approval: str, decision: Awaitable[Gate]) -> Gate:
        try:
            decided = await decision
        except ApprovalRefused as refused:
            if refused.code == "E_APPROVAL_EXPIRED":
                await self._time_out(approval)
            raise
        await self.adapter.deliver_requests()
        return decided

    async def _time_out(self, approval: str) -> None:
        """Apply the timeout of a gate now, not at the next poll of the run."""
        gate = await self._gates.get_approval(approval)
        if gate is not None and gate.chain_id is not None:
            await self.store.requests([gate.chain_id])
            await self.adapter.deliver_requests()

    async def _parameters(self, approval: str, given: Mapping[str, Any]) -> dict[str, Any]:
        gate = await self._gates.get_approval(approval)
        if gate is None or gate.chain_id is None:
            return dict(given)
        plan = (await self.store.load(gate.chain_id)).plan
        return regeneration_parameters(plan.step(gate.step_id or ""), given)


def _refuse_own(run_id: str) -> None:
    if own_run() == run_id:
        raise RunRefused("E_RUN_OWNED", "a step cannot wait for the run that it is a step of", found=run_id)


class RunHandle:
    """A handle of a run, in whichever process it is executed."""

    def __init__(self, engine: RunService, run_id: str) -> None:
        self._engine = engine
        self.id = run_id

    async def result(self, *, check: bool = True) -> Run:
        """Wait until the run is over or paused. Raises what stopped it here, if something did.

        Raises ChainFailed if the run failed or was cancelled; with `check=False` it is returned.
        """
        self._engine._here()
        _refuse_own(self.id)
        with waiting_for_a_run():
            run = await self._result()
        if failed := failure_of(run, check):
            raise failed
        return run

    async def _result(self) -> Run:
        while True:
            if self.id in self._engine._failed:
                raise self._engine._failed[self.id]
            busy = self._engine.adapter.working(self.id)  # before the read: else the last facts could be missed
            run = await self._engine.snapshot(self.id)
            if not busy and (run.status.final or run.status is ChainStatus.PAUSED):
                return run
            await anyio.sleep(0.05 if busy else POLL)

    async def status(self) -> ChainStatus:
        """The run's status as recorded now."""
        return (await self._engine.store.load(self.id)).status

    async def cancel(self) -> ChainStatus:
        """See `Engine.cancel`."""
        return await self._engine.cancel(self.id)

    async def pause(self) -> ChainStatus:
        """See `Engine.pause`."""
        return await self._engine.pause(self.id)

    async def resume(self, *, check: bool = True) -> Run:
        """See `Engine.resume`."""
        return await self._engine.resume(self.id, check=check)

    async def events(self, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """The recorded facts of the run in order. Waits for new ones until the run is over or paused."""
        while True:
            ended = (await self.status()) in (*(s for s in ChainStatus if s.final), ChainStatus.PAUSED)
            for event in await self._engine.store.events(self.id, after):
                after = event["seq"]
                yield event
            if ended and not await self._engine.store.events(self.id, after):
                return
            await anyio.sleep(POLL)
