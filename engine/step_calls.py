"""What a step's function gets, and what becomes of the value that it returns.

An argument becomes what its parameter is annotated with: a path, the bytes of a file, an object of a class. In the
value, objects that have a codec become files. Both may read and write files and call code of the user. So both happen
where the function runs: in its thread or its process; and in a worker thread for an async function.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio.to_thread import run_sync

from .artifact import Artifact, File, KeptFile
from .context import StepContext
from .errors import Place
from .json_form import MAX_DEPTH
from .late import Late
from .secrets import Secret
from .steps import Step
from .values import is_plain

if TYPE_CHECKING:
    from . import codecs, natural
else:
    codecs, natural = Late("towpath.codecs"), Late("towpath.natural")

_DATA = frozenset({type(None), bool, int, float, str})
_AS_THEY_ARE = _DATA | {bytes, bytearray, memoryview, Artifact, File, KeptFile, Secret}


def call_plain(step: Step[..., Any], arguments: dict[str, Any], context: StepContext) -> Any:
    """Call a plain function, and return its value with files in it. Blocks. Raises as `received` and `with_files`."""
    if step.receives:
        arguments = received(arguments, to_receive(step, arguments), context)
    args, kwargs = step.call_arguments(arguments)
    value = step.function(*args, **kwargs)
    return with_files(value, context) if may_hold_objects(value) else value


async def call_async(
    step: Step[..., Any], arguments: dict[str, Any], annotations: Mapping[str, Any], context: StepContext
) -> Any:
    """Call an async function when its arguments fit these annotations. Raises as `received`."""
    receive = partial(received, arguments, annotations, context)
    if any(_holds_files(arguments[name]) for name in annotations):
        arguments = await run_sync(receive, abandon_on_cancel=True)
    else:
        arguments = receive()
    args, kwargs = step.call_arguments(arguments)
    return await step.function(*args, **kwargs)


# ---- arguments


def to_receive(step: Step[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of the arguments that must become what they say, by name."""
    found: dict[str, Any] = {}
    for name, (annotation, always) in step.receivers_among(arguments).items():
        value = arguments.get(name)
        if value is not None and (always or (type(value) not in _DATA and _holds_files(value))):
            found[name] = annotation
    return found


def received(arguments: dict[str, Any], annotations: Mapping[str, Any], context: StepContext) -> dict[str, Any]:
    """The arguments, those with an annotation here as it says. Blocks where it reads files.

    Raises:
        InputInvalid: E_ARGUMENT_TYPE with the place inside the argument. StoreFailed: E_BLOB_….
    """
    if not annotations:
        return arguments
    result = dict(arguments)
    for name, annotation in annotations.items():
        item = "" if context.item is None else f"[{context.item}]"
        place = Place(step=f"{context.step_id}{item}", field=name)
        result[name] = natural.rebuild(arguments[name], annotation, place)
    return result


def _holds_files(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return not _DATA.issuperset(map(type, value.values())) and any(map(_holds_files, value.values()))
    if kind is list:
        return not _DATA.issuperset(map(type, value)) and any(map(_holds_files, value))
    return kind is Artifact


# ---- values


def with_files(value: Any, context: StepContext) -> Any:
    """The value, with files for objects that have a codec. Blocks. Raises ValueRefused (E_CODEC)."""
    return codecs.files_saved(value, lambda: context.work_folder)


def may_hold_objects(value: Any) -> bool:
    """May there be an object with a codec in the value? This looks at types only, and most values are data."""
    return not is_plain(value) and codecs.are_there() and _may_hold(value, 0, set())


def _may_hold(value: Any, depth: int, seen: set[int]) -> bool:
    """`seen` has the lists and dicts that were looked at: one may contain itself, or be in many places."""
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind not in _AS_THEY_ARE
    if _AS_THEY_ARE.issuperset(map(type, value)) or depth > MAX_DEPTH:  # values.py refuses what is deeper
        return False
    inside = [inner for inner in value if type(inner) not in _AS_THEY_ARE and id(inner) not in seen]
    seen.update(map(id, inside))
    return any(_may_hold(inner, depth + 1, seen) for inner in inside)
