"""Templates: the corpus, the promise S4.5, and relatives of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.corpus import cases
from towpath.errors import ExpressionFailed, Place, Problem
from towpath.expressions import Condition, Reference, Scope, Template, look_up, parse_condition, parse_template

PLACE = Place("chain.yaml", 7, 9, "z", "parameters.photo")
SCOPE = Scope(
    frozenset({"prompt", "count", "flag"}),
    frozenset({"a", "b", "my-id", "input"}),
    frozenset({"a", "b", "my-id", "input", "later", "z"}),
)


MAPPED = Scope(SCOPE.inputs, SCOPE.upstream, SCOPE.steps, mapped=True)


class File:
    """Stands for an artifact: an object that is no plain data."""

    filename = "cat.png"
    secret = "not reachable"


FILE = File()
DATA: dict[str, Any] = {
    "inputs": {"prompt": "007", "count": 3, "flag": False},
    "a": {
        "status": "completed",
        "output": {
            "image": FILE, "score": 0.75, "ok": True, "text": "' or True or '", "none": None,
            "list": [1, 2, 3], "files": [{"name": "x", "tags": ["t0", "t1"]}],
            "my key": {"0": "zero"}, "whole": 2.0, "empty": "", "huge": 10**60, "half": "\ud800",
            "not": 5, "template": "{{ 7*7 }}",
        },
        "parameters": {"seed": 42}, "error": None,
    },
    "b": {"status": "failed", "output": None, "parameters": {}, "error": {"code": "E_STEP_FAILED"}},
    "my-id": {"status": "completed", "output": {"x": 1}, "parameters": {}, "error": None},
    "input": {"status": "completed", "output": [10, 20], "parameters": {}, "error": None},
    "item": {"name": "n", "tags": ["red"]},
    "index": 1,
}  # fmt: skip


def resolve(reference: Reference) -> object:
    """What the engine does: a failed step has no output."""
    value = DATA[reference.step or reference.root]
    if reference.part:
        value = value[reference.part]
        if reference.part == "output" and DATA[reference.step]["status"] != "completed":
            raise ExpressionFailed("E_TEMPLATE_UNDEFINED", f"step {reference.step} has no output")
    return look_up(value, reference)


def template(text: str, scope: Scope | None = MAPPED) -> Template:
    parsed, problems = parse_template(text, scope, PLACE)
    assert parsed is not None, [str(p) for p in problems]
    assert problems == []
    return parsed


def condition(text: str, scope: Scope | None = MAPPED) -> Condition:
    parsed, problems = parse_condition(text, scope, PLACE)
    assert parsed is not None, [str(p) for p in problems]
    assert problems == []
    return parsed


def render(text: str) -> Any:
    return template(text).render(resolve)


def holds(text: str) -> bool:
    return condition(text).holds(resolve)


def template_codes(text: str, scope: Scope | None = SCOPE) -> set[str]:
    parsed, problems = parse_template(text, scope, PLACE)
    assert (parsed is None) == bool(problems)
    return {p.code for p in problems}


def condition_codes(text: str, scope: Scope | None = SCOPE) -> set[str]:
    parsed, problems = parse_condition(text, scope, PLACE)
    assert (parsed is None) == bool(problems)
    return {p.code for p in problems}


def template_problem(text: str, scope: Scope | None = SCOPE) -> Problem:
    return parse_template(text, scope, PLACE)[1][0]


def failure(evaluate: Callable[[str], object], text: str) -> ExpressionFailed:
    with pytest.raises(ExpressionFailed) as caught:
        evaluate(text)
    return caught.value


# -- the corpus. Our language is larger than the path-only one it was written for; all its refusals hold.


# Two cases describe a scenario in prose; the text in them is what the scenario needs.
SCENARIO = {
    "template-033": "value from a step: {{ steps.a.template }}",
    "condition-028": "steps.a.text == 'x'",
}


# Accepted when it is loaded, because the types are only known when it runs.
AT_RUN_TIME = {"condition-020"}


@pytest.mark.parametrize("case", cases("template"), ids=lambda c: c.id)
def test_corpus_template(case: Any) -> None:
    text = SCENARIO.get(case.id, case.input)
    started = time.process_time()
    parsed, problems = parse_template(text, SCOPE, PLACE)
    assert time.process_time() - started < 1
    if case.verdict == "accept":
        assert problems == []
        assert parsed is not None
        if not parsed.references:
            assert parsed.render(resolve) == text
    else:
        assert case.verdict == "reject"
        assert parsed is None
        assert {p.code for p in problems} & set(case.codes)
        assert all(p.place == PLACE and p.message for p in problems)


@pytest.mark.parametrize("case", cases("condition"), ids=lambda c: c.id)
def test_corpus_condition(case: Any) -> None:
    text = SCENARIO.get(case.id, case.input)
    started = time.process_time()
    parsed, problems = parse_condition(text, SCOPE, PLACE)
    assert time.process_time() - started < 1
    if case.id in AT_RUN_TIME:
        assert failure(holds, text).code in case.codes
    elif case.verdict == "reject":
        assert parsed is None
        assert {p.code for p in problems} & set(case.codes)
    else:
        assert problems == []
        assert parsed is not None


def test_corpus_template_033_a_value_is_rendered_in_one_pass() -> None:
    assert render("value from a step: {{ steps.a.template }}") == "value from a step: {{ 7*7 }}"


# -- S4.5: templates


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ a.output.image }}", FILE),
        ("{{ steps.a.output.image }}", FILE),
        ("{{ steps['a'].output['image'] }}", FILE),
        ("{{a.image}}", FILE),
        ("{{ a.parameters.seed }}", 42),
        ("{{ a.status }}", "completed"),
        ("{{ b.error.code }}", "E_STEP_FAILED"),
        ("{{ a.output.files[0].tags[1] }}", "t1"),
        ("{{ a.output.files[-1]['name'] }}", "x"),
        ('{{ a.output["my key"]["0"] }}', "zero"),
        ("{{ a.output.not }}", 5),
        ("{{ (a).status }}", "completed"),
        ("{{ steps['my-id'].output.x }}", 1),
        ("{{ input[1] }}", 20),
        ("{{ inputs.prompt }}", "007"),
        ("{{ item.tags[0] }}", "red"),
        ("{{ index }}", 1),
        ("{{ a.output.none }}", None),
        ("{{ a.output.whole }}", 2.0),
        ("{{ a.output.huge }}", 10**60),
        ("{{ a.output.half }}", "\ud800"),
    ],
)
def test_S4_5_a_lone_path_keeps_the_native_value(text: str, value: object) -> None:
    result = render(text)
    assert result == value
    assert type(result) is type(value)


def test_S4_5_a_file_a_list_and_a_mapping_are_the_same_objects() -> None:
    assert render("{{ a.output.image }}") is FILE
    assert render("{{ a.output.list }}") is DATA["a"]["output"]["list"]
    assert render("{{ a }}") is DATA["a"]["output"]
    assert render("{{ a.output.files[index - 1] }}") is DATA["a"]["output"]["files"][0]
    assert render("{{ a.output.image if index == 1 else none }}") is FILE


def test_S4_5_text_stays_text() -> None:
    assert render("{{ inputs.prompt }}") == "007"
    assert render("{{ inputs.prompt ~ '' }}") == "007"
    assert render("{{ inputs.prompt | default('x') }}") == "007"
    assert render("{{ inputs.prompt | int }}") == 7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seed {{ a.parameters.seed }}, {{ a.ok }}!", "seed 42, true!"),
        ("{{ inputs.prompt }}{{ inputs.prompt }}", "007007"),
        (" {{ inputs.count }}", " 3"),
        ("{{ a.image }}.bak", "cat.png.bak"),
        ("{{ a.none }}.", "none."),
        ("{{ a.list }} {{ a['my key'] }}", '[1, 2, 3] {"0": "zero"}'),
        ("{{ a.whole }} {{ a.score }}", "2.0 0.75"),
        ("{{ [a.image] }}!", '["cat.png"]!'),
        ("{{ '}}' }} }}", "}} }}"),
        ("{{ '{{' }}x{{ \"{% raw %}\" }}", "{{x{% raw %}"),
        ("{{ {'a': {'b': 1}} }}!", '{"a": {"b": 1}}!'),
        ("{{ {'a': 1}}}!", '{"a": 1}!'),
        ("ä{{ 'ö\\u00fc\\ud83d\\ude00\\x41\\n\\d' }}", "äöü😀A\n\\d"),
    ],
)
def test_S4_5_a_mixed_text_is_rendered_once(text: str, value: str) -> None:
    assert render(text) == value


def test_S4_5_a_missing_key_names_step_and_key() -> None:
    problem = failure(render, "{{ a.output.imgae }}").problem
    assert problem.code == "E_TEMPLATE_UNDEFINED"
    assert "step a" in problem.message
    assert "imgae" in problem.message
    assert "image" in problem.allowed
    assert "4 more" in problem.allowed
    assert problem.cure == "did you mean image?"
    assert problem.place == PLACE


@pytest.mark.parametrize(
    "text",
    [
        "{{ a.output.files[1] }}",
        "{{ a.output.files['0'] }}",
        "{{ a.output.files.length }}",
        "{{ a.output.text.upper }}",
        "{{ a.output.text[0] }}",
        "{{ a.output.image.secret }}",
        "{{ a.output.image['filename'] }}",
        "{{ a.status.x }}",
        "{{ a.output.list[index + 7] }}",
        "{{ a.output[inputs.prompt] }}",
        "{{ a.output.image[a.text] }}",
        "{{ 'x' ~ a.output.nope }}",
        "{{ b.output.x }}",
        "{{ a.output.nope.deeper | upper }}",
        "{{ a.output.nope | default(b.output.x) }}",
    ],
)
def test_S4_5_what_is_not_there_is_an_error(text: str) -> None:
    assert failure(render, text).code == "E_TEMPLATE_UNDEFINED"


def test_S4_5_the_os_popen_payload_of_W45_is_refused() -> None:
    payload = "{{ cycler.__init__.__globals__.os.popen('id').read() }}"
    assert template_codes(payload) >= {"E_TEMPLATE_NAME", "E_TEMPLATE_EXPR"}
    assert "E_TEMPLATE_NAME" in template_codes("{{ inputs.prompt['__class__'] }}")
    assert "E_TEMPLATE_NAME" in template_codes("{{ inputs.prompt['\\x5f_class__'] }}")
    assert "E_TEMPLATE_NAME" in template_codes("{{ a.output.\u005f\u005fdict\u005f\u005f }}")
    assert template_codes("{{ inputs.prompt }}", None) == set()


def test_S4_5_a_computed_key_reaches_no_attribute() -> None:
    for key in ("'_' ~ '_class__'", "'filename'", "'_' ~ '_dict__'"):
        assert failure(render, f"{{{{ a.output.image[{key}] }}}}").code == "E_TEMPLATE_UNDEFINED"


def test_S4_5_a_step_that_is_no_ancestor_is_refused_with_the_line_to_add() -> None:
    problem = template_problem("{{ later.output.x }}")
    assert (problem.code, problem.cure) == ("E_TEMPLATE_NOT_UPSTREAM", "depends_on: [later]")
    assert template_codes("{{ z.status }}") == {"E_TEMPLATE_NOT_UPSTREAM"}
    assert template_codes("{{ later.x | default(1) }}") == {"E_TEMPLATE_NOT_UPSTREAM"}
    assert template_codes("{{ 1 if later.x is defined else 2 }}") == {"E_TEMPLATE_NOT_UPSTREAM"}
    assert template_codes("{{ a.output[later.x] }}") == {"E_TEMPLATE_NOT_UPSTREAM"}


@pytest.mark.parametrize(
    ("text", "code", "cure"),
    [
        ("{{ steps.aa.x }}", "E_TEMPLATE_UNKNOWN", "did you mean a?"),
        ("{{ nope.output.x }}", "E_TEMPLATE_UNKNOWN", ""),
        ("{{ nope.status }}", "E_TEMPLATE_UNKNOWN", ""),
        ("{{ nope.x }}", "E_TEMPLATE_NAME", ""),
        ("{{ prompt }}", "E_TEMPLATE_NAME", "write inputs.prompt"),
        ("{{ inputs.promt }}", "E_TEMPLATE_UNKNOWN", "did you mean prompt?"),
        ("{{ my-id.output.x }}", "E_TEMPLATE_NAME", 'write steps["my-id"]'),
        ("{{ item.x }}", "E_TEMPLATE_NAME", "add foreach to the step"),
        ("{{ index }}", "E_TEMPLATE_NAME", "add foreach to the step"),
        ("{{ inputs }}", "E_TEMPLATE_NAME", "write inputs.<name>"),
        ("{{ inputs[a.x] }}", "E_TEMPLATE_NAME", "write inputs.<name>"),
        ("{{ steps[a.x].output }}", "E_TEMPLATE_NAME", "write steps.<name>"),
        ("{{ _private }}", "E_TEMPLATE_NAME", ""),
    ],
)
def test_S4_5_unknown_names_are_refused_with_a_cure(text: str, code: str, cure: str) -> None:
    problem = template_problem(text)
    assert (problem.code, problem.cure) == (code, cure)
    assert "at character" in problem.message


# -- the shape of a template


def test_references_are_static_and_in_order() -> None:
    parsed = template("{{ a.x }} {{ steps['my-id'].status == a.x }} {{ inputs.count + item[0].y + index }}")
    assert parsed.references == (
        Reference("step", "a", "output", ("x",)),
        Reference("step", "my-id", "status", ()),
        Reference("inputs", "", "", ("count",)),
        Reference("item", "", "", (0, "y")),
        Reference("index", "", "", ()),
    )
    assert [str(r) for r in parsed.references[:4]] == [
        "a.output.x", 'steps["my-id"].status', "inputs.count", "item[0].y",
    ]  # fmt: skip
    assert condition("a.x.y == b.error['my key']").references[1] == Reference("step", "b", "error", ("my key",))


def test_constant_and_whole() -> None:
    plain = template("${jndi:x} #{7*7} <%= 1 %> {single} }} %}")
    assert (plain.is_constant, plain.whole, plain.references) == (True, False, ())
    assert plain.render(resolve) == plain.text
    assert template("{{ a.x }}").whole
    assert not template("{{ a.x }} ").whole
    assert not template("{{ 1 }}").is_constant
    assert template("x" * 50_000).render(resolve) == "x" * 50_000


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{{ a.x", "E_TEMPLATE_SYNTAX"),
        ("{{ 'a }}", "E_TEMPLATE_SYNTAX"),
        ("{{", "E_TEMPLATE_SYNTAX"),
        ("{{}}", "E_TEMPLATE_SYNTAX"),
        ("{{ a.x }", "E_TEMPLATE_SYNTAX"),
        ("{{- a.x -}}", "E_TEMPLATE_SYNTAX"),
        ("{{-1}}", "E_TEMPLATE_SYNTAX"),
        ("{{ a.x -}}", "E_TEMPLATE_SYNTAX"),
        ("{{ {{ a.x }} }}", "E_TEMPLATE_SYNTAX"),
        ("{{ a.x; b.x }}", "E_TEMPLATE_SYNTAX"),
        ("{{ a..x }}", "E_TEMPLATE_SYNTAX"),
        ("{{ a.0 }}", "E_TEMPLATE_SYNTAX"),
        ("{{ ä.x }}", "E_TEMPLATE_SYNTAX"),
        ("{{ a\u00a0.x }}", "E_TEMPLATE_SYNTAX"),
        ("{{ () }}", "E_TEMPLATE_SYNTAX"),
        ("{{ (1, 2) }}", "E_TEMPLATE_SYNTAX"),
        ("{{ 1 if a.ok }}", "E_TEMPLATE_SYNTAX"),
        ("{{ 1 == not a.ok }}", "E_TEMPLATE_SYNTAX"),
        ("{{ '\\ud800' }}", "E_TEMPLATE_SYNTAX"),
        ("{{ 1e999 }}", "E_TEMPLATE_SYNTAX"),
        ("{{ " + "9" * 5000 + " }}", "E_TEMPLATE_SYNTAX"),
        ("{% raw %}{{ a.x }}{% endraw %}", "E_TEMPLATE_STATEMENT"),
        ("{%- for x in y %}", "E_TEMPLATE_STATEMENT"),
        ("{% macro f() %}{% endmacro %}", "E_TEMPLATE_STATEMENT"),
        ("{# c #}{{ a.x }}", "E_TEMPLATE_SYNTAX"),
        ("{{ a.output[1:2] }}", "E_TEMPLATE_EXPR"),
        ("{{ a.output[true] }}", "E_TEMPLATE_EXPR"),
        ("{{ a.output[1.5] }}", "E_TEMPLATE_EXPR"),
        ("{{ {1: 2} }}", "E_TEMPLATE_EXPR"),
        ("{{ 1 < 2 < 3 }}", "E_TEMPLATE_EXPR"),
        ("{{ (a.x + 1) is defined }}", "E_TEMPLATE_EXPR"),
        ("{{ a.x | 3 }}", "E_TEMPLATE_EXPR"),
        ("{{ a.x & b.x }}", "E_TEMPLATE_EXPR"),
        ("{{ a.x ** 2 }}", "E_TEMPLATE_EXPR"),
        ("{{ !a.x }}", "E_TEMPLATE_EXPR"),
        ("{{ a.x && b.x }}", "E_TEMPLATE_EXPR"),
        ("{{ range(10) }}", "E_TEMPLATE_EXPR"),
        ("{{ a.output.items() }}", "E_TEMPLATE_EXPR"),
        ("{{ a.x | indent(1000000000) }}", "E_TEMPLATE_FILTER"),
        ("{{ a.x | join('a', 'b') }}", "E_TEMPLATE_FILTER"),
        ("{{ a.x is mapping }}", "E_TEMPLATE_FILTER"),
        ("{{ a.x | default }}", "E_TEMPLATE_FILTER"),
        ("{{ 1 / 0 }}", "E_TEMPLATE_FAILED"),
        ("{{ a.x }}" + " " * 10_000, "E_TEMPLATE_SIZE"),
        ("{{ a.x }}" * 300, "E_TEMPLATE_SIZE"),
        ("{{ " + "[" * 51 + "]" * 51 + " }}", "E_TEMPLATE_DEPTH"),
        ("{{ a.x" + "|trim" * 200 + " }}", "E_TEMPLATE_DEPTH"),
    ],
)
def test_refused_templates(text: str, code: str) -> None:
    started = time.process_time()
    assert code in template_codes(text)
    assert time.process_time() - started < 1


def test_everything_wrong_is_reported_at_once() -> None:
    text = "{{ env.X }} {% set x %} {{ f(1) }} {{ steps.q.x|foo }} {# c #} {{ later.x * 2 }} {{ 1 + }}"
    assert template_codes(text) == {
        "E_TEMPLATE_NAME", "E_TEMPLATE_STATEMENT", "E_TEMPLATE_EXPR", "E_TEMPLATE_FILTER",
        "E_TEMPLATE_UNKNOWN",
        "E_TEMPLATE_SYNTAX", "E_TEMPLATE_NOT_UPSTREAM",
    }  # fmt: skip


def test_many_problems_are_cut_and_still_refused_quickly() -> None:
    scope = Scope(SCOPE.inputs, frozenset(f"step{i}" for i in range(300)), frozenset(f"step{i}" for i in range(300)))
    for text in (
        "{# #}" * 1900,
        "{{ " + " + ".join(f"steps.stp{i}.x" for i in range(160)) + " }}",
        "{{f()}}" * 140,
    ):
        started = time.process_time()
        parsed, problems = parse_template(text, scope, PLACE)
        assert time.process_time() - started < 1
        assert parsed is None
        assert 1 <= len(problems) <= 50


def test_without_a_scope_only_the_syntax_is_checked() -> None:
    assert template_codes("{{ who.knows }} {{ item }}", None) == set()
    assert condition_codes("who.knows == nan", None) == set()
    assert template_codes("{{ who.__knows__ }}", None) == {"E_TEMPLATE_NAME"}
