"""`@chain`: a Python function that describes a chain, compiled to a plan."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from .annotations import are_plain
from .binding import MARKS, ZIP, escape, literal_secrets
from .cures import TOO_LARGE, WRITTEN
from .errors import ChainInvalid, Place, Problem, ValueRefused, shown
from .graph import compile_plan
from .input_types import input_spec
from .json_form import MAX_DEPTH, TooLarge, has_form, refuse_too_large, to_data
from .late import Late
from .mapping import Columns, ItemMark
from .model import MAX_STEPS, InputSpec, Json, Plan, StepPlan, secret_inputs
from .secrets import check_annotations, secret_problems
from .step_kinds import is_method
from .step_names import named_twice, same_function
from .step_options import StepOptions
from .steps import Step
from .tracing import (
    InputRef,
    Node,
    Ref,
    Trace,
    current_trace,
    is_reference,
    of_the_user,
    text_of,
    tracing,
    user_frame,
    user_place,
)
from .values import key_text, take_apart

if TYPE_CHECKING:
    from . import annotation_checks, expressions
else:
    annotation_checks = Late("towpath.annotation_checks")
    expressions = Late("towpath.expressions")

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F")

STEP_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
RESERVED_IDS = frozenset(
    (
        "inputs steps item index true false none True False None and or not in is if else defined"
        # names that every JavaScript object has: ids become keys of objects on pages and in API clients
        " constructor prototype hasOwnProperty isPrototypeOf propertyIsEnumerable toLocaleString toString valueOf"
    ).split()
)
_DUNDER = re.compile(r"__.*__")
_PLAIN = frozenset({type(None), bool, int, float, str})
_CAUSES = 10  # errors behind an error that are looked at
_TEXT_LENGTH = 300  # characters of another library's message
_OUR_TYPES = re.compile(r"\b(Input)?Ref\b")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A chain as its function describes it now: the plan, and the functions of its steps by name."""

    plan: Plan
    steps: dict[str, Step[..., Any]]


class Chain(Generic[P, R]):
    """A chain described by a function; `name` is the function's name.

    The function is called each time the chain is used. So if a step was defined again, or replaced in a test, the
    new one runs.
    """

    def __init__(self, function: Callable[P, R], concurrency: int | None = None) -> None:
        if isinstance(function, Step | Chain | type) or not isinstance(getattr(function, "__name__", None), str):
            message = f"a chain is made of a plain function, not of {shown(type(function).__name__)}"
            raise ChainInvalid([Problem("E_CHAIN_TRACE", message, user_place(), cure="put @chain above a `def`")])
        self.function: Callable[P, R] = function
        self.name: str = function.__name__
        self.concurrency = concurrency
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<chain {self.name}>"

    def _repr_html_(self) -> str:
        return self.plan._repr_html_()

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Ref[R]:
        """Inside another `@chain`: this chain as one step of it.

        Raises ChainInvalid: E_STEP_ARGUMENTS for arguments that do not fit. TypeError outside of a chain.
        """
        trace = current_trace()
        if trace is None:
            raise TypeError(f"run a chain with `towpath.run({self.name}, …)`, or `await engine.run({self.name}, …)`")
        signature = inspect.signature(self.function)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            message = f"{error}: {self.name}{signature}"
            raise ChainInvalid([Problem("E_STEP_ARGUMENTS", message, user_place(self.name))]) from None
        return trace.add(Node(self.name, "chain", self.name, self, dict(bound.arguments)))

    @cached_property
    def _written(self) -> tuple[Place, inspect.Signature, str, str]:
        """What the text of the function says: its place, its signature, its docstring, the folder of its file."""
        place = _place(self)
        folder = str(Path(place.file).parent) if place.file else ""
        return place, _signature(self, place), inspect.getdoc(self.function) or "", folder

    @property
    def plan(self) -> Plan:
        """The compiled chain. Raises as `compile`."""
        return self.compile().plan

    @property
    def steps(self) -> dict[str, Step[..., Any]]:
        """The functions of its steps by name. Raises as `compile`."""
        return self.compile().steps

    def compile(self) -> Compiled:
        """Describe the chain and check it.

        Raises:
            ChainInvalid: with everything that is wrong with it.
        """
        try:
            return _Compiling().compiled(self)
        except ChainInvalid as error:
            raise of_the_user(error) from None


