"""Which arguments a step gets, and which literals a chain may hold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from tests.engine.test_steps import Kept, codes, make, plain
from towpath import ChainInvalid, chain, step
from towpath.step_names import same_function
from towpath.steps import Step, find_step, register


@step
def positional(a: Any, /, **kw: Any) -> Any:
    return [a, kw]


@step
def anything(**kw: Any) -> Any:
    return kw


@step
def hidden(a: Any = 1, b: Any = 2, /, **kw: Any) -> Any:
    return [a, b, kw]


# Wrong on purpose: type checkers are not to refuse what the tests want refused when it runs.
loose_plain: Any = plain
loose_anything: Any = anything
loose_positional: Any = positional
loose_hidden: Any = hidden

ARGUMENTS: dict[str, Callable[[], Any]] = {
    "a positional parameter and a keyword of one name": lambda: loose_positional(1, a=2),
    "a keyword of the name of a positional parameter that is left out": lambda: loose_hidden(a=5),
    "the same beside others": lambda: loose_hidden(1, b=5),
    "the same of a second one, mapped": lambda: loose_hidden.map([1], b=5, c=2),
    "the same, mapped": lambda: loose_positional.map([1], a=2),
    "map over two lists": lambda: loose_plain.map([1], [2]),
    "map over nothing": loose_plain.map,
    "map over a generator": lambda: loose_plain.map(n for n in range(3)),
    "map over zip": lambda: loose_plain.map(zip([1], [2], strict=True)),
    "map over map": lambda: loose_plain.map(map(str, [1])),
    "map over a set": lambda: loose_plain.map({1, 2}),
    "map over the values of a mapping": lambda: loose_plain.map({"a": 1}.values()),
    "map gives the first argument": lambda: loose_plain.map([1], x=2),
    "too many": lambda: loose_plain(1, 2),
    "too few": loose_plain,
    "unknown": lambda: loose_plain(1, y=2),
    "map of what takes no positional one": lambda: loose_anything.map([1]),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused_with_the_line(kind: str) -> None:
    @chain
    def calls(x: int):
        return ARGUMENTS[kind]()

    with pytest.raises(ChainInvalid) as refused:
        _ = calls.plan
    assert refused.value.code == "E_STEP_ARGUMENTS"
    assert refused.value.problem.place.file == __file__
    assert refused.value.problem.place.line > 0


def test_arguments_that_fit_are_the_right_ones() -> None:
    @chain
    def calls(x: int):
        return (
            positional(1, b=2),
            anything(self=1, function=2, args=3, kwargs=4, values=5),
            plain.map(range(3)),
            plain.map((4, 5)),
        )

    plan = calls.plan
    assert plan.step("positional").parameters == {"a": 1, "b": 2}
    assert plan.step("anything").parameters == {"self": 1, "function": 2, "args": 3, "kwargs": 4, "values": 5}
    assert [plan.step("plain").foreach, plan.step("plain_2").foreach] == [[0, 1, 2], [4, 5]]
    assert positional.call_arguments({"a": 1, "b": 2}) == ([1], {"b": 2})


def of_args(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that passes on positional arguments alone."""

    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


