"""The type of a chain's input: a Python annotation as plain data (a shape), and how values and texts are checked by it.

A shape is stored in the plan, where annotations cannot be:

    "string" "integer" "number" "boolean" "file" "null"     one thing
    {"any_of": [shape, …]}    {"one_of": [constant, …]}    {"text": "date"}: text of that form
    {"list": shape}    {"tuple": [shape, …]}    {"dict": shape}    (the keys of a dict are text)
    None                                                    any data, or a file
"""

from __future__ import annotations

import collections
import collections.abc
import datetime
import decimal
import enum
import inspect
import json
import math
import os
import re
import types
import typing
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from .artifact import Artifact, File
from .codecs import codec_for, formed
from .errors import InputInvalid, Place, shown
from .json_form import has_named_fields
from .late import Late
from .model import InputSpec, Json
from .secrets import Secret, secret_type

if TYPE_CHECKING:
    from . import natural
else:
    natural = Late("towpath.natural")

Shape: TypeAlias = Json
Leaf: TypeAlias = Callable[[str, Any], Any]

_BASES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_FILES = (Artifact, File, Path, bytes)
_LISTS = (list, set, frozenset, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Set,
          collections.abc.Collection, collections.abc.Iterable, collections.abc.Iterator, collections.abc.Reversible,
          collections.abc.MutableSet, collections.deque)  # fmt: skip
_DICTS = (collections.abc.Mapping, collections.abc.MutableMapping)
_DURATION = datetime.timedelta
_TEXTS: dict[str, type] = {  # given as text; a datetime is a date too, so it comes first
    "datetime": datetime.datetime, "date": datetime.date, "time": datetime.time, "decimal": decimal.Decimal,
    "UUID": uuid.UUID,
}  # fmt: skip
_ISO = frozenset({"datetime", "date", "time", "duration"})
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")
_DEPTH = 20
# Names that a program may import only `if TYPE_CHECKING`, so that they have no value when the chain is described.
_WELL_KNOWN = {
    "Artifact": Artifact, "File": File, "Path": Path, "Secret": Secret, "Any": Any, "Optional": typing.Optional,
    "Union": typing.Union,
    "Literal": typing.Literal, "Annotated": typing.Annotated, "Sequence": collections.abc.Sequence,
    "Iterable": collections.abc.Iterable, "Mapping": collections.abc.Mapping,
}  # fmt: skip


def input_spec(parameter: inspect.Parameter, function: Callable[..., Any]) -> InputSpec:
    """The declared input that a parameter of a `@chain` stands for."""
    secret, hint = secret_type(_hint(parameter, function))
    shape = shape_of(hint)
    if isinstance(parameter.default, Path) and shape is None:
        shape = "file"
    required = parameter.default is parameter.empty
    default = str(parameter.default) if isinstance(parameter.default, Path) else parameter.default
    default = default.mark if isinstance(default, Secret) else formed(default)
    kind, word = _kind(shape), isinstance(shape, str) or shape is None
    # Where text is allowed too, the default would become text: a path is kept as the path of a file.
    source = os.path.abspath(parameter.default) if isinstance(parameter.default, Path) and kind != "file" else ""
    return InputSpec(
        parameter.name,
        kind,
        required,
        None if required or source else default,
        shape=None if word else shape,
        secret=secret,
        source=source,
    )


