"""The door to ComfyUI for an adapter: what a chain's workflow steps need, from their files to their servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from towpath.adapters.task_group import background_tasks
from towpath.binding import MARKS
from towpath.chain_files import find_workflow
from towpath.errors import ChainInvalid, InputInvalid, Place, Problem
from towpath.model import Json, Plan, StepPlan
from towpath.ports import ReadingStore

from .connection import Timeouts
from .parameters import check_parameters
from .pool import Need, ServerPool, Slot, need_of
from .servers import Server
from .workflow_files import Workflow, read_workflow
from .workflow_run import Rules, WorkflowRunner
from .workflow_try import WorkflowTry


class ComfyFarm:
    """Prepares and carries out the ComfyUI steps of runs."""

    def __init__(self, pool: ServerPool, runner: WorkflowRunner, workflows: Path) -> None:
        self.pool = pool
        self._runner = runner
        self._workflows = workflows

    # ---- before a run starts

    def with_resources(self, plan: Plan) -> Plan:
        """The plan with the workflows of its steps.

        Raises ChainInvalid with all problems: E_WORKFLOW_…, E_PARAMETER_…, E_SERVER_UNKNOWN, E_SERVER_NONE.
        """
        problems: list[Problem] = []
        ready = self._prepared(plan, problems)
        if problems:
            raise ChainInvalid(problems)
        return ready

    def _prepared(self, plan: Plan, problems: list[Problem]) -> Plan:
        workflows: dict[str, Json] = dict(plan.workflows)
        steps: list[StepPlan] = []
        for step in plan.steps:
            if step.chain is not None:
                step = msgspec.structs.replace(step, chain=self._prepared(step.chain, problems))  # noqa: PLW2901
            steps.append(step)
            if step.kind != "workflow":
                continue
            workflow = self._workflow(plan, step, problems)
            if workflow is not None:
                workflows[step.target] = workflow.to_json()
                found = check_parameters(workflow, step.parameters, known=_known)
                problems += [replace(p, place=Place(step=step.id, field=p.place.field)) for p in found]
            self._check_need(step, problems)
        return msgspec.structs.replace(plan, steps=tuple(steps), workflows=workflows)

    def _workflow(self, plan: Plan, step: StepPlan, problems: list[Problem]) -> Workflow | None:
        if step.target in plan.workflows:
            return Workflow.from_json(plan.workflows[step.target])
        place = Place(step=step.id, field="workflow")
        try:
            path = find_workflow(step.target, Path(plan.folder)) if plan.folder else None
            path = path or find_workflow(step.target, self._workflows)
            if path is not None:
                return read_workflow(path, step.target)
        except InputInvalid as error:
            problems.append(replace(error.problem, place=replace(error.problem.place, step=step.id)))
            return None
        cure = f"save it from ComfyUI with Export (API) as workflows/{step.target}.json beside the chain"
        message = f"there is no workflow {step.target}"
        problems.append(Problem("E_WORKFLOW_FILE", message, place, step.target, cure=cure))
        for key in step.parameters:
            if "." not in key:
                message = f"{key} names no node"
                at = Place(step=step.id, field=f"parameters.{key}")
                problems.append(Problem("E_PARAMETER_UNKNOWN", message, at, key, "<node>.<input>"))
        return None

    def _check_need(self, step: StepPlan, problems: list[Problem]) -> None:
        need = need_of(step)
        if any(need.fits(member.server) for member in self.pool.members):
            return
        names = ", ".join(m.server.name for m in self.pool.members)
        code, field = ("E_SERVER_UNKNOWN", "server") if step.server else ("E_SERVER_NONE", "requires")
        message = f"no server has {need}" if str(need) else "no server is configured"
        cure = "add it under [[servers]] in towpath.toml, or pass servers=[…] to open_engine"
        problems.append(Problem(code, message, Place(step=step.id, field=field), step.server or "", names, cure))

    # ---- slots

    def take(self, step: StepPlan, wake: Callable[[], None]) -> Slot | None:
        """A slot on a fitting server, or None; then `wake` is called when a slot was set aside."""
        return self.pool.take(need_of(step), wake)

    def need(self, step: StepPlan) -> Need:
        """Steps with the same need wait in one line."""
        return need_of(step)

    def give_back(self, slot: Slot) -> None:
        self.pool.give_back(slot)

    def settle(self, wake: Callable[[], None], *, wants: bool) -> None:
        """Say whether a run still waits; unused slots that were set aside go to others."""
        self.pool.settle(wake, wants=wants)

    # ---- tries

    async def run(self, work: WorkflowTry) -> Any:
        """One try of a step. See `WorkflowRunner.run`."""
        return await self._runner.run(work)

    async def abandon(self, server: str, prompt_id: str) -> None:
        """Cancel a prompt by its id, if its server is configured and answers. Never raises ServerFailed."""
        member = self.pool.member(server)
        if member is not None:
            await self._runner.abandon(member, prompt_id)


def _known(value: Any) -> bool:
    """Whether a parameter's value is known before the run; values with bindings or templates are not."""
    if isinstance(value, dict):
        return not MARKS & value.keys() and all(map(_known, value.values()))
    return all(map(_known, value)) if isinstance(value, list) else True


@asynccontextmanager
async def comfy_farm(
    store: ReadingStore,
    servers: Sequence[Server],
    workflows: Path,
    *,
    strategy: str = "least_loaded",
    rules: Rules | None = None,
    timeouts: Timeouts | None = None,
) -> AsyncIterator[ComfyFarm]:
    """The farm of these servers. Their health is checked while it is open."""
    async with ServerPool(servers, strategy, timeouts) as pool, background_tasks() as tasks:
        tasks.start_soon(pool.watch)
        yield ComfyFarm(pool, WorkflowRunner(pool, store, rules), workflows)
