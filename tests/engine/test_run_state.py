"""The pure run state, asked and told directly: what a driver may ask of it, and every command in its order."""

from __future__ import annotations

import pytest

from tests.engine.test_progress import EXECUTING, WAITING, plan_of, step
from towpath.commands import (
    AskApproval,
    Cancel,
    Collect,
    Command,
    Complete,
    Decide,
    Expand,
    Fail,
    Finish,
    Pause,
    Regenerate,
    RestoredRow,
    Skip,
    Start,
    StartItems,
    Wait,
)
from towpath.model import ChainStatus, GateAction, StepPlan, StepStatus
from towpath.progress import RunState

STOPPED = "the chain was stopped by a rejection"


def begun(*steps: StepPlan, rows: list[RestoredRow] | None = None) -> RunState:
    """A state that began; nothing came back yet."""
    state = RunState(plan_of(*steps))
    state.begin(rows or [])
    return state


def mapped(*items: int, gate: bool = False, keep: bool = False) -> RunState:
    """A mapped step `a` of two items; `items` are those that returned."""
    state = begun(step("a", mapped=True, gate=gate, keep=keep))
    state.expanded("a", 2)
    for item in items:
        state.succeeded("a", item)
    return state


# ---- what a driver may ask


def test_who_waits_for_a_person_is_asked_by_step_and_by_item() -> None:
    state = mapped(0, gate=True)
    assert (state.waits("a", 0), state.waits("a", 1), state.waits("a")) == (True, False, False)
    state.approved("a", 0)
    assert not state.waits("a", 0)
    plain = begun(step("a", gate=True), step("b"))
    assert not plain.waits("a")
    plain.succeeded("a")
    assert (plain.waits("a"), plain.waits("b")) == (True, False)


def test_what_is_not_of_this_run_waits_for_nobody() -> None:
    """A decision about a step of another plan, about an item of a step that has none, or that has none yet."""
    state = begun(step("b", mapped=True), step("a", gate=True))
    state.succeeded("a")
    assert not state.waits("nothing")
    assert not state.waits("nothing", 0)
    assert not state.waits("a", 0)
    assert not state.waits("b", 0)


def test_a_step_whose_inner_chain_waits_waits_too() -> None:
    state = begun(step("a", inner=True))
    state.waiting("a")
    assert state.waits("a")
    assert state.waiting_for_people == 1
    state.woken("a")
    assert not state.waits("a")
    assert state.waiting_for_people == 0


def test_how_many_wait_is_counted_one_by_one() -> None:
    state = mapped(1, 0, gate=True)
    assert state.waiting_for_people == 2
    state.rejected("a", 0, GateAction.SKIP)
    assert state.waiting_for_people == 1
    state.approved("a", 1)
    assert state.waiting_for_people == 0


def test_which_items_completed_is_told_per_item() -> None:
    state = mapped(1)
    assert (state.count("a"), state.completed_items("a"), state.completed("a")) == (2, [False, True], False)
    state.failed("a", 0)
    assert state.completed_items("a") == [False, True]


@pytest.mark.parametrize("how", ["succeeded", "failed", "cancelled"])
def test_only_a_completed_step_completed(how: str) -> None:
    state = begun(step("a"))
    assert not state.completed("a")
    if how == "cancelled":
        state.cancel()
    getattr(state, how)("a")
    assert state.completed("a") is (how == "succeeded")
    assert state.over


def test_a_run_is_over_when_its_last_step_is() -> None:
    state = begun(step("a"), step("b"))
    state.succeeded("a")
    assert not state.over
    state.succeeded("b")
    assert state.over
    assert RunState(plan_of()).over


@pytest.mark.parametrize("action", [GateAction.STOP, GateAction.SKIP, GateAction.APPROVE])
def test_only_a_regeneration_can_be_spent(action: GateAction) -> None:
    state = begun(step("a", gate=True))
    assert state.comes_to("a", None, action) is action
    assert state.comes_to("a", None, GateAction.REGENERATE) is GateAction.STOP


def test_a_step_without_a_gate_has_no_regenerations() -> None:
    assert begun(step("a")).comes_to("a", None, GateAction.REGENERATE) is GateAction.STOP


# ---- decisions are about what waits


@pytest.mark.parametrize("decide", ["approved", "rejected", "woken"])
def test_a_decision_about_what_waits_no_more_changes_nothing_quietly(decide: str) -> None:
    """Whoever tells it has made a mistake, and is told so: the step that runs, that ended, the item beside."""
    state = mapped(0, gate=True)
    with pytest.raises(AssertionError, match="does not wait"):
        getattr(state, decide)("a", 1)
    state.approved("a", 0)
    with pytest.raises(AssertionError, match="does not wait"):
        getattr(state, decide)("a", 0)
    with pytest.raises(AssertionError, match="does not wait"):
        getattr(state, decide)("a")


