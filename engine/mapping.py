"""What a step is mapped over inside a `@chain`: one list, or several lists of one length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .binding import check_lengths
from .errors import ChainInvalid, ExpressionFailed, Problem, shown
from .model import MAX_ITEMS
from .tracing import is_reference, user_place


class ItemMark:
    """Placeholder for the element of a mapped step among its arguments; with a name, for the part of it that comes from
    the list of that name.
    """

    def __init__(self, column: str | None = None) -> None:
        self.column = column


class Columns(dict[str, Any]):
    """Several lists that a step is mapped over together, by name."""


def as_list(values: Any, refused: Callable[[str, str], ChainInvalid]) -> Any:
    """What one argument of `.map` stands for: a list or a reference. `refused` makes an error of a reason and cure."""
    if is_reference(values):
        return values
    if isinstance(values, list | tuple | range):
        return _listed(values)
    if getattr(values, "ndim", None) == 1 and callable(getattr(values, "tolist", None)):  # numpy, pandas
        return _listed(values.tolist())
    kind = shown(type(values).__name__)
    raise refused(f"mapped over {kind}, which is not a list", _cure(values))


def _listed(values: Any) -> list[Any]:
    if len(values) > MAX_ITEMS:
        message = f"more than {MAX_ITEMS} items"
        found, cure = str(len(values)), "map over parts of the list: a step for 1,000 elements, say"
        raise ChainInvalid([Problem("E_MAP_SIZE", message, user_place(), found=found, cure=cure)])
    return list(values)


def _cure(values: Any) -> str:
    if isinstance(values, Mapping):
        return "map over list(….items()), list(….values()) or list(…)"
    if isinstance(values, str | bytes):
        return "a text is one value: map over [text], or over list(text) for its characters"
    if callable(getattr(values, "to_dict", None)):
        return 'map over its rows, ….to_dict("records"), or over one column'
    if getattr(values, "ndim", 0) > 1:
        return "map over its rows, ….tolist()"
    if hasattr(type(values), "__iter__") and getattr(values, "ndim", None) != 0:
        return "map over list(…)"
    return "map over a list; a keyword argument is the same for all items: step.map(items, name=value)"


def check_known_lengths(columns: Columns) -> None:
    """Check the lists that are known now. Raises ChainInvalid (E_MAP_LENGTHS)."""
    lengths = {name: len(values) for name, values in columns.items() if not is_reference(values)}
    try:
        check_lengths(lengths, user_place())
    except ExpressionFailed as different:
        raise ChainInvalid([different.problem]) from None