class _Compiling:
    """One compilation: each chain inside the chain is described once."""

    def __init__(self) -> None:
        self._done: dict[Chain[..., Any], Compiled | None] = {}

    def compiled(self, chain: Chain[..., Any]) -> Compiled:
        """The chain, described now."""
        if chain not in self._done:
            self._done[chain] = None  # being described
            self._done[chain] = self._described(chain)
        done = self._done[chain]
        if done is None:
            message = f"a chain contains itself: {chain.name}"
            raise ChainInvalid(
                [Problem("E_CHAIN_CYCLE", message, _place(chain), cure="do the repetition inside a step")]
            )
        return done

    def _described(self, chain: Chain[..., Any]) -> Compiled:
        place, signature, description, folder = chain._written
        problems = check_annotations(chain.function, place)
        if problems:
            raise ChainInvalid(problems)
        inputs = tuple(input_spec(p, chain.function) for p in signature.parameters.values())
        trace = Trace(chain.name, [spec.name for spec in inputs], place.file)
        returned = _traced(chain, signature, trace, place)
        if not trace.nodes:
            raise ChainInvalid([Problem("E_CHAIN_EMPTY", f"chain {chain.name} calls no step", place)])
        if len(trace.nodes) > MAX_STEPS:
            raise ChainInvalid([Problem("E_CHAIN_SIZE", f"more than {MAX_STEPS} steps", place)])
        described = _Described(trace, inputs, place, self)
        plan = Plan(
            name=chain.name,
            steps=tuple(described.steps()),
            inputs=inputs,
            description=description,
            output=described.binding(returned, described._place_of(chain.name), "what the chain returns")[0],
            concurrency=chain.concurrency,
            folder=folder,
        )
        for spec in inputs:
            described.check_default(spec)
        if described.problems:
            raise ChainInvalid(described.problems)
        return Compiled(compile_plan(plan, place), described.functions)


def a_chain(given: F) -> F:
    """The chain file that a caller wants to run. Raises TypeError for what cannot be run, with the cure."""
    if hasattr(given, "plan"):
        return given
    named = getattr(given, "__name__", type(given).__name__)
    if isinstance(given, Step):
        why = f"{given.name.rpartition(':')[2]} is a step: call it in a @chain, or call it alone as the plain function"
    elif isinstance(given, str | Path):
        why = f"a chain file is loaded first: load_chain({str(given)!r})"
    else:
        why = f"{named} is none: put @chain above the function" if callable(given) else f"a {named} is none"
    raise TypeError(f"only a chain can be run; {why}")


def _place(chain: Chain[..., Any]) -> Place:
    function = inspect.unwrap(chain.function)
    code = getattr(function, "__code__", None)
    return Place(file=inspect.getsourcefile(function) or "", line=code.co_firstlineno if code else 0)


def _signature(chain: Chain[..., Any], place: Place) -> inspect.Signature:
    """The parameters of the chain. Raises ChainInvalid (E_CHAIN_TRACE) for a function that cannot describe a chain."""
    function = inspect.unwrap(chain.function)
    what = (
        "an async def" if inspect.iscoroutinefunction(function)
        else "a generator" if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        else ""
    )  # fmt: skip
    if what:
        message = f"chain {chain.name} is described by a plain function, not by {what} function"
        cure = "use `def`, and call the steps without await or yield; what works is inside the steps"
        raise ChainInvalid([Problem("E_CHAIN_TRACE", message, place, cure=cure)])
    signature = inspect.signature(chain.function)
    if is_method(function, signature):
        message = f"{chain.name} is a method: its object would be missing when the run is resumed"
        cure = "make it a function, and give what it needs as inputs; a @staticmethod above @chain works too"
        raise ChainInvalid([Problem("E_CHAIN_TRACE", message, place, cure=cure)])
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            message = f"chain {chain.name} takes {parameter}: the inputs of a chain have names"
            cure = "write each input as a parameter, or take one list or dict"
            raise ChainInvalid([Problem("E_CHAIN_TRACE", message, place, found=str(parameter), cure=cure)])
    return signature


