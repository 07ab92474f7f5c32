"""Templates and conditions: checked when a chain is loaded, evaluated against real values when it runs.

`parse_template` and `parse_condition` return every problem of a text at once; what they accept is compiled
and can be evaluated thousands of times. A path alone is a call of `resolve` and nothing else; everything
larger is MiniJinja source (see `expression_syntax.py`), for which this module has the functions.

Values are data: they are fetched, compared and joined, never parsed, never rendered a second time, and
nothing reads an attribute of a Python object on behalf of an expression. Known limits of a computed
expression: 2.0 comes out as 2, and whole numbers beyond 128 bits and texts that are not valid Unicode are
refused; a lone path, and a lone path with a constant default, keep every value as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .errors import ExpressionFailed, Place, Problem, shown, similar
from .expression_syntax import (
    FAULT_LIMIT,
    NAME,
    OPENING,
    SIZE,
    SIZE_LIMIT,
    Expression,
    Fault,
    Mention,
    Parsed,
    Reference,
    parse_bare,
    parse_text,
)
from .expression_values import (
    COMPARED_NAMES,
    FAILED,
    FUNCTIONS,
    UNDEFINED,
    Missing,
    Refused,
    as_text,
    carried,
    joined,
    kind_of_value,
    listed,
    look_up,
)

__all__ = ["Condition", "Reference", "Scope", "Template", "look_up", "parse_condition", "parse_template"]

Resolve = Callable[[Reference], object]

HANDED_LIMIT = 10_000_000  # characters of the texts that one evaluation fetches; each fetch is a copy
# MiniJinja's own count of work, only a net below the limits above: an instruction, 64 bytes of a text that it
# copies and two values that it compares cost 1 each, so all that the limits let through fits.
FUEL = 5_000_000
GUESSES = 6  # problems of one text that get a "did you mean"


@dataclass(frozen=True, slots=True)
class Scope:
    """The names that an expression may use. `steps` are all of the chain, `upstream` the ancestors."""

    inputs: frozenset[str] = frozenset()
    upstream: frozenset[str] = frozenset()
    steps: frozenset[str] = frozenset()
    mapped: bool = False  # the step runs once per item: `item` and `index` are names


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text. `whole`: it is one lone `{{ … }}`, so its value keeps its type.

    `lone` is the reference, where the text is one reference and nothing else.
    """

    text: str
    references: tuple[Reference, ...]
    is_constant: bool
    whole: bool
    _parts: tuple[str | Resolved, ...] = field(repr=False, compare=False)
    _place: Place = field(default_factory=Place, repr=False, compare=False)
    _mentions: tuple[Mention, ...] = field(default=(), repr=False, compare=False)
    lone: Reference | None = field(default=None, repr=False, compare=False)

    def name_problems(self, scope: Scope) -> list[Problem]:
        """What is wrong with the names in it, in this scope."""
        return _name_problems(self._mentions, scope, self._place, 0)

    def render(self, resolve: Resolve) -> object:
        """The value: of the lone expression, or a text of all parts, at most 1,000,000 characters long.

        Raises ExpressionFailed: E_TEMPLATE_UNDEFINED, E_TEMPLATE_FAILED or E_TEMPLATE_SIZE.
        """
        if self.is_constant:
            return self.text
        first = self._parts[0]
        if self.whole and not isinstance(first, str):
            return first(resolve)
        try:
            return joined([p if isinstance(p, str) else as_text(p(resolve)) for p in self._parts])
        except Refused as error:
            raise error.failure(0, self._place) from None


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition."""

    text: str
    references: tuple[Reference, ...]
    _value: Resolved = field(repr=False, compare=False)
    _place: Place = field(default_factory=Place, repr=False, compare=False)
    _mentions: tuple[Mention, ...] = field(default=(), repr=False, compare=False)

    def name_problems(self, scope: Scope) -> list[Problem]:
        """What is wrong with the names in it, in this scope."""
        return _name_problems(self._mentions, scope, self._place, 1)

    def holds(self, resolve: Resolve) -> bool:
        """Whether it is true. Raises ExpressionFailed: E_COND_TYPE, E_TEMPLATE_UNDEFINED."""
        result = self._value(resolve)
        if isinstance(result, bool):
            return result
        raise ExpressionFailed(
            "E_COND_TYPE",
            "a condition must be true or false",
            place=self._place,
            found=f"{kind_of_value(result)}: {shown(result)}",
            allowed="a boolean",
            cure="compare the value with something",
        )


Resolved = Callable[[Resolve], object]


def parse_template(text: str, scope: Scope | None, place: Place) -> tuple[Template | None, list[Problem]]:
    """Parse a text that may hold `{{ … }}`. Without a scope, only the syntax is checked."""
    if not OPENING.search(text):
        return Template(text, (), True, False, (text,), place), []
    if len(text) > SIZE_LIMIT:
        return None, [_oversize(text, 0, place)]
    parsed = parse_text(text)
    problems = _problems(parsed, scope, place, 0)
    expressions = [p for p in parsed.parts if isinstance(p, Expression)]
    if problems:
        return None, problems
    for expression in expressions:
        problems += _constant_problems(expression, place, 0)
    if problems:
        return None, problems
    parts = tuple(p if isinstance(p, str) else _compiled(p, place, 0) for p in parsed.parts)
    references = tuple(dict.fromkeys(r for e in expressions for r in e.references))
    whole = len(parts) == 1
    lone = expressions[0].lone if whole and not expressions[0].otherwise else None
    return Template(text, references, False, whole, parts, place, _mentions(parsed), lone), []


def parse_condition(text: str, scope: Scope | None, place: Place) -> tuple[Condition | None, list[Problem]]:
    """Parse a condition. One without references is evaluated here: it must give true or false."""
    if len(text) > SIZE_LIMIT:
        return None, [_oversize(text, 1, place)]
    parsed = parse_bare(text)
    problems = _problems(parsed, scope, place, 1)
    expression = next((p for p in parsed.parts if isinstance(p, Expression)), None)
    if problems or expression is None:
        return None, problems
    problems = _constant_problems(expression, place, 1)
    compiled = _compiled(expression, place, 1)
    condition = Condition(text, expression.references, compiled, place, _mentions(parsed))
    return (None, problems) if problems else (condition, [])


# -- what is wrong with a text


def _oversize(text: str, use: int, place: Place) -> Problem:
    what = f"the expression has {len(text)} characters"
    return Problem(SIZE[use], what, place, allowed=f"{SIZE_LIMIT}", cure="compute it in a step")


def _problems(parsed: Parsed, scope: Scope | None, place: Place, use: int) -> list[Problem]:
    """All faults of the text and, with a scope, of the names in it. `use`: 0 template, 1 condition."""
    found = [_problem(f, place, use) for f in parsed.faults[:FAULT_LIMIT]]
    return found if scope is None else found + _name_problems(_mentions(parsed), scope, place, use, len(found))


def _mentions(parsed: Parsed) -> tuple[Mention, ...]:
    """Where each reference is written first, in the order of the text."""
    first = {m.reference: m for p in parsed.parts if isinstance(p, Expression) for m in reversed(p.mentions)}
    return tuple(sorted(first.values(), key=lambda m: m.offset))


def _name_problems(
    mentions: Iterable[Mention], scope: Scope, place: Place, use: int, reported: int = 0
) -> list[Problem]:
    """What is wrong with names; `reported` problems of the same text count towards the limit."""
    found: list[Problem] = []
    for mention in mentions:
        if reported + len(found) >= FAULT_LIMIT:
            break
        fault = _name_fault(mention, scope, guess=reported + len(found) < GUESSES)
        if fault is None:
            continue
        found.append(_problem(fault, place, 0 if fault.codes is not NAME else use))
        if use and fault.codes is not NAME:  # a condition has its own code for every unusable name, too
            found.append(_problem(fault, place, 1))
    return found


def _problem(fault: Fault, place: Place, use: int) -> Problem:
    message = f"{fault.message}, at character {fault.offset + 1}"
    return Problem(fault.codes[use], message, place, fault.found, fault.allowed, fault.cure)


def _name_fault(mention: Mention, scope: Scope, *, guess: bool) -> Fault | None:
    """What is wrong with a reference in this scope."""
    reference, offset = mention.reference, mention.offset
    if reference.root == "step":
        return _step_fault(reference.step, mention, scope, guess=guess)
    if reference.root == "inputs":
        name = str(reference.keys[0])
        if name in scope.inputs:
            return None
        return _unknown("E_TEMPLATE_UNKNOWN", "there is no such input", name, scope.inputs, offset, guess)
    message = f"{reference.root} is only known in a step with foreach"
    return None if scope.mapped else Fault(NAME, message, offset, reference.root, cure="add foreach to the step")


def _step_fault(name: str, mention: Mention, scope: Scope, *, guess: bool) -> Fault | None:
    if name in scope.upstream:
        return None
    if name in scope.steps:
        message = f"step {shown(name)} does not run before this step"
        codes = ("E_TEMPLATE_NOT_UPSTREAM", "E_COND_NAME")
        cure = f"depends_on: [{shown(name)}]"
        return Fault(codes, message, mention.offset, shown(name), listed(scope.upstream), cure)
    if mention.explicit:
        return _unknown("E_TEMPLATE_UNKNOWN", "there is no such step", name, scope.steps, mention.offset, guess)
    if name in scope.inputs:
        return Fault(NAME, f"this name is not known: {name}", mention.offset, name, cure=f"write inputs.{name}")
    names = [*scope.upstream, "inputs", *(["item", "index"] if scope.mapped else [])]
    return _unknown("E_TEMPLATE_NAME", "this name is not known", name, names, mention.offset, guess)


def _unknown(code: str, message: str, name: str, names: Iterable[str], offset: int, guess: bool) -> Fault:
    codes = NAME if code == "E_TEMPLATE_NAME" else (code, "E_COND_NAME")
    names = sorted(names)
    dashed = [n for n in names if n.startswith(name + "-")]
    cure = f'write steps["{dashed[0]}"]' if dashed else similar(name, names, COMPARED_NAMES) if guess else ""
    return Fault(codes, f"{message}: {shown(name)}", offset, shown(name), listed(names), cure)


def _constant_problems(expression: Expression, place: Place, use: int) -> list[Problem]:
    """Evaluate an expression that names nothing, so that what must fail is refused now."""
    if expression.references:
        return []

    def nothing(reference: Reference) -> object:
        raise AssertionError(reference)

    try:
        value = _compiled(expression, place, use)(nothing)
        if use == 0 or isinstance(value, bool):
            return []
        message, found = "a condition must be true or false", shown(value)
    except ExpressionFailed as error:
        message, found = error.problem.message, error.problem.found
    return [Problem(FAILED[use], message, place, found)]


# -- evaluation


class _Values:
    """The references of one evaluation, fetched when they are needed and only once."""

    __slots__ = ("handed", "known", "references", "resolve")

    def __init__(self, references: tuple[Reference, ...], resolve: Resolve) -> None:
        self.references, self.resolve = references, resolve
        self.known: dict[int, object] = {}
        self.handed = 0

    def get(self, index: int) -> object:
        if index not in self.known:
            self.known[index] = carried(self.resolve(self.references[index]))
        value = self.known[index]
        if isinstance(value, str):
            self.handed += len(value)
            if self.handed > HANDED_LIMIT:
                raise Refused(f"the texts are longer than {HANDED_LIMIT} characters together", size=True)
        return value

    def soft(self, index: int) -> object:
        try:
            return self.get(index)
        except ExpressionFailed as error:
            if error.code != UNDEFINED:
                raise
            return Missing(error)


def _compiled(expression: Expression, place: Place, use: int) -> Resolved:
    """The expression as a function of `resolve`; whatever it raises names the place."""
    if expression.lone is None:
        return _computed(expression, place, use)
    lone, otherwise = expression.lone, expression.otherwise

    def path(resolve: Resolve) -> object:
        try:
            return resolve(lone)
        except ExpressionFailed as error:
            if otherwise and error.code == UNDEFINED:
                return otherwise[0]
            raise _placed(error, place) from None

    return path


def _computed(expression: Expression, place: Place, use: int) -> Resolved:
    source, references = expression.source, expression.references

    def compute(resolve: Resolve) -> object:
        environment, template_error = _engine()
        values = _Values(references, resolve)
        try:
            result = environment.eval_expr(source, _r=values.get, _s=values.soft)
        except ExpressionFailed as error:
            raise _placed(error, place) from None
        except Refused as error:
            raise error.failure(use, place) from None
        except template_error as error:
            raise _engine_failure(error, use, place) from None
        return result

    return compute


def _engine_failure(error: Any, use: int, place: Place) -> ExpressionFailed:
    """An error of MiniJinja, by its kind; its message is only shown."""
    if error.kind == "OutOfFuel":
        return Refused("the values are too large to be worked on in an expression", size=True).failure(use, place)
    return ExpressionFailed(FAILED[use], error.detail or error.kind, place=place)


def _placed(error: ExpressionFailed, place: Place) -> ExpressionFailed:
    """The error with the place of the expression, unless it has one already."""
    problem = error.problem
    if problem.place != Place():
        return error
    placed = ExpressionFailed(problem.code, problem.message, place=place, retryable=error.retryable)
    placed.problem = Problem(problem.code, problem.message, place, problem.found, problem.allowed, problem.cure)
    placed.args = (str(placed.problem),)
    return placed


@lru_cache(maxsize=1)
def _engine() -> tuple[Any, type[Exception]]:
    """MiniJinja, loaded when the first expression needs it. Its stubs do not know `add_function`."""
    import minijinja  # noqa: PLC0415

    environment: Any = minijinja.Environment(undefined_behavior="strict", pycompat=False, fuel=FUEL)
    for name, function in FUNCTIONS.items():
        environment.add_function(f"_{name}", function)
    return environment, minijinja.TemplateError
