"""Names and tags of runs: what is allowed, and which keywords they are."""

from __future__ import annotations

from typing import Any

import pytest

from towpath.errors import InputInvalid
from towpath.model import InputSpec, Plan
from towpath.run_labels import (
    UNLABELLED,
    RunLabel,
    checked_name,
    checked_tags,
    label_of,
    relabelled,
    tag_asked,
    tags_written,
    told_apart,
)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("media-12", "media-12"),
        ("  nightly 2026-11-30 ", "nightly 2026-11-30"),
        ("2026-11-30", "2026-11-30"),
        ("cafe\u0301", "café"),  # normal form C
        ("lasting", "lasting"),
        ("日本語", "日本語"),
        ("abcdef0", "abcdef0"),
        ("x" * 200, "x" * 200),
    ],
)
def test_a_name_is_kept_in_one_form(given: str, kept: str) -> None:
    assert checked_name(given) == kept
    assert checked_name(kept) == kept


@pytest.mark.parametrize(
    "given",
    [
        *("", "  ", "last", "Last~1", "ｌａｓｔ", "l a s t", "-x", "x" * 201),
        *("a\nb", "a\x1b[2J", "a\u202eb", "a\u200bb", "\ud800"),
        *("deadbeef", "DEADBEEF", "20261130", "01a22c81-9d32-71cc-abe8-50903a976747"),
        *(3, None, b"x", ["x"], True),
    ],
)
def test_a_name_that_is_not_allowed(given: Any) -> None:
    """Nothing that reads as `last`, that looks like a whole id or its last 8 characters, or that cannot be seen."""
    with pytest.raises(InputInvalid, match="E_RUN_NAME"):
        checked_name(given)


def test_tags_are_sorted_text() -> None:
    tags = checked_tags({"team": "ml", "client": "  cafe\u0301 ", "a/b:c.d-e_f": "", "प्रकार": "x=y"})
    assert [*tags.items()] == [("a/b:c.d-e_f", ""), ("client", "café"), ("team", "ml"), ("प्रकार", "x=y")]
    assert checked_tags(["urgent", "draft"]) == {"draft": "", "urgent": ""}
    assert checked_tags({}) == checked_tags([]) == {}
    assert len(checked_tags({f"k{i}": "x" * 256 for i in range(32)})) == 32


@pytest.mark.parametrize(
    "given",
    [
        "client=x",
        b"client",
        3,
        {"n": 3},
        {"n": None},
        {"n": True},
        {3: "n"},
        {"": "x"},
        {"a b": "x"},
        {"a=b": "x"},
        {'a"b': "x"},
        {"b\x00": ""},
        {"k" * 65: "x"},
        {"k": "x" * 257},
        {"k": "a\nb"},
        {f"k{i}": "" for i in range(33)},
        ["a", "a"],
        [1],
        {"é": "1", "e\u0301": "2"},
    ],
)
def test_tags_that_are_not_allowed(given: Any) -> None:
    """Only text: a number would come back as text, and a key that is given twice would lose one value."""
    with pytest.raises(InputInvalid, match="E_RUN_TAGS"):
        checked_tags(given)


def test_a_tag_as_people_write_it() -> None:
    assert tag_asked("client") == ("client", None)
    assert tag_asked("client=") == ("client", "")
    assert tag_asked("url=a=b") == ("url", "a=b")
    assert tags_written(["client=x", "urgent"]) == {"client": "x", "urgent": ""}
    for wrong in (["client=x", "client=y"], ["=x"], [""], ["a b=c"]):
        with pytest.raises(InputInvalid, match="E_RUN_TAGS"):
            tags_written(wrong)


def plan(*inputs: str) -> Plan:
    return Plan("greet", (), inputs=tuple(InputSpec(name) for name in inputs))


def test_keywords_are_the_label_unless_the_chain_has_such_an_input() -> None:
    assert told_apart(plan("n"), {}, {"n": 1}) == ({"n": 1}, UNLABELLED)
    assert told_apart(plan("n"), {}, {"n": 1, "name": "a", "tags": ["t"]}) == ({"n": 1}, RunLabel("a", {"t": ""}))
    assert told_apart(plan("n"), {"n": 1}, {"name": None}) == ({"n": 1}, UNLABELLED)


def test_the_own_input_of_a_chain_comes_first() -> None:
    """Programs from before runs had names mean the input, whatever its type; `inputs` says it explicitly."""
    own = plan("name", "tags")
    assert told_apart(own, {}, {"name": 3, "tags": [1]}) == ({"name": 3, "tags": [1]}, UNLABELLED)
    assert told_apart(own, {}, {"name": None}) == ({"name": None}, UNLABELLED)
    assert told_apart(own, {"name": "Ana"}, {"name": "run", "tags": [1]}) == (
        {"name": "Ana", "tags": [1]},
        RunLabel("run", {}),
    )
    assert told_apart(own, {}, {"name": RunLabel("run", {})}) == ({}, RunLabel("run", {}))


def test_a_rerun_keeps_its_label_unless_another_is_given() -> None:
    old = label_of("a", {"k": "v"})
    assert relabelled(old, None, None) == old
    assert relabelled(old, "b", None) == RunLabel("b", {"k": "v"})
    assert relabelled(old, None, []) == RunLabel("a", {})
