"""Before a run starts: its inputs checked and kept, and every key refused whose part is not built yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from .artifact import Artifact, File
from .attempt import keep_outcome
from .context import StepContext
from .errors import FeatureMissing, InputInvalid, Place
from .events import Fact, StepEnded, StepReady
from .ledger import INPUTS
from .model import InputSpec, Plan, StepPlan, StepStatus
from .ports import NewRun, Store
from .secrets import Secret, of_plain

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


async def new_run(
    store: Store,
    run_id: str,
    plan: Plan,
    given: Mapping[str, Any],
    *,
    facts: tuple[Fact, ...] = (),
    parent_workflow_id: str | None = None,
    parent_run_id: str | None = None,
    regenerated_from_step_id: str | None = None,
) -> NewRun:
    """A run ready to be recorded: inputs complete, files among them kept as artifacts of the row `inputs`.

    Raises:
        InputInvalid: E_INPUT_MISSING, E_INPUT_UNKNOWN, E_INPUT_TYPE, for the first wrong input.
        FeatureMissing: E_FEATURE_MISSING. ValueRefused, StoreFailed for a file that cannot be kept.
    """
    refuse_unbuilt(plan)
    values = settle_inputs(plan, given)
    context = StepContext(run_id, INPUTS, None, 1)
    outcome = await keep_outcome(values, context, store.files, store.new_id, {})
    row = store.new_id()
    files = tuple(a for a in outcome.artifacts if a.metadata != {"value": True})
    if files:
        facts = (
            StepReady(row, INPUTS, None, INPUTS, started=True, attempt=1),
            StepEnded(row, INPUTS, None, StepStatus.COMPLETED, 1, outcome.value, files),
            *facts,
        )
    return NewRun(
        run_id,
        plan,
        outcome.value,
        facts,
        parent_workflow_id,
        parent_run_id,
        regenerated_from_step_id,
    )


def settle_inputs(plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    """Given values and defaults for all declared inputs, of the declared types."""
    known = {spec.name: spec for spec in plan.inputs}
    for name in given:
        if name not in known:
            allowed = " ".join(known) or "no inputs"
            raise InputInvalid("E_INPUT_UNKNOWN", f"chain {plan.name} has no input {name}", allowed=allowed)
    return {name: _settled(spec, given, plan) for name, spec in known.items()}


def _settled(spec: InputSpec, given: Mapping[str, Any], plan: Plan) -> Any:
    if spec.name in given:
        value = given[spec.name]
    elif spec.source:
        value = Path(plan.folder, spec.source)
    elif spec.required:
        raise InputInvalid(
            "E_INPUT_MISSING",
            f"chain {plan.name} needs the input {spec.name}",
            place=Place(field=f"inputs.{spec.name}"),
            allowed=spec.type,
            cure=f"--input {spec.name}=…" + (f"  ({spec.description})" if spec.description else ""),
        )
    else:
        value = Secret.kept(spec.default) if spec.secret and spec.default is not None else spec.default
    return _secret(spec, value) if spec.secret or isinstance(value, Secret) else _typed(spec, value)


def _secret(spec: InputSpec, value: Any) -> Any:
    """A secret input. What only another process may be able to look up is not checked here."""
    if value is None:
        return None
    if not isinstance(value, Secret):
        value = of_plain(value)
    if value.mark is None:
        _typed(spec, value.reveal())
    elif spec.type not in ("string", "json"):
        _refuse_type(spec, value)
    return value


def _typed(spec: InputSpec, value: Any) -> Any:
    if spec.type == "file":
        if isinstance(value, str):
            value = Path(value)
        if spec.target and isinstance(value, bytes | Path):
            value = File(value, filename=spec.target)
        fits = value is None or isinstance(value, bytes | Path | File | Artifact) or hasattr(value, "__aiter__")
    elif spec.type in _PYTHON_TYPES and value is not None:
        fits = isinstance(value, _PYTHON_TYPES[spec.type])
        fits = fits and (spec.type == "boolean" or not isinstance(value, bool))
    else:
        fits = True
    if not fits:
        _refuse_type(spec, value)
    return value


def _refuse_type(spec: InputSpec, value: Any) -> NoReturn:
    place = Place(field=f"inputs.{spec.name}")
    found = type(value).__name__ if spec.secret or isinstance(value, Secret) else value
    raise InputInvalid("E_INPUT_TYPE", f"input {spec.name}", place=place, found=found, allowed=spec.type)


def refuse_unbuilt(plan: Plan) -> None:
    """Nothing is silently ignored: a key that this version cannot honour stops the run before it starts."""
    for spec in plan.inputs:
        if spec.target and spec.type != "file":
            raise _missing(Place(field=f"inputs.{spec.name}.target"), "target", "a target for an input that is no file")
    for step in plan.steps:
        for field, what in _unbuilt(step):
            raise _missing(Place(step=step.id, field=field), field, what)
        if step.chain is not None:
            refuse_unbuilt(step.chain)


def _unbuilt(step: StepPlan) -> Iterator[tuple[str, str]]:
    if step.kind != "workflow" and (step.server is not None or step.requires):
        yield "server" if step.server is not None else "requires", "choosing a server for a step that is no workflow"
    if step.cache:
        yield "cache", "reusing results of earlier runs"


def _missing(place: Place, key: str, what: str) -> FeatureMissing:
    return FeatureMissing(
        "E_FEATURE_MISSING",
        f"{what} is not built into this version of towpath yet",
        place=place,
        cure=f"remove `{key.rpartition('.')[2]}` from the chain, or wait for the version that has it",
    )
