"""What commands come to in facts, whatever order things happen in."""

from __future__ import annotations

import itertools
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from towpath.adapters.run_facts import RunFacts, first_error
from towpath.attempt import Outcome
from towpath.commands import Collect, Expand, Finish, Start, one_by_one
from towpath.events import ChainEnded, Fact
from towpath.graph import compile_plan
from towpath.ledger import Ledger, LedgerRow
from towpath.model import ErrorInfo, Plan, StepPlan
from towpath.progress import RunState

PLAN = compile_plan(
    Plan(
        "branches",
        (
            StepPlan("last", "python", "m:last", depends_on=("ok",)),
            StepPlan("ok", "python", "m:ok"),
            StepPlan("m", "python", "m:m", mapped=True),
            StepPlan("kept", "python", "m:kept", mapped=True, on_item_failure="keep"),
            StepPlan("z", "python", "m:z"),
            StepPlan("a", "python", "m:a"),
            StepPlan("watcher", "python", "m:w", depends_on=("a",), watches=("a",)),
        ),
    )
)
ITEMS = 3
PLACES = [
    ("m", 0),
    ("m", 1),
    ("m", 2),
    ("kept", 0),
    ("kept", 1),
    ("kept", 2),
    ("z", None),
    ("a", None),
    ("last", None),
    ("watcher", None),
]
Place = tuple[str, int | None]


def _run(failing: frozenset[Place], choose: Any) -> tuple[ErrorInfo | None, Ledger]:
    """Drive a run to its end; `choose` says which of the started rows ends next."""
    ledger = Ledger(PLAN, cast("Any", None), {})
    ids = itertools.count()
    facts_of = RunFacts(PLAN, ledger, lambda: f"{next(ids):09}")
    state, facts = RunState(PLAN), cast("list[Fact]", [])
    going: list[Place] = []
    todo = state.begin()
    while True:
        for command in one_by_one(todo):
            if isinstance(command, Start):
                facts_of.begin_attempt(
                    next(s for s in PLAN.steps if s.id == command.step),
                    LedgerRow(facts_of._new_id(), command.step, command.item),
                    facts,
                    recorded=False,
                )
                going.append((command.step, command.item))
            elif isinstance(command, Expand):
                ledger.add(LedgerRow(facts_of._new_id(), command.step, count=ITEMS))
                going.append((command.step, -1))
            elif isinstance(command, Collect):
                going.append((command.step, -2))
            else:
                facts_of.record(command, facts)
                if isinstance(command, Finish):
                    ended = facts[-1]
                    assert isinstance(ended, ChainEnded)
                    return ended.error, ledger
        step, item = going.pop(choose(len(going)))
        if item == -1:
            todo = state.expanded(step, ITEMS)
        elif item == -2:
            todo = state.collected(step)
        elif (step, item) in failing:
            facts_of.outcomes[step, item] = Outcome(error=ErrorInfo("E_X", f"{step} {item}"))
            todo = state.failed(step, item)
        else:
            todo = state.succeeded(step, item)


@given(st.frozensets(st.sampled_from(PLACES)), st.data())
def test_the_error_of_a_run_is_the_same_in_whatever_order_its_steps_end(
    failing: frozenset[Place], data: st.DataObject
) -> None:
    """Single steps, items, kept items, steps of a later level and steps that watch a failed one."""
    expected, ledger = _run(failing, lambda count: 0)
    found, _ = _run(failing, lambda count: data.draw(st.integers(0, count - 1)))
    backwards, _ = _run(failing, lambda count: count - 1)
    assert found == expected == backwards
    assert first_error(PLAN, reversed(list(ledger.rows()))) == first_error(PLAN, ledger.rows())
    failed = [p for p in PLACES if (row := ledger.row(*p)) is not None and row.status == "failed"]
    if expected is not None:
        order = [step.id for step in PLAN.steps]
        first = min(failed, key=lambda p: (order.index(p[0]), p[1] or 0))
        assert expected.message.endswith(f": {first[0]} {first[1]}")
    else:
        assert not failed


def test_rows_of_file_inputs_are_no_steps() -> None:
    """They have rows, and no place in the plan."""
    row = LedgerRow("1", "inputs", status=cast("Any", "failed"), error=ErrorInfo("E_X", "x"))
    assert first_error(PLAN, [row]) is None
