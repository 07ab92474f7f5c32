"""What a step can be mapped over when its chain is described."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from towpath import ChainInvalid, Secret, chain, step
from towpath.chain_file import load_chain_from_dict


@step
def one(x: Any, k: int = 0) -> Any:
    return x


@step
def pair(x: Any, y: Any, k: int = 0) -> Any:
    return [x, y]


@step
def numbers() -> list[int]:
    return [1, 2]


@step
def any_number(*values: Any) -> Any:
    return values


@step
def keyword(*, x: Any) -> Any:
    return x


@step
def unlocked(name: str, key: Secret[str]) -> str:
    return name


loose: Any = one  # type checkers are not to refuse what the tests want refused
loose_pair: Any = pair
loose_keyword: Any = keyword

LISTS: dict[str, tuple[Callable[[], Any], Any]] = {
    "a list": (lambda: [1, 2], [1, 2]),
    "a tuple": (lambda: (1, 2), [1, 2]),
    "a range": (lambda: range(1, 3), [1, 2]),
    "an empty list": (list, []),
    "an array": (lambda: np.array([1, 2]), [1, 2]),
    "an array of texts": (lambda: np.array(["a", "b"]), ["a", "b"]),
    "a column of a table": (lambda: pd.DataFrame({"a": [1.5, 2]})["a"], [1.5, 2]),
    "an index of a table": (lambda: pd.Index([1, 2]), [1, 2]),
    "rows of a matrix": (lambda: np.eye(2).tolist(), [[1, 0], [0, 1]]),
    "pairs": (lambda: list(zip([1, 2], "ab", strict=True)), [[1, "a"], [2, "b"]]),
}


@pytest.mark.parametrize("kind", LISTS)
def test_what_is_a_list(kind: str) -> None:
    made, foreach = LISTS[kind]

    @chain
    def maps():
        return loose.map(made()), loose_pair.map(made(), made(), k=3)

    single, several = maps.plan.steps
    assert single.foreach == foreach
    assert single.parameters == {"x": {"$item": []}}
    assert several.foreach == {"$zip": {"x": foreach, "y": foreach}}
    assert several.parameters == {"x": {"$item": ["x"]}, "y": {"$item": ["y"]}, "k": 3}


NO_LISTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a set": (lambda: {1}, "list("),
    "a generator": (lambda: (n for n in [1]), "list("),
    "zip": (lambda: zip([1], [2], strict=True), "list("),
    "a deque": (lambda: deque([1]), "list("),
    "a dict": (lambda: {"a": 1}, ".items()"),
    "an ordered dict": (lambda: OrderedDict(a=1), ".items()"),
    "the keys of a dict": ({"a": 1}.keys, "list("),
    "a text": (lambda: "ab", "[text]"),
    "bytes": (lambda: b"ab", "[text]"),
    "a number": (lambda: 3, "keyword argument"),
    "nothing": (lambda: None, "keyword argument"),
    "a matrix": (lambda: np.eye(2), ".tolist()"),
    "a number of numpy": (lambda: np.float64(3), "keyword argument"),
    "a table": (lambda: pd.DataFrame({"a": [1]}), '.to_dict("records")'),
    "a step": (lambda: one, "keyword argument"),
}


@pytest.mark.parametrize("first", [True, False], ids=["alone", "as the second list"])
@pytest.mark.parametrize("kind", NO_LISTS)
def test_what_is_no_list_is_refused_with_the_cure(kind: str, first: bool) -> None:
    made, cure = NO_LISTS[kind]

    @chain
    def maps():
        return loose.map(made()) if first else loose_pair.map([1], made())

    with pytest.raises(ChainInvalid) as refused:
        _ = maps.plan
    assert refused.value.code == "E_STEP_ARGUMENTS"
    assert cure in refused.value.problems[0].cure
    assert "not a list" in refused.value.problems[0].message
    assert refused.value.problems[0].place.file == __file__


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "lengths that differ": (lambda: loose_pair.map([1, 2], [3]), "E_MAP_LENGTHS"),
    "lengths of a list of references and a range": (lambda: loose_pair.map([numbers()], range(2)), "E_MAP_LENGTHS"),
    "too many lists": (lambda: loose_pair.map([1], [2], [3], [4]), "E_STEP_ARGUMENTS"),
    "a list and a keyword for one parameter": (lambda: loose_pair.map([1], [2], y=3), "E_STEP_ARGUMENTS"),
    "no list": (lambda: loose_pair.map(x=[1], y=[2]), "E_STEP_ARGUMENTS"),
    "a function of keywords": (lambda: loose_keyword.map([1]), "E_STEP_ARGUMENTS"),
    "too many items": (lambda: loose.map(range(10**12)), "E_MAP_SIZE"),
    "too many items of a second list": (lambda: loose_pair.map(numbers(), range(10**12)), "E_MAP_SIZE"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_mapped_is_refused(kind: str) -> None:
    made, code = WRONG[kind]

    @chain
    def maps():
        return made()

    with pytest.raises(ChainInvalid) as refused:
        _ = maps.plan
    assert refused.value.code == code
    assert refused.value.problems[0].place.file == __file__


def test_lengths_are_in_the_message() -> None:
    @chain
    def maps():
        return pair.map([1, 2], [3])

    with pytest.raises(ChainInvalid, match="x has 2, y has 1"):
        _ = maps.plan


def test_any_number_of_lists_for_any_number_of_arguments() -> None:
    @chain
    def maps():
        return any_number.map([1], [2], numbers()), any_number.map([1, 2])

    several, single = maps.plan.step("any_number"), maps.plan.step("any_number_2")
    assert list(several.foreach["$zip"]) == ["list 1", "list 2", "list 3"]
    assert several.parameters == {"*values": [{"$item": ["list 1"]}, {"$item": ["list 2"]}, {"$item": ["list 3"]}]}
    assert single.parameters == {"*values": [{"$item": []}]}


def test_items_follow_the_items_of_the_first_mapped_step() -> None:
    """If nothing else in the step uses its value: that is not complete when the first items start."""

    @chain
    def maps(words: list[str]):
        a, b = one.map([1, 2]), one.map([3, 4])
        return (
            pair.map(a, words).named("first"),
            pair.map(words, b).named("second"),
            pair.map(a, b).named("both"),
            pair.map(a, a).named("twice"),
            pair.map(a, [b, b]).named("inside"),
            pair.map(a, words, k=a[0]).named("used"),
            pair.map(a, words).when("inputs.words").named("conditional"),
        )

    partners = {s.id: s.pairs_with for s in maps.plan.steps if s.id in "first second both twice inside used".split()}
    assert partners == {
        "first": "one", "second": "one_2", "both": "one", "twice": None, "inside": "one", "used": None
    }  # fmt: skip
    assert maps.plan.step("conditional").pairs_with is None


def test_a_secret_in_one_of_several_lists_is_refused() -> None:
    """It would be written into the plan."""

    @chain
    def maps(names: list[str]):
        return unlocked.map(names, ["hunter2"])

    with pytest.raises(ChainInvalid, match="E_SECRET_PLACE"):
        _ = maps.plan


# ---- chain files


def filed(foreach: Any, x: str = "{{ item.a }}") -> Any:
    first = {"id": "n", "python": f"{__name__}:numbers"}
    step = {"id": "m", "python": f"{__name__}:one", "depends_on": ["n"], "foreach": foreach, "parameters": {"x": x}}
    return load_chain_from_dict({"steps": [first, step]}).plan.step("m")


def test_several_lists_in_a_chain_file() -> None:
    made = filed({"a": "{{ n.output }}", "b": [1, "{{ n.output[0] }}"], "c": "{{ n.output | default([]) }}"})
    assert made.foreach == {
        "$zip": {
            "a": {"$ref": {"step": "n", "keys": []}},
            "b": [1, {"$template": "{{ n.output[0] }}"}],
            "c": {"$template": "{{ n.output | default([]) }}"},
        }
    }


@pytest.mark.parametrize(
    ("foreach", "code", "field"),
    [
        ({}, "E_FIELD_TYPE", "foreach"),
        ({"a": 1}, "E_FIELD_TYPE", "foreach.a"),
        ({"a": [1], "b": "text"}, "E_FIELD_TYPE", "foreach.b"),
        ({"a": [1], "b": "{{ n.output"}, "E_TEMPLATE_SYNTAX", "foreach.b"),
        ({"a": [1], "b": "{{ m.output }}"}, "E_TEMPLATE_NOT_UPSTREAM", "foreach.b"),
        ({"a": [1], "b": "{{ item }}"}, "E_TEMPLATE_NAME", "foreach.b"),
        ({"a": [1], "b": [1, 2]}, "E_MAP_LENGTHS", "foreach"),
    ],
)
def test_what_several_lists_in_a_chain_file_cannot_be(foreach: Any, code: str, field: str) -> None:
    with pytest.raises(ChainInvalid) as refused:
        filed(foreach)
    assert [(p.code, p.place.field) for p in refused.value.problems] == [(code, field)]
