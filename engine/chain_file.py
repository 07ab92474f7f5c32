"""Chain files: YAML as a compiled plan, or everything that is wrong with it at once.

The structure (which keys, of which type and range) is said once, in `chain.schema.json`, which editors use
as well. What a schema cannot say is checked here: references between steps, templates, cycles, files and
functions. A part that the schema refused is left out of the later checks: one mistake is one problem.
"""

from __future__ import annotations

import heapq
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from .annotation_checks import annotation_problems
from .binding import literal_secrets
from .chain_files import find_chain, find_function, find_workflow, read_chain
from .chain_schema import STEP_KINDS, PlainCopy, place_of, size_problem, structure_problems, top_problem
from .errors import ChainInvalid, InputInvalid, Place, Problem, shown, similar
from .graph import compile_plan, cycle_problem, levels_of
from .model import MAX_STEPS, ApprovalPolicy, InputSpec, Plan, RetryPolicy, StepPlan, secret_inputs
from .retry import seconds
from .retry_rules import check_importable, exception_names
from .secrets import secret_problems
from .step_kinds import check_process
from .step_options import StepOptions, attempts, check_retried, retry_policy
from .step_references import Expressions
from .steps import Step
from .yaml_source import MAX_PROBLEMS, Document, Keys, read_yaml

T = TypeVar("T")

MAX_NESTING = 20  # chains inside each other
WORKFLOW_ATTEMPTS = 3  # a server may be gone for a moment; only retryable errors are tried again
_PLAIN_OPTIONS = ("on_item_failure", "cheap", "cache", "secret", "limit", "concurrency", "process")
_OF_FUNCTIONS = ("retry_on", "limit", "concurrency", "process")
_GUESSES = 20  # problems that get a "did you mean"


@dataclass(frozen=True, slots=True)
class ChainFile:
    """A chain that was loaded: its compiled plan, and its functions by name where imports were allowed."""

    plan: Plan
    steps: dict[str, Step[..., Any]]
    source: str

    def _repr_html_(self) -> str:
        return self.plan._repr_html_()


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
        raise ChainInvalid([top_problem(data, Place(source))])
    steps = data.get("steps")
    if isinstance(steps, list | tuple) and len(steps) > MAX_STEPS:
        raise ChainInvalid([size_problem(len(steps), Place(source, field="steps"))])
    copy = PlainCopy(source)
    copied = {"name": "chain", **copy.of(data, ())}
    if copy.problems:
        raise ChainInvalid(copy.problems)
    return _load(Document(copied, source, {(): (0, 0)}, {}), Path(folder), imports)


def _load(document: Document, folder: Path, imports: bool, path: str = "") -> ChainFile:
    loaded = _Loading(imports).load(document, folder, path)
    if loaded.file is None:
        raise ChainInvalid(loaded.problems)
    return loaded.file


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
    functions: dict[tuple[str, Path], Step[..., Any] | InputInvalid] = field(default_factory=dict)

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
        """A step function. Raises InputInvalid (E_STEP_KIND, E_STEP_NAME_TWICE)."""
        key = (name, folder)
        if key not in self.functions:
            try:
                self.functions[key] = find_function(name, folder)
            except InputInvalid as error:
                self.functions[key] = error
        found = self.functions[key]
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
        return place_of(self.document, ("steps", self.index, *path), of_key=of_key)