def _hint(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    """The annotation as a type. If it cannot be resolved: `Any`, and a warning that the input is not checked."""
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    function = inspect.unwrap(function)
    try:
        return resolved(parameter.annotation, function)
    except Exception as error:  # whatever evaluating the user's text raises
        message = (
            f"input {parameter.name} is not checked: its annotation {shown(parameter.annotation)} cannot be resolved"
        )
        cure = "import what it names where the chain is described, or write Any"
        code = getattr(function, "__code__", None)
        file, line = (code.co_filename, code.co_firstlineno) if code is not None else ("<unknown>", 1)
        registry = getattr(function, "__globals__", {}).setdefault("__warningregistry__", {})  # once for each line
        warnings.warn_explicit(
            f"{message} ({type(error).__name__}): {cure}", UserWarning, file, line, registry=registry
        )
        return Any


def resolved(annotation: Any, function: Callable[..., Any]) -> Any:
    """An annotation of the function as a type. Raises NameError, or what evaluating its text raises."""
    names = {**_WELL_KNOWN, **getattr(function, "__globals__", {}), **_closed_over(function)}
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    for _ in range(_DEPTH):
        try:
            return typing.get_type_hints(holder, names, names, include_extras=True)["it"]
        except NameError as error:
            if error.name is None or not re.search(rf"\b{re.escape(error.name)}\s*\.", str(annotation)):
                raise
            names[error.name] = _Unimported()
    return Any


class _Unimported:
    """Stands for a module that only type checkers import: in `tp.Artifact` the name alone tells the type."""

    def __getattr__(self, name: str) -> Any:
        if name not in _WELL_KNOWN:
            raise AttributeError(name)
        return _WELL_KNOWN[name]


def _closed_over(function: Any) -> dict[str, Any]:
    names, cells = (
        getattr(getattr(function, "__code__", None), "co_freevars", ()),
        getattr(function, "__closure__", None) or (),
    )
    found = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def shape_of(hint: Any, depth: int = 0) -> Shape:
    """The shape of an annotation; None if the annotation says nothing about data."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if depth > _DEPTH:
        return None
    if origin is typing.Literal:
        return _one_of(arguments)
    if origin in (typing.Union, types.UnionType):
        return _any_of([shape_of(argument, depth + 1) for argument in arguments])
    meant = _meant(hint, origin, arguments)
    if meant is not hint:
        return shape_of(meant, depth + 1)
    return _of_class(origin or hint, arguments, depth) if isinstance(origin or hint, type) else None


def _meant(hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    """The type behind an alias, `Annotated`, a `NewType` or a type variable; else the hint itself."""
    if hint is None:
        return type(None)
    if origin is typing.Annotated:
        return arguments[0]
    if isinstance(hint, typing.NewType):
        return hint.__supertype__
    if isinstance(hint, typing.TypeVar):
        allowed = hint.__constraints__ or (hint.__bound__ or Any,)
        return typing.Union[allowed]  # noqa: UP007 - there is no other way to build one of a tuple
    return getattr(hint, "__value__", hint)  # `type X = …`


def _any_of(shapes: list[Shape]) -> Shape:
    flat: list[Shape] = []
    for shape in shapes:
        inner = shape["any_of"] if isinstance(shape, dict) and "any_of" in shape else [shape]
        flat += [one for one in inner if one not in flat]
    if None in flat:
        return None
    return flat[0] if len(flat) == 1 else {"any_of": flat}


def _one_of(constants: Iterable[Any]) -> Shape:
    """The shape for some constants. Members of an enum are given by their values."""
    values = [plain(constant) for constant in constants]
    return {"one_of": values} if values and all(type(value) in _BASES for value in values) else None


def plain(value: Any) -> Any:
    """The value of a member of an enum; any other value itself."""
    return value.value if isinstance(value, enum.Enum) else value


def _of_class(kind: type, arguments: tuple[Any, ...], depth: int) -> Shape:
    if issubclass(kind, enum.Enum) and not issubclass(kind, enum.Flag):
        return _one_of(kind)
    return _one_thing(kind, arguments) or _holder(kind, arguments, depth)


def _one_thing(kind: type, arguments: tuple[Any, ...]) -> Shape:
    if (
        issubclass(kind, _FILES)
        or codec_for(kind) is not None
        or kind is PathLike
        or (kind is collections.abc.AsyncIterable and arguments == (bytes,))
    ):
        return "file"
    if issubclass(kind, datetime.timedelta):
        return {"any_of": ["number", {"text": "duration"}]}
    written = next((word for word, base in _TEXTS.items() if issubclass(kind, base)), None)
    if written is not None:
        return {"text": written}
    return next((name for base, name in _BASES.items() if issubclass(kind, base)), None)


def _holder(kind: type, arguments: tuple[Any, ...], depth: int) -> Shape:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return {"tuple": [shape_of(argument, depth + 1) for argument in arguments]}
    if kind is tuple or kind in _LISTS:
        return {"list": shape_of(arguments[0], depth + 1) if arguments else None}
    if issubclass(kind, tuple):
        return {"list": None}
    if kind is collections.Counter:
        return {"dict": "integer"}
    if kind in _DICTS or issubclass(kind, dict) or has_named_fields(kind):
        return {"dict": shape_of(arguments[1], depth + 1) if len(arguments) == 2 else None}
    return None


def _kind(shape: Shape) -> str:
    """The type of an input as one word: string integer number boolean json file."""
    if isinstance(shape, str):
        return "json" if shape == "null" else shape
    if isinstance(shape, dict) and "any_of" in shape:
        kinds = {_kind(inner) for inner in shape["any_of"] if inner != "null"}
        return kinds.pop() if len(kinds) == 1 else "json"
    if isinstance(shape, dict) and "text" in shape:
        return "string"
    if isinstance(shape, dict) and "one_of" in shape and all(type(value) is str for value in shape["one_of"]):
        return "string"
    return "json"


def in_words(shape: Shape) -> str:
    """The shape in words, for messages."""
    if shape is None:
        return "anything"
    if isinstance(shape, str):
        return shape
    ((key, inner),) = shape.items()
    if key == "any_of":
        return " or ".join(in_words(one) for one in inner)
    if key == "text":
        return f"{inner} as text (ISO 8601)" if inner in _ISO else f"{inner} as text"
    if key == "one_of":
        return " or ".join(msgspec.json.encode(one).decode() for one in inner)
    if key == "tuple":
        return f"a list of {len(inner)}: {', '.join(in_words(one) for one in inner)}"
    what = {"list": "a list", "dict": "a mapping"}[key]
    return what if inner is None else f"{what} of {in_words(inner)}"


def _refused(spec: InputSpec, found: object, shape: Shape, at: str = "") -> InputInvalid:
    place = Place(field=f"inputs.{spec.name}{at}")
    as_text = isinstance(found, str) and isinstance(shape, dict) and not at
    found = type(found).__name__ if spec.secret else found
    return InputInvalid(
        "E_INPUT_TYPE",
        f"this value does not fit input {spec.name}",
        place=place,
        found=found,
        allowed=in_words(shape),
        cure=f"as JSON: --input '{spec.name}={_example(shape)}'" if as_text else "",
    )


def _example(shape: Shape) -> str:
    """JSON of a shape, to show how it is written; empty for what is one text."""
    if not isinstance(shape, dict):
        return {"string": '"a"', "integer": "1", "number": "0.5", "boolean": "true"}.get(shape or "", "…")
    ((key, inner),) = shape.items()
    match key:
        case "list":
            return f"[{_example(inner)}, {_example(inner)}]"
        case "dict":
            return f'{{"key": {_example(inner)}}}'
        case "tuple":
            return f"[{', '.join(map(_example, inner))}]"
        case "any_of":
            return _example(inner[0])
        case _:
            return "…"


# ---- values


def fitted(spec: InputSpec, value: Any, leaf: Leaf) -> Any:
    """The value, converted to the input's shape. `leaf(kind, value)` checks and converts each single value inside it.

    Raises:
        InputInvalid: E_INPUT_TYPE with the place inside the value.
    """
    return _Fitting(spec, leaf).value(spec.shape, value, "")


class _Fitting:
    def __init__(self, spec: InputSpec, leaf: Leaf) -> None:
        self.spec = spec
        self.leaf = leaf

    def value(self, shape: Shape, value: Any, at: str) -> Any:
        if shape is None:
            return value
        if isinstance(shape, str):
            return self._one(shape, value, at)
        ((key, inner),) = shape.items()
        if key == "one_of":
            value = plain(value)
            if any(type(one) is type(value) and one == value for one in inner):
                return value
        elif key == "text":
            if _is_text_of(inner, value):
                return value
        elif key == "any_of":
            return self._first(shape, _by_strictness(inner), value, at)
        elif key == "dict":
            if isinstance(value, Mapping):  # the keys are checked later, with all values
                return {name: self.value(inner, one, f"{at}[{name!r}]") for name, one in value.items()}
        elif isinstance(value, list | tuple | set | frozenset):
            shapes = inner if key == "tuple" else [inner] * len(value)
            if len(shapes) == len(value):
                fit = [self.value(one, v, f"{at}[{i}]") for i, (one, v) in enumerate(zip(shapes, value, strict=True))]
                return fit if isinstance(value, list | tuple) else type(value)(fit)
        raise _refused(self.spec, value, shape, at)

    def _one(self, shape: str, value: Any, at: str) -> Any:
        fits = value is None if shape == "null" else value is not None
        if shape == "number" and isinstance(value, float) and not math.isfinite(value):
            fits = False
        if not fits:
            raise _refused(self.spec, value, shape, at)
        if shape == "null":
            return None
        try:
            return self.leaf(shape, value)
        except InputInvalid as error:
            if error.code != "E_INPUT_TYPE":
                raise
            raise _refused(self.spec, value, shape, at) from None

    def _first(self, whole: Shape, shapes: Iterable[Shape], value: Any, at: str) -> Any:
        for shape in shapes:
            try:
                return self.value(shape, value, at)
            except InputInvalid as error:
                if error.code != "E_INPUT_TYPE":
                    raise
        raise _refused(self.spec, value, whole, at)


def _by_strictness(shapes: Iterable[Shape]) -> list[Shape]:
    """In the order in which to try them: text before the path of a file, a whole number before a number."""
    order = ["null", "boolean", "integer", "number", "string", "file"]
    return sorted(shapes, key=lambda shape: order.index(shape) if isinstance(shape, str) else -1)


def of_shape(shape: Shape, value: Json) -> Json:
    """The value in one form, for comparing: where a number is asked for, 1 becomes 1.0."""
    if shape == "number" and isinstance(value, int) and not isinstance(value, bool) and float(value) == value:
        return float(value)
    if not isinstance(shape, dict):
        return value
    ((key, inner),) = shape.items()
    if key == "any_of":
        holder = "dict" if isinstance(value, dict) else "list" if isinstance(value, list) else "number"
        fitting = [one for one in inner if one == holder or (isinstance(one, dict) and holder in one)]
        return of_shape(fitting[0], value) if len(fitting) == 1 and "integer" not in inner else value
    if key == "dict" and isinstance(value, dict):
        return {name: of_shape(inner, one) for name, one in value.items()}
    if key in ("list", "tuple") and isinstance(value, list):
        shapes = inner if key == "tuple" else [inner] * len(value)
        return [of_shape(one, v) for one, v in zip(shapes, value, strict=False)]
    return value


# ---- texts


def parsed(spec: InputSpec, text: str) -> Any:
    """The value of a text from the command line, by the input's shape; `@path` is a file.

    Raises:
        InputInvalid: E_INPUT_TYPE; E_INPUT_FORM for JSON with a key twice.
    """
    shape = spec.shape if spec.shape is not None else None if spec.type == "json" else spec.type
    try:
        return _read(shape, text)
    except ValueError:
        raise _refused(spec, text, shape) from None


def _read(shape: Shape, text: str) -> Any:
    """The value of a text. Raises ValueError if the text does not fit the shape."""
    if shape is None:  # anything; text that begins so is given as JSON: "@…"
        return Path(text[1:]) if text.startswith("@") else json_or_text(text)
    if isinstance(shape, str):
        return _READERS[shape](text)
    ((key, inner),) = shape.items()
    if key == "one_of":
        return _constant(inner, text)
    if key == "text":
        if not _is_text_of(inner, text):
            raise ValueError(text)
        return text
    if key == "any_of":
        return _any_read(inner, text)
    data = _json(text)
    if not isinstance(data, dict if key == "dict" else list):
        raise ValueError(key)
    return _with_paths(shape, data)


def _any_read(shapes: list[Shape], text: str) -> Any:
    """The value of a text for a union. If several shapes fit, the text means what it means in JSON."""
    if text.startswith("@") and "file" in shapes:
        return Path(text[1:])
    for shape in _by_strictness(shapes):
        if (
            shape == "boolean"
            and text.lower() not in ("true", "false")
            and set(map(str, shapes)) != {"boolean", "null"}
        ):
            continue  # beside other types only true and false are booleans: 1 is a number, no is text
        if shape in ("boolean", "integer", "number") and "string" in shapes and not _as_json_writes(text):
            continue  # where text is allowed too, 007 and 1e5 are text
        if shape == "file" and any(s is not shape and s != "null" for s in shapes):
            continue  # where other types are allowed too, a file needs an @
        if shape == "null" and "string" in shapes:
            continue  # where text is allowed too, null is text
        try:
            return _read(shape, text)
        except ValueError:
            continue
    raise ValueError(text)


def _as_json_writes(text: str) -> bool:
    try:
        return msgspec.json.encode(msgspec.json.decode(text)).decode() == text
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False


def _is_text_of(word: str, value: Any) -> bool:
    """Is it the text of a date, a UUID, …?"""
    if not isinstance(value, str):
        return False
    try:
        natural.rebuild(value, _DURATION if word == "duration" else _TEXTS[word])
    except InputInvalid:
        return False
    return True


def _constant(constants: list[Json], text: str) -> Json:
    for constant in constants:
        if constant == text if isinstance(constant, str) else msgspec.json.encode(constant).decode() == text.lower():
            return constant
    raise ValueError(text)


def _with_paths(shape: Shape, data: Json) -> Any:
    """Replace text by a path where the shape asks for a file, with @ or without."""
    if shape == "file" and isinstance(data, str):
        return Path(data.removeprefix("@"))
    if not isinstance(shape, dict):
        return data
    ((key, inner),) = shape.items()
    if key == "any_of" and isinstance(data, str):
        wants_mark = "string" in inner or any(isinstance(one, dict) and "one_of" in one for one in inner)
        is_path = "file" in inner and (data.startswith("@") or not wants_mark)
        return Path(data.removeprefix("@")) if is_path else data
    if key == "any_of":
        holder = "dict" if isinstance(data, dict) else "list"
        fitting = [
            one for one in inner if isinstance(one, dict) and (holder in one or (holder == "list" and "tuple" in one))
        ]
        return _with_paths(fitting[0], data) if fitting and isinstance(data, dict | list) else data
    if key == "dict" and isinstance(data, dict):
        return {name: _with_paths(inner, one) for name, one in data.items()}
    if key == "list" and isinstance(data, list):
        return [_with_paths(inner, one) for one in data]
    if key == "tuple" and isinstance(data, list) and len(data) == len(inner):
        return [_with_paths(one, value) for one, value in zip(inner, data, strict=True)]
    return data


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,40}", text):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _null(text: str) -> None:
    if text != "null":
        raise ValueError(text)


_READERS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "null": _null,
    "file": lambda text: Path(text.removeprefix("@")),
}


def json_or_text(text: str) -> Any:
    """JSON if the text is JSON, else the text itself. Raises InputInvalid (E_INPUT_FORM) for a key twice."""
    try:
        return _json(text)
    except ValueError:
        return text


def _json(text: str) -> Json:
    """The data in JSON text. Raises ValueError if it is not JSON, InputInvalid (E_INPUT_FORM) for a key twice."""
    try:
        data = msgspec.json.decode(text)
        if isinstance(data, dict | list) and text.count(":") > 1:
            json.loads(text, object_pairs_hook=_each_once)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError("not JSON") from error
    return data


def _each_once(pairs: list[tuple[str, Json]]) -> Json:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputInvalid("E_INPUT_FORM", "a mapping has a key twice", found=twice, cure="give each key once")
    return dict(pairs)