def test_a_rejection_by_default_stops_the_run() -> None:
    state = begun(step("a", gate=True, retries=3))
    state.succeeded("a")
    assert state.rejected("a") == [Fail("a"), Finish(ChainStatus.FAILED)]


def test_a_regenerated_item_waits_again_while_the_others_go_on() -> None:
    state = begun(step("a", mapped=True, gate=True, retries=1))
    state.expanded("a", 2)
    state.succeeded("a", 0)
    assert state.rejected("a", 0, GateAction.REGENERATE) == [Regenerate("a", 0), Start("a", 0)]
    assert not state.waits("a", 0)
    assert state.succeeded("a", 1) == [AskApproval("a", 1)]
    assert state.succeeded("a", 0) == [AskApproval("a", 0), Pause("approval")]


# ---- after a cancel or a stop


def test_after_a_cancel_what_returns_at_a_gate_is_cancelled() -> None:
    """Nobody is asked any more: a gate, an item's gate, and a gate in the chain inside."""
    state = begun(step("a", gate=True), step("b", inner=True), step("c"))
    assert state.cancel() == []
    assert state.succeeded("a") == [Cancel("a")]
    assert state.waiting("b") == [Cancel("b")]
    assert state.succeeded("c") == [Complete("c"), Finish(ChainStatus.CANCELLED)]
    items = mapped(gate=True)
    items.cancel()
    assert items.succeeded("a", 0) == [Cancel("a", 0)]
    assert items.cancelled("a", 1) == [Cancel("a", 1), Cancel("a"), Finish(ChainStatus.CANCELLED)]


@pytest.mark.parametrize("stopped", [True, False])
def test_after_a_stop_or_a_cancel_an_answer_starts_nothing(stopped: bool) -> None:
    """A condition that was being evaluated, a list that was being made, a step whose dependency returned."""
    state = begun(step("gate", gate=True), step("a", condition=True), step("b", mapped=True), step("c"), step("d", "c"))
    state.succeeded("gate")
    if stopped:
        assert state.rejected("gate") == [Fail("gate"), Skip("d", STOPPED)]
        ends: list[Command] = [Skip("a", STOPPED), Skip("b", STOPPED)]
    else:
        assert state.cancel() == [Cancel("gate"), Cancel("d")]
        ends = [Cancel("a"), Cancel("b")]
    assert state.decided("a", holds=True) == ends[:1]
    assert state.expanded("b", 2) == ends[1:]
    end = ChainStatus.FAILED if stopped else ChainStatus.CANCELLED
    assert state.succeeded("c") == [Complete("c"), Finish(end)]


def test_a_cancel_after_a_stop_cancels() -> None:
    state = begun(step("a", gate=True), step("b"))
    state.succeeded("a")
    state.rejected("a")
    assert state.cancel() == []
    assert state.cancelled("b") == [Cancel("b"), Finish(ChainStatus.CANCELLED)]


@pytest.mark.parametrize("stopped", [True, False])
def test_gates_of_items_close_and_items_that_run_finish(stopped: bool) -> None:
    state = begun(step("gate", gate=True), step("a", mapped=True, gate=True))
    state.succeeded("gate")
    state.expanded("a", 2)
    state.succeeded("a", 0)
    told = state.rejected("gate") if stopped else state.cancel()
    assert told == [Fail("gate") if stopped else Cancel("gate"), Cancel("a", 0)]
    assert state.waiting_for_people == 0
    end = ChainStatus.FAILED if stopped else ChainStatus.CANCELLED
    assert state.succeeded("a", 1) == [Cancel("a", 1), Cancel("a"), Finish(end)]


def test_items_that_wait_for_their_partner_are_dropped_without_a_row() -> None:
    state = begun(step("a", mapped=True), step("b", over="a"))
    assert state.expanded("a", 2) == [StartItems("a", 0, 2), Expand("b")]
    state.expanded("b", 2)
    assert state.succeeded("a", 0) == [Complete("a", 0), Start("b", 0)]
    assert state.cancel() == []
    assert state.cancelled("a", 1) == [Cancel("a", 1), Cancel("a")]
    assert state.cancelled("b", 0) == [Cancel("b", 0), Cancel("b"), Finish(ChainStatus.CANCELLED)]


