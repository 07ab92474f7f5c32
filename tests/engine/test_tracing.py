"""Functions that cannot describe a chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_references import echo, lends
from towpath import ChainInvalid, chain


async def _async_def(x: Any) -> Any:
    return echo(x)


def _generator(x: Any) -> Any:
    yield echo(x)


async def _async_generator(x: Any) -> Any:
    yield echo(x)


def _any_arguments(*values: Any) -> Any:
    return echo(values)


def _any_names(**named: Any) -> Any:
    return echo(named)


def _both(x: Any, *values: Any, y: int = 1, **named: Any) -> Any:
    return echo(x)


def _returns_a_coroutine(x: Any) -> Any:
    return _async_def(x)


def _returns_a_generator(x: Any) -> Any:
    echo(x)
    return (n for n in range(3))


@pytest.mark.parametrize(
    "function",
    [
        _async_def,
        _generator,
        _async_generator,
        _any_arguments,
        _any_names,
        _both,
        _returns_a_coroutine,
        _returns_a_generator,
    ],
)
def test_what_cannot_describe_a_chain_is_refused_with_the_cure(function: Any, recwarn: pytest.WarningsRecorder) -> None:
    """Before, some of these asked for an input called `named`, or said that the chain calls no step."""
    if function is _returns_a_coroutine:

        def described(x: Any) -> Any:
            echo(x)
            return _async_def(x)

        function = described
    with pytest.raises(ChainInvalid) as refused:
        _ = chain(function).plan
    assert {p.code for p in refused.value.problems} == {"E_CHAIN_TRACE"}
    assert all(p.cure and p.place.file == __file__ for p in refused.value.problems)
    assert not [w for w in recwarn if "never awaited" in str(w.message)]


@pytest.mark.parametrize("thing", [echo, lends, str, 3, Path("x")])
def test_what_is_no_function_is_no_chain(thing: Any) -> None:
    with pytest.raises(ChainInvalid, match="E_CHAIN_TRACE"):
        chain(thing)


def test_a_chain_in_itself_is_refused() -> None:
    @chain
    def again(x: Any):
        return again(x)

    with pytest.raises(ChainInvalid, match="E_CHAIN_CYCLE"):
        _ = again.plan


def test_positional_inputs_work() -> None:
    @chain
    def positional(a: int, /, b: int, *, c: int = 3):
        return echo([a, b, c])

    assert [spec.name for spec in positional.plan.inputs] == ["a", "b", "c"]
    assert [r["$ref"]["input"] for r in positional.plan.step("echo").parameters["x"]] == ["a", "b", "c"]


def test_wrong_arguments_of_a_chain_in_a_chain_have_a_place() -> None:
    @chain
    def calls(x: Any):
        return lends(x, 1, 2, z=3)  # type: ignore[call-arg]

    with pytest.raises(ChainInvalid) as refused:
        _ = calls.plan
    assert refused.value.code == "E_STEP_ARGUMENTS"
    assert refused.value.problem.place.file == __file__
