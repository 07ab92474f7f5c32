"""Slots of one engine: who gets the next one."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance.adapter.chains_inside import inner
from tests.conformance.chain_steps import PATIENCE
from tests.conformance.runs import DONE, settled
from towpath import chain
from towpath.adapters.slots import Slots

pytestmark = pytest.mark.anyio


async def test_many_chains_inside_need_no_slots_of_their_own(open_engine: OpenEngine) -> None:
    @chain
    def wide():
        return [inner(n)["n"] for n in range(40)]

    async with open_engine(concurrency=2) as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(wide)
        assert run.value == [2 * n for n in range(40)]
        assert set((await settled(engine, run)).values()) == {DONE}


def test_slots_go_round() -> None:
    """A run that wants more after its turn stands behind the others, and nobody is forgotten."""
    woken: list[str] = []
    slots = Slots(2)
    a, b, c = (slots.for_run(None, partial(woken.append, name)) for name in "abc")
    assert a.take()
    assert b.take()
    assert not a.take()
    assert not c.take()
    a.give_back()  # first in line itself: it may go on
    assert a.take()
    assert not a.take()
    assert woken == []
    a.give_back()
    assert woken == ["c"]
    assert c.take()
    c.close()
    a.settle(wants=False)
    b.close()
    assert slots.free == 2


def test_a_run_that_wants_no_more_does_not_hold_up_the_next() -> None:
    woken: list[str] = []
    slots = Slots(2)
    a, b, c = (slots.for_run(None, partial(woken.append, name)) for name in "abc")
    assert a.take()
    assert c.take()
    assert not a.take()
    assert not b.take()
    a.give_back()
    a.settle(wants=False)  # cancelled, say
    assert woken == ["b"]
    assert b.take()
