"""Describing a chain: names, and wrong uses of references."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.runs import DONE, OpenEngine, settled
from towpath import ChainInvalid, chain


async def test_a_chain_that_makes_no_sense_is_refused_when_described(open_engine: OpenEngine) -> None:  # noqa: C901
    """Wrong uses of references are ChainInvalid with a place, never an error of Python from inside towpath."""

    def wrong(function: Callable[..., Any]) -> str:
        with pytest.raises(ChainInvalid) as refused:
            _ = chain(function).plan
        return refused.value.code

    def number_key():
        return steps.echo({(1,): steps.number(1)})

    def mark_key():
        return steps.echo({"$ref": steps.number(1)})

    def gate_on_an_input(n):
        n.with_approval()
        return steps.number(n)

    def input_when(n):
        return steps.number(n.when("1 == 1"))

    def empty():
        return None

    def asks():
        return steps.number(2) if steps.number(1) else None

    def walks():
        return [steps.number(n) for n in steps.up_to(3)]

    def circle():
        a = steps.number(1)
        return a.after(steps.double(a))

    def two_of_a_name():
        return steps.number(1).named("x"), steps.number(2).named("x")

    def reserved():
        return steps.number(1).named("inputs")

    def unknown_in_condition():
        return steps.number(1).when("nobody.status == 'completed'")

    def later_in_condition():
        return steps.number(1).named("a").when("b.output == 1"), steps.number(1).named("b")

    def a_lock():
        return steps.echo(threading.Lock())

    def bytes_in_a_chain():
        return steps.echo(b"bytes")

    def wrong_arguments():
        return steps.number(1, 2, 3)

    def default(n=threading.Lock()):  # noqa: B008
        return steps.number(1)

    stolen: list[Any] = []

    def lends():
        stolen.append(steps.number(1))
        return stolen[0]

    def steals():
        return steps.double(stolen[0])

    _ = chain(lends).plan
    assert wrong(number_key) == "E_VALUE_TYPE"
    assert wrong(mark_key) == "E_VALUE_TYPE"
    assert wrong(gate_on_an_input) == "E_CHAIN_TRACE"
    assert wrong(input_when) == "E_CHAIN_TRACE"
    assert wrong(empty) == "E_CHAIN_EMPTY"
    assert wrong(asks) == "E_CHAIN_TRACE"
    assert wrong(walks) == "E_CHAIN_TRACE"
    assert wrong(circle) == "E_CHAIN_CYCLE"
    assert wrong(two_of_a_name) == "E_CHAIN_DUPLICATE_STEP"
    assert wrong(reserved) == "E_STEP_ID"
    assert wrong(unknown_in_condition).startswith("E_")
    assert wrong(later_in_condition).startswith("E_")
    assert wrong(a_lock) == "E_VALUE_TYPE"
    assert wrong(bytes_in_a_chain) == "E_VALUE_TYPE"
    assert wrong(wrong_arguments) == "E_STEP_ARGUMENTS"
    assert wrong(default) == "E_VALUE_TYPE"
    assert wrong(steals) == "E_TEMPLATE_UNKNOWN"
    async with open_engine() as engine:
        assert await engine.list_chains() == []


async def test_names_given_late(open_engine: OpenEngine) -> None:
    """`.named` counts wherever the step was referred to before."""

    @chain
    def late():
        a = steps.number(1)
        b = steps.double(a).after(a)
        a.named("renamed")
        return b

    async with open_engine() as engine:
        run = await engine.run(late)
        assert await settled(engine, run) == {"renamed": DONE, "double": DONE}
