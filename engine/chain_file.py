"""Chain files: YAML as a compiled plan, or everything that is wrong with it at once.

The structure (which keys, of which type and range) is said once, in `chain.schema.json`, which editors use
as well. What a schema cannot say is checked here: references between steps, templates, cycles, files and
functions. A part that the schema refused is left out of the later checks: one mistake is one problem.
"""

from __future__ import annotations

import heapq
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from .errors import ChainInvalid, InputInvalid, Place, Problem, shown
from .graph import compile_plan, cycle_problem
from .model import MAX_STEPS, ApprovalPolicy, InputSpec, Plan, RetryPolicy, StepPlan
from .references import (
    Expressions,
    Keys,
    find_chain,
    find_function,
    find_workflow,
    order_of,
    read_chain,
    similar,
)
from .retry import seconds
from .steps import Step, StepOptions, attempts, retry_policy
from .yaml_source import MAX_DEPTH, MAX_PROBLEMS, Document, read_yaml

T = TypeVar("T")

MAX_NESTING = 20  # chains inside each other
MAX_VALUES = 5_000_000  # in a chain that is given as data
WORKFLOW_ATTEMPTS = 3  # a server may be gone for a moment; only retryable errors are tried again
_GUESSES = 20  # problems that get a "did you mean"
_KINDS = ("workflow", "python", "chain")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")


@dataclass(frozen=True, slots=True)
class ChainFile:
    """A chain that was loaded: its compiled plan, and its functions by name where imports were allowed."""

    plan: Plan
    steps: dict[str, Step[..., Any]]
    source: str


def load_chain(path: str | os.PathLike[str], *, imports: bool = True) -> ChainFile:
    """Load a YAML chain. With `imports=False` no code is imported and functions are not looked at.

    Raises:
        ChainInvalid: all problems in the order of the file, at most 50.
    """
    source = os.fspath(path)
    document = read_yaml(read_chain(path, source), source)
    return _load(document, Path(source).parent, imports, os.path.realpath(path))


def load_chain_text(content: bytes, *, folder: str | Path, source: str, imports: bool = True) -> ChainFile:
    """Load YAML that is in memory. Its files are looked for in `folder`, problems say `source`.

    Raises:
        ChainInvalid: as `load_chain`.
    """
    return _load(read_yaml(content, source), Path(folder), imports)


def load_chain_from_dict(
    data: object, *, folder: str | Path = ".", source: str = "<dict>", imports: bool = True
) -> ChainFile:
    """Load a chain that is plain data, by the rules of a file, except that `name` may be missing.

    Raises:
        ChainInvalid: as `load_chain`, without lines.
    """
    if not isinstance(data, dict):
        raise ChainInvalid([_top_problem(data, Place(source))])
    steps = data.get("steps")
    if isinstance(steps, list | tuple) and len(steps) > MAX_STEPS:
        raise ChainInvalid([_size_problem(len(steps), Place(source, field="steps"))])
    copy = _Copy(source)
    copied = {"name": "chain", **copy.of(data, ())}
    if copy.problems:
        raise ChainInvalid(copy.problems)
    return _load(Document(copied, source, {(): (0, 0)}, {}), Path(folder), imports)


def _load(document: Document, folder: Path, imports: bool, path: str = "") -> ChainFile:
    loaded = _Loading(imports).load(document, folder, path)
    if loaded.file is None:
        raise ChainInvalid(loaded.problems)
    return loaded.file


class _Copy:
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
        if isinstance(value, int) and -(2**63) <= value < 2**63:
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
        return Place(self.source, field=shown(_written(path)))


# -- structure: the schema, and its errors in our words


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


