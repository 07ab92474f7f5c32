"""Computed expressions: their values, and limits of size and cost."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.engine.test_expressions import FILE, PLACE, SCOPE, failure, render, resolve, template
from towpath.errors import ExpressionFailed
from towpath.expressions import Reference, parse_condition


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ inputs.count + 1 - 2 }}", 2),
        ("{{ 7 // 2 - 7 / 2 }}", -0.5),
        ("{{ 1 - (2 - 3) }}", 2),
        ("{{ -inputs.count }}", -3),
        ("{{ 'a' ~ 1 ~ true ~ none ~ 1.5 ~ [1] }}", "a1truenone1.5[1]"),
        ("{{ 'a' + 'b' }}", "ab"),
        ("{{ a.list + [4] }}", [1, 2, 3, 4]),
        ("{{ a.list | length + 1 }}", 4),
        ("{{ a.list | first ~ a.list | last }}", "13"),
        ("{{ ' X ' | trim | lower }}", "x"),
        ("{{ 'xax' | trim('x') | upper }}", "A"),
        ("{{ a.files[0].tags | join('-') }}", "t0-t1"),
        ("{{ ['<', 1.5, none] | tojson }}", '["<", 1.5, null]'),
        ("{{ a.image | string }}", "cat.png"),
        ("{{ '3.7' | int }}", 3),
        ("{{ 'x' | int(4) }}", 4),
        ("{{ '2.5' | float }}", 2.5),
        ("{{ 2.567 | round(1) }}", 2.6),
        ("{{ a.nope | default(5) }}", 5),
        ("{{ a.nope.deeper[3] | default(5) }}", 5),
        ("{{ b.output.x | default(a.score) }}", 0.75),
        ("{{ a.score | default(b.output.x) }}", 0.75),
        ("{{ a.whole | default(1) }}", 2.0),
        ("{{ a.empty | default('e') }}", ""),
        ("{{ a.empty | default('e', true) }}", "e"),
        ("{{ a.none | default('e') }}", None),
        ("{{ a.output[inputs.prompt] | default(5) }}", 5),
        ("{{ a.output[inputs.prompt].x.y | default(5) }}", 5),
        ("{{ a.nope[inputs.prompt] | default(5) }}", 5),
        ("{{ a.nope is defined }}", False),
        ("{{ a.score is defined and a.nope is not defined }}", True),
        ("{{ a.output[inputs.prompt] is not defined }}", True),
        ("{{ b.output.x if b.status == 'completed' else 'no' }}", "no"),
        ("{{ a.files[inputs.count - 3]['name'] }}", "x"),
        ("{{ 'yes' if inputs.flag else 'no' }}", "no"),
        ("{{ 1 if false else 2 if false else 3 }}", 3),
        ("{{ {'k': a.image}['k'] }}", FILE),
        ("{{ [[[a.score]]][0][0][0] }}", 0.75),
        ("{{ 1 ~ 2 + '3' if true else 0 }}", "123"),
        ("{{ 99999999999999999999999999999999999999 - 1 }}", 99999999999999999999999999999999999998),
        ("{{ -9223372036854775809 }}", -9223372036854775809),
    ],
)
def test_computed_values(text: str, value: object) -> None:
    result = render(text)
    assert result == value
    assert isinstance(result, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    "text",
    [
        "{{ inputs.prompt + 1 }}",
        "{{ inputs.count + true }}",
        "{{ inputs.count / (inputs.count - 3) }}",
        "{{ a.none | int }}",
        "{{ a.none | upper }}",
        "{{ a.score | length }}",
        "{{ [] | first if a.ok else 1 }}",
        "{{ a.text | int }}",
        "{{ a.huge + 1 }}",
        "{{ a.half ~ 1 }}",
        "{{ 'x' in a.score }}",
        "{{ 1 in a.text }}",
        "{{ 1e308 + 1e308 - a.score }}",
        "{{ a.image < a.image }}",
    ],
)
def test_values_that_do_not_fit_fail(text: str) -> None:
    error = failure(render, text)
    assert error.code == "E_TEMPLATE_FAILED"
    assert error.problem.place == PLACE


def test_a_whole_float_leaves_a_computed_expression_as_a_whole_number() -> None:
    """MiniJinja's doing; a lone path keeps its float (see above)."""
    assert str(render("{{ a.whole + 0 }}")) == "2"


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + " ~ ".join(["a.big"] * 240) + " }}",
        "{{ " + " + ".join(["a.big"] * 240) + " }}",
        "{{ [" + ",".join(["a.big"] * 240) + "] | tojson }}",
        "{{ [" + ",".join(["a.big"] * 240) + "] | join(a.big) }}",
        "{{ a.big | tojson" + " | tojson" * 40 + " }}",
        "{{ " + " + ".join(["a.long"] * 240) + " }}",
        "{{ a.big }}" * 200,
    ],
)
def test_no_text_or_list_grows_without_end(text: str) -> None:
    values = {"big": '"' * 300_000, "long": list(range(50_000))}
    started = time.process_time()
    with pytest.raises(ExpressionFailed) as caught:
        template(text).render(lambda r: values[str(r.keys[0])])
    assert caught.value.code == "E_TEMPLATE_SIZE"
    assert time.process_time() - started < 1


