"""How data is taken as objects of classes with named fields: dataclasses, attrs, msgspec, pydantic, TypedDict, named
tuples. Fields are checked as strictly as their classes do it; those of a dataclass a little.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import msgspec

from .artifact import Artifact
from .json_form import (
    AttrsRecord,
    DataclassRecord,
    PydanticRecord,
    StructRecord,
    fields_of_pydantic,
    pydantic_adapter,
    record_of,
)
from .takers import ALL, ANYTHING, NOTHING, Misfit, Taker, taken

TakerOf = Callable[..., Taker]


def taker_with_fields(kind: type, hint: Any, taker_of: TakerOf) -> Taker | None:
    """The taker of a class with fields; None for other classes."""
    if typing.is_typeddict(kind):
        make: type[_Fields] = _Mapping
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        make = _NamedTuple
    elif str(kind.__module__).partition(".")[0] in ("pydantic", "pydantic_core") and not _is_abstract(kind):
        make = _Pydantic
    else:
        record = record_of(kind)
        made = [maker for of, maker in _MAKERS.items() if type(record) is of]
        if not made:
            return None
        make = made[0]
    fields = make(kind, hint, taker_of)
    return Taker(fields, lambda data: make is not _Mapping and isinstance(data, kind), ALL)


def _is_abstract(kind: type) -> bool:
    """Is it a base class of models, which has no fields?"""
    return kind.__name__ in ("BaseModel", "RootModel")


class _Fields:
    """Takes data as an object of one class. The fields are looked at when they are first needed: classes may be
    recursive.
    """

    allowed = "a mapping"

    def __init__(self, kind: Any, hint: Any, taker_of: TakerOf) -> None:
        self.kind = kind
        self.hint = hint
        self._taker_of = taker_of

    def __call__(self, data: Any, at: str) -> Any:
        if isinstance(data, self.kind):
            return data
        if not isinstance(data, dict):
            raise Misfit(at, data, f"{self.allowed} with the fields of {self.kind.__name__}: {self._list()}")
        return self.made(data, at)

    def made(self, data: dict[str, Any], at: str) -> Any:
        """The object, of all its fields by name."""
        raise NotImplementedError

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The annotations of the fields, by the name of the attribute."""
        return _with_arguments(self.hint, field_hints(self.kind))

    @cached_property
    def takers(self) -> dict[str, Taker]:
        """How each field is taken, by its name in the data."""
        return {name: self._taker_of(hint, strict=True) for name, hint in self.hints.items()}

    @property
    def names(self) -> frozenset[str]:
        """The names of the fields in complete data."""
        return frozenset(self.takers)

    def fields(self, data: dict[str, Any], at: str) -> dict[str, Any]:
        """The data with all its fields taken. Raises Misfit for a field that the class has not."""
        unknown = [name for name in data if name not in self.takers]
        if unknown:
            allowed = f"the fields of {self.kind.__name__}: {self._list()}"
            raise Misfit(f"{at}.{unknown[0]}", unknown[0], allowed, self._meant(data))
        return {name: taken(self.takers[name], value, f"{at}.{name}") for name, value in data.items()}

    def _meant(self, data: dict[str, Any]) -> str:
        """What to annotate if the data is of a subclass."""
        below: list[type] = type.__subclasses__(self.kind)
        fitting = [one.__name__ for one in below if data.keys() <= field_hints(one).keys()]
        return f"annotate {' | '.join((*fitting, self.kind.__name__))}" if fitting else ""

    def _list(self) -> str:
        return " ".join(self.takers) or "it has none"

    def called(self, at: str, data: Any, /, **arguments: Any) -> Any:
        """An object, from a call of the class. Its `__init__` is the user's, and may refuse the data."""
        try:
            return self.kind(**arguments)
        except Exception as error:
            raise Misfit(at, data, f"what {self.kind.__name__} accepts: {type(error).__name__}: {error}") from error