def of_keywords(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(**kwargs: Any) -> Any:
        return function(**kwargs)

    return inner


def of_both(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(first: Any, **kwargs: Any) -> Any:
        return function(first, **kwargs)

    return inner


class Calls:
    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]


def named_only(a: Any, *, b: Any = 2) -> Any:
    return [a, b]


def left_out(a: Any = 1, b: Any = 2, /, c: Any = 3, **kw: Any) -> Any:
    return [a, b, c, kw]


def collects(a: Any, *rest: Any, b: Any = 0, **kw: Any) -> Any:
    return [a, list(rest), b, kw]


def three(a: Any, b: Any = 2, c: Any = 3) -> Any:
    return [a, b, c]


CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any], Any]] = {
    "all": (three, {"a": 7, "b": 8, "c": 9}, [7, 8, 9]),
    "one left out in the middle": (three, {"a": 7, "c": 9}, [7, 2, 9]),
    "by name only": (named_only, {"b": 8, "a": 7}, [7, 8]),
    "positional ones left out": (left_out, {"b": 8, "d": 4}, [1, 8, 3, {"d": 4}]),
    "a keyword of the name of *rest": (
        collects,
        {"a": 7, "rest": 1, "kw": 2, "b": 3},
        [7, [], 3, {"rest": 1, "kw": 2}],
    ),
    "a decorator that takes *args": (of_args(three), {"a": 7, "b": 8}, [7, 8, 3]),
    "a decorator that takes **kwargs": (of_keywords(three), {"a": 7, "b": 8}, [7, 8, 3]),
    "a decorator that takes one, and **kwargs": (of_both(three), {"a": 7, "c": 8}, [7, 2, 8]),
    "an object that calls it": (Calls(three), {"a": 7, "b": 8}, [7, 8, 3]),
    "a cache": (functools.lru_cache(three), {"a": 7, "b": 8}, [7, 8, 3]),
    "singledispatch": (functools.singledispatch(three), {"a": 7, "b": 8}, [7, 8, 3]),
    "a bound method": (Kept(1).add, {"x": 4}, 5),
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_step_is_called_as_a_plain_call_would(kind: str) -> None:
    """A decorator that keys a cache by `*args` gave the first value for all."""
    function, arguments, value = CALLS[kind]
    made = step(function)
    args, kwargs = made.call_arguments(arguments)
    assert made.function(*args, **kwargs) == value


def test_another_function_in_place_of_a_steps_own_is_asked_whether_it_is_async(monkeypatch: pytest.MonkeyPatch) -> None:
    """`monkeypatch.setattr(step, "function", fake)`, whichever of the two is async."""

    async def awaited(x: int) -> int:
        return x

    slow, quick = step(awaited), step(three)
    assert (slow.is_async, quick.is_async) == (True, False)
    monkeypatch.setattr(slow, "function", lambda x: x)
    monkeypatch.setattr(quick, "function", awaited)
    assert (slow.is_async, quick.is_async) == (False, True)
    assert quick.with_options(retries=1).is_async


# ---- what is written into a chain


def itself() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def itself_by_key() -> dict[str, Any]:
    found: dict[str, Any] = {"a": [1]}
    found["b"] = [found]
    return found


LITERALS: dict[str, tuple[Callable[[], Any], str]] = {
    "a complex number": (lambda: anything(a=1j), "the argument a is"),
    "inside a list": (lambda: anything(a=[1, 2j]), "the argument a is"),
    "inside a mapping": (lambda: anything(a={"b": 2j}), "b in the argument a is"),
    "a class, by position": (lambda: loose_positional(date), "the argument a is"),
    "not a number": (lambda: loose_plain(float("nan")), "the argument x is"),
    "half a character": (lambda: loose_plain("\udc80"), "the argument x is"),
    "mapped over": (lambda: loose_plain.map([1j]), "what is mapped over is"),
    "a large number": (lambda: loose_plain(2**64), "the argument x is"),
    "a list that contains itself": (lambda: loose_plain(itself()), "the argument x is nested"),
    "a mapping that contains itself": (lambda: loose_plain(itself_by_key()), "the argument x is nested"),
    "mapped over itself": (lambda: loose_plain.map(itself()), "what is mapped over is nested"),
}


@pytest.mark.parametrize("kind", LITERALS)
def test_a_literal_that_cannot_be_kept_is_named_with_the_line_of_the_call(kind: str) -> None:
    make_it, says = LITERALS[kind]

    @chain
    def calls(x: int):
        plain(x)
        return make_it()

    with pytest.raises(ChainInvalid) as refused:
        _ = calls.plan
    (problem,) = refused.value.problems
    assert problem.code == "E_VALUE_TYPE"
    assert problem.message.startswith(says)
    assert problem.place.line == make_it.__code__.co_firstlineno


def test_a_default_or_a_result_that_cannot_be_kept_is_called_that() -> None:
    def described(x: Any) -> Any:
        plain(1)
        return x

    with_complex: Any = chain(lambda x=1j: described(x))
    with_list: Any = chain(lambda x=[1j]: described(x))
    returns: Any = chain(lambda: described(1j))
    loops: Any = chain(lambda: described(itself()))
    for made, says in (
        (with_complex, "the default is"),
        (with_list, "[0] in the default is"),
        (returns, "what the chain returns is"),
        (loops, "what the chain returns is nested"),
    ):
        with pytest.raises(ChainInvalid) as refused:
            _ = made.plan
        assert refused.value.code == "E_VALUE_TYPE"
        assert refused.value.problem.message.startswith(says)


@pytest.mark.parametrize("key", ["\ud800", "a\udfff", 2**63, -(2**63) - 1])
def test_a_key_that_cannot_be_kept_is_refused(key: Any) -> None:
    """It ended in an error of the encoder, without a line."""

    @chain
    def of_input(x: Any):
        return plain(x[key])

    @chain
    def of_step(x: Any):
        return plain(plain(x)["a"][key])

    assert codes(of_input) == codes(of_step) == {"E_CHAIN_TRACE"}


# ---- sameness


def test_functions_are_the_same_if_they_do_the_same() -> None:
    def closes_over(value: Any) -> Callable[[], Any]:
        return lambda: value

    same: list[tuple[Any, Any]] = [(1, 1), ("a", "a"), ((1, "a"), (1, "a")), (None, None), (2.5, 2.5)]
    other: list[tuple[Any, Any]] = [(1, True), (1, 1.0), (0.0, -0.0), ("a", b"a"), ((1,), (True,)), ([], []), ({}, {})]
    assert [same_function(closes_over(a), closes_over(b)) for a, b in same] == [True] * len(same)
    assert [same_function(closes_over(a), closes_over(b)) for a, b in other] == [False] * len(other)


def test_registering_a_step_again_changes_nothing() -> None:
    made = make("only", name="registered_again")
    assert register(made) is register(made)
    assert isinstance(find_step(made.name), Step)