BIG = "x" * 900_000  # a text that may stand in a rendered text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ a.big | length }}", 900_000),  # MiniJinja 3.1 counts the bytes of a text as work, ...
        ("{{ a.big ~ a.none == a.big ~ 'none' }}", True),
        ("{{ a.big == a.big }}", True),
        ("{{ a.big if a.big == a.other else 'no' }}", "no"),
        ("{{ 'x' in a.big }}", True),
        ("{{ [a.big, a.big] | length }}", 2),
        ("{{ a.long == a.long }}", True),  # ... and the values of lists that it compares
        ("{{ a.long == a.longer }}", False),
        ("{{ a.wide | upper == a.big }}", False),
    ],
)
def test_large_values_are_worked_on_below_our_limits(text: str, value: object) -> None:
    """What a library counts as too much work is not ours to tell: these are small for us."""
    long = list(range(100_000))
    values = {"big": BIG, "other": "y", "long": long, "longer": [*long, 1], "wide": "\u20ac" * 900_000, "none": None}
    assert template(text).render(lambda r: values[str(r.keys[0])]) == value


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # Each fetches more than ten million characters, by another way through the language.
        (
            "{{ " + " == ".join(["a.big", "[" + ",".join(["a.big"] * 20) + "]"]) + " }}",
            "E_TEMPLATE_SIZE",
        ),
        ("{{ [" + ",".join(["a.big"] * 20) + "] | length }}", "E_TEMPLATE_SIZE"),
        ("{{ {" + ",".join([f"'k{i}': a.big" for i in range(20)]) + "} | length }}", "E_TEMPLATE_SIZE"),
        ("{{ " + " or ".join(["a.big == 'z'"] * 20) + " }}", "E_TEMPLATE_SIZE"),
        ("{{ " + " and ".join(["a.big"] * 20) + " }}", "E_TEMPLATE_SIZE"),
        ("{{ " + " + ".join(["(a.big | length)"] * 20) + " }}", "E_TEMPLATE_SIZE"),
        ("{{ a.huge | length }}", "E_TEMPLATE_SIZE"),
        ("{{ a.huge is defined }}", "E_TEMPLATE_SIZE"),
    ],
)
def test_texts_are_counted_before_minijinja_copies_them(text: str, code: str) -> None:
    values = {"big": BIG, "huge": "x" * 10_000_001}
    with pytest.raises(ExpressionFailed) as caught:
        template(text).render(lambda r: values[str(r.keys[0])])
    assert caught.value.code == code
    assert "characters" in caught.value.problem.message


def test_a_condition_over_too_much_has_the_code_of_a_condition() -> None:
    condition, found = parse_condition("a.big == 'z' or " * 20 + "a.ok", SCOPE, PLACE)
    assert condition is not None, found
    with pytest.raises(ExpressionFailed) as caught:
        condition.holds(lambda r: BIG)
    assert caught.value.code == "E_COND_SIZE"


@pytest.mark.parametrize(
    "value", [[0] * 12_000_000, {str(i): [0] * 3_000_000 for i in range(4)}], ids=["list", "mapping"]
)
def test_work_that_minijinja_refuses_is_told_by_its_kind(value: object) -> None:
    """It counts what it compares; older releases do not, and answer."""
    caught: list[ExpressionFailed] = []
    try:
        assert template("{{ a.x == a.y }}").render(lambda r: value) is True
    except ExpressionFailed as error:
        caught.append(error)
    assert [(e.code, e.problem.place) for e in caught] in ([], [("E_TEMPLATE_SIZE", PLACE)])


def test_one_evaluation_fetches_a_reference_once_and_only_if_needed() -> None:
    seen: list[str] = []

    def counting(reference: Reference) -> object:
        seen.append(str(reference))
        return resolve(reference)

    assert template("{{ a.x ~ 1 if inputs.flag else a.score + a.score }}").render(counting) == 1.5
    assert seen == ["inputs.flag", "a.output.score"]


def test_other_errors_of_resolve_pass_through() -> None:
    def broken(reference: Reference) -> object:
        raise OSError(28, "disk full")

    for text in ("{{ a.x }}", "{{ a.x + 1 }}", "{{ a.x | default(1) }}", "{{ a.x is defined }}"):
        with pytest.raises(OSError, match="disk full"):
            template(text).render(broken)


def test_only_an_undefined_path_counts_as_missing() -> None:
    def refused(reference: Reference) -> object:
        raise ExpressionFailed("E_TEMPLATE_FAILED", "the blob is not readable")

    for text in ("{{ a.x | default(1) }}", "{{ a.x | default(1, true) }}", "{{ a.x is defined }}"):
        with pytest.raises(ExpressionFailed, match="not readable"):
            template(text).render(refused)


def test_minijinja_is_only_loaded_for_computed_expressions() -> None:
    code = (
        "import sys; from towpath.expressions import *; from towpath.errors import Place\n"
        "t, _ = parse_template('x {{ a.x }} {{ a.y | default(1) }}', None, Place())\n"
        "assert t.render(lambda r: 1) == 'x 1 1'; assert 'minijinja' not in sys.modules\n"
        "t, _ = parse_template('{{ a.x + 1 }}', None, Place())\n"
        "assert t.render(lambda r: 1) == 2; assert 'minijinja' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