class _Attributes(_Fields):
    """Dataclasses and classes of attrs. `__init__` is called with the fields that it takes; the others are set.

    Where `__init__` needs something that is not kept (an `InitVar`), the object is restored without it, as by `copy`.
    """

    def made(self, data: dict[str, Any], at: str) -> Any:
        fields = self.fields(data, at)
        inits = {name: value for name, value in fields.items() if name in self.init_names}
        try:
            self.signature.bind(**inits)
        except TypeError as error:
            missing = self.names - fields.keys()
            if missing:
                raise Misfit(at, data, f"all fields of {self.kind.__name__}: {self._list()} ({error})") from None
            value = self.kind.__new__(self.kind)
            inits = {}
        else:
            value = self.called(at, data, **inits)
        for name, inner in fields.items():
            if name not in inits:
                object.__setattr__(value, self.attributes.get(name, name), inner)
        return value

    @cached_property
    def signature(self) -> inspect.Signature:
        """How the class is called."""
        return inspect.signature(self.kind)

    @cached_property
    def init_names(self) -> frozenset[str]:
        """The fields that `__init__` takes."""
        inits = {name for name, hint in self.hints.items() if isinstance(hint, dataclasses.InitVar)}
        return frozenset(inits | {f.name for f in dataclasses.fields(self.kind) if f.init})

    @cached_property
    def takers(self) -> dict[str, Taker]:
        known = {f.name for f in dataclasses.fields(self.kind)}
        inits = {name for name, hint in self.hints.items() if isinstance(hint, dataclasses.InitVar)}
        return {n: self._taker_of(self.hints.get(n, Any), strict=True) for n in sorted(known | inits, key=self._order)}

    def _order(self, name: str) -> int:
        return list(self.hints).index(name) if name in self.hints else 0

    @property
    def names(self) -> frozenset[str]:
        return frozenset(f.name for f in dataclasses.fields(self.kind))

    @property
    def attributes(self) -> Mapping[str, str]:
        """The attributes of fields that are called otherwise in the data."""
        return {}


class _Attrs(_Attributes):
    @cached_property
    def init_names(self) -> frozenset[str]:
        return frozenset(f.alias or f.name for f in self.kind.__attrs_attrs__ if f.init)

    @cached_property
    def takers(self) -> dict[str, Taker]:
        fields = self.kind.__attrs_attrs__
        return {f.alias or f.name: self._taker_of(self.hints.get(f.name, Any), strict=True) for f in fields}

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.takers)

    @property
    def attributes(self) -> Mapping[str, str]:
        return {f.alias or f.name: f.name for f in self.kind.__attrs_attrs__}


class _Struct(_Fields):
    """Of msgspec, which checks all fields itself, after what it cannot make of JSON data is made."""

    def __call__(self, data: Any, at: str) -> Any:
        if isinstance(data, self.kind):
            return data
        if isinstance(data, dict):
            data = {
                name: taken(self.takers[name], value, f"{at}.{name}") if name in self.takers else value
                for name, value in data.items()
            }
        elif isinstance(data, list) and self.kind.__struct_config__.array_like:
            tag = self.kind.__struct_config__.tag is not None
            takers = [*([ANYTHING] if tag else []), *self.takers.values()]
            data = [taken(one, value, f"{at}[{i}]") for i, (one, value) in enumerate(zip(takers, data, strict=False))]
        try:
            return msgspec.convert(data, self.hint)
        except msgspec.ValidationError as error:
            text, _, place = str(error).partition(" - at `$")
            raise Misfit(f"{at}{place.rstrip('`')}", data, text) from None
        except TypeError as error:
            raise Misfit(at, data, f"a class that msgspec can convert: {error}") from None

    @cached_property
    def takers(self) -> dict[str, Taker]:
        loose = {f.encode_name: self._taker_of(self.hints.get(f.name, Any)) for f in msgspec.structs.fields(self.kind)}
        return {name: taker if taker.needs != NOTHING else ANYTHING for name, taker in loose.items()}

    @property
    def names(self) -> frozenset[str]:
        config = self.kind.__struct_config__
        return frozenset(self.takers) | ({config.tag_field} if config.tag is not None else frozenset())


class _Pydantic(_Fields):
    """Of pydantic, which validates all fields itself. Files in fields are read before."""

    def __call__(self, data: Any, at: str) -> Any:
        if isinstance(data, self.kind):
            return data
        adapter = pydantic_adapter(self.hint)
        names = {"by_alias": True, "by_name": True} if _takes_names() else {}
        try:
            if _holds_file(data):
                return adapter.validate_python(self._with_fields(data, at), **names)
            return adapter.validate_json(msgspec.json.encode(data), **names)
        except ValueError as error:  # also what validators raise
            invalid = _invalid(error, data, at)
        try:  # pydantic does not read all that it writes: an Enum whose values are tuples is one
            return adapter.validate_python(self._with_fields(data, at), **names)
        except (ValueError, Misfit):
            raise invalid from None

    def _with_fields(self, data: Any, at: str) -> Any:
        """The data with what its fields are annotated with. Also a strict model takes that."""
        if not isinstance(data, dict):
            return data
        return {name: taken(self.takers.get(name, ANYTHING), value, f"{at}.{name}") for name, value in data.items()}

    @cached_property
    def takers(self) -> dict[str, Taker]:
        fields = fields_of_pydantic(self.kind)
        return {name: self._taker_of(field.annotation, strict=False) for name, field in fields.items()}


