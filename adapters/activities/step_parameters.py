"""Parameters and conditions of a step: filled in from the results of other steps, and written into a workflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync

from towpath.adapters.comfyui.parameters import apply_parameters
from towpath.adapters.comfyui.workflow_files import Workflow, read_workflow
from towpath.adapters.settings import settle
from towpath.artifact import Artifact
from towpath.binding import resolve
from towpath.chain_files import find_workflow
from towpath.errors import ChainInvalid, ExpressionFailed, InputInvalid, Place, Problem
from towpath.expressions import Scope, parse_condition, parse_template
from towpath.model import Json, StepStatus

StepResults = Mapping[str, Mapping[str, Any]]
"""By step id: `{status, output, parameters}`, and `error` if there is one."""


async def resolve_chain_templates(
    parameters: Mapping[str, Any], step_results: StepResults, uploaded_inputs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The parameters with every `{{ … }}` in them, at any depth, replaced by its value.

    Names are the steps of `step_results` (`{{ edit.output.image }}`, `.status`, `.parameters`) and
    `{{ inputs.<key> }}` for `uploaded_inputs`. A text that is a single `{{ … }}` keeps the type of its value; texts
    are never turned into numbers. The language is that of chain files; no other code is ever executed.

    Raises:
        ChainInvalid: E_TEMPLATE_… with all invalid templates: wrong syntax, unknown names, forbidden expressions.
        ExpressionFailed: E_TEMPLATE_UNDEFINED naming step and key, E_TEMPLATE_FAILED, E_TEMPLATE_SIZE.
    """
    results = _Results(step_results, uploaded_inputs or {})
    problems: list[Problem] = []
    for key, value in parameters.items():
        _find_problems(value, results, key, problems)
    if problems:
        raise ChainInvalid(problems)
    return {key: _resolved(value, results, key) for key, value in parameters.items()}


async def evaluate_chain_condition(condition: str, step_results: StepResults) -> bool:
    """Whether a condition is true: `a.status == 'completed'`, with or without `{{ … }}` around it.

    It is evaluated once. Outputs of steps are compared as values and never parsed as part of the condition.

    Raises:
        ChainInvalid: E_COND_… with all problems: wrong syntax, unknown steps.
        ExpressionFailed: E_COND_TYPE if it is neither true nor false, E_TEMPLATE_UNDEFINED naming step and key.
    """
    results = _Results(step_results, {})
    parsed, problems = parse_condition(condition, results.scope, Place(field="condition"))
    if parsed is None or problems:
        raise ChainInvalid(problems)
    return parsed.holds(lambda reference: resolve(reference, results, None, None))


async def apply_workflow_parameters(
    workflow_name: str, parameters: Mapping[str, Any], *, folder: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """The graph of the workflow file `<folder>/<name>.json` with these values in it; the file is not changed.

    Keys are `<node id>.<input>`, or `<title>.<input>` if only one node has that title. If there is an override file,
    only the parameters that it lists may be set. `folder` is `workflows` of the settings unless it is given.

    Raises:
        InputInvalid: E_WORKFLOW_…, E_REF_PATH for the file; E_PARAMETER_UNKNOWN (which lists the allowed keys),
            E_PARAMETER_TYPE, E_PARAMETER_LINK, E_PARAMETER_AMBIGUOUS for a parameter.
    """
    home = settle().workflows if folder is None else Path(folder)
    return apply_parameters(await run_sync(_read, workflow_name, home), parameters)


def _read(name: str, folder: Path) -> Workflow:
    path = find_workflow(name, folder)
    if path is None:
        cure = f"save it from ComfyUI with Export (API) as {folder.name}/{name}.json"
        raise InputInvalid("E_WORKFLOW_FILE", f"there is no workflow {name}", place=Place(field=name), cure=cure)
    return read_workflow(path, name)


def _find_problems(value: Any, results: _Results, path: str, problems: list[Problem]) -> None:
    if isinstance(value, str):
        problems += parse_template(value, results.scope, _place(path))[1]
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _find_problems(inner, results, f"{path}.{key}", problems)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _find_problems(inner, results, f"{path}[{index}]", problems)


def _resolved(value: Any, results: _Results, path: str) -> Any:
    if isinstance(value, str):
        template, _ = parse_template(value, results.scope, _place(path))
        assert template is not None
        return template.render(lambda reference: resolve(reference, results, None, None))
    if isinstance(value, Mapping):
        return {key: _resolved(inner, results, f"{path}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, results, f"{path}[{index}]") for index, inner in enumerate(value)]
    return value


def _place(path: str) -> Place:
    return Place(field=f"parameters.{path}")


@dataclass(frozen=True, slots=True)
class _Results:
    """Results of steps as expressions read them. Implements `towpath.binding.Environment`."""

    steps: StepResults
    inputs: Mapping[str, Any]

    @property
    def scope(self) -> Scope:
        """The names that an expression may use."""
        known = frozenset(self.steps)
        return Scope(frozenset(self.inputs), known, known)

    def input(self, name: str) -> object:
        return self.inputs[name]

    def value(self, step: str) -> Any:
        status = self.status(step)
        if status not in (StepStatus.COMPLETED, StepStatus.CACHED):
            raise ExpressionFailed(
                "E_TEMPLATE_UNDEFINED",
                f"step {step} has no output: it is {status}",
                place=Place(step=step),
                cure=f"guard it with a condition: {step}.status == 'completed' and …",
            )
        return self.steps[step].get("output")

    def files(self, step: str) -> list[Artifact]:
        """Empty: here outputs hold the names of files."""
        return []

    def status(self, step: str) -> str:
        return str(self.steps[step].get("status", "pending"))

    def parameters(self, step: str) -> Json:
        return self.steps[step].get("parameters") or {}

    def error(self, step: str) -> Json:
        return self.steps[step].get("error")
