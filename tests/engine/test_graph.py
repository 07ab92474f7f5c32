"""Compiling a chain: order and levels, cycles, the critical path, pairs of maps, and the picture."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.errors import ChainInvalid, Place
from towpath.graph import compile_plan, critical_path, levels_of, mermaid
from towpath.model import ApprovalPolicy, Plan, StepPlan


def step(step_id: str, *needs: str, **more: Any) -> StepPlan:
    return StepPlan(step_id, "python", "tests:nothing", depends_on=needs, **more)


def compiled(*steps: StepPlan) -> Plan:
    return compile_plan(Plan("test", steps))


def whole(step_id: str, *keys: str) -> dict[str, Any]:
    return {"$ref": {"step": step_id, "keys": list(keys)}}


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


@st.composite
def chains(draw: st.DrawFn) -> list[StepPlan]:
    names = draw(st.permutations("abcdefghij"))[: draw(st.integers(0, 10))]
    steps = [
        step(name, *(draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else []))
        for i, name in enumerate(names)
    ]
    return draw(st.permutations(steps))


# ---- order and levels


def test_S6_2_a_level_is_the_longest_way_from_a_root() -> None:
    plan = compiled(step("end", "b", "c"), step("b", "a"), step("c"), step("a"), step("later", "end"))
    assert plan.levels == (("c", "a"), ("b",), ("end",), ("later",))
    assert [s.level for s in plan.steps] == [0, 0, 1, 2, 3]
    assert plan.step("end").depends_on == ("b", "c")


def test_steps_of_a_level_keep_the_order_in_which_they_were_written() -> None:
    assert ids(compiled(step("z"), step("m"), step("a"), step("k", "a"), step("b", "z"))) == ["z", "m", "a", "k", "b"]


def test_the_order_does_not_depend_on_hash_seeds() -> None:
    code = (
        "from towpath.graph import compile_plan; from towpath.model import Plan, StepPlan; import random\n"
        "r = random.Random(7); n = [f's{i}' for i in range(60)]\n"
        "s = [StepPlan(x, 'python', 't', depends_on=tuple(r.sample(n[:i], min(i, 3)))) for i, x in enumerate(n)]\n"
        "r.shuffle(s); print([x.id for x in compile_plan(Plan('p', tuple(s))).steps])"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(orders) == 1


@given(chains())
def test_S6_2_every_step_comes_after_its_dependencies_one_level_above_the_deepest(steps: list[StepPlan]) -> None:
    plan = compile_plan(Plan("test", tuple(steps)))
    levels = {s.id: s.level for s in plan.steps}
    assert sorted(levels) == sorted(s.id for s in steps)
    for n, made in enumerate(plan.steps):
        assert set(made.depends_on) <= set(ids(plan)[:n])
        assert made.level == max((levels[d] + 1 for d in made.depends_on), default=0)
    assert len(critical_path(plan)) == len(plan.levels)
    assert compile_plan(plan) == plan


def test_nothing_but_order_level_and_pairs_changes() -> None:
    plan = Plan("test", (step("b", "a", timeout=3.0), step("a")), description="d", concurrency=2, metadata={"x": 1})
    done = compile_plan(plan)
    assert (done.name, done.description, done.concurrency, done.metadata) == ("test", "d", 2, {"x": 1})
    assert done.step("b").timeout == 3.0
    assert compile_plan(Plan("empty", ())).steps == ()


def test_10_000_steps_compile() -> None:
    """In a line, wide, and at random; no recursion, and fast enough for a script."""
    chance = random.Random(1)
    line = [step(f"s{i}", *([f"s{i - 1}"] if i else [])) for i in range(10_000)]
    wide = [*(step(f"s{i}") for i in range(9_999)), step("join", *(f"s{i}" for i in range(9_999)))]
    mixed = [step(f"s{i}", *{f"s{chance.randrange(i)}" for _ in range(3)} if i else ()) for i in range(10_000)]
    for steps, depth in ((line, 10_000), (wide, 2), (mixed, None)):
        chance.shuffle(steps)
        began = time.process_time()
        plan = compile_plan(Plan("large", tuple(steps)))
        path = critical_path(plan)
        picture = mermaid(plan)
        assert time.process_time() - began < 10
        assert len(plan.steps) == 10_000
        assert len(path) == len(plan.levels) == (depth or len(path))
        assert picture.count("\n") == 1 + 10_000 + sum(len(s.depends_on) for s in steps)


# ---- cycles


def test_a_cycle_is_named_step_by_step() -> None:
    """`a -> b` reads: a depends on b. Steps outside the cycle are not named."""
    with pytest.raises(ChainInvalid) as caught:
        compile_plan(
            Plan("test", (step("x"), step("a", "x", "b"), step("b", "c"), step("c", "a"), step("y", "c"))),
            Place("chain.yaml", 3),
        )
    (problem,) = caught.value.problems
    assert problem.code == "E_CHAIN_CYCLE"
    assert problem.message == "steps depend on each other in a circle: a -> b -> c -> a"
    assert problem.place.file == "chain.yaml"
    assert problem.cure


def test_a_step_that_needs_itself_is_a_cycle() -> None:
    with pytest.raises(ChainInvalid, match="in a circle: a -> a"):
        compiled(step("a", "a"))


def test_levels_or_circles() -> None:
    assert levels_of({"a": (), "b": ("a",)}) == ([["a"], ["b"]], [])
    assert levels_of({"b": ("c",), "c": ("b",), "a": ()}) == ([], [["b", "c", "b"]])


def test_a_cycle_of_10_000_steps_is_found() -> None:
    _, [cycle] = levels_of({f"s{i:05}": [f"s{(i - 1) % 10_000:05}"] for i in range(10_000)})
    assert len(cycle) == 10_001
    assert cycle[0] == cycle[-1] == "s00000"


# ---- the critical path


def test_the_critical_path_is_the_longest_line() -> None:
    plan = compiled(step("a"), step("b"), step("c", "a"), step("d", "c", "b"), step("e", "b"))
    assert critical_path(plan) == ("a", "c", "d")
    assert critical_path(compiled()) == ()


@given(chains())
def test_neighbours_on_the_critical_path_depend_on_each_other(steps: list[StepPlan]) -> None:
    plan = compile_plan(Plan("test", tuple(steps)))
    path = critical_path(plan)
    assert all(before in plan.step(after).depends_on for before, after in itertools.pairwise(path))


# ---- pairs of maps


def paired(**second: Any) -> str | None:
    """Which step `b` follows item by item, `b` being a map over the whole value of the map `a`, or nearly."""
    settled = {"foreach": whole("a"), "mapped": True, "parameters": {"x": {"$item": []}}, **second}
    needs = settled.pop("needs", ("a",))
    plan = compiled(
        step("l"), step("a", "l", foreach=whole("l"), mapped=True), step("m", "a"), step("b", *needs, **settled)
    )
    assert plan.step("a").pairs_with is None, "a list made by a plain step is no pair"
    return plan.step("b").pairs_with


def test_a_map_over_the_whole_value_of_a_map_is_paired() -> None:
    assert paired() == "a"
    assert paired(needs=("l", "a"), parameters={"x": {"$item": []}, "y": whole("l")}) == "a"


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({"foreach": whole("a", "files")}, id="a part of the value"),
        pytest.param({"foreach": [1, 2]}, id="a list"),
        pytest.param({"foreach": [whole("a")]}, id="a list around the value"),
        pytest.param({"foreach": {"$ref": {"input": "a", "keys": []}}}, id="an input of the same name"),
        pytest.param({"condition": "a.status == 'completed'"}, id="a condition, evaluated once for the step"),
        pytest.param({"mapped": False}, id="no map"),
        pytest.param({"needs": ("m",)}, id="not a direct dependency"),
    ],
)
def test_other_steps_are_not_paired(second: dict[str, Any]) -> None:
    assert paired(**second) is None


@pytest.mark.parametrize(
    "everything",
    [
        whole("a"),
        whole("a", "0"),
        [1, {"deep": [whole("a")]}],
        {"$template": "{{ a.output.files }}"},
        {"$template": "{{ item }} of {{ a.status }}"},
    ],
)
def test_a_step_that_also_needs_the_whole_value_waits_for_it(everything: Any) -> None:
    """Its items would start while the value is not gathered yet."""
    assert paired(parameters={"x": {"$item": []}, "all": everything}) is None


@pytest.mark.parametrize(
    "harmless",
    [
        {"$literal": whole("a")},
        {"$template": "{{ item }} {{ l.output }} {{ inputs.a }}"},
        {"$item": ["a"]},
        {"$ref": {"input": "a", "keys": []}},
        "a",
    ],
)
def test_what_only_looks_like_the_value_does_not_matter(harmless: Any) -> None:
    assert paired(needs=("a", "l"), parameters={"x": harmless}) == "a"


def test_maps_in_a_line_are_paired_one_by_one() -> None:
    plan = compiled(
        *(step(f"s{i}", f"s{i - 1}", mapped=True, foreach=whole(f"s{i - 1}")) for i in range(1, 4)), step("s0")
    )
    assert [s.pairs_with for s in plan.steps] == [None, None, "s1", "s2"]


def test_a_stale_pair_is_taken_back() -> None:
    assert compiled(step("a"), step("b", "a", pairs_with="a")).step("b").pairs_with is None


# ---- the picture


def test_mermaid() -> None:
    """Fan-outs are stacked, gates hexagonal, conditional steps reached by dotted arrows."""
    plan = compiled(
        step("list"),
        step("each", "list", mapped=True),
        step("look", "each", approval=ApprovalPolicy()),
        step("look_each", "each", mapped=True, approval=ApprovalPolicy()),
        step("end", "look", "list", condition="look.status == 'completed'"),
    )
    assert mermaid(plan) == (
        "flowchart LR\n"
        '  s0["list"]\n'
        '  s1[["each ×n"]]\n'
        '  s2{{"look ✋"}}\n'
        '  s3{{"look_each ×n ✋"}}\n'
        '  s4["end"]\n'
        "  s0 --> s1\n"
        "  s1 --> s2\n"
        "  s1 --> s3\n"
        "  s2 -.-> s4\n"
        "  s0 -.-> s4\n"
    )