def _takes_names() -> bool:
    """Can this version of pydantic validate fields by their names where they have aliases?"""
    major, minor = str(sys.modules["pydantic"].VERSION).split(".")[:2]
    return (int(major), int(minor)) >= (2, 11)


def _invalid(error: Any, data: Any, at: str) -> Misfit:
    first = error.errors(include_url=False)[0] if hasattr(error, "errors") else {"loc": (), "msg": str(error)}
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return Misfit(f"{at}{place}", first.get("input", data), str(first["msg"]))


class _Mapping(_Fields):
    """A TypedDict: a dict whose known keys are taken. Nothing is refused, as in Python."""

    def __call__(self, data: Any, at: str) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            name: taken(self.takers[name], value, f"{at}.{name}") if name in self.takers else value
            for name, value in data.items()
        }

    @cached_property
    def takers(self) -> dict[str, Taker]:
        return {name: self._taker_of(hint) for name, hint in self.hints.items()}


class _NamedTuple(_Fields):
    """A named tuple, of a list in its order, or of a mapping."""

    allowed = "a list, or a mapping"

    def __call__(self, data: Any, at: str) -> Any:
        if isinstance(data, list) and len(data) <= len(self.kind._fields):
            data = dict(zip(self.kind._fields, data, strict=False))
        return super().__call__(data, at)

    def made(self, data: dict[str, Any], at: str) -> Any:
        return self.called(at, data, **self.fields(data, at))

    @cached_property
    def takers(self) -> dict[str, Taker]:
        return {name: self._taker_of(self.hints.get(name, Any), strict=True) for name in self.kind._fields}


_MAKERS: dict[type, type[_Fields]] = {
    DataclassRecord: _Attributes,
    AttrsRecord: _Attrs,
    StructRecord: _Struct,
    PydanticRecord: _Pydantic,
}


def _holds_file(data: Any) -> bool:
    if isinstance(data, dict):
        return any(map(_holds_file, data.values()))
    return any(map(_holds_file, data)) if isinstance(data, list) else isinstance(data, Artifact)


# ---- annotations of fields


def field_hints(kind: Any) -> dict[str, Any]:
    """The annotations of a class and its base classes. One that cannot be resolved says nothing: `Any`."""
    found: dict[str, Any] = {}
    for base in reversed(type.mro(kind)):
        names = {**vars(typing), **vars(sys.modules.get(base.__module__, typing)), **vars(base), base.__name__: base}
        for used in vars(base).get("__orig_bases__", ()):  # class B(A[int]): the fields of A are used with int
            inherited = {name: hint for name, hint in found.items() if name in _names_of(typing.get_origin(used))}
            found |= _with_arguments(used, inherited)
        own = inspect.get_annotations(base) if base is not object else {}
        found |= {name: _resolved(hint, names) for name, hint in own.items()}
    return found


def _names_of(kind: Any) -> frozenset[str]:
    """The names that a class and its base classes annotate."""
    bases = type.mro(kind)[:-1] if isinstance(kind, type) else []
    return frozenset(name for base in bases for name in inspect.get_annotations(base))


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    if isinstance(hint, dataclasses.InitVar):
        return hint
    holder = type("_Holder", (), {"__annotations__": {"it": hint}})
    try:
        return typing.get_type_hints(holder, names, names, include_extras=True)["it"]
    except Exception:  # whatever evaluating the user's text raises
        return Any


def _with_arguments(hint: Any, hints: dict[str, Any]) -> dict[str, Any]:
    """The annotations of a generic class with the types that it is used with."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    variables = getattr(origin, "__parameters__", ())
    known = dict(zip(variables, arguments, strict=False))
    return {name: _substituted(inner, known) for name, inner in hints.items()} if known else hints


def _substituted(hint: Any, known: Mapping[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return known.get(hint, hint)
    inside = getattr(hint, "__parameters__", ()) if not isinstance(hint, type) else ()
    generic: Any = hint
    return generic[tuple(known.get(one, one) for one in inside)] if inside else hint