def _structure(document: Document) -> tuple[list[Problem], set[Keys]]:
    """What the schema refuses, and the keys of steps whose values are not to be looked at again."""
    errors = list(islice(_validator().iter_errors(document.data), 20 * MAX_PROBLEMS))
    paths = [tuple(error.instance_path) for error in errors]
    mistyped = {path for error, path in zip(errors, paths, strict=True) if error.kind.name == "type"}
    problems: list[Problem] = []
    for error, path in zip(errors, paths, strict=True):
        # What has the wrong type breaks other rules as well, and nobody wants to hear of them.
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
    """One error of the schema as problems of ours."""
    value = _value_at(document.data, path)
    place, last = _place(document, path), path[-1] if path else ""
    if kind.name == "additionalProperties":
        for key in kind.unexpected:
            yield from _unknown(key, value[key], rule, _place(document, (*path, key), of_key=True))
    elif kind.name == "required":
        yield _missing(kind.property, path, document)
    elif kind.name == "oneOf":
        found = " and ".join(key for key in _KINDS if key in value)
        message = "a step is exactly one of workflow, python and chain"
        yield Problem("E_STEP_KIND", message, place, found or "none", ", ".join(_KINDS))
    elif kind.name == "not" and last != "id":
        yield Problem(
            "E_FIELD_CONFLICT", "retry and retries say the same thing", place, "retry and retries", "one of the two"
        )
    elif last == "requires_approval" and kind.name == "const":
        yield replace(_missing(last, path[:-1], document), place=place)
    elif kind.name == "minItems" or (path == ("steps",) and value is None):
        yield Problem("E_CHAIN_EMPTY", "the chain has no steps", place, cure="add a step with id and python")
    elif kind.name == "propertyNames":
        place = _place(document, (*path, kind.error.instance), of_key=True)
        name = shown(kind.error.instance)
        yield Problem("E_FIELD_TYPE", f"{name} cannot be a name here", place, name, rule.get("description", ""))
    elif kind.name in _RANGES:
        allowed = _RANGES[kind.name].format(kind.limit)
        yield Problem("E_FIELD_RANGE", f"{last} is out of range", place, _found(value), allowed)
    else:
        code = {"id": "E_STEP_ID", "python": "E_STEP_KIND" if kind.name == "pattern" else ""}.get(str(last), "")
        allowed = _allowed(kind, rule)
        what = last if isinstance(last, str) else _written(path[-2:])
        message = f"{what} must be {allowed}" if kind.name == "type" else f"{what} cannot be this"
        yield Problem(code or "E_FIELD_TYPE", message, place, _found(value), allowed)


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
    place = _place(document, path)
    if key == "steps":
        return Problem("E_CHAIN_EMPTY", "the chain has no steps", place, cure="add steps:")
    if key == "requires_approval":
        place = _place(document, (*path, "approval"), of_key=True)
        message, cure = "approval does nothing by itself", "add requires_approval: true"
        return Problem("E_STEP_APPROVAL", message, place, allowed="requires_approval: true", cure=cure)
    return Problem("E_FIELD_MISSING", f"{key} is missing", place, allowed=f"{key}: …", cure=f"add {key}:")


# -- places


def _place(document: Document, path: Keys, *, of_key: bool = False) -> Place:
    """Where a value (or its key) stands, with the step it belongs to."""
    step, field = "", path
    if len(path) > 1 and path[0] == "steps":
        value = _value_at(document.data, path[:2])
        step_id = value.get("id") if isinstance(value, dict) else None
        step, field = (shown(step_id), path[2:]) if isinstance(step_id, str) else ("", path)
    if of_key and path in document.key_positions:
        return Place(document.source, *document.key_positions[path], step, shown(_written(field)))
    return document.place(path, step=step, field=shown(_written(field)))


def _written(path: Keys) -> str:
    """A path as users write it: `steps[2].timeout`."""
    words = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return "".join(words).removeprefix(".")


def _value_at(data: Any, path: Keys) -> Any:
    for key in path:
        data = data[key]
    return data


def _found(value: object) -> str:
    """A value in an error: collections by their kind only, they may be long."""
    kinds = {dict: "a mapping", list: "a list", type(None): "nothing"}
    plain = json.dumps(value) if isinstance(value, bool) else str(value)
    return kinds.get(type(value)) or shown(plain) or '""'


