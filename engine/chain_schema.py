"""The structure of chain files: one JSON Schema, which editors use as well, and its errors in our words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from .errors import ChainInvalid, Place, Problem, shown, similar
from .model import MAX_STEPS
from .yaml_source import MAX_DEPTH, MAX_PROBLEMS, Document, Keys

STEP_KINDS = ("workflow", "python", "chain")
MAX_VALUES = 5_000_000  # in a chain that is given as data
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")


class PlainCopy:
    """Makes plain data of what a caller passed, so that a plan shares nothing with it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.values = 0

    def of(self, value: Any, path: Keys) -> Any:
        self.values += 1
        if len(path) > MAX_DEPTH or self.values > MAX_VALUES:
            code = "E_YAML_DEPTH" if len(path) > MAX_DEPTH else "E_YAML_NODES"
            raise ChainInvalid([Problem(code, "the data is nested too deeply or too large", self._place(path))])
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    self._refuse("E_YAML_KEY", "a key must be text", path, key)
            return {self._text(k, path): self.of(v, (*path, k)) for k, v in value.items() if isinstance(k, str)}
        if isinstance(value, list | tuple):
            return [self.of(inner, (*path, i)) for i, inner in enumerate(value)]
        if isinstance(value, str):
            return self._text(value, path)
        return self._number(value, path)

    def _text(self, value: str, path: Keys) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            self._refuse("E_YAML_CHAR", "the text is not valid Unicode", path, value)
        return str.__str__(value)

    def _number(self, value: Any, path: Keys) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and -(2**63) <= value < 2**64:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, int | float):
            self._refuse("E_FIELD_RANGE", "the number is out of range", path, "a number")
        else:
            self._refuse("E_FIELD_TYPE", "this is not plain data", path, type(value).__name__)
        return None

    def _refuse(self, code: str, message: str, path: Keys, found: object) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            allowed = "text, finite numbers of 64 bits, booleans, none, lists and mappings"
            self.problems.append(Problem(code, message, self._place(path), shown(found), allowed))

    def _place(self, path: Keys) -> Place:
        return Place(self.source, field=shown(written_path(path)))


def schema() -> dict[str, Any]:
    """The JSON Schema of chain files."""
    parsed: dict[str, Any] = json.loads(Path(__file__).with_name("chain.schema.json").read_bytes())
    return parsed


_shared_schema = lru_cache(maxsize=1)(schema)
_TYPES = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a mapping",
}  # fmt: skip
_RANGES = {
    "minimum": "at least {}", "exclusiveMinimum": "more than {}", "maximum": "at most {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters", "maxItems": "at most {}",
}  # fmt: skip


@lru_cache(maxsize=1)
def _validator() -> Any:
    import jsonschema_rs  # noqa: PLC0415 - only those who load a file pay for it

    return jsonschema_rs.validator_for(_shared_schema())


def structure_problems(document: Document) -> tuple[list[Problem], set[Keys]]:
    """What the schema refuses, and the keys of steps whose values are not to be looked at again."""
    errors = list(islice(_validator().iter_errors(document.data), 20 * MAX_PROBLEMS))
    paths = [tuple(error.instance_path) for error in errors]
    mistyped = {path for error, path in zip(errors, paths, strict=True) if error.kind.name == "type"}
    problems: list[Problem] = []
    for error, path in zip(errors, paths, strict=True):
        # A value of the wrong type breaks other rules too; those problems would only be noise.
        if error.kind.name == "type" or path not in mistyped:
            problems += _explained(error.kind, path, _rule(error.schema_path), document)
    return problems, {path[:3] for path in paths}


def _rule(path: Sequence[str | int]) -> dict[str, Any]:
    """The part of the schema that holds the keyword at this path."""
    rule: Any = _shared_schema()
    for key in path[:-1]:
        rule = rule[key]
    return rule if isinstance(rule, dict) else {}


