"""Code that was changed after a run began: found before anything of the run starts again."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from .annotation_checks import annotation_problems
from .errors import Place, StepNotRegistered
from .model import Plan, StepPlan
from .steps import Step


def refuse_other_parameters(plan: Plan, functions: Mapping[str, Step[..., Any]], over: Container[str] = ()) -> None:
    """Refuse to go on with a recorded plan if a function takes other parameters by now, before anything starts.

    `over` are the steps that are not called again. Raises StepNotRegistered (E_STEP_ARGUMENTS, E_ANNOTATION).
    """
    for step in _called_steps(plan, over):
        if step.target in functions:
            refuse_misfit(step, functions[step.target])


def refuse_misfit(step: StepPlan, function: Step[..., Any]) -> None:
    """Refuse a function that does not take the arguments of a recorded step. The step it is for has its name only.

    Raises StepNotRegistered: E_STEP_ARGUMENTS; E_ANNOTATION for an annotation that cannot work (any more, as when a
    codec is not registered).
    """
    why = function.misfit(step.parameters)
    if why:
        raise StepNotRegistered(
            "E_STEP_ARGUMENTS",
            f"the function of the step was changed after the run began: {why}",
            place=Place(step=step.id),
            found=f"{function.name}{function.signature}",
            allowed=f"a function that takes {', '.join(step.parameters) or 'no arguments'}",
            cure="put the code back, then resume: the run is left as it was; or start a new run of the changed chain",
        )
    for problem in annotation_problems(function, step.parameters):
        raise StepNotRegistered(
            problem.code,
            problem.message,
            place=Place(problem.place.file, problem.place.line, problem.place.column, step.id, problem.place.field),
            found=problem.found,
            allowed=problem.allowed,
            cure=f"{problem.cure}; then resume: the run is left as it was",
        )


def _called_steps(plan: Plan, over: Container[str]) -> Iterator[StepPlan]:
    for step in plan.steps:
        if step.id in over:
            continue
        if step.chain is not None:
            yield from _called_steps(step.chain, ())
        elif step.kind == "python":
            yield step
