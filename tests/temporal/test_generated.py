"""R33. Generated chains leave the same behind on both adapters: rows, artifacts, facts, errors."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import settled
from tests.temporal import cheap_steps as cheap
from tests.temporal.test_granularity import left_behind
from towpath import chain

pytestmark = pytest.mark.anyio


def generated(seed: int) -> Any:
    """A chain of 5 to 14 steps: lines, forks, joins, fan-outs, files, failures, conditions, chains inside steps."""

    @chain
    def small(n: int):
        return steps.add(n, steps.number(1))

    @chain
    def made():
        chance = random.Random(seed)  # the function is asked anew for each run
        numbers: list[Any] = [steps.number(seed % 7).named("s0")]
        for at in range(1, chance.randrange(5, 15)):
            one, two, name = chance.choice(numbers), chance.choice(numbers), f"s{at}"
            kind = chance.choice(("add", "add", "double", "map", "file", "fail", "when", "chain", "cheap"))
            if kind == "add":
                numbers.append(steps.add(one, two).named(name))
            elif kind == "double":
                numbers.append(steps.double(one).named(name))
            elif kind == "map":
                items = steps.up_to(chance.randrange(0, 5)).named(f"{name}-n").after(one)
                numbers.append(steps.total(steps.double.map(items).named(f"{name}-m")).named(name))
            elif kind == "file":
                numbers.append(cheap.size(cheap.as_file(chance.randrange(1, 40_000)).after(one)).named(name))
            elif kind == "fail":
                bad = steps.boom(name).named(f"{name}-bad").after(one)
                handled = steps.number(at).named(name).when(f"steps['{name}-bad'].status == 'failed'").after(bad)
                numbers.append(handled)
            elif kind == "when":
                holds = chance.choice(("s0.output >= 0", "s0.output > 3"))
                maybe = steps.double(numbers[0]).named(f"{name}-maybe").when(holds)
                known = f"steps['{name}-maybe'].status in ['completed', 'skipped']"
                numbers.append(steps.number(at).named(name).when(known).after(maybe))
            elif kind == "chain":
                numbers.append(small(n=one).named(name))
            else:
                numbers.append(cheap.plus(cheap.plus(one), 2).named(name))
        last = chance.choice(("fine", "bad", "gate"))
        if last == "bad":
            steps.echo(steps.boom("end").named("end")).named("after-end")
        elif last == "gate":
            steps.read_text(steps.draft("x").named("gate"))
        return numbers[-1]

    return made


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(5, 30))])
async def test_R33_I11_the_same_on_both_adapters(open_engine: OpenEngine, adapter: str, seed: int) -> None:
    """Local, one child per step, and cheap neighbours in one child."""
    made = generated(seed)
    left = []
    for options in ({"adapter": "local", "worker": False}, {}, {"adapter": f"{adapter}&granularity=auto"}):
        async with open_engine(**options) as engine:
            run = await engine.run(made, check=False)
            left.append(await left_behind(engine, run))
            await settled(engine, run)
    for other in left[1:]:
        for part in ("rows", "facts"):
            for name in left[0][part].keys() | other[part].keys():
                assert other[part].get(name) == left[0][part].get(name), name
        assert other == left[0]