def _explained(kind: Any, path: Keys, rule: dict[str, Any], document: Document) -> Iterator[Problem]:
    """One error of the schema as `Problem`s."""
    value = value_at(document.data, path)
    place, last = place_of(document, path), path[-1] if path else ""
    if kind.name == "additionalProperties":
        for key in kind.unexpected:
            yield from _unknown(key, value[key], rule, place_of(document, (*path, key), of_key=True))
    elif kind.name == "required":
        yield _missing(kind.property, path, document)
    elif kind.name == "oneOf":
        found = " and ".join(key for key in STEP_KINDS if key in value)
        message = "a step is exactly one of workflow, python and chain"
        yield Problem("E_STEP_KIND", message, place, found or "none", ", ".join(STEP_KINDS))
    elif kind.name == "not" and last != "id":
        yield Problem(
            "E_FIELD_CONFLICT", "retry and retries say the same thing", place, "retry and retries", "one of the two"
        )
    elif last == "requires_approval" and kind.name == "const":
        yield replace(_missing(str(last), path[:-1], document), place=place)
    elif kind.name == "minItems" or (path == ("steps",) and value is None):
        yield Problem("E_CHAIN_EMPTY", "the chain has no steps", place, cure="add a step with id and python")
    elif kind.name == "propertyNames":
        place = place_of(document, (*path, kind.error.instance), of_key=True)
        name = shown(kind.error.instance)
        yield Problem("E_FIELD_TYPE", f"{name} cannot be a name here", place, name, rule.get("description", ""))
    elif kind.name in _RANGES:
        allowed = _RANGES[kind.name].format(kind.limit)
        yield Problem("E_FIELD_RANGE", f"{last} is out of range", place, found_at(value), allowed)
    else:
        code = {"id": "E_STEP_ID", "python": "E_STEP_KIND" if kind.name == "pattern" else ""}.get(str(last), "")
        allowed = _allowed(kind, rule)
        what = last if isinstance(last, str) else written_path(path[-2:])
        message = f"{what} must be {allowed}" if kind.name == "type" else f"{what} cannot be this"
        cure = "choose another id" if code == "E_STEP_ID" else ""
        yield Problem(code or "E_FIELD_TYPE", message, place, found_at(value), allowed, cure)


def _allowed(kind: Any, rule: dict[str, Any]) -> str:
    if kind.name == "enum":
        return ", ".join(map(str, kind.options))
    if kind.name == "type":
        types = " or ".join(_TYPES[name] for name in kind.types)
        return types if rule.get("title") != "Duration" else str(rule["description"])
    return str(rule.get("description", ""))


def _unknown(key: str, value: object, rule: dict[str, Any], place: Place) -> Iterator[Problem]:
    names = sorted(rule.get("properties", ()))
    yield Problem(
        "E_FIELD_UNKNOWN", f"there is no key {shown(key)} here", place, shown(key), " ".join(names), similar(key, names)
    )
    if isinstance(value, str) and _LEADING_ZERO.fullmatch(value):
        message = "a number with a leading zero means different things to different readers"
        yield Problem("E_FIELD_TYPE", message, place, shown(value), "a number without leading zeros")


def _missing(key: str, path: Keys, document: Document) -> Problem:
    place = place_of(document, path)
    if key == "steps":
        return Problem("E_CHAIN_EMPTY", "the chain has no steps", place, cure="add steps:")
    if key == "requires_approval":
        place = place_of(document, (*path, "approval"), of_key=True)
        message, cure = "approval does nothing by itself", "add requires_approval: true"
        return Problem("E_STEP_APPROVAL", message, place, allowed="requires_approval: true", cure=cure)
    return Problem("E_FIELD_MISSING", f"{key} is missing", place, allowed=f"{key}: …", cure=f"add {key}:")


def place_of(document: Document, path: Keys, *, of_key: bool = False) -> Place:
    """The place of a value (or of its key), with the step it belongs to."""
    step, field = "", path
    if len(path) > 1 and path[0] == "steps":
        value = value_at(document.data, path[:2])
        step_id = value.get("id") if isinstance(value, dict) else None
        step, field = (shown(step_id), path[2:]) if isinstance(step_id, str) else ("", path)
    if of_key and path in document.key_positions:
        return Place(document.source, *document.key_positions[path], step, shown(written_path(field)))
    return document.place(path, step=step, field=shown(written_path(field)))


def written_path(path: Keys) -> str:
    """A path as users write it: `steps[2].timeout`."""
    words = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return "".join(words).removeprefix(".")


def value_at(data: Any, path: Keys) -> Any:
    for key in path:
        data = data[key]
    return data


def found_at(value: object) -> str:
    """A value in an error: collections by their kind only, they may be long."""
    kinds = {dict: "a mapping", list: "a list", type(None): "nothing"}
    plain = json.dumps(value) if isinstance(value, bool) else str(value)
    return kinds.get(type(value)) or shown(plain) or '""'


def top_problem(data: object, place: Place) -> Problem:
    return Problem("E_YAML_TOP", "a chain is a mapping", place, found_at(data), "a mapping with name and steps")


def size_problem(size: int, place: Place) -> Problem:
    return Problem("E_CHAIN_SIZE", "the chain has too many steps", place, f"{size:,}", f"{MAX_STEPS:,} steps")