class _Draft:
    """A chain file on its way to a plan. `problems` collects what is wrong, in any order."""

    def __init__(self, document: Document, folder: Path, loading: _Loading) -> None:
        self.document, self.folder, self.loading = document, folder, loading
        self.problems: list[Problem] = []
        self.functions: dict[str, Step[..., Any]] = {}
        self.size = self.height = 0
        self.unknown_steps = 0

    def loaded(self) -> _Loaded:
        """The compiled chain, or its problems."""
        data = self.document.data
        written = data.get("steps")
        steps: list[Any] = written if isinstance(written, list) else []
        if len(steps) > MAX_STEPS:
            return _Loaded(None, (size_problem(len(steps), place_of(self.document, ("steps",))),))
        self.problems, refused = structure_problems(self.document)
        entries = self._entries(steps, refused)
        needs = {entry.step: entry.depends_on for entry in reversed(entries)}
        levels, circles = levels_of(needs, MAX_PROBLEMS)
        self._circles(circles, entries)
        inputs = data.get("inputs")
        self._secret_inputs(inputs, refused)
        self.expressions = Expressions(inputs if isinstance(inputs, dict) else (), needs)
        plans = [self._step(entry) for entry in entries]
        self.expressions.settle(levels, circular=bool(circles))
        self.problems += self.expressions.problems
        self.size += len(steps)
        if self.size > MAX_STEPS:
            self.problems.append(size_problem(self.size, place_of(self.document, ("steps",))))
        if self.problems:
            return _Loaded(None, self._sorted())
        file = ChainFile(self._compiled(plans, levels), self.functions, self.document.source)
        return _Loaded(file, (), self.size, self.height + 1)

    def _sorted(self) -> tuple[Problem, ...]:
        """In the order of the file; those of other files come behind."""
        source = self.document.source

        def order(problem: Problem) -> tuple[bool, str, int, int]:
            place = problem.place
            return place.file != source, place.file, place.line, place.column

        return tuple(sorted(self.problems, key=order)[:MAX_PROBLEMS])

    def _compiled(self, steps: Sequence[StepPlan], levels: Sequence[Sequence[str]]) -> Plan:
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
        return compile_plan(plan, levels=levels)

    def _problem(
        self, code: str, message: str, place: Place, found: str = "", allowed: str = "", cure: str = ""
    ) -> None:
        self.problems.append(Problem(code, message, place, found, allowed, cure))

    def _secret_inputs(self, inputs: Any, refused: set[Keys]) -> None:
        for name, written in inputs.items() if isinstance(inputs, dict) else ():
            wrong = any(path[:2] == ("inputs", name) for path in refused)
            if isinstance(written, dict) and written.get("secret") is True and not wrong:
                place = place_of(self.document, ("inputs", name))
                self.problems += secret_problems(_input(name, written), place, references=False)

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
        places = [place_of(self.document, ("steps", i, "id")) for i in (first, index)]
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
                place = place_of(self.document, ("steps", index, "depends_on", at))
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
        kind = next((key for key in STEP_KINDS if key in entry.written), "")
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
        secrets = secret_inputs(inner) if inner else step.secrets_among(given) if step else frozenset[str]()
        plan = StepPlan(
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
            secrets=tuple(sorted(secrets)),
            **self._options(entry, _defaults(kind, step)),
        )
        self.problems += (replace(p, place=entry.place(("parameters",))) for p in literal_secrets(plan, Place()))
        return plan

    def _options(self, entry: _Entry, base: StepOptions) -> dict[str, Any]:
        """How the step runs: the keys that are written, over those of the decorator."""
        fields = entry.fields
        if fields.get("secret") and "workflow" in entry.written:
            message = "a ComfyUI step makes files, and a file cannot be secret"
            self._problem("E_SECRET_PLACE", message, entry.place(("secret",)), cure="remove `secret`")
        options = {key: fields.get(key, getattr(base, key)) for key in _PLAIN_OPTIONS}
        for key in ("timeout", "total_timeout"):
            options[key] = getattr(base, key)
            if key in fields:
                options[key] = self._checked(entry, (key,), seconds, fields[key])
        retry = self._retry(entry, base.retry)
        retry_on = self._retry_on(entry, retry) if "retry_on" in fields else base.retry_on
        self._for_functions(entry)
        return {**options, "retry": retry, "retry_on": retry_on, "approval": _approval(fields, base.approval)}

    def _for_functions(self, entry: _Entry) -> None:
        for key in _OF_FUNCTIONS:
            if key in entry.written and "python" not in entry.written:
                message = f"{key} is for steps that are Python functions"
                self._problem("E_FIELD_CONFLICT", message, entry.place((key,), of_key=True), cure=f"remove `{key}`")

    def _retry_on(self, entry: _Entry, retry: RetryPolicy) -> tuple[str, ...]:
        names = self._checked(entry, ("retry_on",), exception_names, entry.fields["retry_on"]) or ()
        if names:
            self._checked(entry, ("retry_on",), check_retried, retry)
        if self.loading.imports:
            self._checked(entry, ("retry_on",), check_importable, names)
        return names

    def _process(self, entry: _Entry, step: Step[..., Any]) -> None:
        """Refuse `process: true` for a function that cannot run in a process of its own."""
        if entry.fields.get("process"):
            try:
                check_process(step.function, named=step.name)
            except ChainInvalid as error:
                self.problems += (replace(problem, place=entry.place(("process",))) for problem in error.problems)

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
            self._process(entry, step)
            given = entry.fields.get("parameters", {})
            self.problems += (replace(p, place=entry.place(("python",))) for p in annotation_problems(step, given))
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
        path = self._checked(
            entry, ("chain",), lambda given: find_chain(given, self.folder, any_name=self.loading.imports), name
        )
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
            return None  # where it was named first, its problems keep the whole from being loaded
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
    secret = written.get("secret", False)
    return InputSpec(name, kind, required, default, words["description"], source, words["target"], secret=secret)


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
