"""Conditions: the promise S4.6 and its relatives."""

from __future__ import annotations

import time

import pytest

from tests.engine.test_expressions import FILE, PLACE, condition, condition_codes, failure, holds
from towpath.errors import ExpressionFailed
from towpath.expressions import Reference, look_up


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a.status == 'completed'", True),
        ("{{ a.status == 'completed' }}", True),
        ("\n {{ a.status != 'completed' }} ", False),
        ("a.ok", True),
        ("{{ a.ok }}", True),
        ("not a.ok or inputs.flag", False),
        ("a.score > 0.5 and a.score <= 0.75", True),
        ("'x' < 'y'", True),
        ("1 in a.list and 4 not in a.list", True),
        ("'or' in a.text and 'score' in a.output", True),
        ("b.status == 'completed' and b.output.score > 3", False),
        ("b.output is not defined", True),
        ("a.none == none", True),
        ("a.list == [1, 2, 3]", True),
        ("not a.score == 1", True),
        ("(1 < 2) == true", True),
        ("'}}' == '}}'", True),
        ("a.status == 'completed' if a.ok else false", True),
        ("'' == a.empty", True),
        ("1.0 == 1", True),
    ],
)
def test_S4_6_bare_and_wrapped_conditions(text: str, result: bool) -> None:
    assert holds(text) is result


@pytest.mark.parametrize("hostile", ["' or True or '", "x' == 'x", "{{ true }}", "true", "1) or (1", "\\'or true#"])
def test_S4_6_text_of_a_step_cannot_change_the_outcome(hostile: str) -> None:
    for text in ("a.text == 'expected'", "{{ a.text == 'expected' }}", "a.text ~ '' == 'expected'"):
        assert condition(text).holds(lambda reference: hostile) is False
        assert condition(text).holds(lambda reference: "expected") is True
    with pytest.raises(ExpressionFailed) as caught:  # "true" is a text, not a truth
        condition("a.text").holds(lambda reference: hostile)
    assert caught.value.code == "E_COND_TYPE"


@pytest.mark.parametrize(
    "text",
    [
        "a.status",
        "a.score",
        "a.list",
        "a.none",
        "a.image",
        "a.ok and 1",
        "a.none or ''",
        "a.ok ~ ''",
        "inputs.count - 3",
    ],
)
def test_S4_6_only_a_boolean_decides(text: str) -> None:
    error = failure(holds, text)
    assert error.code == "E_COND_TYPE"
    assert error.problem.place == PLACE


@pytest.mark.parametrize("other", ["'x'", "none", "[1]", "true", "{'a': 1}", "a.image"])
@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
def test_S4_6_values_of_different_types_have_no_order(sign: str, other: str) -> None:
    assert failure(holds, f"a.score {sign} {other}").code == "E_COND_TYPE"
    assert failure(holds, f"{other} {sign} a.score").code == "E_COND_TYPE"


@pytest.mark.parametrize("other", ["none", "[1]", "true", "{'a': 1}", "a.image"])
def test_S4_6_only_numbers_and_texts_have_an_order(other: str) -> None:
    assert failure(holds, f"a.ok and {other} > {other}").code == "E_COND_TYPE"


