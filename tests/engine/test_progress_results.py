"""The pure run state by example: results, fan-out, gates, pauses."""

from __future__ import annotations

import pytest

from tests.engine.chain_model import Table
from tests.engine.test_progress import (
    CANCELLED,
    COMPLETED,
    EXECUTING,
    FAILED,
    SKIPPED,
    WAITING,
    Case,
    Driver,
    first,
    last,
    plan_of,
    run,
    step,
)
from towpath.commands import (
    AskApproval,
    Cancel,
    Collect,
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
from towpath.model import ChainStatus, GateAction, StepStatus
from towpath.progress import RunState


def test_S6_3_levels_are_no_barriers() -> None:
    """The right branch's second step starts before the left branch's first has ended."""
    state = RunState(plan_of(step("left"), step("right"), step("left_2", "left"), step("right_2", "right")))
    assert state.begin() == [Start("left"), Start("right")]
    assert state.succeeded("right") == [Complete("right"), Start("right_2")]


def test_a_step_starts_when_the_last_of_its_dependencies_is_recorded() -> None:
    state = RunState(plan_of(step("a"), step("b"), step("c", "a", "b")))
    state.begin()
    assert state.succeeded("b") == [Complete("b")]
    assert state.succeeded("a") == [Complete("a"), Start("c")]
    assert state.succeeded("c") == [Complete("c"), Finish(ChainStatus.COMPLETED)]
    assert state.over


def test_an_over_run_has_nothing_more_to_say() -> None:
    state = RunState(plan_of(step("a")))
    state.begin()
    state.succeeded("a")
    assert state.cancel() == state.pause() == state.unpause() == []


# ---- "Result of a chain"


def test_S6_6_a_failed_step_skips_its_dependents_and_other_branches_finish() -> None:
    """Failed step: dependents skipped with the reason, independent branches finish, the chain ends failed."""
    plan = plan_of(step("a"), step("b", "a"), step("c", "b"), step("other"), step("other_2", "other"))
    driver = run(plan, failing=frozenset([("a", None)]))
    assert driver.log.count(Skip("b", "a failed")) == driver.log.count(Skip("c", "b skipped")) == 1
    assert driver.of("other_2") == COMPLETED
    assert driver.end is ChainStatus.FAILED


def test_S6_6_a_handled_failure_is_partial() -> None:
    """Handled: a direct dependent whose condition names its status held and which completed."""
    plan = plan_of(step("a"), step("b", "a", watches=("a",)))
    driver = run(plan, failing=frozenset([("a", None)]))
    assert driver.of("b") == COMPLETED
    assert driver.end is ChainStatus.PARTIAL


@pytest.mark.parametrize("how", ["false", "failed", "indirect", "not named"])
def test_S6_6_a_failure_not_handled_is_failed(how: str) -> None:
    """Not handled: the condition is false, the handler fails, is not a direct dependent, or names another step."""
    plan = plan_of(step("x"), step("a", "x"), step("b", "a", "x", watches=("a",)), step("c", "b", watches=("b",)))
    if how == "not named":
        plan = plan_of(step("x"), step("a", "x"), step("b", "a", "x", watches=("x",)))
    lost = {("a", None)} | ({("b", None)} if how in ("failed", "indirect") else set())
    driver = run(plan, conditions={"b": how != "false"}, failing=frozenset(lost))
    assert driver.end is ChainStatus.FAILED


def test_any_unhandled_failure_outweighs_the_handled_ones() -> None:
    """`failed` if any failed step is unhandled, else `partial` if any step failed."""
    plan = plan_of(step("a"), step("b", "a", watches=("a",)), step("c"))
    assert run(plan, failing=frozenset([("a", None), ("c", None)])).end is ChainStatus.FAILED


def test_one_handler_of_several_is_enough() -> None:
    """At least one direct dependent has to handle it; the others are skipped."""
    plan = plan_of(step("a"), step("b", "a", watches=("a",)), step("c", "a"), step("d", "a", watches=("a",)))
    driver = run(plan, conditions={"d": False}, failing=frozenset([("a", None)]))
    assert [driver.of(s) for s in "bcd"] == [COMPLETED, SKIPPED, SKIPPED]
    assert driver.end is ChainStatus.PARTIAL


def test_skips_alone_leave_a_chain_completed() -> None:
    """A false condition skips the step, its dependents are skipped, the chain completes."""
    driver = run(plan_of(step("a", condition=True), step("b", "a")), conditions={"a": False})
    assert Skip("a", "condition is false") in driver.log
    assert Skip("b", "a skipped") in driver.log
    assert driver.end is ChainStatus.COMPLETED


def test_a_condition_may_look_at_a_skipped_step() -> None:
    """Dependents of a skipped step are skipped unless their own condition looks at its status."""
    plan = plan_of(step("a", condition=True), step("b", "a", watches=("a",)))
    driver = run(plan, conditions={"a": False})
    assert driver.of("b") == COMPLETED
    assert driver.end is ChainStatus.COMPLETED


def test_a_condition_is_evaluated_once_all_direct_dependencies_are_over() -> None:
    state = RunState(plan_of(step("a"), step("b"), step("c", "a", "b", watches=("a",))))
    state.begin()
    assert state.failed("a") == [Fail("a")]
    assert state.succeeded("b") == [Complete("b"), Decide("c")]
    assert state.decided("c", holds=True) == [Start("c")]


def test_a_condition_that_does_not_name_the_lost_dependency_is_not_evaluated() -> None:
    """If a direct dependency did not complete and the condition does not name its status: skipped unevaluated."""
    driver = run(plan_of(step("a"), step("b"), step("c", "a", "b", watches=("a",))), failing=frozenset([("b", None)]))
    assert Skip("c", "b failed") in driver.log
    assert Decide("c") not in driver.log


def test_a_condition_that_cannot_be_evaluated_fails_the_step() -> None:
    """An undefined output in a condition: the step fails."""
    driver = run(plan_of(step("a"), step("b", "a", condition=True)), conditions={"b": None})
    assert driver.of("b") == FAILED
    assert driver.end is ChainStatus.FAILED


def test_a_cancelled_chain_is_cancelled_whatever_failed() -> None:
    """`cancelled` if cancelled; else `failed` …"""
    driver = Driver(Case(plan_of(step("a"), step("b"), step("c", "b")), Table(failing=frozenset([("a", None)])), {}))
    driver.begin().happen(("answer", Start("a")))
    driver.cancel()
    driver.go_on(first, lambda: True)
    assert [driver.of(s) for s in "abc"] == [FAILED, CANCELLED, CANCELLED]
    assert driver.end is ChainStatus.CANCELLED


# ---- "Fan-out"


def test_an_empty_list_completes() -> None:
    state = RunState(plan_of(step("a", mapped=True)))
    assert state.begin() == [Expand("a")]
    assert state.expanded("a", 0) == [Collect("a")]
    assert state.collected("a") == [Complete("a"), Finish(ChainStatus.COMPLETED)]


def test_one_item_per_element() -> None:
    state = RunState(plan_of(step("a", mapped=True)))
    state.begin()
    assert state.expanded("a", 2) == [StartItems("a", 0, 2)]
    assert state.succeeded("a", 1) == [Complete("a", 1)]
    assert state.succeeded("a", 0) == [Complete("a", 0), Collect("a")]
    assert (state.count("a"), state.completed_items("a")) == (2, [True, True])


def test_when_an_item_fails_the_others_finish_and_the_step_fails_naming_it() -> None:
    driver = run(plan_of(step("a", mapped=True)), counts={"a": 4}, failing=frozenset([("a", 1), ("a", 3)]))
    assert [driver.of("a", k) for k in range(4)] == [COMPLETED, FAILED, COMPLETED, FAILED]
    assert driver.log[-2:] == [Fail("a", None, (1, 3)), Finish(ChainStatus.FAILED)]


def test_failed_items_are_named_in_order_whichever_failed_first() -> None:
    driver = run(plan_of(step("a", mapped=True)), last, counts={"a": 3}, failing=frozenset([("a", 0), ("a", 2)]))
    assert Fail("a", None, (0, 2)) in driver.log


def test_kept_failures_complete_the_step_and_make_the_chain_partial() -> None:
    """With `keep` the step completes, failed places are null (the driver is told which), the chain is partial."""
    plan = plan_of(step("a", mapped=True, keep=True), step("b", "a"))
    driver = run(plan, counts={"a": 3}, failing=frozenset([("a", 1)]))
    assert Collect("a", (1,)) in driver.log
    assert (driver.of("a"), driver.of("b"), driver.end) == (COMPLETED, COMPLETED, ChainStatus.PARTIAL)


def test_kept_failures_of_a_step_taken_over_by_a_rerun_still_make_the_chain_partial() -> None:
    rows = [RestoredRow("a", None, StepStatus.CACHED, count=1, failed_items=True)]
    assert RunState(plan_of(step("a", mapped=True))).begin(rows) == [Finish(ChainStatus.PARTIAL)]


def test_item_i_starts_when_item_i_of_the_step_before_is_recorded() -> None:
    state = RunState(plan_of(step("a", mapped=True), step("b", over="a")))
    state.begin()
    assert state.expanded("a", 2) == [StartItems("a", 0, 2), Expand("b")]
    assert state.expanded("b", 2) == []
    assert state.succeeded("a", 1) == [Complete("a", 1), Start("b", 1)]


def test_a_map_over_a_map_waits_for_its_other_dependencies_only() -> None:
    """Items start as soon as the other dependency is recorded, though the map before is still at work."""
    state = RunState(plan_of(step("a", mapped=True), step("x"), step("b", "x", over="a")))
    state.begin()
    state.expanded("a", 2)
    assert state.succeeded("a", 0) == [Complete("a", 0)]
    assert state.succeeded("x") == [Complete("x"), Expand("b")]
    assert state.expanded("b", 2) == [Start("b", 0)]


def test_item_i_is_skipped_if_item_i_of_the_step_before_failed() -> None:
    plan = plan_of(step("a", mapped=True, keep=True), step("b", over="a"))
    driver = run(plan, counts={"a": 2}, failing=frozenset([("a", 0)]))
    assert Skip("b", "a[0] failed", 0) in driver.log
    assert (driver.of("b", 1), driver.of("b"), driver.end) == (COMPLETED, COMPLETED, ChainStatus.PARTIAL)


def test_a_map_over_a_failed_map_is_skipped_though_some_items_ran() -> None:
    """A dependency that did not complete skips the step, here once its started items are over."""
    plan = plan_of(step("a", mapped=True), step("b", over="a"))
    driver = run(plan, counts={"a": 2}, failing=frozenset([("a", 0)]))
    assert (driver.of("b", 1), driver.of("b")) == (COMPLETED, SKIPPED)
    assert Skip("b", "a failed") in driver.log


def test_a_list_that_cannot_be_had_fails_the_step() -> None:
    driver = run(plan_of(step("a", mapped=True), step("b", over="a")), counts={"a": None})
    assert (driver.of("a"), driver.of("b")) == (FAILED, SKIPPED)


def test_a_gate_on_a_mapped_step_asks_per_item_and_waits_for_all() -> None:
    """One approval per item; the step waits until all are decided."""
    state = RunState(plan_of(step("a", mapped=True, gate=True)))
    state.begin()
    state.expanded("a", 2)
    assert state.succeeded("a", 0) == [AskApproval("a", 0)]
    assert state.succeeded("a", 1) == [AskApproval("a", 1), Pause("approval")]
    assert state.waiting_for_people == 2
    assert state.approved("a", 1) == [Complete("a", 1), Pause("approval")]
    assert state.approved("a", 0) == [Complete("a", 0), Collect("a")]


# ---- "Gates"


def test_an_approved_step_is_completed_and_only_then_its_dependents_start() -> None:
    state = RunState(plan_of(step("a", gate=True), step("b", "a")))
    state.begin()
    assert state.succeeded("a") == [AskApproval("a"), Pause("approval")]
    assert state.approved("a") == [Complete("a"), Start("b")]


def test_a_step_that_fails_asks_nobody() -> None:
    state = RunState(plan_of(step("a", gate=True)))
    state.begin()
    assert state.failed("a") == [Fail("a"), Finish(ChainStatus.FAILED)]


def test_the_chain_is_paused_only_when_nothing_else_can_run() -> None:
    state = RunState(plan_of(step("a", gate=True), step("b")))
    state.begin()
    assert state.succeeded("a") == [AskApproval("a")]
    assert state.succeeded("b") == [Complete("b"), Pause("approval")]


def test_reject_stop_starts_nothing_new_lets_running_steps_finish_and_fails_the_chain() -> None:
    plan = plan_of(
        step("a", gate=True), step("b"), step("c", "b"), step("d", gate=True), step("e", "a", watches=("a",))
    )
    state = RunState(plan)
    state.begin()
    state.succeeded("a")
    state.succeeded("d")
    stopped = "the chain was stopped by a rejection"
    assert state.rejected("a") == [Fail("a"), Cancel("d"), Skip("c", stopped), Skip("e", stopped)]
    assert state.waiting_for_people == 0
    assert state.succeeded("b") == [Complete("b"), Finish(ChainStatus.FAILED)]


def test_work_that_ends_after_a_stop_is_not_asked_about_and_not_completed() -> None:
    state = RunState(plan_of(step("a", gate=True), step("b", gate=True), step("c", inner=True)))
    state.begin()
    state.succeeded("a")
    state.rejected("a")
    assert state.succeeded("b") == [Cancel("b")]
    assert state.waiting("c") == [Cancel("c"), Finish(ChainStatus.FAILED)]


def test_a_rejected_item_stops_the_chain_even_where_failures_are_kept() -> None:
    plan = plan_of(step("a", mapped=True, gate=True, keep=True))
    driver = run(plan, counts={"a": 1}, rejected=frozenset([("a", 0)]))
    assert (driver.of("a", 0), driver.end) == (FAILED, ChainStatus.FAILED)


def test_a_stop_outlives_the_process() -> None:
    """Another process that continues the run starts nothing either, and the chain ends failed."""
    rows = [RestoredRow("a", None, StepStatus.FAILED, rejected=True), RestoredRow("b", None, EXECUTING)]
    state = RunState(plan_of(step("a", gate=True), step("b"), step("c", "b", "a", watches=("a",))))
    assert state.begin(rows) == [Start("b"), Skip("c", "the chain was stopped by a rejection")]
    assert state.succeeded("b") == [Complete("b"), Finish(ChainStatus.FAILED)]


def test_cancel_closes_gates() -> None:
    """Cancel: the row that waits ends cancelled."""
    state = RunState(plan_of(step("a", gate=True), step("b", "a")))
    state.begin()
    state.succeeded("a")
    assert state.cancel() == [Cancel("a"), Cancel("b"), Finish(ChainStatus.CANCELLED)]


def test_a_step_waits_while_the_chain_inside_it_waits() -> None:
    """A chain inside a step that waits: its row waits too, and it goes on after the decision inside."""
    state = RunState(plan_of(step("a", inner=True)))
    state.begin()
    assert state.waiting("a") == [Wait("a"), Pause("approval")]
    assert state.woken("a") == [Start("a")]
    assert state.succeeded("a") == [Complete("a"), Finish(ChainStatus.COMPLETED)]


def test_a_chain_inside_that_starts_to_wait_after_a_cancel_is_cancelled() -> None:
    state = RunState(plan_of(step("a", inner=True)))
    state.begin()
    assert state.cancel() == []
    assert state.waiting("a") == [Cancel("a"), Finish(ChainStatus.CANCELLED)]


# ---- pause, and continuing


def test_pause_holds_back_what_would_start_until_unpause() -> None:
    state = RunState(plan_of(step("a"), step("b", "a"), step("c", "a", condition=True)))
    state.begin()
    assert state.pause() == []
    assert state.succeeded("a") == [Complete("a"), Pause("requested")]
    assert state.unpause() == [Start("b"), Decide("c")]


def test_what_was_held_back_is_cancelled_without_having_started() -> None:
    state = RunState(plan_of(step("a", mapped=True), step("b")))
    state.begin()
    state.pause()
    state.succeeded("b")
    assert state.expanded("a", 1) == [Pause("requested")]
    assert state.cancel() == [Cancel("a", 0), Cancel("a"), Finish(ChainStatus.CANCELLED)]


def test_a_resumed_run_goes_on_from_its_rows() -> None:
    """Completed steps are not run again, unfinished ones are, gates still wait, missing items start.

    The order of the rows does not matter.
    """
    plan = plan_of(step("a"), step("b"), step("c", gate=True), step("d", "a", mapped=True), step("e", "a", "b"))
    rows = [
        RestoredRow("inputs", None, StepStatus.COMPLETED),
        RestoredRow("a", None, StepStatus.COMPLETED),
        RestoredRow("b", None, StepStatus.QUEUED),
        RestoredRow("c", None, WAITING, waits_for_person=True),
        RestoredRow("d", None, EXECUTING, count=3),
        RestoredRow("d", 0, StepStatus.COMPLETED),
        RestoredRow("d", 1, EXECUTING),
        RestoredRow("d", 2, EXECUTING),
    ]
    assert RunState(plan).begin(rows) == RunState(plan).begin(reversed(rows))
    state = RunState(plan)
    assert state.begin(rows[:-1]) == [Start("b"), Start("d", 1), Start("d", 2)]
    assert state.waiting_for_people == 1


def test_items_that_a_cancel_dropped_are_not_waited_for() -> None:
    """Items without a row in a mapped step that is over were never started, and never will be."""
    rows = [
        RestoredRow("a", None, StepStatus.CANCELLED, count=2),
        RestoredRow("a", 0, StepStatus.COMPLETED),
        RestoredRow("b", None, EXECUTING, count=2),
        RestoredRow("b", 0, EXECUTING),
    ]
    state = RunState(plan_of(step("a", mapped=True), step("b", over="a")))
    assert state.begin(rows) == [Start("b", 0), Skip("b", "a[1] cancelled", 1)]
    assert state.cancel() == []
    assert state.cancelled("b", 0) == [Cancel("b", 0), Cancel("b"), Finish(ChainStatus.CANCELLED)]


def test_a_mapped_step_whose_items_are_all_over_is_gathered_again() -> None:
    rows = [RestoredRow("a", None, EXECUTING, count=1), RestoredRow("a", 0, StepStatus.FAILED)]
    state = RunState(plan_of(step("a", mapped=True, keep=True)))
    assert state.begin(rows) == [Collect("a", (0,))]
    assert state.collected("a") == [Complete("a"), Finish(ChainStatus.PARTIAL)]


def test_a_decision_about_what_does_not_wait_is_a_mistake_of_the_driver() -> None:
    state = RunState(plan_of(step("a", gate=True)))
    state.begin()
    with pytest.raises(AssertionError, match="a does not wait"):
        state.approved("a")


# ---- H4: answers at a gate


def at_gate(retries: int = 0) -> RunState:
    """A step that waits, one that needs it, and one that looks at its status."""
    state = RunState(plan_of(step("a", gate=True, retries=retries), step("b", "a"), step("c", "a", watches=("a",))))
    state.begin()
    state.succeeded("a")
    return state


def test_H4_skip_skips_the_step_and_what_needs_it_and_the_chain_goes_on() -> None:
    state = at_gate()
    assert state.rejected("a", None, GateAction.SKIP) == [Skip("a", "rejected"), Skip("b", "a skipped"), Decide("c")]
    assert state.decided("c", holds=True) == [Start("c")]
    assert state.succeeded("c") == [Complete("c"), Finish(ChainStatus.COMPLETED)]


def test_H4_regenerate_runs_the_step_again_and_asks_again() -> None:
    state = at_gate(retries=1)
    assert state.rejected("a", None, GateAction.REGENERATE) == [Regenerate("a"), Start("a")]
    assert state.succeeded("a") == [AskApproval("a"), Pause("approval")]
    assert state.approved("a") == [Complete("a"), Start("b"), Decide("c")]


@pytest.mark.parametrize("spent", [0, 2])
def test_H4_when_max_retries_are_spent_regenerate_acts_as_stop(spent: int) -> None:
    """Counted here, or told by a store: a run continued elsewhere has no more regenerations than it had."""
    plan = plan_of(step("a", gate=True, retries=2), step("b", "a"))
    rows = [RestoredRow("a", None, WAITING, waits_for_person=True, regenerations=spent)]
    state = RunState(plan)
    state.begin(rows)
    for _ in range(2 - spent):
        assert state.comes_to("a", None, GateAction.REGENERATE) is GateAction.REGENERATE
        assert state.rejected("a", None, GateAction.REGENERATE) == [Regenerate("a"), Start("a")]
        state.succeeded("a")
    assert state.comes_to("a", None, GateAction.REGENERATE) is GateAction.STOP
    stopped = Skip("b", "the chain was stopped by a rejection")
    assert state.rejected("a", None, GateAction.REGENERATE) == [Fail("a"), stopped, Finish(ChainStatus.FAILED)]


def test_H4_a_skipped_item_leaves_its_place_empty_and_the_step_completes() -> None:
    """The item that follows it is skipped too; a chain with skips alone is completed."""
    plan = plan_of(step("a", mapped=True, gate=True), step("b", over="a"))
    driver = run(plan, counts={"a": 2}, answers={("a", 0): ("skip",)})
    assert [driver.of("a", 0), driver.of("a", 1), driver.of("b", 0), driver.of("b", 1)] == [
        SKIPPED,
        COMPLETED,
        SKIPPED,
        COMPLETED,
    ]
    assert (driver.of("a"), driver.of("b"), driver.end) == (COMPLETED, COMPLETED, ChainStatus.COMPLETED)


def test_H4_items_have_their_own_regenerations() -> None:
    """One item of two spends its only one; the other still has its own."""
    plan = plan_of(step("a", mapped=True, gate=True, retries=1))
    once = {("a", 0): ("regenerate",), ("a", 1): ("regenerate",)}
    assert run(plan, counts={"a": 2}, answers=once).end is ChainStatus.COMPLETED
    twice = {("a", 0): ("regenerate", "regenerate"), ("a", 1): ("regenerate",)}
    assert run(plan, counts={"a": 2}, answers=twice).end is ChainStatus.FAILED


def test_H3_a_regeneration_that_was_broken_off_is_started_again() -> None:
    """Its row is executing; that it was made again before is known from the store."""
    state = RunState(plan_of(step("a", gate=True, retries=1)))
    assert state.begin([RestoredRow("a", None, EXECUTING, regenerations=1)]) == [Start("a")]
    state.succeeded("a")
    assert state.rejected("a", None, GateAction.REGENERATE) == [Fail("a"), Finish(ChainStatus.FAILED)]


def test_a_regeneration_asked_for_while_pausing_waits_for_unpause() -> None:
    state = at_gate(retries=1)
    state.pause()
    assert state.rejected("a", None, GateAction.REGENERATE) == [Regenerate("a"), Pause("requested")]
    assert state.unpause() == [Start("a")]
