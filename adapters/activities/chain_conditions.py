"""Whether a step is to run."""

from __future__ import annotations

from towpath.binding import resolve
from towpath.errors import ChainInvalid, Place
from towpath.expressions import parse_condition

from .chain_templates import Results, StepResults


async def evaluate_chain_condition(condition: str, step_results: StepResults) -> bool:
    """Is a condition true? `a.status == 'completed'`, with or without `{{ … }}` around the whole of it.

    It is evaluated once, as an expression: what a step gave is compared and never read as a part of it.

    Raises:
        ChainInvalid: E_COND_… for what is no condition or names no step; all that is wrong at once.
        ExpressionFailed: E_COND_TYPE if it is neither true nor false, E_TEMPLATE_UNDEFINED naming step and key.
    """
    results = Results(step_results, {})
    parsed, problems = parse_condition(condition, results.scope, Place(field="condition"))
    if parsed is None or problems:
        raise ChainInvalid(problems)
    return parsed.holds(lambda reference: resolve(reference, results, None, None))
