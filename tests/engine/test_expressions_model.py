"""Any text is accepted or refused, and a valid expression means what Python means."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.test_expressions import MAPPED, PLACE, condition, failure, render, template
from towpath.errors import ExpressionFailed
from towpath.expressions import Reference, parse_condition, parse_template

WORDS = [
    "a", "b", "steps", "inputs", "item", "index", ".", ".x", ".output", "[", "]", "(", ")", "{", "}", "{{",
    "}}", "'x'", '"', "'", "1", "2.5", "0", "true", "none", "and", "or", "not", "in", "is", "defined", "if",
    "else", "+", "-", "~", "/", "//", "*", "|", "default", "upper", "tojson", ",", ":", "==", "<", ">=", "=",
    "%}", "{%", "{#", "__class__", "\\", "#", "é", " ", "\n", "inputs.count", "a.score", "a.ok", "['x']",
    "[0]", "|default(1)",
]  # fmt: skip


SOUP = st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=200), SOUP, SOUP.map(lambda s: "{{ " + s + " }}")), st.booleans())
def test_any_text_is_accepted_or_gives_problems(text: str, scoped: bool) -> None:
    scope = MAPPED if scoped else None
    parsed, problems = parse_template(text, scope, PLACE)
    assert (parsed is None) == bool(problems)
    compared, faults = parse_condition(text, scope, PLACE)
    assert (compared is None) == bool(faults)
    evaluations: list[Callable[[Callable[[Reference], object]], object]] = []
    evaluations += [parsed.render] if parsed else []
    evaluations += [compared.holds] if compared else []
    for evaluate in evaluations:
        message = _message(evaluate)
        assert "syntax error" not in message  # what we accept, MiniJinja must be able to read
        assert "unknown" not in message


def _message(evaluate: Callable[[Callable[[Reference], object]], object]) -> str:
    """What the evaluation says; any error but ExpressionFailed is a defect."""
    try:
        evaluate(lambda reference: 3)
    except ExpressionFailed as error:
        return error.problem.message
    return ""


@dataclass(frozen=True)
class Model:
    """A text of the language, and what it must give, in plain Python."""

    text: str
    value: Callable[[], Any]


def _two(form: str, work: Callable[[Callable[[], Any], Callable[[], Any]], Any]) -> Callable[[Model, Model], Model]:
    return lambda a, b: Model(form.format(a.text, b.text), lambda: work(a.value, b.value))


NUMBERS = st.one_of(
    st.integers(-99, 99).map(lambda n: Model(str(n), lambda: n)),
    st.just(Model("inputs.count", lambda: 3)),
    st.just(Model("a.parameters['seed']", lambda: 42)),
    st.just(Model("a.nope|default(8)", lambda: 8)),
)


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5).map(lambda s: Model(_quoted(s), lambda: s)),
    st.just(Model("inputs.prompt", lambda: "007")),
)


BOOLEANS = st.sampled_from(
    [Model("true", lambda: True), Model("inputs.flag", lambda: False), Model("a.x is defined", lambda: False)]
)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _choice(a: Model, c: Model, b: Model) -> Model:
    return Model(f"({a.text} if {c.text} else {b.text})", lambda: a.value() if c.value() else b.value())


@st.composite
def numbers(draw: Any, depth: int = 3) -> Model:
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(NUMBERS)  # type: ignore[no-any-return]
    left, right = draw(numbers(depth - 1)), draw(numbers(depth - 1))
    if draw(st.booleans()):
        return _choice(left, draw(booleans(depth - 1)), right)
    makers = [
        _two("({} + {})", lambda a, b: a() + b()),
        _two("({} - ({}))", lambda a, b: a() - b()),
        _two("({} // ({}))", lambda a, b: a() // b()),
        _two("-({} - {})", lambda a, b: -(a() - b())),
        _two("[{}, {}][1]", lambda a, b: (a(), b())[1]),
    ]
    return draw(st.sampled_from(makers))(left, right)  # type: ignore[no-any-return]


@st.composite
def texts(draw: Any, depth: int = 3) -> Model:
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(TEXTS)  # type: ignore[no-any-return]
    left, right = draw(texts(depth - 1)), draw(texts(depth - 1))
    makers = [
        _two("({} ~ {})", lambda a, b: a() + b()),
        _two("({} + {})|upper", lambda a, b: (a() + b()).upper()),
        _two("[{}, {}]|join('-')", lambda a, b: f"{a()}-{b()}"),
    ]
    return draw(st.sampled_from(makers))(left, right)  # type: ignore[no-any-return]


@st.composite
def booleans(draw: Any, depth: int = 3) -> Model:
    if depth == 0:
        return draw(BOOLEANS)  # type: ignore[no-any-return]
    kind = draw(st.sampled_from(["numbers", "texts", "booleans"]))
    if kind == "booleans":
        left, right = draw(booleans(depth - 1)), draw(booleans(depth - 1))
        logic = [
            _two("{} and ({})", lambda a, b: a() and b()),
            _two("({} or {})", lambda a, b: a() or b()),
            _two("(not {} == {})", lambda a, b: not a() == b()),  # noqa: SIM201
        ]
        made: Model = draw(st.sampled_from(logic))(left, right)
        return Model(f"({made.text})", made.value)
    source = numbers if kind == "numbers" else texts
    left, right = draw(source(depth - 1)), draw(source(depth - 1))
    makers = [
        _two("({} < {})", lambda a, b: a() < b()),
        _two("({} >= {})", lambda a, b: a() >= b()),
        _two("({} != {})", lambda a, b: a() != b()),
        _two("({} in [{}])", lambda a, b: a() in [b()]),
    ]
    return draw(st.sampled_from(makers))(left, right)  # type: ignore[no-any-return]


@settings(max_examples=400, deadline=None)
@given(st.one_of(numbers(), texts(), booleans()))
def test_a_valid_expression_means_what_python_means(model: Model) -> None:
    text = "{{ " + model.text + " }}"
    try:
        expected = model.value()
    except ZeroDivisionError:
        # The guarded half of a constant may be the one that fails, so loading may accept it.
        parsed, problems = parse_template(text, MAPPED, PLACE)
        if parsed is None:
            assert [p.code for p in problems] == ["E_TEMPLATE_FAILED"]
        else:
            assert failure(render, text).code == "E_TEMPLATE_FAILED"
        return
    result = render(text)
    assert result == expected
    assert isinstance(result, bool) == isinstance(expected, bool)


# -- speed: generous limits, ten times what was measured


def _microseconds(work: Callable[[], object], times: int = 3000) -> float:
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - started)
    return best / times * 1e6


def test_evaluation_is_cheap() -> None:
    path, compared = template("{{ a.output.image }}"), condition("a.status == 'completed' and a.score > 0.5")
    values: dict[str, object] = {"status": "completed", "output": 0.75}
    assert _microseconds(lambda: path.render(lambda r: 1)) < 10
    assert _microseconds(lambda: compared.holds(lambda r: values[r.part])) < 150