def _traced(chain: Chain[..., Any], signature: inspect.Signature, trace: Trace, place: Place) -> Any:
    """Call the chain's function while its calls are recorded. Its errors show one frame: the user's."""
    arguments: dict[str, Any] = {name: InputRef(node) for name, node in trace.inputs.items()}
    positional = [arguments.pop(p.name) for p in signature.parameters.values() if p.kind is p.POSITIONAL_ONLY]
    returned: Any = None
    raised: Exception | None = None
    frame: TracebackType | None = None
    with tracing(trace):
        try:
            returned = chain.function(*positional, **arguments)
        except ChainInvalid as error:
            raise error.with_traceback(user_frame(error.__traceback__)) from None
        except Exception as error:
            raised, frame = error, user_frame(error.__traceback__)
    if raised is not None:  # outside of the block above, where the text of a reference is refused
        at = place if frame is None else Place(frame.tb_frame.f_code.co_filename, frame.tb_lineno, 1)
        raise _misused(raised, chain.name, at).with_traceback(frame or raised.__traceback__) from None
    if not is_reference(returned) and (inspect.isawaitable(returned) or inspect.isgenerator(returned)):
        getattr(returned, "close", lambda: None)()
        message = f"chain {chain.name} returned {shown(type(returned).__name__)}"
        cure = "describe it with a plain function that returns references or data"
        raise ChainInvalid([Problem("E_CHAIN_TRACE", message, place, cure=cure)])
    return returned


def _misused(error: Exception, chain: str, place: Place) -> Exception:
    """What to raise for an error of a chain's function: it may have used a reference where the reference cannot refuse.

    A function written in C checks the type of a value by itself. Other libraries turn the refusal into an error of
    their own, or name the type of the reference in it. Any other error stays what it is.
    """
    behind: BaseException | None = error
    for _ in range(_CAUSES):
        behind = None if behind is None else behind.__cause__ or behind.__context__
        if isinstance(behind, ChainInvalid):
            return behind
    text = " ".join(str(error).split())[:_TEXT_LENGTH]
    message = f"describing chain {chain} raised {type(error).__name__}: {text}"
    cure = "if it was given a reference: pass the reference to a step, and do it there"
    if isinstance(error, TypeError) or _OUR_TYPES.search(message):
        return ChainInvalid([Problem("E_CHAIN_TRACE", message, place, cure=cure)])
    error.add_note(f"chain {chain} was being described ({place}): its inputs and results have no values yet. {cure}.")
    return error


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


def _may_hold_references(value: Any) -> bool:
    """Is it a reference, or something in which one may be: a list, or an object with fields?"""
    return is_reference(value) or isinstance(value, list | tuple | dict) or has_form(type(value))


class _Called(NamedTuple):
    """What a plan needs to know of the step, or the chain inside the chain, that a node calls."""

    functions: dict[str, Step[..., Any]]
    options: StepOptions
    description: str
    secret: bool
    secrets: frozenset[str]
    chain: Plan | None = None


