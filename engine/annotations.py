"""What the parameters of a function are annotated with, and which arguments must be made to fit that.

An annotation with a name that cannot be found counts as none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from .artifact import Artifact
from .input_types import resolved
from .late import Late
from .step_kinds import annotated

if TYPE_CHECKING:
    from . import natural
else:
    natural = Late("towpath.natural")

_AS_IT_IS: tuple[Any, ...] = (Any, object, int, float, bool, list, dict, None, type(None), Artifact)


class Receiver(NamedTuple):
    """How an argument becomes what its parameter is annotated with: always, or only if there are files in it."""

    annotation: Any
    always: bool


def receivers_of(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Receiver]:
    """The receivers by parameter. There is none where every argument fits as it is."""
    hints = annotations_of(function, signature)
    return {name: found for name, hint in hints.items() if (found := _receiver(hint)) is not None}


def _receiver(hint: Any) -> Receiver | None:
    if any(hint is one for one in _AS_IT_IS):
        return None
    if hint is str:
        return Receiver(str, always=False)
    if natural.receives(hint):
        return Receiver(hint, always=True)
    return Receiver(hint, always=False) if natural.takes_files(hint) else None


def annotations_of(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """The annotations of the parameters by name, without those that are missing or cannot be resolved."""
    written = {p.name: p.annotation for p in signature.parameters.values() if p.annotation is not p.empty}
    if not any(map(_is_open, written.values())):
        return written
    plain = _plain_function(function)
    try:
        hints = get_type_hints(plain, include_extras=True)
        return {name: hints[name] for name in written}
    except Exception:  # one name that only type checkers know, or what evaluating the text raises
        found = {name: _one(hint, plain) for name, hint in written.items()}
        return {name: hint for name, hint in found.items() if hint is not Any}


def returned_annotation(function: Callable[..., Any], signature: inspect.Signature) -> Any:
    """What a function is annotated to return; Any if that is missing or cannot be resolved."""
    written = signature.return_annotation
    if written is signature.empty:
        return Any
    return _one(written, _plain_function(function)) if _is_open(written) else written


def _is_open(annotation: Any) -> bool:
    """May there be a name in it that is not resolved? Most annotations are plain classes."""
    return not isinstance(annotation, type) and annotation is not None and annotation is not Any


def _one(annotation: Any, function: Any) -> Any:
    try:
        return resolved(annotation, function)
    except Exception:
        return Any


def _plain_function(function: Any) -> Any:
    """The function whose parameters are annotated: behind wrappers, `partial` and the object of a class."""
    return inspect.unwrap(annotated(inspect.unwrap(function)))
