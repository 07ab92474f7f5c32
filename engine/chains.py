"""`@chain`: a Python function that describes a chain, compiled to a plan."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .artifact import Artifact, File
from .binding import MARKS, escape
from .errors import ChainInvalid, Place, Problem, ValueRefused
from .expressions import Scope, parse_condition
from .graph import compile_plan
from .model import MAX_STEPS, InputSpec, Json, Plan, StepPlan
from .secrets import Secret, secret_problems, secret_type
from .steps import ItemMark, Step, StepOptions
from .tracing import InputRef, Node, Ref, Trace, current_trace, tracing
from .values import take_apart

P = ParamSpec("P")
R = TypeVar("R")

STEP_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
RESERVED_IDS = frozenset(
    "inputs steps item index true false none True False None and or not in is if else defined".split()
)
_INPUT_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


class Chain(Generic[P, R]):
    """A chain described by a function. `plan` is compiled on first use; `name` is the function's name."""

    def __init__(self, function: Callable[P, R], concurrency: int | None = None) -> None:
        self.function = function
        self.name = function.__name__
        self.concurrency = concurrency
        self.steps: dict[str, Step[..., Any]] = {}
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<chain {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Ref[R]:
        """Inside another `@chain`: this chain as one step of it."""
        trace = current_trace()
        if trace is None:
            raise TypeError(f"run a chain with `await engine.run({self.name}, …)`")
        bound = inspect.signature(self.function).bind(*args, **kwargs)
        return trace.add(Node(self.name, "chain", self.name, self, dict(bound.arguments)))

    @cached_property
    def plan(self) -> Plan:
        """The compiled chain.

        Raises:
            ChainInvalid: with everything that is wrong with it.
        """
        place = Place(file=inspect.getsourcefile(self.function) or "", line=self.function.__code__.co_firstlineno)
        inputs = tuple(_input(p) for p in inspect.signature(self.function).parameters.values())
        trace = Trace(self.name)
        with tracing(trace):
            returned = self.function(**{i.name: InputRef(i.name) for i in inputs})  # type: ignore[call-arg,arg-type]
        if not trace.nodes:
            raise ChainInvalid([Problem("E_CHAIN_EMPTY", f"chain {self.name} calls no step", place)])
        if len(trace.nodes) > MAX_STEPS:
            raise ChainInvalid([Problem("E_CHAIN_SIZE", f"more than {MAX_STEPS} steps", place)])
        described = _Described(trace, inputs, place)
        plan = Plan(
            name=self.name,
            steps=tuple(described.steps()),
            inputs=inputs,
            description=inspect.getdoc(self.function) or "",
            output=described.binding(returned, self.name)[0],
            concurrency=self.concurrency,
            folder=str(Path(place.file).parent) if place.file else "",
        )
        self.steps = described.functions
        for spec in inputs:
            described.check_default(spec)
        if described.problems:
            raise ChainInvalid(described.problems)
        return compile_plan(plan, place)


@overload
def chain(function: Callable[P, R], /) -> Chain[P, R]: ...
@overload
def chain(*, concurrency: int | None = None) -> Callable[[Callable[P, R]], Chain[P, R]]: ...
def chain(function: Callable[..., Any] | None = None, /, *, concurrency: int | None = None) -> Any:
    """Make a function a chain: its parameters are the chain's inputs, its calls of steps the nodes.

    The body runs once, with references in place of values: it describes the chain and cannot look at
    results. `concurrency` limits how many steps of one run work at the same time.
    """
    if function is not None:
        return Chain(function)
    return lambda f: Chain(f, concurrency)


def _input(parameter: inspect.Parameter) -> InputSpec:
    secret, annotation = secret_type(parameter.annotation)
    if isinstance(annotation, str):
        named = {"str": str, "int": int, "float": float, "bool": bool, "Artifact": Artifact, "File": File}
        annotation = named.get(annotation, annotation)
    is_file = annotation in (Artifact, File, "Path", Path) or isinstance(parameter.default, Path)
    kind = "file" if is_file else _INPUT_TYPES.get(annotation, "json")
    required = parameter.default is parameter.empty
    default = str(parameter.default) if isinstance(parameter.default, Path) else parameter.default
    default = default.mark if isinstance(default, Secret) else default
    return InputSpec(parameter.name, kind, required, None if required else default, secret=secret)


class _Described:
    """Turns recorded nodes into steps of a plan, collecting what is wrong on the way."""

    def __init__(self, trace: Trace, inputs: tuple[InputSpec, ...], place: Place) -> None:
        self.trace = trace
        self.inputs = frozenset(i.name for i in inputs)
        self.place = place
        self.problems: list[Problem] = []
        self.functions: dict[str, Step[..., Any]] = {}
        self._nodes = frozenset(trace.nodes)

    def steps(self) -> list[StepPlan]:
        return [self._step(node) for node in self.trace.nodes]

    def check_default(self, spec: InputSpec) -> None:
        """A default is kept with the chain, so it has to be data."""
        place = Place(self.place.file, self.place.line, 1, field=f"inputs.{spec.name}")
        if spec.secret:
            self.problems += secret_problems(spec, place, references=True)
            return
        try:
            files = take_apart(spec.default, place)[1]
        except ValueRefused as refused:
            self.problems.append(refused.problem)
            return
        if files:
            cure = "give a path as the default"
            self.problems.append(Problem("E_VALUE_TYPE", "a file's bytes cannot be a default", place, cure=cure))

    def binding(self, value: Any, step_id: str) -> tuple[Json, list[str]]:
        """An argument as a binding, and the steps it takes data from."""
        if isinstance(value, InputRef):
            return {"$ref": {"input": value._name, "keys": list(value._keys)}}, []
        if isinstance(value, Ref):
            if value._node not in self._nodes:
                cure = "call the step inside this chain"
                self._problem("E_TEMPLATE_UNKNOWN", f"{value!r} belongs to another chain", step_id, cure)
                return None, []
            return {"$ref": {"step": value._node.id, "keys": list(value._keys)}}, [value._node.id]
        if isinstance(value, ItemMark):
            return {"$item": []}, []
        if isinstance(value, list | tuple):
            pairs = [self.binding(inner, step_id) for inner in value]
            return [b for b, _ in pairs], [d for _, ds in pairs for d in ds]
        if isinstance(value, dict) and any(isinstance(v, Ref | list | dict | tuple) for v in value.values()):
            wrong = [key for key in value if not isinstance(key, str) or key in MARKS]
            if wrong:
                cure = "use other keys, of text"
                self._problem("E_VALUE_TYPE", f"a mapping with the key {wrong[0]!r}", step_id, cure)
                return None, []
            named = {key: self.binding(inner, step_id) for key, inner in value.items()}
            return {key: b for key, (b, _) in named.items()}, [d for _, ds in named.values() for d in ds]
        return self._literal(value, step_id), []

    def _literal(self, value: Any, step_id: str) -> Json:
        try:
            data, files = take_apart(value, Place(self.place.file, self.place.line, 1, step_id))
        except ValueRefused as refused:
            self.problems.append(refused.problem)
            return None
        if files:
            cure = "pass its path as text, or declare a file input of the chain"
            self._problem("E_VALUE_TYPE", "a file cannot be written into a chain", step_id, cure)
        return escape(data)

    def _step(self, node: Node) -> StepPlan:
        self._check_id(node.id)
        parameters, needs = {}, [other.id for other in node.after if other in self._nodes]
        for name, value in node.arguments.items():
            parameters[name], more = self.binding(value, node.id)
            needs += more
        foreach, more = self.binding(node.foreach, node.id) if node.mapped else (None, [])
        condition, watches, named = self._condition(node, frozenset(needs))
        depends_on = tuple(dict.fromkeys([*more, *needs, *named]))
        inner = node.source.plan if node.kind == "chain" else None
        options = node.step.options if node.kind == "python" else StepOptions()
        self.functions.update({node.target: node.step} if node.kind == "python" else node.source.steps)
        return StepPlan(
            id=node.id,
            kind=node.kind,
            target=node.target,
            parameters=parameters,
            depends_on=depends_on,
            condition=condition,
            watches=watches,
            foreach=foreach,
            mapped=node.mapped,
            on_item_failure=options.on_item_failure,
            approval=node.approval or options.approval,
            retry=options.retry,
            timeout=options.timeout,
            total_timeout=options.total_timeout,
            cheap=options.cheap,
            cache=options.cache,
            secret=node.step.is_secret if node.kind == "python" else False,
            description=(node.step.description if node.kind == "python" else node.source.plan.description),
            chain=inner,
        )

    def _condition(self, node: Node, needs: frozenset[str]) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
        """In Python a condition may name any earlier step; naming it is the edge, as passing it is."""
        if node.condition is None:
            return None, (), ()
        earlier = []
        for other in self.trace.nodes:
            if other is node:
                break
            earlier.append(other.id)
        steps = frozenset(n.id for n in self.trace.nodes)
        scope = Scope(self.inputs, frozenset(earlier) | needs, steps, False)
        condition, problems = parse_condition(node.condition, scope, Place(self.place.file, step=node.id))
        self.problems += problems
        if condition is None:
            return node.condition, (), ()
        named = tuple(dict.fromkeys(r.step for r in condition.references if r.root == "step"))
        watches = tuple(dict.fromkeys(r.step for r in condition.references if r.part in ("status", "error")))
        return node.condition, watches, named

    def _check_id(self, step_id: str) -> None:
        if not STEP_ID.fullmatch(step_id) or step_id in RESERVED_IDS:
            self._problem("E_STEP_ID", f"{step_id!r} cannot be a step's id", step_id, "use .named(id)")

    def _problem(self, code: str, message: str, step_id: str, cure: str) -> None:
        place = Place(self.place.file, self.place.line, 1, step_id)
        self.problems.append(Problem(code, message, place, cure=cure))
