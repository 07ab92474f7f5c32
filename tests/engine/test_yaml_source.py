"""Strict YAML: the corpus, relatives of its cases, and bounds in time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import pytest
import yaml

from tests.corpus import Case, cases
from towpath import yaml_source
from towpath.errors import ChainInvalid, Place, Problem
from towpath.yaml_source import MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_PROBLEMS, read_yaml

SOURCE = "chain.yaml"


# Text here; that these fields may not hold such text is said by the chain check (E_FIELD_TYPE), not by YAML.
LOADED = {
    "yaml_text-021": {"name": "no"},
    "yaml_text-022": {"name": "12:30:45"},
    "yaml_text-023": {"version": "0777"},
    "yaml_text-032": {"name": "a"},
}


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def data(text: str | bytes) -> dict[str, Any]:
    return read_yaml(as_bytes(text), SOURCE).data


def problems(text: str | bytes) -> tuple[Problem, ...]:
    with pytest.raises(ChainInvalid) as caught:
        read_yaml(as_bytes(text), SOURCE)
    assert caught.value.code == caught.value.problems[0].code
    return caught.value.problems


def codes(text: str | bytes) -> list[str]:
    return [problem.code for problem in problems(text)]


@pytest.fixture(params=["libyaml", "python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers of PyYAML must give the same verdicts."""
    if request.param == "libyaml":
        assert yaml.__with_libyaml__
        assert yaml_source._LOADER is yaml.CSafeLoader
    else:
        monkeypatch.setattr(yaml_source, "_LOADER", yaml.SafeLoader)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("case", cases("yaml_text"), ids=lambda case: case.id)
def test_corpus(case: Case) -> None:
    if case.id in LOADED:
        assert data(case.input) == LOADED[case.id]
        return
    assert case.verdict == "reject"
    found = problems(case.input)
    assert found[0].code in case.codes
    for problem in found:
        assert problem.place.file == SOURCE
        assert problem.message
        assert problem.allowed or problem.cure or problem.code == "E_YAML_SYNTAX"
        assert problem.code == "E_YAML_SIZE" or problem.place.line >= 1 <= problem.place.column


