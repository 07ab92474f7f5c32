"""The pure run state: its cost for each step does not grow with the chain."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from tests.engine.chain_model import Place
from tests.engine.test_progress import EXECUTING, step
from towpath.commands import Collect, Expand, Finish, RestoredRow, Start, StartItems, one_by_one
from towpath.model import ChainStatus, Plan, StepPlan
from towpath.progress import RunState

Shape = Callable[[int], Plan]


def line(n: int) -> Plan:
    return Plan("line", tuple(step(f"s{i}", *([f"s{i - 1}"] if i else [])) for i in range(n)))


def wide(n: int) -> Plan:
    names = [f"s{i}" for i in range(n)]
    return Plan("wide", (*map(step, names), step("join", *names)))


def mapped(n: int) -> Plan:
    return Plan("mapped", (step("list"), step("each", "list", mapped=True), step("sum", "each")))


def followed(n: int) -> Plan:
    paired = replace(step("next", over="each"), pairs_with="each")
    return Plan("followed", (step("each", mapped=True), paired, step("sum", "next")))


def diamonds(n: int) -> Plan:
    steps: list[StepPlan] = []
    for i in range(0, n, 3):
        steps += [step(f"a{i}", *([f"d{i - 3}"] if i else [])), step(f"b{i}", *([f"d{i - 3}"] if i else []))]
        steps.append(step(f"d{i}", f"a{i}", f"b{i}"))
    return Plan("diamonds", tuple(steps))


def maps_in_a_line(n: int) -> Plan:
    later = [replace(step(f"s{i}", over=f"s{i - 1}"), pairs_with=f"s{i - 1}") for i in range(1, n)]
    return Plan("maps", (step("s0", mapped=True), *later))


def joined_late(n: int) -> Plan:
    """A mapped step that follows another one and needs n more steps beside it."""
    names = [f"s{i}" for i in range(n)]
    paired = replace(step("next", *names, over="each"), pairs_with="each")
    return Plan("late", (step("each", mapped=True), *map(step, names), paired))


SHAPES: dict[str, tuple[Shape, Callable[[int], int]]] = {
    "line": (line, lambda n: 0),
    "wide": (wide, lambda n: 0),
    "mapped": (mapped, lambda n: n),
    "followed": (followed, lambda n: n),
    "diamonds": (diamonds, lambda n: 0),
    "maps_in_a_line": (maps_in_a_line, lambda n: 2),
    "joined_late": (joined_late, lambda n: 2),
}


def drive(plan: Plan, count: int, lost: frozenset[Place] = frozenset()) -> tuple[int, ChainStatus]:
    """The bare loop of a driver: number of commands, and how the chain ended."""
    state = RunState(plan)
    todo = state.begin()
    for command in todo:  # grows while it is read
        match command:
            case StartItems():
                todo += command.each()
            case Start(name, item):
                todo += state.failed(name, item) if (name, item) in lost else state.succeeded(name, item)
            case Expand(name):
                todo += state.expanded(name, count)
            case Collect(name):
                todo += state.collected(name)
    end = todo[-1]
    assert isinstance(end, Finish)
    return len(todo), end.status


def seconds_per_command(work: Callable[[], int]) -> float:
    """Best of three, without the garbage collector, whose work depends on all else in the process."""
    best = float("inf")
    for _ in range(3):
        gc.collect()
        gc.disable()
        try:
            began = time.process_time()
            commands = work()
            best = min(best, (time.process_time() - began) / commands)
        finally:
            gc.enable()
    return best


def stays_linear(small: Callable[[], int], large: Callable[[], int]) -> bool:
    """Ten times the work costs at most three times as much per command; quadratic work fails every time."""
    return any(seconds_per_command(large) < 3 * seconds_per_command(small) for _ in range(5))


@pytest.mark.parametrize("name", SHAPES)
def test_R38_cost_per_command_does_not_grow(name: str) -> None:
    shape, count = SHAPES[name]
    small, large = shape(1_000), shape(10_000)
    assert drive(large, count(10_000))[1] is ChainStatus.COMPLETED
    assert stays_linear(lambda: drive(small, count(1_000))[0], lambda: drive(large, count(10_000))[0])


@pytest.mark.parametrize("name", SHAPES)
def test_R38_a_failure_at_the_root_reaches_10_000_dependents(name: str) -> None:
    shape, count = SHAPES[name]
    root = shape(10_000).steps[0]
    lost: Place = (root.id, 0) if root.mapped else (root.id, None)
    assert drive(shape(10_000), count(10_000), frozenset([lost]))[1] is ChainStatus.FAILED


def test_R38_a_lost_item_runs_down_10_000_waiting_maps() -> None:
    """All maps of the line are open and wait for item 0 of the first when it fails: no recursion."""
    state = RunState(maps_in_a_line(10_000))
    state.begin()
    for n in range(10_000):
        state.expanded(f"s{n}", 1)
    commands = state.failed("s0", 0)
    assert len(commands) == 2 * 10_000 + 1
    assert commands[-1] == Finish(ChainStatus.FAILED)


@pytest.mark.parametrize("name", SHAPES)
def test_R38_restore_and_cancel_cost_the_same_per_step(name: str) -> None:
    shape, count = SHAPES[name]

    def restore(n: int) -> Callable[[], int]:
        plan, items = shape(n), count(n)
        rows = [RestoredRow(s.id, None, EXECUTING, count=items if s.mapped else None) for s in plan.steps]
        rows += [RestoredRow(s.id, k, EXECUTING) for s in plan.steps if s.mapped for k in range(items)]

        def again() -> int:
            state = RunState(plan)
            started = state.begin(rows)
            todo = state.cancel()
            for command in one_by_one(started):
                assert isinstance(command, Start)
                todo += state.cancelled(command.step, command.item)
            assert todo[-1] == Finish(ChainStatus.CANCELLED)
            return len(rows)

        return again

    assert stays_linear(restore(1_000), restore(10_000))
