"""Before a run starts: check and store its inputs, and refuse keys whose part is not built yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync

from .artifact import Artifact, File
from .attempt import keep_outcome
from .codecs import files_saved
from .context import StepContext
from .cures import TOO_LARGE, WRITTEN
from .errors import FeatureMissing, InputInvalid, Place, ValueRefused
from .events import Fact, StepEnded, StepReady
from .input_types import fitted
from .json_form import TooLarge, refuse_too_large
from .ledger import INPUTS
from .model import InputSpec, Plan, StepPlan, StepStatus
from .ports import NewRun, Store
from .run_labels import UNLABELLED, RunLabel
from .secrets import MARK, Secret, of_plain
from .step_calls import may_hold_objects


class Reads(Enum):
    """Which paths of this machine may become files for a caller: each caller has its own right to read.

    For all others, text is only text. A step may always return a `Path`, because its code runs here.
    """

    NOTHING = "nothing"  # a request: neither what it gives nor what its chain says
    WRITTEN = "written"  # what the chain's author wrote (`source`, `default`), not what the chain is given
    ANYTHING = "anything"  # a script or the command line: its user can read the files anyway


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
    reads: Reads = Reads.NOTHING,
    facts: tuple[Fact, ...] = (),
    parent_workflow_id: str | None = None,
    label: RunLabel = UNLABELLED,
) -> NewRun:
    """A run ready to be recorded: inputs complete, files among them kept as artifacts of the row `inputs`.

    All paths are opened now, as far as `reads` allows. No worker opens a path of the run later.

    Raises:
        InputInvalid: E_INPUT_MISSING, E_INPUT_UNKNOWN, E_INPUT_TYPE, E_INPUT_SOURCE, for the first wrong input;
            E_VALUE_FILE for a path that is not a plain file.
        FeatureMissing: E_FEATURE_MISSING. ValueRefused (E_VALUE_SIZE, …), StoreFailed for what cannot be kept.
    """
    refuse_unbuilt(plan)
    _refuse_too_large(given)
    context = StepContext(run_id, INPUTS, None, 1, store.files.folder / "work")
    try:
        values = settle_inputs(plan, await _with_files(given, context), reads)
        outcome = await keep_outcome(values, context, store.files, store.new_id, {})
    except ValueRefused as refused:
        problem = refused.problem
        if problem.code != "E_VALUE_FILE":
            raise
        raise InputInvalid(problem.code, problem.message, place=Place(field="inputs"), cure=problem.cure) from refused
    finally:
        context.end()
    row = store.new_id()
    files = tuple(a for a in outcome.artifacts if a.metadata != {"value": True})
    if files:
        facts = (
            StepReady(row, INPUTS, None, INPUTS, started=True, attempt=1),
            StepEnded(row, INPUTS, None, StepStatus.COMPLETED, 1, outcome.value, files),
            *facts,
        )
    return NewRun(run_id, plan, outcome.value, facts, parent_workflow_id, label=label)


def _refuse_too_large(given: Mapping[str, Any]) -> None:
    """Raises ValueRefused (E_VALUE_SIZE), before anything walks over the values."""
    for name, value in given.items():
        try:
            refuse_too_large(value)
        except TooLarge:
            place = Place(field=f"inputs.{name}")
            cure = f"give it as a file; {WRITTEN}"
            raise ValueRefused("E_VALUE_SIZE", f"the input {name} is {TOO_LARGE}", place=place, cure=cure) from None


async def _with_files(given: Mapping[str, Any], context: StepContext) -> Mapping[str, Any]:
    """The given values, with files for objects that have a codec; these are written in a thread."""
    if not any(map(may_hold_objects, given.values())):
        return given
    named: Mapping[str, Any] = await run_sync(files_saved, dict(given), lambda: context.work_folder)
    return named


def settle_inputs(plan: Plan, given: Mapping[str, Any], reads: Reads = Reads.NOTHING) -> dict[str, Any]:
    """Given values and defaults for all declared inputs, of the declared types."""
    known = {spec.name: spec for spec in plan.inputs}
    for name in given:
        if name not in known:
            allowed = " ".join(known) or "no inputs"
            raise InputInvalid("E_INPUT_UNKNOWN", f"chain {plan.name} has no input {name}", allowed=allowed)
    return {name: _settled(spec, given, plan, reads) for name, spec in known.items()}


def refuse_written_paths(plan: Plan) -> None:
    """Refuse a chain from a request that names a file: its author may read no file here.

    Raises InputInvalid (E_INPUT_SOURCE), whether or not the input is given: a plan that is kept names no file.
    """
    for spec in plan.inputs:
        if written_path(plan, spec) is not None:
            raise not_for_the_author(spec)


def written_path(plan: Plan, spec: InputSpec) -> Path | None:
    """The file that the declaration of an input names by `source` or `default`, if it names one."""
    if spec.source:
        return Path(plan.folder, spec.source)
    return Path(spec.default) if spec.type == "file" and isinstance(spec.default, str) else None


def _settled(spec: InputSpec, given: Mapping[str, Any], plan: Plan, reads: Reads) -> Any:
    if spec.name in given:
        return _checked(spec, given[spec.name], may_read=reads is Reads.ANYTHING)
    if spec.required:
        raise InputInvalid(
            "E_INPUT_MISSING",
            f"chain {plan.name} needs the input {spec.name}",
            place=Place(field=f"inputs.{spec.name}"),
            allowed=spec.type,
            cure=f"--input {spec.name}=…" + (f"  ({spec.description})" if spec.description else ""),
        )
    path = written_path(plan, spec)
    if path is not None and reads is Reads.NOTHING:
        raise not_for_the_author(spec)
    default = Secret.kept(spec.default) if spec.secret and spec.default is not None else spec.default
    return _checked(spec, default if path is None else path, may_read=True)


def _checked(spec: InputSpec, value: Any, *, may_read: bool) -> Any:
    if spec.secret or isinstance(value, Secret):
        return _secret(spec, value)
    return _typed(spec, value, may_read=may_read)


def _secret(spec: InputSpec, value: Any) -> Any:
    """A secret input. A secret that only another process can look up is not checked here."""
    if value is None:
        return None
    if not isinstance(value, Secret):
        value = of_plain(value)
    if value.mark is None:
        _typed(spec, value.reveal(), may_read=False)
    elif spec.type not in ("string", "json") and "env" in value.mark[MARK]:
        raise _wrong_type(spec, value)  # a variable holds text; what is encrypted was checked when it was given
    return value


def not_for_the_author(spec: InputSpec) -> InputInvalid:
    """The error for an input whose declaration names a file that its author may not read here."""
    field = "source" if spec.source else "default"
    return InputInvalid(
        "E_INPUT_SOURCE",
        "a chain in a request must not name a file of this machine",
        place=Place(field=f"inputs.{spec.name}.{field}"),
        cure=f"leave `{field}` out, upload the file and give it as the input",
    )


def _typed(spec: InputSpec, value: Any, *, may_read: bool) -> Any:
    if not may_read and _is_path(spec, value):
        raise InputInvalid(
            "E_INPUT_TYPE",
            f"input {spec.name} is a file, and text cannot name one here"
            if spec.type == "file"
            else f"this value does not fit input {spec.name}",
            place=Place(field=f"inputs.{spec.name}"),
            found=value,
            allowed="an artifact, or bytes" if spec.type == "file" else spec.type,
            cure="upload the file; inside a chain, pass on an input of type file or what a step returned",
        )
    if spec.shape is not None:
        plain = replace(spec, shape=None)
        return fitted(spec, value, lambda kind, one: _typed(replace(plain, type=kind), one, may_read=may_read))
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
        raise _wrong_type(spec, value)
    return value


def _is_path(spec: InputSpec, value: Any) -> bool:
    """Would storing this value open a path: text for a file, or a path at any depth?"""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, File):
            part = part.data
        if isinstance(part, Path):
            return True
        if isinstance(part, dict):
            left.extend(part.values())
        elif isinstance(part, list | tuple):
            left.extend(part)
    return spec.type == "file" and isinstance(value, str)


def _wrong_type(spec: InputSpec, value: Any) -> InputInvalid:
    place = Place(field=f"inputs.{spec.name}")
    found = type(value).__name__ if spec.secret or isinstance(value, Secret) else value
    return InputInvalid(
        "E_INPUT_TYPE", f"this value does not fit input {spec.name}", place=place, found=found, allowed=spec.type
    )


def refuse_unbuilt(plan: Plan) -> None:
    """Refuse keys that this version does not support, before the run starts."""
    for spec in plan.inputs:
        if spec.target and spec.type != "file":
            raise _missing(
                Place(field=f"inputs.{spec.name}.target"), "target", "a target for an input that is not a file"
            )
    for step in plan.steps:
        for field, what in _unbuilt(step):
            raise _missing(Place(step=step.id, field=field), field, what)
        if step.chain is not None:
            refuse_unbuilt(step.chain)


def _unbuilt(step: StepPlan) -> Iterator[tuple[str, str]]:
    if step.kind != "workflow" and (step.server is not None or step.requires):
        yield "server" if step.server is not None else "requires", "choosing a server for a step that is not a workflow"
    if step.cache:
        yield "cache", "reusing results of earlier runs"


def _missing(place: Place, key: str, what: str) -> FeatureMissing:
    return FeatureMissing(
        "E_FEATURE_MISSING",
        f"{what} is not built into this version of towpath yet",
        place=place,
        cure=f"remove `{key.rpartition('.')[2]}` from the chain, or wait for the version that has it",
    )