RELATIVES = [
    # aliases and anchors
    ("a: &x 1", "E_YAML_ALIAS"),
    ("a: *nowhere", "E_YAML_ALIAS"),
    ("*a : b", "E_YAML_ALIAS"),
    ("&k a: 1", "E_YAML_ALIAS"),
    ("&top\na: 1", "E_YAML_ALIAS"),
    ("a: [1, &x {b: 1}]", "E_YAML_ALIAS"),
    ("a: &x 1\nb: {c: [*x]}", "E_YAML_ALIAS"),
    ("*a", "E_YAML_ALIAS"),
    # merges
    ("<<: {a: 1}", "E_YAML_MERGE"),
    ("'<<': {a: 1}", "E_YAML_MERGE"),
    ('"<<": {a: 1}', "E_YAML_MERGE"),
    ('"\\x3c<": {a: 1}', "E_YAML_MERGE"),
    ("a: [{b: {<<: {c: 1}}}]", "E_YAML_MERGE"),
    ("? <<\n: {a: 1}", "E_YAML_MERGE"),
    ("<<: not a mapping", "E_YAML_MERGE"),
    # tags
    ("a: !!str b", "E_YAML_TAG"),
    ("a: ! b", "E_YAML_TAG"),
    ("a: ! [b]", "E_YAML_TAG"),
    ("a: !!int '1'", "E_YAML_TAG"),
    ("a: !<tag:yaml.org,2002:str> b", "E_YAML_TAG"),
    ("a: !custom {b: 1}", "E_YAML_TAG"),
    ("a: !no!handle b", "E_YAML_TAG"),
    ("!!str a: b", "E_YAML_TAG"),
    ("!!map\na: b", "E_YAML_TAG"),
    ("%TAG ! tag:x,2002:\n---\na: 1", "E_YAML_TAG"),
    ("#\r%TAG ! tag:x,2002:\r---\ra: 1", "E_YAML_TAG"),
    ("a: !!timestamp 2024-01-01", "E_YAML_TAG"),
    ("a: !!omap [b: 1]", "E_YAML_TAG"),
    # keys
    ("a: {b: 1, b: 2}", "E_YAML_DUPLICATE_KEY"),
    ("a: 1\n'a': 2", "E_YAML_DUPLICATE_KEY"),
    ("a: 1\n? a\n: 2", "E_YAML_DUPLICATE_KEY"),
    ('a: 1\n"\\x61": 2', "E_YAML_DUPLICATE_KEY"),
    ("s:\n  - a: 1\n    a: 2", "E_YAML_DUPLICATE_KEY"),
    ("true: 1", "E_YAML_KEY"),
    ("a: {NULL: 1}", "E_YAML_KEY"),
    ("~: 1", "E_YAML_KEY"),
    ("1.5: a", "E_YAML_KEY"),
    (".nan: a", "E_YAML_KEY"),
    ("0x1F: a", "E_YAML_KEY"),
    ("9" * 30 + ": a", "E_YAML_KEY"),
    ("{a: 1}: b", "E_YAML_KEY"),
    ("a: {[b]: c}", "E_YAML_KEY"),
    ("a: {{ inputs.b }}", "E_YAML_KEY"),
    ("a: {? : 1}", "E_YAML_KEY"),
    # documents and the top
    ("a: 1\n---\n", "E_YAML_MULTIDOC"),
    ("a: 1\n...\n---\nb: 1", "E_YAML_MULTIDOC"),
    ("a: 1\n...\nb: 1", "E_YAML_MULTIDOC"),
    ("---\n---\na: 1", "E_YAML_MULTIDOC"),
    ("a: 1\n---\n" + "[" * 1000, "E_YAML_MULTIDOC"),
    ("", "E_YAML_TOP"),
    ("\ufeff", "E_YAML_TOP"),
    ("\n\n  \n", "E_YAML_TOP"),
    ("# only\n# comments", "E_YAML_TOP"),
    ("---", "E_YAML_TOP"),
    ("~", "E_YAML_TOP"),
    ("- a: 1", "E_YAML_TOP"),
    ("'{}'", "E_YAML_TOP"),
    ("1", "E_YAML_TOP"),
    ("|\n  a: 1", "E_YAML_TOP"),
    # characters and encodings
    *((f"a: x{chr(c)}y", "E_YAML_CHAR") for c in range(32) if chr(c) not in "\t\n\r"),
    *((f"a: x{c}y", "E_YAML_CHAR") for c in "\x7f\x80\x9f\x85\u2028\u2029\ufffe\uffff\ufeff"),
    *((f'a: "{c}"', "E_YAML_CHAR") for c in ("\\0", "\\x00", "\\u0007", "\\e", "\\x7f", "\\uFFFE")),
    ('"a\\0": 1', "E_YAML_CHAR"),
    ("# \0", "E_YAML_CHAR"),
    ("\0", "E_YAML_CHAR"),
    ("\ufeff\ufeffa: 1", "E_YAML_CHAR"),
    (b"a: \xed\xa0\x80", "E_YAML_ENCODING"),
    (b"a: \xc0\xaf", "E_YAML_ENCODING"),
    (b"a: \xf4\x90\x80\x80", "E_YAML_ENCODING"),
    (b"a: caf\xe9", "E_YAML_ENCODING"),
    (b"a: \xf0\x9f\x98", "E_YAML_ENCODING"),
    *(("a: 1".encode(name), "E_YAML_ENCODING") for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")),
    # syntax
    ("a: [1, 2", "E_YAML_SYNTAX"),
    ("a: {b: 1", "E_YAML_SYNTAX"),
    ('a: "unclosed', "E_YAML_SYNTAX"),
    ("a: b: c", "E_YAML_SYNTAX"),
    ("a: 1\n]", "E_YAML_SYNTAX"),
    ("a: 1\nb", "E_YAML_SYNTAX"),
    ("\ta: 1", "E_YAML_SYNTAX"),
    ("a:\n\tb: 1", "E_YAML_SYNTAX"),
    ("a:\n  - b\n\t- c", "E_YAML_SYNTAX"),
    ("a: @b", "E_YAML_SYNTAX"),
    ("a: `b`", "E_YAML_SYNTAX"),
    ("a: %b", "E_YAML_SYNTAX"),
    ('a: "\\q"', "E_YAML_SYNTAX"),
    ('a: "\\UFFFFFFFF"', "E_YAML_SYNTAX"),
    ("%YAML 1.3\n---\na: 1", "E_YAML_SYNTAX"),
    ("%YAML 2.0\n---\na: 1", "E_YAML_SYNTAX"),
    ("%YAML 1.2\n%YAML 1.2\n---\na: 1", "E_YAML_SYNTAX"),
    # ranges
    ("a: -.inf", "E_FIELD_RANGE"),
    ("a: +.INF", "E_FIELD_RANGE"),
    ("a: [.NaN]", "E_FIELD_RANGE"),
    ("a: 1e400", "E_FIELD_RANGE"),
    ("a: -1e999999999999", "E_FIELD_RANGE"),
    (f"a: {2**64}", "E_FIELD_RANGE"),
    (f"a: {-(2**63) - 1}", "E_FIELD_RANGE"),
    (f"a: 0x1{'0' * 16}", "E_FIELD_RANGE"),
    (f"a: 0o{2**64:o}", "E_FIELD_RANGE"),
    (f"a: 0x{'f' * 9000}", "E_FIELD_RANGE"),
    ("a: " + "9" * 400 + ".0", "E_FIELD_RANGE"),
    # depth
    ("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, "E_YAML_DEPTH"),
    ("- " * 20_000 + "a", "E_YAML_DEPTH"),
    ("\n".join(" " * n + "a:" for n in range(MAX_DEPTH + 2)), "E_YAML_DEPTH"),
]


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("text", "code"), RELATIVES, ids=lambda value: repr(value)[:40])
def test_relatives_of_the_corpus_are_refused(text: str | bytes, code: str) -> None:
    assert codes(text)[0] == code


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("written", "value"),
    [
        *((word, None) for word in ("", "~", "null", "Null", "NULL")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, word) for word in ("no", "No", "yes", "on", "off", "y", "N", "nULL", "tRUE", "nil", "none")),
        *((text, text) for text in ("12:30:45", "1:2", "2024-01-01", "2024-01-01T00:00:00Z", "1_000", "0b1")),
        *((text, text) for text in ("0777", "-07", "+00", "00", "007.5", "08e1", "-0x10", "0o8", "0xg", "1.2.3")),
        *((text, text) for text in (".", "+", "e5", "1e", "1e+", "+.", "=", "<<", ".INf", "nan", "inf", "+.nan")),
        *((text, text) for text in ("٣", "１２", "1 000", "=1", "5s", "0x", "0o")),
        *((f"'{text}'", text) for text in ("", "1", "true", "null", "~", ".nan", "0x10", "1e400")),
        *((f'"{text}"', text) for text in ("1", "no", "a\tb")),
        ('"\\ufeff\\u2028\\N\\t"', "\ufeff\u2028\x85\t"),
        *((text, 0) for text in ("0", "-0", "+0")),
        ("12", 12),
        ("+12", 12),
        ("-12", -12),
        (str(2**64 - 1), 2**64 - 1),
        (str(-(2**63)), -(2**63)),
        ("0x1F", 31),
        ("0o17", 15),
        ("0x" + "0" * 5000 + "1f", 31),
        (f"0o{2**64 - 1:o}", 2**64 - 1),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("+1.", 1.0),
        ("0.1", 0.1),
        ("1e3", 1000.0),
        ("1.5E-3", 0.0015),
        ("0e0", 0.0),
    ],
)
def test_plain_scalars_follow_the_core_schema(written: str, value: object) -> None:
    (loaded,) = data(f"k: {written}").values()
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        ("%YAML 1.2\n---\na: 1\n...\n# end", {"a": 1}),
        ("%YAML 1.1\n---\na: 1", {"a": 1}),
        ("no: 1\non: 2\n0777: 3\n12:30: 4", {"no": 1, "on": 2, "0777": 3, "12:30": 4}),
        ("'1': a\n'null': b", {"1": "a", "null": "b"}),
        ("a: {b, c: }", {"a": {"b": None, "c": None}}),
        ("? a\n: 1\n? b", {"a": 1, "b": None}),
        ("a: <<\nb: [<<]", {"a": "<<", "b": ["<<"]}),
        ("a: 'no %TAG here'\nb: |\n  %TAG\n  \tx\n", {"a": "no %TAG here", "b": "%TAG\n\tx\n"}),
        ("a: 😀 我的\r\nb: 1\r\n", {"a": "😀 我的", "b": 1}),
        ("a: {x: 1}\nb: {x: 1}", {"a": {"x": 1}, "b": {"x": 1}}),
        ("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), None),
    ],
)
def test_what_is_allowed_loads(text: str, value: object) -> None:
    loaded = data(text)
    assert value is None or loaded == value
    assert json.loads(json.dumps(loaded, allow_nan=False)) == loaded