def _top_problem(data: object, place: Place) -> Problem:
    return Problem("E_YAML_TOP", "a chain is a mapping", place, _found(data), "a mapping with name and steps")


def _size_problem(size: int, place: Place) -> Problem:
    return Problem("E_CHAIN_SIZE", "the chain has too many steps", place, f"{size:,}", f"{MAX_STEPS:,} steps")


# -- one file


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What came of one file. `size` counts the steps of the chains inside it as well."""

    file: ChainFile | None
    problems: tuple[Problem, ...] = ()
    size: int = 0
    height: int = 0


@dataclass(slots=True)
class _Loading:
    """What the files of one loading share: each chain file is read once, each function looked for once."""

    imports: bool
    open: list[str] = field(default_factory=list)
    chains: dict[str, _Loaded] = field(default_factory=dict)
    functions: dict[str, Step[..., Any] | InputInvalid] = field(default_factory=dict)

    def load(self, document: Document, folder: Path, path: str) -> _Loaded:
        self.open.append(path)
        try:
            return _Draft(document, folder, self).loaded()
        finally:
            self.open.pop()

    def chain(self, path: Path, source: str, place: Place) -> _Loaded:
        """Another chain. Its problems are reported where it is named first."""
        key = str(path)
        if key in self.open:
            names = [Path(name).name for name in [*self.open[self.open.index(key) :], key]]
            message = f"a chain contains itself: {' -> '.join(names)}"
            return _Loaded(None, (Problem("E_CHAIN_CYCLE", message, place, cure="remove one of these steps"),))
        if key in self.chains:
            return replace(self.chains[key], problems=())
        if len(self.open) >= MAX_NESTING:
            return _Loaded(None, (_nesting_problem(place),))
        try:
            document = read_yaml(read_chain(path, source), source)
        except ChainInvalid as error:
            self.chains[key] = _Loaded(None, error.problems)
        else:
            self.chains[key] = self.load(document, path.parent, key)
        return self.chains[key]

    def function(self, name: str, folder: Path) -> Step[..., Any]:
        """A step function. Raises InputInvalid (E_STEP_KIND)."""
        if name not in self.functions:
            try:
                self.functions[name] = find_function(name, folder)
            except InputInvalid as error:
                self.functions[name] = error
        found = self.functions[name]
        if isinstance(found, InputInvalid):
            raise found
        return found


def _nesting_problem(place: Place) -> Problem:
    message = "chains are nested too deeply"
    return Problem("E_CHAIN_DEPTH", message, place, allowed=f"{MAX_NESTING} chains inside each other")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One step as it is written. `fields` are the keys that the schema accepted."""

    index: int
    step: str
    written: dict[str, Any]
    fields: dict[str, Any]
    depends_on: tuple[str, ...]
    needs: frozenset[str]
    document: Document

    def place(self, path: Keys, *, of_key: bool = False) -> Place:
        return _place(self.document, ("steps", self.index, *path), of_key=of_key)


