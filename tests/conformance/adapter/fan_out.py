"""Mapped steps: order, pairs of items, failed items."""

from __future__ import annotations

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import let_go, noted
from tests.conformance.runs import DONE, FAILED, SKIPPED, OpenEngine, rows, settled, until
from towpath import ChainFailed, StepNotCompleted, chain


@chain
def fan_out(n: int):
    return steps.total(steps.double.map(steps.up_to(n)))


async def test_fan_out_over_a_list_known_at_run_time(open_engine: OpenEngine) -> None:
    """One row per element and one for the step with the count; the value is in input order."""
    async with open_engine() as engine:
        run = await engine.run(fan_out, n=5)
        assert run["double"].value == [0, 2, 4, 6, 8]
        assert run.value == 20
        assert [item.value for item in run["double"].items] == [0, 2, 4, 6, 8]
        named = await rows(engine, run)
        assert named["double"].item_count == 5
        assert [named[f"double[{i}]"].parameters for i in range(5)] == [{"n": i} for i in range(5)]
        assert list((await settled(engine, run)).values()) == [DONE] * 8


async def test_a_large_argument_of_all_items_is_recorded_by_its_origin(open_engine: OpenEngine) -> None:
    """python-trial 17: each row repeated it. Each item still gets all of it, also when the run is loaded again."""
    text = "é" * 10_000

    @chain
    def all_with_one():
        return steps.add.map(["a", "b", "c"], b=steps.echo(text)), steps.add.map(["d"], b="x")

    async with open_engine() as engine:
        run = await engine.run(all_with_one)
        assert run.value == [[letter + text for letter in "abc"], ["dx"]]
        named = await rows(engine, run)
        for item, letter in enumerate("abc"):
            assert named[f"add[{item}]"].parameters == {
                "a": letter,
                "b": {"$from": {"$ref": {"step": "echo", "keys": []}}},
            }
        assert named["add_2[0]"].parameters == {"a": "d", "b": "x"}
        again = await engine.rerun(run.id, from_steps=["add"])
        assert again.value == run.value


async def test_an_empty_list_completes_with_an_empty_list(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        run = await engine.run(fan_out, n=0)
        assert (run["double"].value, run["double"].items, run.value) == ([], [], 0)
        assert await settled(engine, run) == {"up_to": DONE, "double": DONE, "total": DONE}


async def test_map_over_something_else_than_a_list(open_engine: OpenEngine) -> None:
    """The mapped step fails; its dependents are skipped."""

    @chain
    def over_a_number():
        return steps.total(steps.double.map(steps.number(7)))

    async with open_engine() as engine:
        run = await engine.run(over_a_number, check=False)
        assert run["double"].error is not None
        assert run["double"].error.code == "E_FOREACH_TYPE"
        assert await settled(engine, run) == {"number": DONE, "double": FAILED, "total": SKIPPED}


async def test_map_of_map(open_engine: OpenEngine) -> None:
    """A map over a map over a map keeps order and pairs items."""

    @chain
    def thrice(n: int):
        return steps.double.map(steps.double.map(steps.double.map(steps.up_to(n))))

    async with open_engine() as engine:
        run = await engine.run(thrice, n=4)
        assert run.value == [0, 8, 16, 24]
        assert await settled(engine, run) == {
            "up_to": DONE,
            **{f"double{s}{i}": DONE for s in ("", "_2", "_3") for i in ("", "[0]", "[1]", "[2]", "[3]")},
        }


async def test_paired_items_start_when_their_partner_is_recorded(open_engine: OpenEngine, folder: str) -> None:
    """`b.map(a)`: item 0 of b is done while item 1 of a still runs."""

    @chain
    def paired(folder: str):
        return steps.seen.map(steps.item_after.map([0, 1, 2], folder=folder), folder=folder)

    async with open_engine() as engine:
        handle = await engine.start(paired, folder=folder)
        await until(lambda: noted(folder, "second") == ["0"])
        assert noted(folder, "first") == ["0"]
        let_go(folder, "2")
        await until(lambda: noted(folder, "second") == ["0", "2"])
        assert noted(folder, "first") == ["0", "2"]
        let_go(folder, "1")
        run = await handle.result()
        assert run.value == [0, 1, 2]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_paired_items_skip_with_their_partner(open_engine: OpenEngine) -> None:
    """Where item i of a failed, item i of b is skipped; with `keep` the rest is the value."""

    @chain
    def paired():
        return steps.double.map(steps.boom_if_kept.map([1, 2, 3], bad=[2]))

    async with open_engine() as engine:
        run = await engine.run(paired)
        assert run.status == "partial"
        assert run["boom_if_kept"].value == [1, None, 3]
        assert run["double"].value == [2, None, 6]
        statuses = await settled(engine, run)
        assert (statuses["boom_if_kept[1]"], statuses["double[1]"]) == (FAILED, SKIPPED)
        assert (await rows(engine, run))["double[1]"].error_message == "boom_if_kept[1] failed"


async def test_kept_item_failures_end_partial(open_engine: OpenEngine) -> None:
    """`on_item_failure="keep"`: the step completes, failed places are None, the chain ends partial."""

    @chain
    def kept():
        return steps.total(steps.boom_if_kept.map([1, 2, 3, 4], bad=[2, 4]))

    async with open_engine() as engine:
        run = await engine.run(kept)
        assert (run.status, run["total"].value) == ("partial", 4)
        assert run["boom_if_kept"].error is not None
        assert run["boom_if_kept"].error.failed_items == (1, 3)
        with pytest.raises(ChainFailed):
            run.raise_for_status()
        statuses = await settled(engine, run)
        assert (statuses["boom_if_kept"], statuses["boom_if_kept[1]"], statuses["total"]) == (DONE, FAILED, DONE)


async def test_a_failed_item_fails_the_step_after_the_others_finished(open_engine: OpenEngine) -> None:
    """Without `keep` the step ends failed with `failed_items`, and the other items are done all the same."""

    @chain
    def items():
        return steps.total(steps.boom_if.map([1, 2, 3, 4], bad=[2, 3]))

    async with open_engine() as engine:
        run = await engine.run(items, check=False)
        error = run["boom_if"].error
        assert error is not None
        assert (run.status, error.failed_items) == ("failed", (1, 2))
        assert "item 2" in error.message
        assert await settled(engine, run) == {
            "boom_if": FAILED,
            "boom_if[0]": DONE,
            "boom_if[1]": FAILED,
            "boom_if[2]": FAILED,
            "boom_if[3]": DONE,
            "total": SKIPPED,
        }
        with pytest.raises(StepNotCompleted):
            _ = run["boom_if"].value
        assert run["boom_if"].items[3].value == 4