def test_what_was_held_back_is_dropped_each_in_its_way() -> None:
    """A start, a condition, a list, and an item, none of which had begun."""
    plan = (
        step("r"),
        step("a", "r"),
        step("b", "r", condition=True),
        step("c", "r", mapped=True),
        step("m", mapped=True),
    )
    state = begun(*plan)
    state.pause()
    assert state.succeeded("r") == [Complete("r")]
    assert state.expanded("m", 2) == [Pause("requested")]
    assert state.cancel() == [
        Cancel("a"),
        Cancel("b"),
        Cancel("c"),
        Cancel("m", 0),
        Cancel("m", 1),
        Cancel("m"),
        Finish(ChainStatus.CANCELLED),
    ]


def test_a_rejection_while_pausing_skips_what_was_held_back_and_cancels_its_items() -> None:
    state = begun(step("gate", gate=True), step("r"), step("a", "r"), step("m", mapped=True))
    state.succeeded("gate")
    state.pause()
    state.succeeded("r")
    state.expanded("m", 1)
    assert state.rejected("gate") == [
        Fail("gate"),
        Skip("a", STOPPED),
        Cancel("m", 0),
        Cancel("m"),
        Finish(ChainStatus.FAILED),
    ]


def test_cancelling_twice_is_cancelling_once() -> None:
    state = begun(step("a", gate=True), step("b"))
    state.succeeded("a")
    assert state.cancel() == [Cancel("a")]
    assert state.cancel() == []
    assert state.cancelled("b") == [Cancel("b"), Finish(ChainStatus.CANCELLED)]


def test_what_a_pause_held_back_starts_once() -> None:
    state = begun(step("r"), step("a", "r"))
    state.pause()
    assert state.succeeded("r") == [Complete("r"), Pause("requested")]
    assert state.unpause() == [Start("a")]
    state.pause()
    assert state.unpause() == []
    assert state.succeeded("a") == [Complete("a"), Finish(ChainStatus.COMPLETED)]


# ---- mapped steps


def test_steps_are_looked_at_in_the_order_in_which_their_dependencies_ended() -> None:
    state = begun(step("r"), step("a", "r"), step("b", "r"), step("c", "a"), step("d", "b"))
    assert state.failed("r") == [
        Fail("r"),
        Skip("a", "r failed"),
        Skip("b", "r failed"),
        Skip("c", "a skipped"),
        Skip("d", "b skipped"),
        Finish(ChainStatus.FAILED),
    ]


def test_a_paired_step_ends_after_its_partner_and_its_other_needs() -> None:
    """It starts when the partner has its items and all else that it needs is there; then item by item."""
    state = begun(step("a", mapped=True), step("x"), step("b", "x", over="a"))
    assert state.expanded("a", 2) == [StartItems("a", 0, 2)]
    assert state.succeeded("a", 0) == [Complete("a", 0)]
    assert state.succeeded("x") == [Complete("x"), Expand("b")]
    assert state.expanded("b", 2) == [Start("b", 0)]
    assert state.succeeded("b", 0) == [Complete("b", 0)]
    assert state.failed("a", 1) == [
        Fail("a", 1),
        Fail("a", None, (1,)),
        Skip("b", "a[1] failed", 1),
        Skip("b", "a failed"),
        Finish(ChainStatus.FAILED),
    ]


def test_a_paired_step_whose_partner_was_over_before_it_could_start() -> None:
    state = begun(step("a", mapped=True, keep=True), step("x"), step("b", "x", over="a"))
    state.expanded("a", 2)
    state.failed("a", 0)
    assert state.succeeded("a", 1) == [Complete("a", 1), Collect("a", (0,))]
    assert state.collected("a") == [Complete("a")]
    assert state.succeeded("x") == [Complete("x"), Expand("b")]
    assert state.expanded("b", 2) == [Skip("b", "a[0] failed", 0), Start("b", 1)]
    assert state.succeeded("b", 1) == [Complete("b", 1), Collect("b")]
    assert state.collected("b") == [Complete("b"), Finish(ChainStatus.PARTIAL)]


def test_a_paired_step_whose_other_need_failed_is_skipped() -> None:
    state = begun(step("a", mapped=True), step("x"), step("b", "x", over="a"))
    state.expanded("a", 1)
    assert state.failed("x") == [Fail("x"), Skip("b", "x failed")]
    assert state.succeeded("a", 0) == [Complete("a", 0), Collect("a")]
    assert state.collected("a") == [Complete("a"), Finish(ChainStatus.FAILED)]


