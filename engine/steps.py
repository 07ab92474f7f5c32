"""`@step`: a Python function as a step, found again by its name `module:function`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from types import MethodType
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, Protocol, TypeVar, Unpack, overload

from .annotations import Receiver, receivers_of
from .errors import ChainInvalid, InputInvalid, Place, Problem, StepNotRegistered, shown
from .mapping import Columns, ItemMark, as_list, check_known_lengths
from .secrets import check_annotations, secret_names
from .step_kinds import (
    annotated,
    check_process,
    checked_signature,
    docstring,
    is_method,
    origin_of,
    positional_room,
)
from .step_modules import load_module, loaded_module
from .step_names import CURE, Alike, cure_of, defined_again, same_function, spec_now, step_name
from .step_options import StepOptions, StepSettings, step_options
from .tracing import Node, Ref, current_trace, is_reference, user_place

P = ParamSpec("P")
P2 = ParamSpec("P2")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)  # so that a checker finds the coroutine in whatever an `async def` returns
V = TypeVar("V")
X = TypeVar("X")
Y = TypeVar("Y")
Z = TypeVar("Z")


_registry: dict[str, Step[..., Any]] = {}
_ambiguous: set[str] = set()  # names that two functions in this process have
_replaced: set[str] = set()  # names that were defined again


class Step(Alike, Generic[P, R_co]):
    """A step function. Calling it inside a `@chain` records a node; elsewhere it runs the function.

    `R_co` is what the function returns: for an `async def` a coroutine. Type checkers cannot see where a call is, so
    for them every call returns a reference: awaiting it gives the value, and it fits every parameter. In a unit test
    `step.function(…)` has the exact type.

    `name` is `module:function`, by which plans and other processes find it; `function` is the function itself; `origin`
    says to which module it belongs, `spec` is the spec of that module when it was defined. `stands_in`: a test has put
    a fake in place of the function.
    """

    stands_in = False

    def __init__(
        self, function: Callable[P, R_co], options: StepOptions, description: str = "", name: str | None = None
    ) -> None:
        self._static = isinstance(function, staticmethod)
        function = function.__func__ if isinstance(function, staticmethod) else function
        self.signature: inspect.Signature = checked_signature(function, name)
        problems = check_annotations(annotated(function), user_place())
        if problems:
            raise ChainInvalid(problems)
        self.function: Callable[P, R_co] = function
        self.options = options
        self.origin = origin_of(function, name)
        self.name: str = step_name(self.origin, name)
        self.description = description
        self.spec: object = spec_now(self.origin)
        self._positions: tuple[Callable[P, R_co], list[inspect.Parameter]] | None = None
        self._body = self.origin.__qualname__.rpartition(".")[0]
        self._async: tuple[Callable[P, R_co], bool] | None = None
        self._star = next((p.name for p in self.signature.parameters.values() if p.kind is p.VAR_POSITIONAL), "")
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self.check_process()

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    @property
    def is_async(self) -> bool:
        """Does a call give a coroutine? A test may replace the function."""
        if self._async is None or self._async[0] is not self.function:
            self._async = (self.function, inspect.iscoroutinefunction(annotated(self.function)))
        return self._async[1]

    def __reduce__(self) -> tuple[Any, ...]:
        """A step is pickled by its name: another process imports its module, and takes the step that is there."""
        known = _registry.get(self.name)
        changed = None if known is not None and known.options is self.options else self.options
        return _found_again, (self.name, changed)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """As an attribute of an object it is a method, for unit tests. A chain cannot store the object."""
        if instance is None or self._static:
            return self
        if current_trace() is not None:
            raise self._method()
        return MethodType(self, instance)

    @overload
    def __call__(self: Step[P, Coroutine[Any, Any, V]], /, *args: P.args, **kwargs: P.kwargs) -> Ref[V]: ...
    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Ref[R_co]: ...
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Inside a `@chain` record a node; elsewhere run the function.

        Raises ChainInvalid: E_STEP_ARGUMENTS for arguments that do not fit, E_STEP_KIND for a method.
        """
        trace = current_trace()
        if trace is None:
            return self.function(*args, **kwargs)
        if self._body and args and not is_reference(args[0]) and self._defined_in(args[0]):
            raise self._method()
        return trace.add(Node(self._short, "python", self.name, self, self._bind(args, kwargs)))

    # For type checkers: one list, two and three, each for `async def` and `def`. More lists are right, but not checked.

    @overload
    def map(
        self: Step[Concatenate[X, P2], Coroutine[Any, Any, V]], xs: Sequence[X], /, *none: P2.args, **same: P2.kwargs
    ) -> Ref[list[V]]: ...
    @overload
    def map(
        self: Step[Concatenate[X, P2], V], xs: Sequence[X], /, *none: P2.args, **same: P2.kwargs
    ) -> Ref[list[V]]: ...
    @overload
    def map(
        self: Step[Concatenate[X, Y, P2], Coroutine[Any, Any, V]],
        xs: Sequence[X],
        ys: Sequence[Y],
        /,
        *none: P2.args,
        **same: P2.kwargs,
    ) -> Ref[list[V]]: ...
    @overload
    def map(
        self: Step[Concatenate[X, Y, P2], V], xs: Sequence[X], ys: Sequence[Y], /, *none: P2.args, **same: P2.kwargs
    ) -> Ref[list[V]]: ...
    @overload
    def map(
        self: Step[Concatenate[X, Y, Z, P2], Coroutine[Any, Any, V]],
        xs: Sequence[X],
        ys: Sequence[Y],
        zs: Sequence[Z],
        /,
        *none: P2.args,
        **same: P2.kwargs,
    ) -> Ref[list[V]]: ...
    @overload
    def map(
        self: Step[Concatenate[X, Y, Z, P2], V],
        xs: Sequence[X],
        ys: Sequence[Y],
        zs: Sequence[Z],
        /,
        *none: P2.args,
        **same: P2.kwargs,
    ) -> Ref[list[V]]: ...
    def map(self: Step[..., Any], /, *values: Any, **same: Any) -> Ref[list[Any]]:
        """One run of the step per element of a list; of several lists, one run per element of all of them together.

        A list may be a list, a tuple, a range, an array of one dimension, or a reference to a list. The first argument
        of the step is the element of the first list, the second one that of the second list, and so on. Several lists
        must have one length. Keyword arguments are the same for all items. The value is the list of results in input
        order; an empty list completes with `[]`.

        Raises:
            ChainInvalid: E_STEP_ARGUMENTS, E_MAP_SIZE; E_MAP_LENGTHS if the lengths are known and differ. If they are
                known only when the chain runs, the step fails with that code.
        """
        trace = current_trace()
        if trace is None:
            raise TypeError(f"{self.name}.map(…) belongs in a @chain; elsewhere, call the function in a loop")
        if not values:
            raise self._wrong("map takes a list", "the list is the first argument: step.map(items, name=value)")
        lists = [as_list(each, self._wrong) for each in values]
        columns = Columns(zip(self._column_names(len(lists)), lists, strict=True)) if len(lists) > 1 else None
        marks = [ItemMark()] if columns is None else [ItemMark(name) for name in columns]
        node = Node(self._short, "python", self.name, self, self._bind(tuple(marks), same))
        node.foreach, node.mapped = lists[0] if columns is None else columns, True
        if columns is not None:
            check_known_lengths(columns)
        return trace.add(node)

    def _column_names(self, count: int) -> list[str]:
        """Names for lists that are mapped over together: those of the parameters that take their elements."""
        parameters = self.signature.parameters.values()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
        return names + [f"list {n}" for n in range(len(names) + 1, count + 1)]

    def with_options(self, **options: Unpack[StepSettings]) -> Step[P, R_co]:
        """The same step with other options (`retries`, `timeout`, …), for one place in one chain.

        Raises InputInvalid: E_FIELD_TYPE, E_FIELD_RANGE, E_FIELD_UNKNOWN, E_FIELD_CONFLICT. ChainInvalid: E_STEP_KIND.
        """
        if "retry_if" in options:
            message = "retry_if belongs to the function: a plan has only the name of the function"
            cure = "give it to @step; `retry_on` may differ from place to place"
            raise InputInvalid("E_FIELD_CONFLICT", message, place=Place(step=self.name), cure=cure)
        changed = object.__new__(Step)
        changed.__dict__.update(self.__dict__)
        changed.__dict__.pop("is_secret", None)
        changed.options = step_options(self.options, **options)
        changed.check_process()
        return changed

    def check_process(self) -> None:
        """Refuse `process=True` for a function that another process cannot run. Raises ChainInvalid (E_STEP_KIND)."""
        if self.options.process:
            check_process(self.function, named=self.name)

    def call_arguments(self, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments in the way of a plain call: by position as far as possible, the rest by name.

        This is for decorators that only look at `*args`. A missing argument before one that has no name gets its
        default. The arguments of `*values` are the list `*values`.
        """
        named = dict(arguments)
        rest = named.pop(f"*{self._star}", ()) if self._star else ()
        args: list[Any] = []
        for parameter in self._by_position():
            if parameter.name in named:
                args.append(named.pop(parameter.name))
            elif parameter.default is parameter.empty:
                break
            elif rest or (parameter.kind is parameter.POSITIONAL_ONLY and named):
                args.append(parameter.default)
            else:
                break
        args.extend(rest)
        return args, named

    def _by_position(self) -> list[inspect.Parameter]:
        """The parameters that the function takes by position. A test may replace the function."""
        if self._positions is None or self._positions[0] is not self.function:
            found: list[inspect.Parameter] = []
            room = positional_room(self.function)
            for parameter in self.signature.parameters.values():
                by_name = parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
                if by_name or len(found) >= room:
                    break
                found.append(parameter)
            self._positions = (self.function, found)
        return self._positions[1]

    @cached_property
    def secrets(self) -> frozenset[str]:
        """The parameters that take a `Secret`."""
        return secret_names(annotated(self.__wrapped__)) - {"return"}  # not of a fake, which has no annotations

    def secrets_among(self, names: Iterable[str]) -> frozenset[str]:
        """The names of the arguments that are taken as a `Secret`, also those for `*more` and `**more: Secret[str]`."""
        if not self.secrets:
            return frozenset()
        known = {name: name for name in self.signature.parameters if name not in (self._rest, self._star)}
        known[f"*{self._star}"] = self._star
        return frozenset(n for n in names if known.get(n, self._rest) in self.secrets)

    @cached_property
    def is_secret(self) -> bool:
        """Is the value that it returns secret?"""
        return self.options.secret or "return" in secret_names(annotated(self.__wrapped__))

    @cached_property
    def _receivers(self) -> dict[str, Receiver]:
        found = receivers_of(self.__wrapped__, self.signature)
        star = found.pop(self._star, None)
        if star is not None:
            found[f"*{self._star}"] = Receiver(list[star.annotation], star.always)  # type: ignore[name-defined]
        return found

    @cached_property
    def _rest(self) -> str:
        """The parameter that takes all other keywords."""
        return next((p.name for p in self.signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")

    @cached_property
    def receives(self) -> bool:
        """May arguments have to become what the parameters are annotated with?"""
        return bool(self._receivers)

    def receivers_among(self, names: Iterable[str]) -> Mapping[str, Receiver]:
        """How arguments become what their parameters are annotated with, by name; at least those of these names."""
        found = self._receivers
        if not self._rest or self._rest not in found:
            return found
        more = (n for n in names if n not in self.signature.parameters and not n.startswith("*"))
        return found | dict.fromkeys(more, found[self._rest])

    @property
    def _short(self) -> str:
        return self.name.rpartition(":")[2].rpartition(".")[2]

    @cached_property
    def _plain_call(self) -> tuple[tuple[str, ...], int]:
        """The names of the parameters, and how many have no default, if all can be given by position or by name."""
        parameters = self.signature.parameters.values()
        if any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters):
            return (), 1
        return tuple(p.name for p in parameters), sum(p.default is p.empty for p in parameters)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names, least = self._plain_call
        if not kwargs and least <= len(args) <= len(names):
            return dict(zip(names, args, strict=False))
        self._refuse_hidden(kwargs)
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            if is_method(annotated(self.function), self.signature):
                raise self._method() from None
            raise self._wrong(str(error)) from None
        arguments = dict(bound.arguments)
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in arguments:
                arguments[f"*{parameter.name}"] = list(arguments.pop(parameter.name))
            if parameter.kind is parameter.VAR_KEYWORD:
                more = arguments.pop(parameter.name, {})
                arguments.update(more)
        return arguments

    def misfit(self, names: Iterable[str]) -> str:
        """Why the function does not take these arguments, which were bound to it once; empty if it does."""
        named = set(names)
        known: set[str] = set()
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                known |= named
            elif parameter.kind is parameter.VAR_POSITIONAL:
                known.add(f"*{parameter.name}")
            else:
                known.add(parameter.name)
                if parameter.default is parameter.empty and parameter.name not in named:
                    return f"it needs {parameter.name}, which is not recorded"
        more = sorted(named - known)
        return f"it takes no {more[0]}, which is recorded" if more else ""

    def _refuse_hidden(self, kwargs: dict[str, Any]) -> None:
        """Refuse a keyword with the name of a positional-only parameter: in a plan, each name means one argument."""
        parameters = self.signature.parameters.values()
        hidden = {p.name for p in parameters if p.kind is p.POSITIONAL_ONLY} & kwargs.keys()
        if hidden and any(p.kind is p.VAR_KEYWORD for p in parameters):
            name = min(hidden)
            cure = f"give the positional parameter {name} another name: a step gets its arguments by name"
            raise self._wrong(f"{name} is the name of a positional parameter, and of a keyword", cure)

    def _wrong(self, why: str, cure: str = "") -> ChainInvalid:
        message = f"{why}: {self.name}{self.signature}"
        return ChainInvalid([Problem("E_STEP_ARGUMENTS", message, user_place(self.name), cure=cure)])

    def _defined_in(self, owner: object) -> bool:
        """Is it a method of that class or object?"""
        owner, body = owner if isinstance(owner, type) else type(owner), self._body
        return any(k.__qualname__ == body and k.__module__ == self.origin.__module__ for k in owner.__mro__)

    def _method(self) -> ChainInvalid:
        message = f"{self.name} is a method: its object would be missing when the run is resumed"
        cure = "make it a function, and pass what it needs as arguments; a @staticmethod above @step works too"
        return ChainInvalid([Problem("E_STEP_KIND", message, user_place(self.name), cure=cure)])


class StepDecorator(Protocol):
    """What `@step(…)` with options is."""

    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...


@overload
def step(function: Callable[P, R], /, *, name: str | None = None, **options: Unpack[StepSettings]) -> Step[P, R]: ...
@overload
def step(*, name: str | None = None, **options: Unpack[StepSettings]) -> StepDecorator: ...
def step(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function (sync or async) a step.

    Args:
        name: its name instead of the function's, `module:name`; for functions that a factory makes, and for callables
            that have no name: partials, lambdas, objects with `__call__`. These belong to the module that calls `step`.
        retries: further tries after the first one fails; default none.
        retry: the whole policy, `RetryPolicy(...)` or a dict of its fields.
        retry_on: only these exceptions are tried again: types, or names such as `"httpx.TransportError"`. A timeout
            counts as `TimeoutError`. Needs retries.
        retry_if: a function of the exception; only if it returns True, the step is tried again. Needs retries. It must
            be quick. If it raises, the step fails.
        timeout: seconds (or `"30m"`) for one attempt.
        total_timeout: the same for all attempts together, waits included.
        requires_approval: the step waits for a person after it ran.
        on_item_failure: `"keep"` lets a mapped step complete although items failed (their places are None).
        secret: what it returns is shown nowhere and kept encrypted, as with `-> Secret[…]`.
        cheap: several such steps may share one unit of work where that saves overhead.
        limit: the name of a limit (`limits` of `open_engine` or `towpath.toml`), which all steps with this name share.
        concurrency: how many attempts of this function run at the same time in a process, over all its runs.
        process: run the function in a process of its own, for what keeps the CPU busy; only for a plain `def`.

    Raises:
        InputInvalid: E_FIELD_TYPE, E_FIELD_RANGE, E_FIELD_UNKNOWN, E_FIELD_MISSING for an option.
        ChainInvalid: E_STEP_KIND if it is not a function, or cannot run in a process of its own; E_SECRET_INPUT for a
            parameter with secrets inside.
    """
    name = options.pop("name", None)
    settled = step_options(StepOptions(), ("name",), **options)

    def made(f: Callable[..., Any]) -> Step[..., Any]:
        return register(Step(f, settled, docstring(f), name))

    return made if function is None else made(function)


def register(step: Step[P, R]) -> Step[P, R]:
    """Make a step findable by name in this process. A name that two functions have is remembered as ambiguous."""
    old = _registry.get(step.name)
    if old is not None and not same_function(old.function, step.function):
        if defined_again(old.origin, step.origin, (old.spec, step.spec)):
            _replaced.add(step.name)
            _ambiguous.discard(step.name)
        else:
            _ambiguous.add(step.name)
    _registry[step.name] = step
    return step


def find_step(name: str) -> Step[..., Any]:
    """The step of that name, importing its module if necessary.

    Raises:
        StepNotRegistered: E_STEP_NOT_REGISTERED, E_STEP_NAME_TWICE, with what to do about it.
    """
    module, _, qualname = name.partition(":")
    found, reason = _registry.get(name), "the function is not decorated with @step"
    if found is None:
        try:
            imported = load_module(module)
            found = _registry.get(name) or _attribute(imported, qualname)
        except (ImportError, AttributeError) as error:
            reason = str(error)
        except (Exception, SystemExit) as error:  # any error of the user's module while it is imported
            reason = f"importing the module raised {type(error).__name__}: {shown(str(error))}"
    if not isinstance(found, Step):
        message = f"no step called {name} in this process: {reason}"
        raise StepNotRegistered("E_STEP_NOT_REGISTERED", message, place=Place(step=name), cure=cure_of(name))
    if is_ambiguous(name):
        raise _ambiguous_name(name)
    return _there_now(module, qualname) or found


def _there_now(module: str, qualname: str) -> Step[..., Any] | None:
    """The step that the module has under that name now: a test may have put another one there."""
    try:
        now = _attribute(sys.modules[module], qualname)
    except (KeyError, AttributeError):
        return None
    return now if isinstance(now, Step) else None


class _NotFound:
    """In place of a pickled step that this process does not have. A worker of a pool that cannot read its task dies
    without a word, or the pool waits for ever; one that gets an exception hands it back.
    """

    def __init__(self, error: StepNotRegistered) -> None:
        self._error = error

    def __call__(self, /, *_: object, **__: object) -> NoReturn:
        raise self._error


def _found_again(name: str, options: StepOptions | None) -> Step[..., Any] | _NotFound:
    """A step that was pickled, with its options if they were not those of its function."""
    try:
        found = find_step(name)
    except StepNotRegistered as error:
        return _NotFound(error)
    if options is None:
        return found
    changed = found.with_options()
    changed.options = options
    return changed


def is_ambiguous(name: str) -> bool:
    """Do two functions of this process have that name?"""
    return name in _ambiguous or (name in _replaced and _kept_elsewhere(_registry[name]))


def _ambiguous_name(name: str) -> StepNotRegistered:
    message = f"two different functions have the name {name}: a recorded run cannot say which one it means"
    return StepNotRegistered("E_STEP_NAME_TWICE", message, place=Place(step=name), cure=CURE)


def refuse_other_functions(kept: Mapping[str, Step[..., Any]], new: Mapping[str, Step[..., Any]]) -> None:
    """Refuse a known run id if its step functions are others: a plan has only their names.

    `kept` are the functions of the run, as far as this process knows them. Without them, equal names are enough.
    Raises StepNotRegistered (E_STEP_NAME_TWICE).
    """
    for name, step in new.items():
        known = kept.get(name)
        if known is None:
            wrong = is_ambiguous(name)
        elif same_function(known.function, step.function):
            wrong = False
        else:  # if a function was defined again, the new one runs
            wrong = is_ambiguous(name) or not same_function(_registry[name].function, step.function)
        if wrong:
            raise _ambiguous_name(name)


def is_loaded(name: str) -> bool:
    """Does the process have this step already? Imports nothing."""
    if name in _registry:
        return True
    module, _, qualname = name.partition(":")
    try:
        return isinstance(_attribute(loaded_module(module), qualname), Step)
    except AttributeError:
        return False


def _attribute(module: Any, qualname: str) -> Any:
    for part in qualname.split("."):
        module = getattr(module, part)
    return module


def _kept_elsewhere(found: Step[..., Any]) -> bool:
    """Does the module still hold the function that was there before, under another name?"""
    module = sys.modules.get(found.origin.__module__)
    steps = [value for value in vars(module).values() if isinstance(value, Step)] if module is not None else []
    return any(s.name == found.name and not same_function(s.function, found.function) for s in steps)


def known_steps() -> list[str]:
    """The names of the steps that this process has imported."""
    return sorted(_registry)