class _Described:
    """Turns recorded nodes into steps of a plan, collecting what is wrong on the way."""

    def __init__(self, trace: Trace, inputs: tuple[InputSpec, ...], place: Place, compiling: _Compiling) -> None:
        self.trace = trace
        self.compiling = compiling
        self.inputs = frozenset(i.name for i in inputs)
        self.place = place
        self.problems: list[Problem] = []
        self.functions: dict[str, Step[..., Any]] = {}

    def steps(self) -> list[StepPlan]:
        return [self._step(node) for node in self.trace.nodes]

    def check_default(self, spec: InputSpec) -> None:
        """Refuse a default that is not data: it is stored with the chain."""
        place = Place(self.place.file, self.place.line, 1, field=f"inputs.{spec.name}")
        if spec.secret:
            self.problems += secret_problems(spec, place, references=True)
            return
        try:
            files = take_apart(spec.default, place, "the default")[1]
        except ValueRefused as refused:
            self.problems.append(refused.problem)
            return
        if files:
            cure = "give a path as the default"
            self.problems.append(Problem("E_VALUE_TYPE", "a file's bytes cannot be a default", place, cure=cure))

    def binding(self, value: Any, place: Place, what: str, depth: int = 0) -> tuple[Json, list[str]]:
        """An argument as a binding, and the steps it takes data from. `what` names it in messages."""
        if is_reference(value):
            return self._reference(value, place)
        if isinstance(value, ItemMark):
            return {"$item": [] if value.column is None else [value.column]}, []
        if depth > MAX_DEPTH:
            message = f"{what} is nested more than {MAX_DEPTH} levels deep"
            raise ChainInvalid([Problem("E_VALUE_TYPE", message, place, cure="a list cannot contain itself")])
        if not depth and self._is_too_large(value, place, what):
            return None, []
        if isinstance(value, list | tuple):
            pairs = [self.binding(inner, place, what, depth + 1) for inner in value]
            return [b for b, _ in pairs], [d for _, ds in pairs for d in ds]
        if isinstance(value, dict) and any(map(_may_hold_references, value.values())):
            return self._mapping(value, place, what, depth)
        if type(value) not in _PLAIN and not isinstance(value, dict | str):
            data = to_data(value)  # references may be in the fields of an object
            if isinstance(data, dict | list):
                return self.binding(data, place, what, depth)
        return self._literal(value, place, what), []

    def _mapping(self, value: dict[Any, Any], place: Place, what: str, depth: int) -> tuple[Json, list[str]]:
        named: dict[str, tuple[Json, list[str]]] = {}
        for key, inner in value.items():
            name = key_text(key)
            if name is None or name in MARKS or name in named:
                self._problem("E_VALUE_TYPE", f"a mapping with the key {key!r}", place, "use other keys, of text")
                return None, []
            named[name] = self.binding(inner, place, what, depth + 1)
        return {key: b for key, (b, _) in named.items()}, [d for _, ds in named.values() for d in ds]

    def _is_too_large(self, value: Any, place: Place, what: str) -> bool:
        try:
            refuse_too_large(value, Ref)
        except TooLarge:
            self._problem("E_VALUE_SIZE", f"{what} is {TOO_LARGE}", place, f"declare a file input; {WRITTEN}")
            return True
        return False

    def _reference(self, value: Ref[Any], place: Place) -> tuple[Json, list[str]]:
        node, keys = value._node, list(value._keys)
        if not self.trace.knows(value):
            cure = "call the step inside this chain, or give the value to the chain as an input"
            self._problem("E_TEMPLATE_UNKNOWN", f"{text_of(value)} belongs to another chain", place, cure)
            return None, []
        if node.kind == "input":
            return {"$ref": {"input": node.target, "keys": keys}}, []
        return {"$ref": {"step": node.id, "keys": keys}}, [node.id]

    def _literal(self, value: Any, place: Place, what: str) -> Json:
        if isinstance(value, Step | Chain):
            name = value.name.rpartition(":")[2]
            self._problem("E_VALUE_TYPE", f"{what} is {name} itself, not its value", place, f"call it: {name}(…)")
            return None
        try:
            data, files = take_apart(value, place, what)
        except ValueRefused as refused:
            self.problems.append(refused.problem)
            return None
        if files:
            cure = "pass its path as text, or declare a file input of the chain"
            self._problem("E_VALUE_TYPE", "a file cannot be written into a chain", place, cure)
        return escape(data)

    def _step(self, node: Node) -> StepPlan:
        at = node.place
        place = Place(at.file, at.line, at.column, node.id) if at.file else self._place_of(node.id)
        self._check_id(node.id, place)
        parameters, needs = {}, [other.id for other in node.after]
        for name, value in node.arguments.items():
            parameters[name], more = self.binding(value, place, f"the argument {name}")
            needs += more
        foreach, more = self._mapped_over(node, place)
        condition, watches, named = self._condition(node, frozenset(needs))
        depends_on = tuple(dict.fromkeys([*more, *needs, *named]))
        called = self._called(node)
        options = called.options
        for name, function in called.functions.items():
            self._function(name, function, place)
        step = StepPlan(
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
            retry_on=options.retry_on,
            timeout=options.timeout,
            total_timeout=options.total_timeout,
            limit=options.limit,
            concurrency=options.concurrency,
            process=options.process,
            cheap=options.cheap,
            cache=options.cache,
            description=called.description,
            chain=called.chain,
            secret=called.secret,
            secrets=tuple(sorted(called.secrets)),
        )
        self.problems += literal_secrets(step, place)
        if isinstance(node.source, Step) and not are_plain(node.source.signature):
            names = [name.removeprefix("*") for name in node.arguments]
            self.problems += annotation_checks.annotation_problems(node.source, names)
        return step

    def _mapped_over(self, node: Node, place: Place) -> tuple[Json, list[str]]:
        what = "what is mapped over"
        if isinstance(node.foreach, Columns):
            columns = {name: self.binding(values, place, what) for name, values in node.foreach.items()}
            return {ZIP: {name: b for name, (b, _) in columns.items()}}, [d for _, ds in columns.values() for d in ds]
        return self.binding(node.foreach, place, what) if node.mapped else (None, [])

    def _called(self, node: Node) -> _Called:
        source = node.source
        if isinstance(source, Step):
            secrets = source.secrets_among(node.arguments)
            return _Called({node.target: source}, source.options, source.description, source.is_secret, secrets)
        assert isinstance(source, Chain), "only steps and chains make nodes"
        inner = self.compiling.compiled(source)
        secrets = secret_inputs(inner.plan)
        return _Called(inner.steps, StepOptions(), inner.plan.description, False, secrets, inner.plan)

    def _function(self, name: str, function: Step[..., Any], place: Place) -> None:
        """Check that a name means one function: a plan has only names."""
        known = self.functions.setdefault(name, function)
        if not same_function(known.function, function.function):
            self.problems.append(named_twice(name, known, function, place))

    def _condition(self, node: Node, needs: frozenset[str]) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
        """The condition of a step. In Python it may name any earlier step, and so depends on it."""
        if node.condition is None:
            return None, (), ()
        earlier = []
        for other in self.trace.nodes:
            if other is node:
                break
            earlier.append(other.id)
        steps = frozenset(n.id for n in self.trace.nodes)
        scope = expressions.Scope(self.inputs, frozenset(earlier) | needs, steps, False)
        condition, problems = expressions.parse_condition(node.condition, scope, Place(self.place.file, step=node.id))
        self.problems += problems
        if condition is None:
            return node.condition, (), ()
        named = tuple(dict.fromkeys(r.step for r in condition.references if r.root == "step"))
        watches = tuple(dict.fromkeys(r.step for r in condition.references if r.part in ("status", "error")))
        return node.condition, watches, named

    def _check_id(self, step_id: str, place: Place) -> None:
        if not STEP_ID.fullmatch(step_id) or step_id in RESERVED_IDS or _DUNDER.fullmatch(step_id):
            cure = 'a lambda has no name: step(…, name="clean")' if "<lambda>" in step_id else "use .named(id)"
            self._problem("E_STEP_ID", f"{step_id!r} cannot be a step's id", place, cure)

    def _place_of(self, step_id: str) -> Place:
        """Where the chain is written: for what has no line of its own."""
        return Place(self.place.file, self.place.line, 1, step_id)

    def _problem(self, code: str, message: str, place: Place, cure: str) -> None:
        self.problems.append(Problem(code, message, place, cure=cure))
