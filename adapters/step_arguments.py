"""The arguments of a step: its bindings, evaluated with the values that the run has so far."""

from __future__ import annotations

from typing import Any

import msgspec

from towpath.binding import bind
from towpath.errors import ExpressionFailed, Place
from towpath.ledger import Ledger
from towpath.model import MAX_ITEMS, Json, StepPlan
from towpath.secrets import NOT_KEPT, Secret
from towpath.steps import Step
from towpath.values import recorded

RECORDED_ARGUMENT = 64 * 1024  # bytes of JSON; of a larger argument only its origin is recorded


class Arguments:
    """Evaluates the arguments of a run's steps; the list of a mapped step is evaluated once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._elements: dict[str, list[Any]] = {}

    def count(self, step: StepPlan) -> int:
        """The number of items of a mapped step.

        Raises ExpressionFailed: E_FOREACH_TYPE, E_MAP_SIZE, E_TEMPLATE_….
        """
        elements = self._elements_of(step)
        place = Place(step=step.id, field="foreach")
        if not isinstance(elements, list):
            message = "a step can only be mapped over a list"
            raise ExpressionFailed("E_FOREACH_TYPE", message, place=place, found=type(elements).__name__)
        if len(elements) > MAX_ITEMS:
            raise ExpressionFailed("E_MAP_SIZE", f"more than {MAX_ITEMS} items", place=place, found=len(elements))
        return len(elements)

    def of(self, step: StepPlan, item: int | None) -> dict[str, Any]:
        """The arguments of a step, or of one item of a mapped step. Raises ExpressionFailed."""
        element: Any = None
        if item is not None and step.pairs_with is not None:
            element = self._ledger.item_value(step.pairs_with, item)
        elif item is not None:
            element = self._elements_of(step)[item]
        place = Place(step=step.id, field="parameters")
        return {name: bind(b, place, self._ledger, element, item) for name, b in step.parameters.items()}

    def _elements_of(self, step: StepPlan) -> Any:
        if step.id not in self._elements:
            self._elements[step.id] = bind(step.foreach, Place(step=step.id, field="foreach"), self._ledger)
        return self._elements[step.id]


def recorded_parameters(arguments: dict[str, Any], step: StepPlan, function: Step[..., Any] | None = None) -> Json:
    """The arguments as the row records them: a large one as its origin, a secret one only as a mark.

    `function` names its secret parameters; a plan that was made without the function does not know them.
    """
    secrets = {*step.secrets, *(() if function is None else function.secrets_among(arguments))}
    result: dict[str, Json] = {}
    for name, value in arguments.items():
        if name in secrets and value is not None and not isinstance(value, Secret):
            result[name] = NOT_KEPT
        elif isinstance(value, dict | list) or (isinstance(value, str) and len(value) > 1024):
            data = recorded(value)
            small = len(msgspec.json.encode(data)) <= RECORDED_ARGUMENT
            result[name] = data if small else {"$from": step.parameters.get(name)}
        else:
            result[name] = recorded(value)
    return result