def test_a_tab_may_separate_but_never_indent() -> None:
    """libyaml only; PyYAML's own parser refuses both."""
    assert data("a:\t1\nb: {c: 1,\n\td: 2}") == {"a": 1, "b": {"c": 1, "d": 2}}
    assert codes("a:\n\tb: 1") == ["E_YAML_SYNTAX"]


DEEP = {
    # PyYAML reads ahead as long as what it reads could still be a key: it stops before the first event.
    "lists that close again": "[" * 1100 + "]" * 1100,
    "mappings that never close": "{a: " * 1100,
    "lists and mappings by turns": "[{a: " * 600,
    "as the value of a key": "a: " + "[" * 1100,
    "in a list of the block form": "- " + "[" * 1100,
    "over many lines": "\n".join(["[" * 40] * 40),
    # Broken behind the depth: what is wrong first in the file is said.
    "a character that begins nothing": "[" * 60 + "@",
    "a quote that is never closed": "[" * 60 + "'",
    "a tag that is not known": "[" * 60 + "!no!handle",
    "an escape that is not known": "[" * 60 + '"\\q"',
    # Where PyYAML's limit is met by the block form, and mixed with the other.
    "lists in lists": "- " * 1100,
    "keys below keys": "\n".join(" " * i + "a:" for i in range(1100)),
    "both forms": "- " * 40 + "[" * 40,
}


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_depth_is_told_by_our_own_limit_whatever_the_parser_says(text: str) -> None:
    """A parser has a limit of its own, in words of its own, or other troubles before it hands out an event."""
    (problem,) = problems(text)
    assert problem.code == "E_YAML_DEPTH"
    assert problem.place.line
    assert str(MAX_DEPTH) in problem.allowed


