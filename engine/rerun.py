"""`rerun`: a new run that takes over what an earlier one completed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .binding import escape, inputs_used
from .errors import InputInvalid, Place, RunRefused
from .events import Fact, NewArtifact, StepEnded, StepReady
from .ledger import INPUTS, restored_ledger
from .model import ArtifactRow, Plan, StepStatus
from .ports import NewRun, RunRow, StepRow, Store
from .starting import new_run
from .values import STORED_VALUE, take_apart


async def rerun_of(
    store: Store,
    old: RunRow,
    from_steps: tuple[str, ...],
    inputs: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> NewRun:
    """A new run of the same chain in which completed steps outside the rerun part are rows `cached`.

    Raises:
        RunRefused: E_RUN_ACTIVE. InputInvalid: E_STEP_UNKNOWN, E_PARAMETER, E_INPUT_….
    """
    if not old.status.final:
        raise RunRefused(
            "E_RUN_ACTIVE",
            f"run {old.id} is {old.status}, not over",
            cure="`resume` goes on with it, `cancel` ends it",
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
    return await new_run(
        store,
        store.new_id(),
        plan,
        {**given, **inputs},
        facts=tuple(facts),
        parent_run_id=old.id,
        regenerated_from_step_id=",".join(from_steps) or None,
    )


def _with_parameters(plan: Plan, parameters: Mapping[str, Any]) -> Plan:
    steps = {step.id: step for step in plan.steps}
    for name, value in parameters.items():
        step_id, _, parameter = name.partition(".")
        step = steps.get(step_id)
        if step is None or not parameter:
            raise InputInvalid("E_PARAMETER", "a parameter is STEP.NAME", found=name, allowed=" ".join(steps))
        data, files = take_apart(value, Place(step=step_id, field=parameter))
        if files:
            raise InputInvalid("E_PARAMETER", "a file cannot be a parameter; use an input", found=name)
        steps[step_id] = replace(step, parameters={**step.parameters, parameter: escape(data)})
    return replace(plan, steps=tuple(steps.values()))


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
    for step in old.plan.steps:  # topological order: ancestors were looked at before
        uses = changed & inputs_used(step) if changed else frozenset()
        if uses or any(dependency in again for dependency in step.depends_on):
            again.add(step.id)
    return again


def _cached(store: Store, row: StepRow) -> list[Fact]:
    """The same row in the new run: same value, same bytes, status `cached`."""
    new_id = store.new_id()
    status = StepStatus.CACHED if row.status.done else row.status
    stored = isinstance(row.value, dict) and STORED_VALUE in row.value
    artifacts = tuple(_shared(store, artifact, stored and artifact.name == "value") for artifact in row.artifacts)
    return [
        StepReady(new_id, row.step, row.item, "cached", True, row.attempt, row.parameters, row.count),
        StepEnded(new_id, row.step, row.item, status, row.attempt, row.value, artifacts, error=row.error),
    ]


def _shared(store: Store, artifact: ArtifactRow, stored: bool) -> NewArtifact:
    (path,) = store.files.whereabouts(artifact)
    return NewArtifact(
        id=store.new_id(),
        name=artifact.name,
        version=1,
        filename=artifact.filename,
        media_type=artifact.media_type,
        size=artifact.size,
        digest=artifact.digest,
        local_path=path,
        attempt=artifact.attempt,
        metadata={"value": True} if stored else {"same_as": artifact.id},
    )
