"""Templates of a step's parameters, filled in from what other steps gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from towpath.artifact import Artifact
from towpath.binding import resolve
from towpath.errors import ChainInvalid, ExpressionFailed, Place
from towpath.expressions import Scope, parse_template
from towpath.model import Json, StepStatus

StepResults = Mapping[str, Mapping[str, Any]]
"""By step id: `{status, output, parameters}`, and `error` if there is one."""


async def resolve_chain_templates(
    parameters: Mapping[str, Any], step_results: StepResults, uploaded_inputs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The parameters with every `{{ … }}` in them, however deep, replaced by its value.

    Names are the steps of `step_results` (`{{ edit.output.image }}`, `.status`, `.parameters`) and
    `{{ inputs.<key> }}` for `uploaded_inputs`. A text that is one whole `{{ … }}` keeps the type of its value; texts
    are never turned into numbers. The language is that of chain files, and nothing else is ever executed.

    Raises:
        ChainInvalid: E_TEMPLATE_… for what is no template, names nothing or is not allowed; all of them at once.
        ExpressionFailed: E_TEMPLATE_UNDEFINED naming step and key, E_TEMPLATE_FAILED, E_TEMPLATE_SIZE.
    """
    results = Results(step_results, uploaded_inputs or {})
    problems = [problem for key, value in parameters.items() for problem in _problems(value, results, key)]
    if problems:
        raise ChainInvalid(problems)
    return {key: _resolved(value, results, key) for key, value in parameters.items()}


def _problems(value: Any, results: Results, path: str) -> list[Any]:
    if isinstance(value, str):
        return parse_template(value, results.scope, _place(path))[1]
    return [problem for key, inner in _inner(value) for problem in _problems(inner, results, f"{path}{key}")]


def _resolved(value: Any, results: Results, path: str) -> Any:
    if isinstance(value, str):
        template, _ = parse_template(value, results.scope, _place(path))
        assert template is not None
        return template.render(lambda reference: resolve(reference, results, None, None))
    if isinstance(value, Mapping):
        return {key: _resolved(inner, results, f"{path}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, results, f"{path}[{index}]") for index, inner in enumerate(value)]
    return value


def _inner(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f".{key}", inner) for key, inner in value.items()]
    return [(f"[{index}]", inner) for index, inner in enumerate(value)] if isinstance(value, list) else []


def _place(path: str) -> Place:
    return Place(field=f"parameters.{path}")


@dataclass(frozen=True, slots=True)
class Results:
    """Results of steps as an expression sees them. Fills `towpath.binding.Environment`."""

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
        """None: results hold names of files, and the output tells them itself."""
        return []

    def status(self, step: str) -> str:
        return str(self.steps[step].get("status", "pending"))

    def parameters(self, step: str) -> Json:
        return self.steps[step].get("parameters") or {}

    def error(self, step: str) -> Json:
        return self.steps[step].get("error")
