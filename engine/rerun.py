"""Rerun: a new run that reuses the completed steps of an earlier one. And the parameters of a regeneration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from .binding import escape, inputs_used, literal_secret
from .errors import InputInvalid, Place, RunRefused, StepNotRegistered
from .events import Fact, NewArtifact, StepEnded, StepReady
from .ledger import INPUTS, restored_ledger
from .model import ArtifactApproval, ArtifactRow, Json, Plan, StepPlan, StepStatus
from .new_run import Reads, new_run
from .ports import NewRun, RunRow, StepRow, Store
from .run_labels import RunLabel
from .steps import find_step
from .values import INLINE_VALUE, STORED_VALUE, take_apart


async def rerun_of(
    store: Store,
    old: RunRow,
    from_steps: tuple[str, ...],
    inputs: Mapping[str, Any],
    parameters: Mapping[str, Any],
    reads: Reads = Reads.NOTHING,
    label: RunLabel | None = None,
) -> NewRun:
    """A new run of the same chain in which completed steps outside the rerun part are rows `cached`.

    `reads` says which paths `inputs` may open. Without a `label` it keeps the name and the tags of the earlier run.

    Raises:
        RunRefused: E_RUN_ACTIVE. InputInvalid: E_STEP_UNKNOWN, E_PARAMETER, E_SECRET_PLACE, E_INPUT_….
    """
    if not old.status.final:
        raise RunRefused(
            "E_RUN_ACTIVE",
            f"run {old.id} is {old.status}, not over",
            cure="`resume` continues it, `cancel` ends it",
        )
    plan = _with_parameters(old.plan, parameters)
    changed = {name.partition(".")[0] for name in parameters}
    again = _part(old, {*from_steps, *changed} if from_steps or changed else set(), frozenset(inputs))
    ledger = await restored_ledger(store, old)
    given = {spec.name: ledger.input(spec.name) for spec in plan.inputs if spec.name in old.inputs}
    facts: list[Fact] = []
    for row in old.rows:
        if row.step not in again and row.step != INPUTS and (row.status.done or row.item is not None):
            facts += _cached(store, row)
    new = await new_run(
        store,
        store.new_id(),
        plan,
        {**given, **inputs},
        reads=reads,
        facts=tuple(facts),
    )
    return replace(
        new, parent_run_id=old.id, regenerated_from_step_id=",".join(from_steps) or None, label=label or old.label
    )


def _with_parameters(plan: Plan, parameters: Mapping[str, Any]) -> Plan:
    steps = {step.id: step for step in plan.steps}
    for name, value in parameters.items():
        step_id, _, parameter = name.partition(".")
        step = steps.get(step_id)
        if step is None or not parameter:
            raise InputInvalid("E_PARAMETER", "a parameter is STEP.NAME", found=name, allowed=" ".join(steps))
        _refuse_unknown(step, parameter)
        _refuse_secret(step, parameter)
        data = _plain(value, step_id, parameter, "use an input")
        steps[step_id] = msgspec.structs.replace(step, parameters={**step.parameters, parameter: escape(data)})
    return msgspec.structs.replace(plan, steps=tuple(steps.values()))


def regeneration_parameters(step: StepPlan, given: Mapping[str, Any]) -> dict[str, Json]:
    """Arguments that a rejection changes for the next attempt, checked: data, with names that the step has.

    Templates in them are not evaluated. Those of a ComfyUI workflow are checked when it runs.
    Raises InputInvalid: E_PARAMETER, E_SECRET_PLACE for a parameter that takes a secret.
    """
    result: dict[str, Json] = {}
    for name, value in given.items():
        _refuse_unknown(step, name)
        _refuse_secret(step, name)
        result[name] = _plain(value, step.id, name, "edit the artifact instead")
        size = len(msgspec.json.encode(result[name]))
        if size > INLINE_VALUE:
            raise InputInvalid("E_PARAMETER", "the parameter is too large", found=f"{size} bytes", allowed="64 KiB")
    return result


def _refuse_secret(step: StepPlan, name: str) -> None:
    if name in step.secrets:
        problem = literal_secret(name, Place(step=step.id, field=name))
        raise InputInvalid(problem.code, problem.message, place=problem.place, cure=problem.cure)


def _refuse_unknown(step: StepPlan, name: str) -> None:
    known = _known_parameters(step)
    if known is not None and name not in known:
        allowed = " ".join(sorted(known)) or "no parameters"
        place = Place(step=step.id, field=name)
        raise InputInvalid("E_PARAMETER", "the step has no such parameter", place=place, found=name, allowed=allowed)


def _known_parameters(step: StepPlan) -> frozenset[str] | None:
    """The parameters of a step; None if they are known only when it runs."""
    if step.chain is not None:
        return frozenset(spec.name for spec in step.chain.inputs)
    if step.kind != "python":
        return None
    try:
        parameters = find_step(step.target).signature.parameters.values()
    except StepNotRegistered:
        return frozenset(step.parameters)  # only the parameters that the chain gives it are known here
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind is not p.VAR_POSITIONAL)


def _plain(value: Any, step_id: str, name: str, instead: str) -> Json:
    """The value as data. Raises InputInvalid (E_PARAMETER) for a file, ValueRefused (E_VALUE_TYPE)."""
    data, files = take_apart(value, Place(step=step_id, field=name), "the parameter")
    if files:
        raise InputInvalid("E_PARAMETER", f"a file cannot be a parameter; {instead}", found=name)
    return data


def _part(old: RunRow, named: set[str], changed: frozenset[str]) -> set[str]:
    """The steps that run again: the named ones (else those not completed), those that use a changed input,
    and all their descendants.
    """
    known = {step.id for step in old.plan.steps}
    for step_id in named - known:
        raise InputInvalid("E_STEP_UNKNOWN", "no such step", found=step_id, allowed=" ".join(sorted(known)))
    done = {row.step for row in old.rows if row.item is None and row.status.done}
    kept = {row.step for row in old.rows if row.item is None and row.error is not None}
    again = named or (known - done) | (kept & known)
    again |= known - done
    for step in old.plan.steps:  # topological order: the ancestors are decided already
        uses = changed & inputs_used(step) if changed else frozenset()
        if uses or any(dependency in again for dependency in step.depends_on):
            again.add(step.id)
    return again


def _cached(store: Store, row: StepRow) -> list[Fact]:
    """The same row in the new run: same value, same bytes, status `cached`."""
    new_id = store.new_id()
    status = StepStatus.CACHED if row.status.done else row.status
    stored = isinstance(row.value, dict) and STORED_VALUE in row.value
    kept = [artifact for artifact in row.artifacts if artifact.approval_status != ArtifactApproval.REJECTED]
    artifacts = tuple(_shared(store, artifact, stored and artifact.name == "value") for artifact in kept)
    return [
        StepReady(new_id, row.step, row.item, "cached", True, row.attempt, row.parameters, row.count),
        StepEnded(new_id, row.step, row.item, status, row.attempt, row.value, artifacts, error=row.error),
    ]


def _shared(store: Store, artifact: ArtifactRow, stored: bool) -> NewArtifact:
    return NewArtifact(
        id=store.new_id(),
        name=artifact.name,
        version=1,
        filename=artifact.filename,
        media_type=artifact.media_type,
        size=artifact.size,
        digest=artifact.digest,
        local_path=store.files.key_of(artifact),
        attempt=artifact.attempt,
        metadata={"value": True} if stored else {"same_as": artifact.id},
    )
