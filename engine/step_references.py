"""Checks expressions of a chain file that name other steps: do these steps run before?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from .binding import MARKS, ZIP, check_lengths
from .errors import ExpressionFailed, Place, Problem, shown
from .expression_syntax import OPENING, Reference
from .expressions import Condition, Scope, Template, parse_condition, parse_template
from .model import Json
from .yaml_source import MAX_PROBLEMS, Keys

Parsed = TypeVar("Parsed", Template, Condition)
Parse: TypeAlias = Callable[[str, Scope | None, Place], tuple[Parsed | None, list[Problem]]]

_BATCH = 4_096  # steps whose descendants are found in one pass
_OF_OTHER_STEPS = frozenset({"E_TEMPLATE_NOT_UPSTREAM", "E_COND_NAME"})


def upstream_among(
    levels: Sequence[Sequence[str]], needs: Mapping[str, Iterable[str]], named: Mapping[str, Iterable[str]]
) -> dict[str, set[str]]:
    """Which of the steps that each step names come before it, directly or not.

    One bit per named step travels down the graph: linear in the steps for each batch of bits.
    """
    before: dict[str, set[str]] = {step: set() for step in named}
    wanted = list(dict.fromkeys(name for names in named.values() for name in names))
    for start in range(0, len(wanted), _BATCH):
        bits = {name: 1 << i for i, name in enumerate(wanted[start : start + _BATCH])}
        masks: dict[str, int] = {}
        for step in chain.from_iterable(levels):
            mask = 0
            for need in needs[step]:
                mask |= masks[need] | bits.get(need, 0)
            masks[step] = mask
        for step, names in named.items():
            before[step].update(name for name in names if bits.get(name, 0) & masks[step])
    return before


class Spot(Protocol):
    """The step that an expression belongs to; paths begin at the step."""

    @property
    def step(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]: ...

    def place(self, path: Keys) -> Place: ...


class _Late(NamedTuple):
    """An expression of a step whose names can be checked only when the whole graph is known."""

    parsed: Template | Condition
    step: str
    mapped: bool


class Expressions:
    """The expressions of a chain's steps. Names of direct dependencies are checked at once, others by `settle`.

    `needs` are the direct dependencies of every step. `problems` collects what is wrong.
    """

    def __init__(self, inputs: Iterable[str], needs: Mapping[str, Collection[str]]) -> None:
        self.inputs, self.needs, self.steps = frozenset(inputs), needs, frozenset(needs)
        self.problems: list[Problem] = []
        self._late: list[_Late] = []

    def binding(self, value: Json, path: Keys, spot: Spot, *, mapped: bool) -> Json:
        """A value of a chain file as a binding: text with `{{` is a template, all else is itself."""
        if isinstance(value, str):
            self._template(value, path, spot, mapped)
            return {"$template": value} if OPENING.search(value) else value
        if isinstance(value, list):
            return [self.binding(inner, (*path, i), spot, mapped=mapped) for i, inner in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if marks := MARKS & value.keys():
            if _holds_template(value):
                message = "templates cannot stand beside this key"
                cure = "use another key, or compute the value in a step"
                found = shown(min(marks))
                self.problems.append(Problem("E_FIELD_TYPE", message, spot.place(path), found, cure=cure))
            return {"$literal": value}
        return {key: self.binding(inner, (*path, key), spot, mapped=mapped) for key, inner in value.items()}

    def foreach(self, value: Json, path: Keys, spot: Spot) -> Json:
        """What a step maps over: a list, or one whole `{{ … }}`, or a mapping of names to such. The whole value of a
        step is a reference.
        """
        if not isinstance(value, dict):
            return self._list(value, path, spot)
        lengths = {name: len(values) for name, values in value.items() if isinstance(values, list)}
        try:
            check_lengths(lengths, spot.place(path))
        except ExpressionFailed as different:
            self.problems.append(different.problem)
        return {ZIP: {name: self._list(values, (*path, name), spot) for name, values in value.items()}}

    def _list(self, value: Json, path: Keys, spot: Spot) -> Json:
        if isinstance(value, list):
            return self.binding(value, path, spot, mapped=False)
        template = self._template(value, path, spot, False)
        if template is None or not template.whole:
            if OPENING.search(value) is None or template is not None:
                allowed = "a list, or one whole {{ … }} that gives a list"
                message = "foreach cannot be this"
                self.problems.append(Problem("E_FIELD_TYPE", message, spot.place(path), shown(value), allowed))
            return []
        lone = template.lone
        if lone is not None and (lone.root, lone.part, lone.keys) == ("step", "output", ()):
            return {"$ref": {"step": lone.step, "keys": []}}
        return {"$template": value}

    def condition(self, text: str, path: Keys, spot: Spot) -> tuple[str, ...]:
        """The steps whose status or error a condition looks at."""
        condition = self._parsed(parse_condition, text, path, spot, False)
        if condition is None:
            return ()
        return tuple(dict.fromkeys(r.step for r in condition.references if r.part in ("status", "error")))

    def settle(self, levels: Sequence[Sequence[str]], *, circular: bool) -> None:
        """Check the names that are not direct dependencies, now that the whole graph is known.

        In a chain with circles every step counts as an ancestor: the circle must be fixed first.
        """
        named = {late.step: set[str]() for late in self._late}
        for late in self._late:
            named[late.step].update(self.steps.intersection(r.step for r in late.parsed.references))
        limit = len(self.problems) + MAX_PROBLEMS
        known = {} if circular else upstream_among(levels, self.needs, named)
        for late in self._late:
            if len(self.problems) >= limit:
                return
            upstream = self.steps if circular else known[late.step].union(self.needs[late.step])
            self.problems += late.parsed.name_problems(Scope(self.inputs, frozenset(upstream), self.steps, late.mapped))

    def _template(self, text: str, path: Keys, spot: Spot, mapped: bool) -> Template | None:
        if OPENING.search(text) is None:
            return None
        return self._parsed(parse_template, text, path, spot, mapped)

    def _parsed(self, parse: Parse[Parsed], text: str, path: Keys, spot: Spot, mapped: bool) -> Parsed | None:
        """The parsed text; None if it is wrong whatever its names mean."""
        place = spot.place(path)
        parsed, _ = parse(text, None, place)
        if parsed is not None:
            if not all(self._near(reference, spot, mapped) for reference in parsed.references):
                self._late.append(_Late(parsed, spot.step, mapped))
        elif len(self.problems) < MAX_PROBLEMS:
            _, problems = parse(text, Scope(self.inputs, spot.needs, self.steps, mapped), place)
            self.problems += [p for p in problems if p.code not in _OF_OTHER_STEPS]
        return parsed

    def _near(self, reference: Reference, spot: Spot, mapped: bool) -> bool:
        """Whether a name can be used without a look at the whole graph."""
        if reference.root == "step":
            return reference.step in spot.needs
        return reference.keys[0] in self.inputs if reference.root == "inputs" else mapped


def _holds_template(value: Json) -> bool:
    if isinstance(value, str):
        return OPENING.search(value) is not None
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_holds_template, inner))
