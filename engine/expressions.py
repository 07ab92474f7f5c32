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

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .errors import ExpressionFailed, Place, Problem, shown
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

__all__ = ["Condition", "Reference", "Scope", "Template", "look_up", "parse_condition", "parse_template"]

Resolve = Callable[[Reference], object]

TEXT_LIMIT = 1_000_000  # characters of a rendered text
LIST_LIMIT = 100_000  # values of a list that + makes
HANDED_LIMIT = 10_000_000  # characters of the texts that one evaluation fetches; each fetch is a copy
# MiniJinja's own count of work, only a net below the limits above: an instruction, 64 bytes of a text that it
# copies and two values that it compares cost 1 each, so all that the limits let through fits.
FUEL = 5_000_000
SHOWN_KEYS = 10
GUESSES = 6  # problems of one text that get a "did you mean"
COMPARED_NAMES = 100  # names among which a similar one is looked for
INTEGER_LIMIT = 2**127

_UNDEFINED = "E_TEMPLATE_UNDEFINED"
_FAILED = ("E_TEMPLATE_FAILED", "E_COND_TYPE")


@dataclass(frozen=True, slots=True)
class Scope:
    """The names that an expression may use. `steps` are all of the chain, `upstream` the ancestors."""

    inputs: frozenset[str] = frozenset()
    upstream: frozenset[str] = frozenset()
    steps: frozenset[str] = frozenset()
    mapped: bool = False  # the step runs once per item: `item` and `index` are names


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text. `whole`: it is one lone `{{ … }}`, so its value keeps its type."""

    text: str
    references: tuple[Reference, ...]
    is_constant: bool
    whole: bool
    _parts: tuple[str | Resolved, ...] = field(repr=False, compare=False)
    _place: Place = field(default_factory=Place, repr=False, compare=False)

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
            return _capped([p if isinstance(p, str) else as_text(p(resolve)) for p in self._parts])
        except _Refused as error:
            raise error.failure(0, self._place) from None


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition."""

    text: str
    references: tuple[Reference, ...]
    _value: Resolved = field(repr=False, compare=False)
    _place: Place = field(default_factory=Place, repr=False, compare=False)

    def holds(self, resolve: Resolve) -> bool:
        """Whether it is true. Raises ExpressionFailed: E_COND_TYPE, E_TEMPLATE_UNDEFINED."""
        result = self._value(resolve)
        if isinstance(result, bool):
            return result
        raise ExpressionFailed(
            "E_COND_TYPE",
            "a condition must be true or false",
            place=self._place,
            found=f"{_kind(result)}: {shown(result)}",
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
    return Template(text, references, False, whole, parts, place), []


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
    condition = Condition(text, expression.references, _compiled(expression, place, 1), place)
    return (None, problems) if problems else (condition, [])


# -- what is wrong with a text


def _oversize(text: str, use: int, place: Place) -> Problem:
    what = f"the expression has {len(text)} characters"
    return Problem(SIZE[use], what, place, allowed=f"{SIZE_LIMIT}", cure="compute it in a step")


def _problems(parsed: Parsed, scope: Scope | None, place: Place, use: int) -> list[Problem]:
    """All faults of the text and, with a scope, of the names in it. `use`: 0 template, 1 condition."""
    found = [_problem(f, place, use) for f in parsed.faults[:FAULT_LIMIT]]
    if scope is None:
        return found
    mentions = {m.reference: m for p in parsed.parts if isinstance(p, Expression) for m in reversed(p.mentions)}
    for mention in sorted(mentions.values(), key=lambda m: m.offset):
        if len(found) >= FAULT_LIMIT:
            break
        fault = _name_fault(mention, scope, guess=len(found) < GUESSES)
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
        return Fault(codes, message, mention.offset, shown(name), _listed(scope.upstream), cure)
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
    cure = f'write steps["{dashed[0]}"]' if dashed else _similar(name, names) if guess else ""
    return Fault(codes, f"{message}: {shown(name)}", offset, shown(name), _listed(names), cure)


def _listed(names: Iterable[str], total: int = 0) -> str:
    """At most ten names, and how many more of `total` there are."""
    ordered = sorted(names)
    more = max(total, len(ordered)) - SHOWN_KEYS
    return ", ".join(shown(n) for n in ordered[:SHOWN_KEYS]) + (f" … and {more} more" if more > 0 else "")


def _similar(name: str, names: Iterable[str]) -> str:
    cut = [n[:80] for n, _ in zip(names, range(COMPARED_NAMES), strict=False)]
    close = difflib.get_close_matches(name[:80], cut, 1)
    return f"did you mean {shown(close[0])}?" if close else ""


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
    return [Problem(_FAILED[use], message, place, found)]


# -- paths through values


class _Absent(Exception):
    """A key is not there; `there` says what is."""

    def __init__(self, there: str, cure: str = "") -> None:
        super().__init__(there)
        self.there, self.cure = there, cure


def look_up(value: object, reference: Reference, start: int = 0) -> object:
    """Follow `reference.keys[start:]` through mappings and lists.

    Raises ExpressionFailed E_TEMPLATE_UNDEFINED naming the step, the key and what is there instead.
    """
    keys = reference.keys
    for at in range(start, len(keys)):
        try:
            value = _inner(value, keys[at])
        except _Absent as absent:
            before = Reference(reference.root, reference.step, reference.part, keys[:at])
            owner = f"step {shown(reference.step)}: " if reference.step else ""
            raise ExpressionFailed(
                _UNDEFINED,
                f"{owner}{before} has no {json.dumps(shown(keys[at]))}",
                found=str(reference),
                allowed=absent.there,
                cure=absent.cure,
            ) from None
    return value


def _inner(value: object, key: object) -> object:
    """One step of a path. Only mappings and lists have anything in them."""
    if isinstance(value, dict):
        if isinstance(key, str) and key in value:
            return value[key]
        names = [k for k, _ in zip(value, range(COMPARED_NAMES), strict=False) if isinstance(k, str)]
        raise _Absent(_listed(names, len(value)) or "it is empty", _similar(str(key), names))
    if isinstance(value, (list, tuple)):
        if isinstance(key, int) and not isinstance(key, bool) and -len(value) <= key < len(value):
            return value[key]
        raise _Absent(f"0 to {len(value) - 1}" if value else "it is empty")
    raise _Absent(f"nothing: it is {_kind(value)}")


def _kind(value: object) -> str:
    """The type of a value in the words of JSON."""
    if value is None:
        return "none"
    names = {
        bool: "boolean",
        int: "number",
        float: "number",
        str: "text",
        list: "list",
        tuple: "list",
        dict: "mapping",
    }
    return names.get(type(value), "a file" if _filename(value) else type(value).__name__)


def _filename(value: object) -> str:
    name = getattr(value, "filename", None)
    return name if isinstance(name, str) else ""


# -- text


def as_text(value: object) -> str:
    """A value inside of a text: text as it is, true, false, none, a file by its name, the rest as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    if not isinstance(value, (bool, int, float, list, tuple, dict)) and _filename(value):
        return _filename(value)
    return _as_json(value)


def _as_json(value: object) -> str:
    def plain(other: object) -> str:
        if name := _filename(other):
            return name
        raise _Refused("a value has no JSON form", _kind(other))

    pieces, size = [], 0
    try:
        for piece in json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=plain).iterencode(value):
            pieces.append(piece)
            size += len(piece)
            if size > TEXT_LIMIT:
                break
    except (TypeError, ValueError, RecursionError):
        raise _Refused("the value has no JSON form", _kind(value)) from None
    return _capped(pieces)


def _capped(parts: list[str]) -> str:
    size = sum(map(len, parts))
    if size > TEXT_LIMIT:
        raise _Refused(f"the text is longer than {TEXT_LIMIT} characters", size=True)
    return "".join(parts)


# -- evaluation


class _Refused(Exception):
    """A function met values that it cannot work with."""

    def __init__(self, message: str, found: str = "", *, size: bool = False) -> None:
        super().__init__(message)
        self.message, self.found, self.size = message, found, size

    def failure(self, use: int, place: Place) -> ExpressionFailed:
        return ExpressionFailed((SIZE if self.size else _FAILED)[use], self.message, place=place, found=self.found)


@dataclass(frozen=True, slots=True)
class _Missing:
    """Stands for a path that leads nowhere, where that is allowed; `error` tells how it would have failed."""

    error: ExpressionFailed


class _Values:
    """The references of one evaluation, fetched when they are needed and only once."""

    __slots__ = ("handed", "known", "references", "resolve")

    def __init__(self, references: tuple[Reference, ...], resolve: Resolve) -> None:
        self.references, self.resolve = references, resolve
        self.known: dict[int, object] = {}
        self.handed = 0

    def get(self, index: int) -> object:
        if index not in self.known:
            self.known[index] = _carried(self.resolve(self.references[index]))
        value = self.known[index]
        if isinstance(value, str):
            self.handed += len(value)
            if self.handed > HANDED_LIMIT:
                raise _Refused(f"the texts are longer than {HANDED_LIMIT} characters together", size=True)
        return value

    def soft(self, index: int) -> object:
        try:
            return self.get(index)
        except ExpressionFailed as error:
            if error.code != _UNDEFINED:
                raise
            return _Missing(error)


def _carried(value: object) -> object:
    """Refuse what MiniJinja would silently change."""
    if isinstance(value, int) and not -INTEGER_LIMIT <= value < INTEGER_LIMIT:
        raise _Refused("the number is too large for an expression", f"{value.bit_length()} bits")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused("the text is not valid Unicode", shown(value)) from None
    return value


def _compiled(expression: Expression, place: Place, use: int) -> Resolved:
    """The expression as a function of `resolve`; whatever it raises names the place."""
    if expression.lone is None:
        return _computed(expression, place, use)
    lone, otherwise = expression.lone, expression.otherwise

    def path(resolve: Resolve) -> object:
        try:
            return resolve(lone)
        except ExpressionFailed as error:
            if otherwise and error.code == _UNDEFINED:
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
        except _Refused as error:
            raise error.failure(use, place) from None
        except template_error as error:
            raise _engine_failure(error, use, place) from None
        return result

    return compute


def _engine_failure(error: Any, use: int, place: Place) -> ExpressionFailed:
    """What MiniJinja refused, told by the kind that it gives; its words are only shown."""
    if error.kind == "OutOfFuel":
        return _Refused("the values are too large to be worked on in an expression", size=True).failure(use, place)
    return ExpressionFailed(_FAILED[use], error.detail or error.kind, place=place)


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
    for name, function in _FUNCTIONS.items():
        environment.add_function(f"_{name}", function)
    return environment, minijinja.TemplateError


# -- functions of the language; each refuses what it is not made for


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _order(left: Any, sign: str, right: Any) -> bool:
    if not (_number(left) and _number(right)) and not (isinstance(left, str) and isinstance(right, str)):
        raise _Refused(f"{sign} compares two numbers or two texts", f"{_kind(left)} {sign} {_kind(right)}")
    if sign in {"<", "<="}:
        return bool(left < right if sign == "<" else left <= right)
    return bool(left > right if sign == ">" else left >= right)


def _present(value: object, holder: object) -> bool:
    if isinstance(holder, (list, tuple)):
        return value in holder
    if isinstance(holder, (dict, str)) and isinstance(value, str):
        return value in holder
    raise _Refused("in looks for a text in a text or mapping, or for a value in a list", _kind(holder))


def _arithmetic(value: Any, *rest: Any) -> object:
    """`value sign value sign value …`, from left to right."""
    for sign, other in zip(rest[::2], rest[1::2], strict=True):
        value = _calculated(value, sign, other)
    return value


def _calculated(left: Any, sign: str, right: Any) -> object:
    if sign == "+" and isinstance(left, str) and isinstance(right, str):
        return _capped([left, right])
    if sign == "+" and isinstance(left, list) and isinstance(right, list):
        if len(left) + len(right) > LIST_LIMIT:
            raise _Refused(f"the list is longer than {LIST_LIMIT} values", size=True)
        return left + right
    if not (_number(left) and _number(right)):
        raise _Refused(f"{sign} needs two numbers", f"{_kind(left)} {sign} {_kind(right)}")
    try:
        if sign in {"+", "-"}:
            return _finite(left + right if sign == "+" else left - right)
        return _finite(left / right if sign == "/" else left // right)
    except (ZeroDivisionError, OverflowError) as error:
        raise _Refused(str(error), f"{left} {sign} {right}") from None


def _finite(value: Any) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise _Refused("the number is too large", str(value))
    return _carried(value)


def _item(value: object, key: object) -> object:
    found = _find(value, key)
    if isinstance(found, _Missing):
        raise found.error
    return found


def _find(value: object, key: object) -> object:
    if isinstance(value, _Missing):
        return value
    try:
        return _carried(_inner(value, key))
    except _Absent as absent:
        message = f"the value has no {json.dumps(shown(key))}"
        return _Missing(ExpressionFailed(_UNDEFINED, message, allowed=absent.there, cure=absent.cure))


def _default(value: object, other: object, falsy: object = False) -> object:
    """`falsy`: replace values such as "" and none, too."""
    if isinstance(value, _Missing) or (falsy and not value):
        value = other
    if isinstance(value, _Missing):
        raise value.error
    return value


def _end(name: str, index: int) -> Callable[[object], object]:
    def end(value: object) -> object:
        if not isinstance(value, (list, tuple, str)) or not value:
            raise _Refused(f"{name} needs a list or text that is not empty", _kind(value))
        return _carried(value[index])

    return end


def _on_text(name: str, change: Callable[..., str]) -> Callable[..., str]:
    def changed(value: object, *given: object) -> str:
        if not isinstance(value, str) or not all(isinstance(g, str) for g in given):
            raise _Refused(f"{name} needs a text", _kind(value))
        return change(value, *given)

    return changed


def _length(value: object) -> int:
    if isinstance(value, (str, list, tuple, dict)):
        return len(value)
    raise _Refused("length needs a text, list or mapping", _kind(value))


def _join(values: object, between: object = "") -> str:
    if not isinstance(values, (list, tuple)) or not isinstance(between, str):
        raise _Refused("join needs a list and a text", _kind(values))
    if len(between) * len(values) > TEXT_LIMIT:
        raise _Refused(f"the text is longer than {TEXT_LIMIT} characters", size=True)
    texts = [as_text(v) for v in values]
    return _capped([between.join(texts)] if sum(map(len, texts)) <= TEXT_LIMIT else texts)


def _round(value: Any, digits: Any = 0) -> object:
    if not _number(value) or not isinstance(digits, int) or not 0 <= digits <= 15:
        raise _Refused("round needs a number, and 0 to 15 digits", _kind(value))
    return round(value, digits)


_WRITTEN = re.compile(r"[ \t\r\n]*[+-]?[0-9]{1,38}(?:\.[0-9]{1,38})?(?:[eE][+-]?[0-9]{1,3})?[ \t\r\n]*")


def _converted(value: object, *otherwise: object) -> Any:
    """A number, or the number that a text holds."""
    if _number(value):
        return value
    if isinstance(value, str) and len(value) < 100 and _WRITTEN.fullmatch(value):
        return int(value) if value.strip().lstrip("+-").isdigit() else float(value)
    if otherwise:
        return otherwise[0]
    raise _Refused("this is not a number", f"{_kind(value)} {shown(value)}")


def _int(value: object, *otherwise: object) -> object:
    number = _finite(_converted(value, *otherwise))
    return _carried(int(number)) if isinstance(number, float) else number


def _float(value: object, *otherwise: object) -> object:
    number = _converted(value, *otherwise)
    return _finite(float(number)) if _number(number) else number


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "order": _order,
    "present": _present,
    "absent": lambda value, holder: not _present(value, holder),
    "arithmetic": _arithmetic,
    "text": lambda *values: _capped([as_text(v) for v in values]),
    "item": _item,
    "find": _find,
    "defined": lambda value: not isinstance(value, _Missing),
    "undefined": lambda value: isinstance(value, _Missing),
    "default": _default,
    "join": _join,
    "length": _length,
    "lower": _on_text("lower", str.lower),
    "upper": _on_text("upper", str.upper),
    "trim": _on_text("trim", str.strip),
    "first": _end("first", 0),
    "last": _end("last", -1),
    "tojson": _as_json,
    "round": _round,
    "int": _int,
    "float": _float,
    "string": as_text,
}