SHALLOW = {
    "brackets in a text": "a: 'x" + "[" * 60,
    "brackets in a comment": "a: [ # " + "[" * 60,
    "brackets in a plain text": "a: x" + "[" * 60 + "\nb: @",
    "lists beside each other": "a: [" + "[]," * 60 + "@",
    "just deep enough": "[" * MAX_DEPTH + "@",
    "in a block text": "a: |\n  " + "[" * 60 + "\n]",
}


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("text", SHALLOW.values(), ids=SHALLOW)
def test_brackets_that_open_nothing_are_no_depth(text: str) -> None:
    assert codes(text)[-1] == "E_YAML_SYNTAX"


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    "text", ["a: !no!handle b", "a: [1, !x!y b]", "a: !<foo", "! a: !b! c", "!e!k: 1", "- !p!q [1]"]
)
def test_a_tag_that_a_parser_cannot_read_is_a_tag(text: str) -> None:
    assert codes(text)[-1] == "E_YAML_TAG"


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    "text", ["[" * 1100, "[" * 60 + "@", "a: !no!handle b", "a: [1", "a: 'x", "%YAML 1.3\n---\na: 1"]
)
def test_no_verdict_hangs_on_the_words_of_a_parser(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next release may say all of it in other words."""
    before = [(p.code, p.place, p.cure) for p in problems(text)]
    parse = yaml.parse

    def in_other_words(*given: Any, **more: Any) -> Any:
        try:
            yield from parse(*given, **more)
        except yaml.MarkedYAMLError as error:
            error.problem, error.context = "nein", "unten"
            raise

    monkeypatch.setattr(yaml, "parse", in_other_words)
    assert [(p.code, p.place, p.cure) for p in problems(text)] == before


def test_all_problems_come_together_in_file_order() -> None:
    text = "a: 1\nb: !x 2\n3: c\na: .inf\nd: {<<: {e: 1}}\nf: *g\n? [h]\n: !y 1\ni: [j\n"
    found = [(p.code, p.place.line, p.place.column) for p in problems(text)]
    assert found == [
        ("E_YAML_TAG", 2, 4),
        ("E_YAML_KEY", 3, 1),
        ("E_YAML_DUPLICATE_KEY", 4, 1),
        ("E_FIELD_RANGE", 4, 4),
        ("E_YAML_MERGE", 5, 5),
        ("E_YAML_ALIAS", 6, 4),
        ("E_YAML_KEY", 7, 3),
        ("E_YAML_TAG", 8, 3),
        ("E_YAML_SYNTAX", 10, 1),
    ]


def test_a_duplicate_key_names_both_lines() -> None:
    (problem,) = problems("steps:\n  - id: a\n    timeout: 1\n\n    timeout: 2\n")
    assert "line 3 and on line 5" in problem.message
    assert problem.place == Place(SOURCE, 5, 5, field="steps[0]")
    assert problem.cure


def test_a_merge_is_one_problem_and_not_also_its_anchor() -> None:
    assert codes("a: &x {b: 1}\nc: {<<: *x}\nd: {<<: [*x, *x]}") == ["E_YAML_MERGE", "E_YAML_MERGE"]
    assert codes("a: &x {b: 1}\nc: {<<: {d: [{e: *x}]}}\ne: *x") == ["E_YAML_MERGE", "E_YAML_ALIAS"]


def test_the_place_of_a_value_names_its_field() -> None:
    (problem,) = problems("steps:\n  - {id: a}\n  - id: b\n    retry: {delay: .inf}\n")
    assert problem.place == Place(SOURCE, 4, 20, field="steps[1].retry.delay")
    assert problem.found == ".inf"


@pytest.mark.parametrize(
    ("text", "line", "column", "cure"),
    [
        ("a: 1\nb: 'unclosed\nc: 1\n", 2, 4, "close the quote"),
        ("a:\n\tb: 1", 2, 1, "spaces"),
        ("a: @b", 1, 4, "quotes"),
        ("a: [b: c: d]", 1, 9, "quotes"),
        ("a: 'it''s\nb: 1\n", 1, 4, "close the quote"),
        ('a: "\\q"', 1, 5, "backslash"),
        ("a: b: c", 1, 5, "quotes"),
        ("a: {{ b }} c", 1, 5, '"{{ … }}"'),
        ("%YAML 9.9\n---\na: 1", 1, 1, "%YAML 1.2"),
        ("a: 1\r\nb: 我\0", 2, 5, "remove"),
        ("a: 1\rb: \u2028", 2, 4, '"\\u2028"'),
        (b"a: 1\n\xc3\xa9: \xff", 2, 4, "UTF-8"),
        (b"\xef\xbb\xbfa: \xff", 1, 4, "UTF-8"),
        ("a: 1\n# x\n%TAG ! b", 3, 1, "plain value"),
        ("1: a", 1, 1, '"1"'),
    ],
)
def test_a_problem_shows_the_place_and_a_cure(text: str | bytes, line: int, column: int, cure: str) -> None:
    problem = problems(text)[0]
    assert (problem.place.line, problem.place.column) == (line, column)
    assert cure in problem.cure


def test_an_error_repeats_little_and_nothing_that_a_terminal_obeys() -> None:
    (problem,) = problems('"\\e[31m": 1')
    assert "\x1b" not in str(problem)
    for text in (
        "a: !" + "x" * 9000 + " 1",
        "a: *" + "x" * 9000,
        "9" * 9000 + ": 1",
        "[" * 99,
        "a: " + "9" * 9000,
    ):
        assert all(len(str(problem)) < 600 for problem in problems(text))


def test_the_number_of_problems_is_limited() -> None:
    assert len(problems("a: 1\n" * 10_000)) == MAX_PROBLEMS
    assert len(problems("".join(f"k{i}: &x{i} 1\n" for i in range(10_000)))) == MAX_PROBLEMS


def test_limits_are_exact() -> None:
    assert data("a: " + "x" * (MAX_BYTES - 3))
    assert codes("a: " + "x" * (MAX_BYTES - 2)) == ["E_YAML_SIZE"]
    values = MAX_NODES - 3  # beside the mapping, the key and the list
    assert len(data(f"a: [{'1,' * values}]")["a"]) == values
    assert codes(f"a: [{'1,' * (values + 1)}]") == ["E_YAML_NODES"]


def test_the_size_is_checked_before_decoding_and_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "parse", None)
    assert codes(b"\xff\0" * MAX_BYTES) == ["E_YAML_SIZE"]


def filled(unit: str, *, before: str = "", after: str = "") -> bytes:
    times = (MAX_BYTES - len(before) - len(after)) // len(unit)
    return (before + unit * times + after).encode()


HEAVY = {
    "values": filled("1,", before="a: [", after="]"),
    "keys": b"".join(b"k%d: 1\n" % i for i in range(80_000)),
    "late duplicate": b"".join(b"k%d: 1\n" % i for i in range(49_900)) + b"k1: 2\n",
    "deep values": ("a: " + "[" * 48 + "1," * 99_900 + "!x 1" + "]" * 48).encode(),
    "duplicates": filled("a: 1\n"),
    "tags": filled("!x 1,", before="a: [", after="]"),
    "same anchor": filled("&x 1,", before="a: [", after="]"),
    "anchors": b"a: [" + b"".join(b"&x%d ," % i for i in range(90_000)) + b"]",
    "merges": filled("{<<: *x},", before="a: [", after="]"),
    "tag directives": b"".join(b"%%TAG !a%d! x\n" % i for i in range(60_000)),
    "tag directives, CR": b"#\r" + b"".join(b"%%TAG !a%d! x\r" % i for i in range(60_000)),
    "late tag directives": b"a: 1\n...\n" + b"".join(b"%%TAG !a%d! x\n" % i for i in range(60_000)),
    "brackets": filled("["),
    "braces": filled("{"),
    "dashes": filled("- "),
    "questions": filled("? "),
    "documents": filled("---\n"),
    "digits": filled("9", before="a: "),
    "fraction": filled("9", before="a: ", after=".0"),
    "exponent": filled("9", before="a: 1e"),
    "late NUL": filled("x", before="a: ", after="\0"),
    "blank lines": filled("\n"),
    "unclosed": filled("x\n ", before="a: '"),
    "size": b"a: " + b"x" * 10_000_000,
}


@pytest.mark.parametrize("content", HEAVY.values(), ids=HEAVY)
def test_a_refusal_is_quick(content: bytes) -> None:
    times = []
    for _ in range(3):  # CPU time, best of three: other work on the machine does not count
        start = time.process_time()
        problems(content)
        times.append(time.process_time() - start)
    assert min(times) < 2.0


@pytest.mark.parametrize("content", HEAVY.values(), ids=HEAVY)
def test_a_refusal_takes_little_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        problems(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000


def test_memory_outside_python_is_bounded_too() -> None:
    """libyaml allocates where tracemalloc does not look, so ask the system about a process of its own."""
    script = """
import resource, sys
from towpath.yaml_source import read_yaml
from towpath.errors import ChainInvalid
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for content in (b"[" * 1_000_000, b"a: [" + b"1," * 400_000, b"- " * 500_000, b"{a: " * 250_000):
    try:
        read_yaml(content, "x")
    except ChainInvalid:
        print((peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    grown = [int(line) for line in done.stdout.split()]
    assert len(grown) == 4
    assert max(grown) < 50