class _Draft:
    """A chain file on its way to a plan. `problems` collects what is wrong, in any order."""

    def __init__(self, document: Document, folder: Path, loading: _Loading) -> None:
        self.document, self.folder, self.loading = document, folder, loading
        self.problems: list[Problem] = []
        self.functions: dict[str, Step[..., Any]] = {}
        self.size = self.height = 0
        self.broken = False
        self.unknown_steps = 0

    def loaded(self) -> _Loaded:
        """The compiled chain, or its problems."""
        data = self.document.data
        written = data.get("steps")
        steps: list[Any] = written if isinstance(written, list) else []
        if len(steps) > MAX_STEPS:
            return _Loaded(None, (_size_problem(len(steps), _place(self.document, ("steps",))),))
        self.problems, refused = _structure(self.document)
        entries = self._entries(steps, refused)
        needs = {entry.step: entry.depends_on for entry in reversed(entries)}
        order, circles = order_of(needs)
        self._circles(circles, entries)
        inputs = data.get("inputs")
        self.expressions = Expressions(inputs if isinstance(inputs, dict) else (), needs)
        plans = [self._step(entry) for entry in entries]
        self.expressions.settle(order, circular=bool(circles))
        self.problems += self.expressions.problems
        self.size += len(steps)
        if self.size > MAX_STEPS:
            self.problems.append(_size_problem(self.size, _place(self.document, ("steps",))))
        if self.problems or self.broken:
            return _Loaded(None, self._sorted())
        file = ChainFile(self._compiled(plans), self.functions, self.document.source)
        return _Loaded(file, (), self.size, self.height)

    def _sorted(self) -> tuple[Problem, ...]:
        """In the order of the file; those of other files come behind."""
        source = self.document.source

        def order(problem: Problem) -> tuple[bool, str, int, int]:
            place = problem.place
            return place.file != source, place.file, place.line, place.column

        return tuple(sorted(self.problems, key=order)[:MAX_PROBLEMS])

    def _compiled(self, steps: Sequence[StepPlan]) -> Plan:
        data: dict[str, Any] = self.document.data
        signature = {"signature": data["signature"]} if "signature" in data else {}
        plan = Plan(
            name=data["name"],
            steps=tuple(steps),
            inputs=tuple(_input(name, spec) for name, spec in data.get("inputs", {}).items()),
            description=data.get("description", ""),
            concurrency=int(data["concurrency"]) if "concurrency" in data else None,
            metadata={**data.get("metadata", {}), **signature},
            folder=os.path.abspath(self.folder),
        )
        return compile_plan(plan)

    def _problem(
        self, code: str, message: str, place: Place, found: str = "", allowed: str = "", cure: str = ""
    ) -> None:
        self.problems.append(Problem(code, message, place, found, allowed, cure))

    # -- steps and the edges between them

    def _entries(self, steps: Sequence[Any], refused: set[Keys]) -> list[_Entry]:
        entries: list[_Entry] = []
        ids = {step["id"] for step in steps if isinstance(step, dict) and isinstance(step.get("id"), str)}
        first: dict[str, int] = {}
        for index, step in enumerate(steps):
            if not isinstance(step, dict):
                continue
            fields = {k: v for k, v in step.items() if ("steps", index, k) not in refused}
            step_id = step.get("id")
            if isinstance(step_id, str):
                self._twice(step_id, first.setdefault(step_id.lower(), index), index)
            else:
                step_id = f"\0{index}"  # it needs a name of its own, and none that can be written
            needs = self._needs(step.get("depends_on"), ids, index)
            entries.append(_Entry(index, step_id, step, fields, needs, frozenset(needs), self.document))
        return entries

    def _twice(self, step_id: str, first: int, index: int) -> None:
        if first == index:
            return
        places = [_place(self.document, ("steps", i, "id")) for i in (first, index)]
        lines = [f"line {p.line}" if p.line else f"steps[{i}]" for p, i in zip(places, (first, index), strict=True)]
        message = f"two steps are called {shown(step_id)}, on {lines[0]} and on {lines[1]}; case does not count"
        self._problem("E_CHAIN_DUPLICATE_STEP", message, places[1], shown(step_id), "each id once", "rename one")

    def _needs(self, written: Any, ids: set[str], index: int) -> tuple[str, ...]:
        names = [written] if isinstance(written, str) else written if isinstance(written, list) else []
        for at, name in enumerate(names):
            if not isinstance(written, list) or self.unknown_steps >= MAX_PROBLEMS:
                break
            if isinstance(name, str) and name not in ids:
                self.unknown_steps += 1
                place = _place(self.document, ("steps", index, "depends_on", at))
                cure = similar(name, ids) if len(self.problems) < _GUESSES else ""
                message = f"there is no step {shown(name)}"
                self._problem("E_CHAIN_UNKNOWN_STEP", message, place, shown(name), _some(ids), cure)
        return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name in ids))

    def _circles(self, circles: Sequence[list[str]], entries: Sequence[_Entry]) -> None:
        by_id = {entry.step: entry for entry in reversed(entries)}
        for circle in circles:
            entry, needed = by_id[circle[-1]], circle[-2]
            written = entry.written["depends_on"]
            path: Keys = ("depends_on", written.index(needed)) if isinstance(written, list) else ("depends_on",)
            self.problems.append(cycle_problem(circle, entry.place(path)))

    def _step(self, entry: _Entry) -> StepPlan:
        kind = next((key for key in _KINDS if key in entry.written), "")
        name, fields, names = str(entry.fields.get(kind, "")), entry.fields, self.expressions
        inner, step = None, None
        if kind in fields:
            step = self._function(entry, name) if kind == "python" and self.loading.imports else None
            inner = self._inner(entry, name) if kind == "chain" else None
            if kind == "workflow":
                self._checked(entry, ("workflow",), lambda given: find_workflow(given, self.folder), name)
        mapped = "foreach" in entry.written
        given = fields.get("parameters", {})
        foreach = names.foreach(fields["foreach"], ("foreach",), entry) if "foreach" in fields else None
        condition = fields.get("condition")
        return StepPlan(
            id=entry.step,
            kind=kind,
            target=inner.name if inner else name,
            parameters={
                key: names.binding(value, ("parameters", key), entry, mapped=mapped) for key, value in given.items()
            },
            depends_on=entry.depends_on,
            condition=condition,
            watches=() if condition is None else names.condition(condition, ("condition",), entry),
            foreach=foreach,
            mapped=mapped,
            server=fields.get("server"),
            requires=fields.get("requires", {}),
            description=fields.get("description", ""),
            chain=inner,
            **self._options(entry, _defaults(kind, step)),
        )

    def _options(self, entry: _Entry, base: StepOptions) -> dict[str, Any]:
        """How the step runs: the keys that are written, over those of the decorator."""
        fields = entry.fields
        options = {key: fields.get(key, getattr(base, key)) for key in ("on_item_failure", "cheap", "cache")}
        for key in ("timeout", "total_timeout"):
            options[key] = getattr(base, key)
            if key in fields:
                options[key] = self._checked(entry, (key,), seconds, fields[key])
        return {**options, "retry": self._retry(entry, base.retry), "approval": _approval(fields, base.approval)}

    def _retry(self, entry: _Entry, policy: RetryPolicy) -> RetryPolicy:
        if "retries" in entry.fields:
            tries = self._checked(entry, ("retries",), lambda n: attempts(n, 1), entry.fields["retries"])
            policy = replace(policy, attempts=tries or 1)
        for key, value in entry.fields.get("retry", {}).items():
            given = self._checked(entry, ("retry", key), retry_policy, {key: value})
            policy = replace(policy, **{key: getattr(given or policy, key)})
        return policy

    def _checked(self, entry: _Entry, path: Keys, check: Callable[[Any], T], value: Any) -> T | None:
        """What a check makes of a value, None if it refuses it."""
        try:
            return check(value)
        except InputInvalid as error:
            self.problems.append(replace(error.problem, place=entry.place(path)))
            return None

    # -- what a step refers to

    def _function(self, entry: _Entry, name: str) -> Step[..., Any] | None:
        step = self._checked(entry, ("python",), lambda given: self.loading.function(given, self.folder), name)
        if step is not None:
            self.functions[name] = step
            parameters = step.signature.parameters.values()
            named = {
                p.name: p.default is p.empty for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            }
            takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
            self._arguments(entry, named, lambda: name + _readable(step.signature), takes_any=takes_any)
        return step

    def _inner(self, entry: _Entry, name: str) -> Plan | None:
        """The plan of a step that is a chain."""
        place, count = entry.place(("chain",)), len(self.problems)
        path = self._checked(entry, ("chain",), lambda given: find_chain(given, self.folder), name)
        if path is None:
            if len(self.problems) == count:
                cure = f"put {shown(name)}.yaml into the chain's folder, or correct the name"
                self._problem("E_CHAIN_FILE", f"there is no chain {shown(name)}", place, shown(name), cure=cure)
            return None
        below = os.path.relpath(path, os.path.realpath(self.folder))
        loaded = self.loading.chain(path, str(Path(self.document.source).parent / below), place)
        self.problems += loaded.problems
        self.size, self.height = self.size + loaded.size, max(self.height, loaded.height)
        if len(self.loading.open) + loaded.height > MAX_NESTING:
            self.problems.append(_nesting_problem(place))
        if loaded.file is None:
            self.broken = True  # its problems may have been reported elsewhere
            return None
        self.functions.update(loaded.file.steps)
        plan = loaded.file.plan
        required = {spec.name: spec.required for spec in plan.inputs}
        self._arguments(entry, required, lambda: f"{shown(plan.name)}({', '.join(required)})")
        return plan

    def _arguments(
        self, entry: _Entry, named: Mapping[str, bool], signature: Callable[[], str], *, takes_any: bool = False
    ) -> None:
        """Parameters against the names that may be given, and whether they must be."""
        if "parameters" in entry.written and "parameters" not in entry.fields:
            return
        given = entry.fields.get("parameters", {})
        for name in given:
            if name not in named and not takes_any:
                place, message = entry.place(("parameters", name), of_key=True), f"it takes no {shown(name)}"
                cure = similar(name, named) if len(self.problems) < _GUESSES else ""
                self._problem("E_STEP_ARGUMENTS", message, place, shown(name), signature(), cure)
        item = '"{{ item }}"' if "foreach" in entry.written else "…"
        place = entry.place(("parameters",) if given else ())
        for name, required in named.items():
            if required and name not in given:
                cure = f"parameters: {{{name}: {item}}}"
                self._problem("E_STEP_ARGUMENTS", f"it needs {name}", place, "", signature(), cure)