def test_S4_6_a_missing_path_is_an_error_not_false() -> None:
    for text in ("a.nope", "a.nope == 1", "not a.nope", "a.nope or true", "b.output.x == none"):
        assert failure(holds, text).code == "E_TEMPLATE_UNDEFINED"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("   ", "E_COND_EMPTY"),
        ("{{ }}", "E_COND_EMPTY"),
        ("a.x ==", "E_COND_SYNTAX"),
        ("a.ok; true", "E_COND_SYNTAX"),
        ("{{ a.ok }} and {{ b.ok }}", "E_COND_SYNTAX"),
        ("a.x == '{{ b.x }}", "E_COND_SYNTAX"),
        ("{% if true %}", "E_COND_SYNTAX"),
        ("a.x := 1", "E_COND_SYNTAX"),
        ("yield a.x", "E_COND_SYNTAX"),
        ("a.x ? b.x : 1", "E_COND_SYNTAX"),
        ("{a.x for a in b}", "E_COND_SYNTAX"),
        ("1 < a.x < 3", "E_COND_SYNTAX"),
        ("a.x | regex('(a+)+')", "E_COND_CALL"),
        ("a.x is odd", "E_COND_CALL"),
        ("len(a.x) > 1", "E_COND_CALL"),
        ("a.text.startswith('x')", "E_COND_CALL"),
        ("a.x contains 'y'", "E_COND_OPERATOR"),
        ("a.x || b.x", "E_COND_OPERATOR"),
        ("a.x === b.x", "E_COND_SYNTAX"),
        ("a.x % 2 == 0", "E_COND_OPERATOR"),
        ("nan == nan", "E_COND_NAME"),
        ("a._x == 1", "E_COND_NAME"),
        ("zz.status == 'x'", "E_COND_NAME"),
        ("zz.status == 'x'", "E_TEMPLATE_UNKNOWN"),
        ("later.x == 1", "E_TEMPLATE_NOT_UPSTREAM"),
        ("later.x == 1", "E_COND_NAME"),
        ("item.ok", "E_COND_NAME"),
        ("1", "E_COND_TYPE"),
        ("'true'", "E_COND_TYPE"),
        ("1 > 'x'", "E_COND_TYPE"),
        ("[1][3] == 1", "E_COND_TYPE"),
        ("none", "E_COND_TYPE"),
        ("a.ok" + " " * 10_000, "E_COND_SIZE"),
        ("not " * 51 + "a.ok", "E_COND_DEPTH"),
        ("-" * 5000 + "1", "E_COND_SIZE"),
        ("a" + "[a" * 400, "E_COND_DEPTH"),
        ("1 or 1 and not 1 == 1 + 1 ~ 1 / (" * 55, "E_COND_DEPTH"),
    ],
)
def test_refused_conditions(text: str, code: str) -> None:
    started = time.process_time()
    assert code in condition_codes(text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "text",
    [
        "(" * 49 + "a.ok" + ")" * 49,
        "not " * 48 + "a.ok",
        "(a.ok and " * 49 + "true" + ")" * 49,
        "a.score + " * 240 + "1 > 0",
        "a.text ~ " * 240 + "1 > ''",
        "a.ok and " * 240 + "true",
        "1 - (" * 38 + "a.score" + ")" * 38 + " < 9",
        "[" * 35 + "a.ok" + "]" * 35 + "[0]" * 35,
    ],
)
def test_long_and_deep_but_allowed(text: str) -> None:
    assert holds(text) is True


# -- look_up


def test_look_up_walks_from_a_given_key() -> None:
    reference = Reference("step", "a", "output", ("x", "y", 0))
    assert look_up({"y": [5]}, reference, 1) == 5
    assert look_up((4, 5), Reference("item", "", "", (-1,))) == 5


def test_look_up_shows_ten_keys_of_many_and_no_control_characters() -> None:
    with pytest.raises(ExpressionFailed) as caught:
        look_up({f"k{i:03}\x1b": 1 for i in range(500)}, Reference("step", "a", "output", ("k001\x1b[0m",)))
    assert caught.value.problem.allowed.count("k") == 10
    assert "\x1b" not in str(caught.value)
    assert "490 more" in caught.value.problem.allowed


@pytest.mark.parametrize("value", [None, "text", 5, FILE, {1: 2}, {}, [], [1], object])
def test_look_up_enters_plain_data_only(value: object) -> None:
    for key in ("filename", "__class__", "1", 7, -7):
        with pytest.raises(ExpressionFailed, match="E_TEMPLATE_UNDEFINED"):
            look_up(value, Reference("inputs", "", "", (key,)))
