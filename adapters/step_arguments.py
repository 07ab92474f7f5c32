"""The arguments of a step: its bindings, evaluated with the values that the run has so far."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import msgspec

from towpath.binding import bind, check_lengths, columns_of, of_item
from towpath.errors import ExpressionFailed, Place
from towpath.ledger import Ledger
from towpath.model import MAX_ITEMS, Json, StepPlan
from towpath.secrets import NOT_KEPT, Secret
from towpath.steps import Step
from towpath.values import copied, recorded

RECORDED_ARGUMENT = 64 * 1024  # bytes of JSON; of a larger argument only its origin is recorded
RECORDED_OF_ALL_ITEMS = 2 * 1024  # bytes of an argument that all items share: each row would repeat it


Make = Callable[[Any, int | None], Any]
"""Makes one argument from the element and the index of an item."""

_SCALARS = frozenset({int, float, bool, str, type(None)})


def _is_paired(binding: Json, step: StepPlan) -> bool:
    """Is it the list of the values of the step that this one is paired with?"""
    return step.pairs_with is not None and binding == {"$ref": {"step": step.pairs_with, "keys": []}}


_LISTS = {
    "int": "a step that returns list(range(n))",
    "dict": "a step that returns list(mapping.items()): each element is a pair",
    "str": "a step that returns text.split(), or another list of it",
    "Artifact": "a step that returns a list of files, or of what is in the file",
}


def _length(values: Any, place: Place) -> int:
    if not isinstance(values, list):
        message = "a step can only be mapped over a list"
        found = type(values).__name__
        cure = _LISTS.get(found, "a step that returns a list of it")
        raise ExpressionFailed("E_FOREACH_TYPE", message, place=place, found=found, allowed="a list", cure=cure)
    if len(values) > MAX_ITEMS:
        raise ExpressionFailed("E_MAP_SIZE", f"more than {MAX_ITEMS} items", place=place, found=len(values))
    return len(values)


class Arguments:
    """Evaluates the arguments of a run's steps.

    The list of a mapped step is evaluated once. So are arguments that do not depend on the item. These are evaluated
    again when the ledger has read rows again: a person may have replaced a file. Each item gets its own copy.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lists: dict[tuple[str, str], Any] = {}
        self._elements: dict[str, Callable[[int], Any]] = {}
        self._made: dict[str, _ItemArguments] = {}

    def count(self, step: StepPlan, pairs: int | None) -> int:
        """The number of items of a mapped step; `pairs` are those of the step that it is paired with.

        Raises ExpressionFailed: E_FOREACH_TYPE, E_MAP_SIZE, E_MAP_LENGTHS, E_TEMPLATE_….
        """
        lengths: dict[str, int] = {}
        for name, binding in columns_of(step.foreach).items():
            place = Place(step=step.id, field=f"foreach.{name}" if name else "foreach")
            known = pairs if not name or _is_paired(binding, step) else None
            lengths[name] = _length(self._list(step, name, binding), place) if known is None else known
        check_lengths(lengths, Place(step=step.id, field="foreach"))
        return next(iter(lengths.values()))

    def of(self, step: StepPlan, item: int | None) -> dict[str, Any]:
        """The arguments of a step, or of one item of a mapped step. Raises ExpressionFailed."""
        if item is None:
            place = Place(step=step.id, field="parameters")
            return {name: bind(binding, place, self._ledger) for name, binding in step.parameters.items()}
        return self._of_items(step).all(self._element_of(step)(item), item)

    def recorded(
        self, step: StepPlan, arguments: dict[str, Any], secrets: Collection[str], changed: Collection[str]
    ) -> Json:
        """The arguments as the row records them; `changed` names those that differ from what `of` gave."""
        if step.mapped:
            return self._of_items(step).recorded(arguments, secrets, changed)
        return {name: _recorded(name, value, step, secrets) for name, value in arguments.items()}

    def _of_items(self, step: StepPlan) -> _ItemArguments:
        made = self._made.get(step.id)
        if made is None or made.changes != self._ledger.changes:
            made = self._made[step.id] = _ItemArguments(step, self._ledger)
        return made

    def _element_of(self, step: StepPlan) -> Callable[[int], Any]:
        """Gives the element of an item."""
        found = self._elements.get(step.id)
        if found is None:
            columns = {n: self._column(step, n, binding) for n, binding in columns_of(step.foreach).items()}
            single = columns.get("")
            found = single or (lambda item: {name: of(item) for name, of in columns.items()})
            self._elements[step.id] = found
        return found

    def _column(self, step: StepPlan, name: str, binding: Json) -> Callable[[int], Any]:
        """Gives the elements of one list. Of the partner's value only single items are read."""
        if _is_paired(binding, step):
            assert step.pairs_with is not None
            return partial(self._ledger.item_value, step.pairs_with)
        element: Callable[[int], Any] = self._list(step, name, binding).__getitem__
        return element

    def _list(self, step: StepPlan, name: str, binding: Json) -> Any:
        if (step.id, name) not in self._lists:
            place = Place(step=step.id, field="foreach")
            self._lists[step.id, name] = bind(binding, place, self._ledger)
        return self._lists[step.id, name]