def _defaults(kind: str, step: Step[..., Any] | None) -> StepOptions:
    """What holds for keys that are not written."""
    if step is not None:
        return step.options
    return StepOptions(retry=RetryPolicy(attempts=WORKFLOW_ATTEMPTS if kind == "workflow" else 1))


def _approval(fields: Mapping[str, Any], policy: ApprovalPolicy | None) -> ApprovalPolicy | None:
    if "requires_approval" in fields:
        policy = (policy or ApprovalPolicy()) if fields["requires_approval"] else None
    given = dict(fields.get("approval", {}))
    if policy is None or not given:
        return policy
    if "timeout_hours" in given:
        given["timeout"] = given.pop("timeout_hours") * 3600.0
    if "max_retries" in given:
        given["max_retries"] = int(given["max_retries"])
    return replace(policy, **given)


def _input(name: str, written: Mapping[str, Any]) -> InputSpec:
    default, source = written.get("default"), written.get("source", "")
    kind = written.get("type", "file" if source else "json")
    if kind == "integer" and default is not None:
        default = int(default)  # 3.0 is a whole number in YAML
    words = {key: written.get(key, "") for key in ("description", "target")}
    required = "default" not in written and not source
    return InputSpec(name, kind, required, default, words["description"], source, words["target"])


class _Bare(str):
    """An annotation that is text, shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _readable(signature: inspect.Signature) -> str:
    parameters = [
        p.replace(annotation=_Bare(p.annotation)) if isinstance(p.annotation, str) else p
        for p in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


def _some(names: set[str]) -> str:
    listed = ", ".join(shown(name) for name in heapq.nsmallest(10, names))
    return listed + (f" … and {len(names) - 10} more" if len(names) > 10 else "")
