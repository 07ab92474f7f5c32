"""Steps mapped over several lists."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import let_go, noted
from tests.conformance.runs import DONE, FAILED, SKIPPED, OpenEngine, rows, settled, until
from towpath import chain, step
from towpath.chain_file import load_chain_from_dict


@step
async def joined(*values: Any, sep: str = "-") -> str:
    return sep.join(map(str, values))


@step
async def placed(n: int, word: str, folder: str) -> str:
    steps.note(folder, "third", f"{n}{word}")
    return f"{n}{word}"


loose: Any = joined  # type checkers know no number of lists for `*values`


class Scaled:
    """An object that is a step: it is made again when its module is imported."""

    def __init__(self, k: int) -> None:
        self.k = k

    async def __call__(self, n: int) -> int:
        return n * self.k


thrice = step(Scaled(3), name="thrice")
plus_ten = step(partial(steps.add.function, b=10), name="plus_ten")


async def test_map_over_several_lists(open_engine: OpenEngine) -> None:
    """One run per element of all of them together: of literals, an input, and the value of a step."""

    @chain
    def sums(n: int, more: list[int]):
        return steps.add.map(steps.up_to(n), more), loose.map([1, 2], ("a", "b"), steps.up_to(2), sep="/")

    async with open_engine() as engine:
        run = await engine.run(sums, n=3, more=[10, 20, 30])
        assert run.value == [[10, 21, 32], ["1/a/0", "2/b/1"]]
        named = await rows(engine, run)
        assert named["add[1]"].parameters == {"a": 1, "b": 20}
        assert named["joined[0]"].parameters == {"*values": [1, "a", 0], "sep": "/"}
        empty = await engine.run(sums, n=0, more=[])
        assert empty["add"].value == []
        again = await engine.rerun(run.id, from_steps=["add"])
        assert again.value == run.value
        await settled(engine, again)


async def test_lists_of_different_lengths_fail_the_step_before_an_item_starts(open_engine: OpenEngine) -> None:
    @chain
    def sums(n: int, more: list[int]):
        return steps.total(steps.add.map(steps.up_to(n), more))

    async with open_engine() as engine:
        run = await engine.run(sums, n=3, more=[10, 20], check=False)
        error = run["add"].error
        assert error is not None
        assert error.code == "E_MAP_LENGTHS"
        assert "a has 3, b has 2" in error.message
        assert await settled(engine, run) == {"up_to": DONE, "add": FAILED, "total": SKIPPED}


async def test_items_follow_a_mapped_step_also_beside_other_lists(open_engine: OpenEngine, folder: str) -> None:
    """`c.map(words, a.map(…))`: item 0 of c is done while item 1 of a still works."""

    @chain
    def paired(folder: str):
        numbers = steps.item_after.map([0, 1, 2], folder=folder)
        return placed.map(numbers, ["x", "y", "z"], folder=folder)

    async with open_engine() as engine:
        handle = await engine.start(paired, folder=folder)
        await until(lambda: noted(folder, "third") == ["0x"])
        let_go(folder, "1", "2")
        run = await handle.result()
        assert run.value == ["0x", "1y", "2z"]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_list_shorter_than_the_items_that_it_follows(open_engine: OpenEngine) -> None:
    @chain
    def paired(words: list[str]):
        return steps.add.map(steps.double.map([1, 2, 3]), words)

    async with open_engine() as engine:
        run = await engine.run(paired, words=["x"], check=False)
        error = run["add"].error
        assert error is not None
        assert error.code == "E_MAP_LENGTHS"
        assert "a has 3, b has 1" in error.message
        await settled(engine, run)


async def test_two_mapped_steps_side_by_side(open_engine: OpenEngine) -> None:
    """The items follow the first one; where an item of it failed, the item is skipped."""

    @chain
    def both(bad: list[int]):
        kept = steps.boom_if_kept.map([1, 2, 3], bad=bad)
        return steps.add.map(kept, steps.double.map([1, 2, 3]))

    async with open_engine() as engine:
        assert (await engine.run(both, bad=[])).value == [3, 6, 9]
        run = await engine.run(both, bad=[2])
        assert (run.status, run["add"].value) == ("partial", [3, None, 9])
        await settled(engine, run)


async def test_several_lists_in_a_chain_file(open_engine: OpenEngine) -> None:
    """`foreach` is a mapping of names to lists; `item.NAME` is the element of one."""
    made = {
        "steps": [
            {"id": "n", "python": f"{steps.__name__}:up_to", "parameters": {"n": 2}},
            {
                "id": "sum",
                "python": f"{steps.__name__}:add",
                "depends_on": ["n"],
                "foreach": {"left": "{{ n.output }}", "right": [10, 20]},
                "parameters": {"a": "{{ item.left }}", "b": "{{ item.right + index }}"},
            },
        ]
    }
    async with open_engine() as engine:
        run = await engine.run(load_chain_from_dict(made))
        assert run["sum"].value == [10, 22]
        made["steps"][1]["foreach"] = {"left": "{{ n.output }}", "right": [10]}
        run = await engine.run(load_chain_from_dict(made), check=False)
        assert run["sum"].error is not None
        assert "left has 2, right has 1" in run["sum"].error.message


async def test_callables_with_a_given_name_are_steps(open_engine: OpenEngine) -> None:
    """A partial, an object with an async `__call__`, one that takes any arguments; by name, mapped and alone."""

    @chain
    def calls(n: int):
        return plus_ten(n), thrice.map([n, 2]), joined(n, "b", sep="+"), joined.map([n, 5])

    async with open_engine() as engine:
        run = await engine.run(calls, n=1)
        assert run.value == [11, [3, 6], "1+b", ["1", "5"]]
        await settled(engine, run)