def _column_name(binding: Json, step: StepPlan) -> str:
    """The name of the list whose element a binding is; empty for any other binding."""
    keys = binding.get("$item") if isinstance(binding, dict) else None
    return keys[0] if keys and len(keys) == 1 and keys[0] in columns_of(step.foreach) else ""


class _ItemArguments:
    """How the arguments of the items of one mapped step are made."""

    def __init__(self, step: StepPlan, ledger: Ledger) -> None:
        self.changes = ledger.changes
        self._step = step
        self._ledger = ledger
        self._makers: list[tuple[str, Make]] = []
        self._shared: dict[str, Any] = {}
        self._recorded: dict[str, Json] = {}
        for name, binding in step.parameters.items():
            self._makers.append((name, self._maker(name, binding)))

    def all(self, element: Any, item: int | None) -> dict[str, Any]:
        return {name: make(element, item) for name, make in self._makers}

    def _maker(self, name: str, binding: Json) -> Make:
        if type(binding) in _SCALARS:
            return lambda _element, _item: binding
        if binding == {"$item": []}:
            return lambda element, _item: element
        place = Place(step=self._step.id, field="parameters")
        if name_of := _column_name(binding, self._step):
            return lambda element, _item: element[name_of]
        if not of_item(binding):
            return lambda _element, _item: self._of_all_items(name, binding, place)
        return lambda element, item: bind(binding, place, self._ledger, element, item)

    def _of_all_items(self, name: str, binding: Json, place: Place) -> Any:
        if name not in self._shared:
            self._shared[name] = bind(binding, place, self._ledger)
        return copied(self._shared[name])

    def recorded(self, arguments: dict[str, Any], secrets: Collection[str], changed: Collection[str]) -> Json:
        result: dict[str, Json] = {}
        for name, value in arguments.items():
            if name in self._shared and name not in changed:
                if name not in self._recorded:
                    self._recorded[name] = _recorded(name, value, self._step, secrets, RECORDED_OF_ALL_ITEMS)
                result[name] = self._recorded[name]
            else:
                result[name] = _recorded(name, value, self._step, secrets)
        return result


_SHORT = frozenset({int, float, bool, type(None)})


def _recorded(name: str, value: Any, step: StepPlan, secrets: Collection[str], most: int = RECORDED_ARGUMENT) -> Json:
    """One argument as the row records it: a large one as its origin, a secret one only as a mark."""
    if type(value) in _SHORT and name not in secrets:
        return value
    if name in secrets and value is not None and not isinstance(value, Secret):
        return NOT_KEPT
    if isinstance(value, dict | list) or (isinstance(value, str) and len(value) > 1024):
        data = recorded(value)
        small = len(msgspec.json.encode(data)) <= most
        return data if small else {"$from": step.parameters.get(name)}
    return recorded(value)


def secret_names(step: StepPlan, arguments: dict[str, Any], function: Step[..., Any] | None) -> Collection[str]:
    """The names of secret arguments. A plan that was made without the function does not know all of them."""
    given = frozenset[str]() if function is None else function.secrets_among(arguments)
    return {*step.secrets, *given} if step.secrets or given else ()