@pytest.mark.parametrize("keep", [True, False])
def test_a_failed_item_counts_before_a_cancelled_one_unless_failures_are_kept(keep: bool) -> None:
    state = mapped(keep=keep)
    state.failed("a", 0)
    state.cancel()
    end = Cancel("a") if keep else Fail("a", None, (0,))
    assert state.cancelled("a", 1) == [Cancel("a", 1), end, Finish(ChainStatus.CANCELLED)]


def test_a_kept_failure_whose_step_did_not_complete_is_not_partial() -> None:
    """Its value could not be gathered: the step failed."""
    state = mapped(1, keep=True)
    assert state.failed("a", 0) == [Fail("a", 0), Collect("a", (0,))]
    assert state.failed("a") == [Fail("a"), Finish(ChainStatus.FAILED)]


# ---- continuing


def test_a_continued_run_counts_what_was_over() -> None:
    """Items that had ended, failed or not, and steps that had ended: nothing of it is waited for."""
    rows = [
        RestoredRow("a", None, EXECUTING, count=3),
        RestoredRow("a", 2, StepStatus.FAILED),
        RestoredRow("a", 0, StepStatus.FAILED),
        RestoredRow("b", None, StepStatus.SKIPPED),
    ]
    state = RunState(
        plan_of(step("a", mapped=True, keep=True), step("b"), step("c", "b"), step("d", "b", watches=("b",)))
    )
    assert state.begin(rows) == [Start("a", 1), Skip("c", "b skipped"), Decide("d")]
    assert state.decided("d", holds=False) == [Skip("d", "condition is false")]
    assert state.succeeded("a", 1) == [Complete("a", 1), Collect("a", (0, 2))]


@pytest.mark.parametrize(
    ("status", "kept", "end"),
    [
        (StepStatus.COMPLETED, True, ChainStatus.PARTIAL),
        (StepStatus.COMPLETED, False, ChainStatus.COMPLETED),
        (StepStatus.CACHED, True, ChainStatus.PARTIAL),
        (StepStatus.SKIPPED, True, ChainStatus.COMPLETED),
    ],
)
def test_a_recorded_step_makes_the_run_partial_only_if_it_completed_without_some(
    status: StepStatus, kept: bool, end: ChainStatus
) -> None:
    rows = [RestoredRow("a", None, status, failed_items=kept, count=1), RestoredRow("a", 0, StepStatus.FAILED)]
    state = RunState(plan_of(step("a", mapped=True, keep=True)))
    assert state.begin(rows) == [Finish(end)]


def test_a_continued_stop_closes_what_still_waits_and_starts_no_item() -> None:
    """A rejection was recorded; the process that knew of it died before it dropped the rest."""
    rows = [
        RestoredRow("gate", None, StepStatus.FAILED, rejected=True),
        RestoredRow("a", None, EXECUTING, count=3),
        RestoredRow("a", 0, EXECUTING),
        RestoredRow("a", 1, WAITING, waits_for_person=True),
    ]
    state = RunState(plan_of(step("gate", gate=True), step("a", mapped=True, gate=True)))
    assert state.begin(rows) == [Start("a", 0), Cancel("a", 1)]
    assert state.waiting_for_people == 0
    assert state.succeeded("a", 0) == [Cancel("a", 0), Cancel("a"), Finish(ChainStatus.FAILED)]


def test_a_recorded_rejection_of_any_row_stops() -> None:
    """Not only of the last one that is told."""
    rows = [RestoredRow("a", None, StepStatus.FAILED, rejected=True), RestoredRow("b", None, StepStatus.COMPLETED)]
    state = RunState(plan_of(step("a", gate=True), step("b"), step("c", "b")))
    assert state.begin(rows) == [Skip("c", STOPPED), Finish(ChainStatus.FAILED)]


def test_a_step_whose_inner_chain_waited_is_started_again() -> None:
    """Only the chain inside knows whether it still waits."""
    state = RunState(plan_of(step("a", inner=True)))
    assert state.begin([RestoredRow("a", None, WAITING)]) == [Start("a")]
    assert state.waiting("a") == [Wait("a"), Pause("approval")]


def test_a_continued_item_keeps_its_own_regenerations() -> None:
    rows = [
        RestoredRow("a", None, EXECUTING, count=2),
        RestoredRow("a", 0, WAITING, waits_for_person=True, regenerations=1),
        RestoredRow("a", 1, WAITING, waits_for_person=True),
    ]
    state = begun(step("a", mapped=True, gate=True, retries=1), rows=rows)
    assert state.waiting_for_people == 2
    assert state.comes_to("a", 0, GateAction.REGENERATE) is GateAction.STOP
    assert state.comes_to("a", 1, GateAction.REGENERATE) is GateAction.REGENERATE
