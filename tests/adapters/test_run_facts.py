"""What commands of the pure state come to in rows and facts, without a store or an engine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, cast

import pytest

from towpath.adapters.run_facts import RunFacts, asks, first_error, inner_failure, restored
from towpath.attempt import Outcome
from towpath.commands import AskApproval, Cancel, Collect, Complete, Fail, Finish, Pause, Skip, Start, Wait
from towpath.events import (
    ChainEnded,
    ChainPaused,
    DecisionApplied,
    Fact,
    LevelReached,
    NewApproval,
    NewArtifact,
    StepDropped,
    StepEnded,
    StepReady,
    StepStarted,
)
from towpath.ledger import Ledger, LedgerRow
from towpath.model import ApprovalPolicy, ChainStatus, ErrorInfo, Plan, StepPlan, StepStatus
from towpath.ports import Files, Request, StepRow

S = StepStatus
POLICY = ApprovalPolicy(on_rejected="regenerate", max_retries=2)
OVER = {"$ref": {"step": "a", "keys": []}}
PLAN = Plan(
    "demo",
    (
        StepPlan("a", "python", "m:a"),
        StepPlan("b", "python", "m:b", parameters={"x": 1, "y": 2}, depends_on=("a",), approval=POLICY, level=1),
        StepPlan("c", "python", "m:c", depends_on=("a",), level=1, condition="{{ a.status == 'completed' }}"),
        StepPlan("each", "python", "m:each", depends_on=("a",), foreach=OVER, mapped=True, level=1),
        StepPlan("last", "python", "m:last", parameters={"x": OVER}, depends_on=("b",), level=2),
    ),
)
ROW = {"a": "row a", "b": "row b", "last": "row last"}


class Run:
    """The facts of one run, as a driver has them made."""

    def __init__(self, plan: Plan = PLAN, **more: Any) -> None:
        ids = (f"new {n}" for n in count(1))
        self.ledger = Ledger(plan, cast("Files", None), {})
        self.facts = RunFacts(plan, self.ledger, lambda: next(ids), **more)
        self.plan = plan

    def row(self, step: str, item: int | None = None, status: StepStatus = S.EXECUTING, **more: Any) -> LedgerRow:
        """A row that is there already."""
        where = step if item is None else f"{step}[{item}]"
        return self.ledger.add(LedgerRow(f"row {where}", step, item, status, 1, **more))

    def told(self, command: Any) -> list[Fact]:
        made: list[Fact] = []
        self.facts.record(command, made)
        return made

    def begun(self, step: str, row: LedgerRow, *, recorded: bool) -> list[Fact]:
        made: list[Fact] = []
        self.facts.begin_attempt(self.plan.step(step), row, made, recorded=recorded)
        return made


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run()
    yield run
    assert not run.facts.decisions, "a decision was left over: it would be told of the next thing"
    assert not run.facts.outcomes, "an outcome was left over: it would be told of the next thing"


def artifact(name: str = "p", version: int = 1) -> NewArtifact:
    return NewArtifact("file 1", name, version, "p.png", "image/png", 3, "f" * 64)


def request(action: str = "stop", decision: str = "rejected", **more: Any) -> Request:
    return Request("run", "decision", "b", approval="gate 1", decision=decision, action=action, **more)


def error(message: str = "no", code: str = "E_STEP_RAISED") -> ErrorInfo:
    return ErrorInfo(code, message, "ValueError", "a long traceback")


# ---- what each command comes to


def test_a_completed_step_is_told_with_its_value_and_its_files(run: Run) -> None:
    row = run.row("a", parameters={"n": 1})
    run.facts.outcomes["a", None] = Outcome([1, 2], (artifact(),))
    assert run.told(Complete("a")) == [
        StepEnded("row a", "a", None, S.COMPLETED, 1, [1, 2], (artifact(),), parameters={"n": 1})
    ]
    assert (row.status, row.value, row.approval, row.error) == (S.COMPLETED, [1, 2], None, None)
    assert [a.approval_status for a in row.artifacts.values()] == ["auto_approved"]


def test_parameters_are_told_again_only_for_files(run: Run) -> None:
    """A row has them already; a version needs its own."""
    run.row("a", parameters={"n": 1})
    run.facts.outcomes["a", None] = Outcome(3)
    assert run.told(Complete("a")) == [StepEnded("row a", "a", None, S.COMPLETED, 1, 3)]


def test_a_step_that_ends_without_an_outcome_of_its_own_keeps_its_value(run: Run) -> None:
    """A gate inside that was approved, or a continued run: the value was recorded before."""
    row = run.row("a", value={"kept": True})
    assert run.told(Complete("a")) == [StepEnded("row a", "a", None, S.COMPLETED, 1, {"kept": True})]
    assert row.value == {"kept": True}


def test_a_gate_is_asked_about_what_was_made(run: Run) -> None:
    row = run.row("b")
    run.facts.outcomes["b", None] = Outcome("v", (artifact(),))
    (told,) = run.told(AskApproval("b"))
    assert told == StepEnded(
        "row b", "b", None, S.WAITING_APPROVAL, 1, "v", (artifact(),), NewApproval("new 1", POLICY)
    )
    assert (row.status, row.approval) == (S.WAITING_APPROVAL, "new 1")
    assert [a.approval_status for a in row.artifacts.values()] == ["pending"]


def test_a_step_whose_inner_chain_waits_asks_nobody_itself(run: Run) -> None:
    """`Wait` is no gate: the gate is in the chain inside."""
    row = run.row("b")
    assert run.told(Wait("b")) == [StepEnded("row b", "b", None, S.WAITING_APPROVAL, 1)]
    assert (row.status, row.approval) == (S.WAITING_APPROVAL, None)


def test_a_gate_that_is_over_is_forgotten_when_the_row_ends(run: Run) -> None:
    row = run.row("b", approval="gate 0")
    run.told(Complete("b"))
    assert row.approval is None


def test_a_step_that_asks_for_no_approval_has_no_gate_whoever_asks(run: Run) -> None:
    """Only the plan says who is asked."""
    run.row("a")
    (told,) = run.told(AskApproval("a"))
    assert isinstance(told, StepEnded)
    assert told.approval is None


def test_a_failed_step_is_told_and_is_the_error_of_the_run(run: Run) -> None:
    row = run.row("a")
    run.facts.outcomes["a", None] = Outcome(error=error())
    assert run.told(Fail("a")) == [StepEnded("row a", "a", None, S.FAILED, 1, error=error())]
    assert (row.status, row.error) == (S.FAILED, error())
    assert run.facts.error == ErrorInfo("E_STEP_RAISED", "step a: no", "ValueError")


def test_a_failure_that_says_nothing_names_no_error(run: Run) -> None:
    """The next one that does is the error of the run."""
    run.row("a")
    assert run.told(Fail("a")) == [StepEnded("row a", "a", None, S.FAILED, 1)]
    assert run.facts.error is None
    run.row("last")
    run.facts.outcomes["last", None] = Outcome(error=error())
    run.told(Fail("last"))
    assert run.facts.error is not None


def test_a_failed_item_is_named_with_its_number(run: Run) -> None:
    run.row("each", 0)
    run.facts.outcomes["each", 0] = Outcome(error=error())
    run.told(Fail("each", 0))
    assert run.facts.error == ErrorInfo("E_STEP_RAISED", "step each[0]: no", "ValueError")


def test_a_step_that_fails_before_it_started_gets_a_row_that_never_ran(run: Run) -> None:
    """Its condition or its list could not be had."""
    run.facts.outcomes["each", None] = Outcome(error=error())
    assert run.told(Fail("each")) == [
        StepReady("new 1", "each", None, "m:each", started=False, attempt=0),
        StepEnded("new 1", "each", None, S.FAILED, 0, error=error()),
    ]
    row = run.ledger.row("each")
    assert row is not None
    assert (row.id, row.status) == ("new 1", S.FAILED)


def test_a_mapped_step_fails_with_the_cause_of_its_first_failed_item(run: Run) -> None:
    run.row("each", count=5)
    run.row("each", 1, S.FAILED, error=error("first", "E_ONE"))
    run.row("each", 3, S.FAILED, error=error("later", "E_THREE"))
    told = run.told(Fail("each", None, (1, 3)))
    message = "2 of 5 items failed, first each[1]: first"
    assert told == [
        StepEnded("row each", "each", None, S.FAILED, 1, error=ErrorInfo("E_ONE", message, failed_items=(1, 3)))
    ]
    assert run.facts.error == ErrorInfo("E_ONE", "step each[1]: first", "ValueError")


@pytest.mark.parametrize("known", [False, True])
def test_a_mapped_step_fails_though_the_cause_of_its_items_is_not_known(run: Run, known: bool) -> None:
    """An item without an error, and an item without a row."""
    run.row("each", count=2)
    if known:
        run.row("each", 1, S.FAILED)
    (told,) = run.told(Fail("each", None, (1,)))
    assert isinstance(told, StepEnded)
    assert told.error == ErrorInfo("E_ITEMS_FAILED", "1 of 2 items failed, first each[1]", failed_items=(1,))


def test_a_mapped_step_that_fails_by_itself_keeps_its_own_cause(run: Run) -> None:
    """No item failed: its value could not be gathered."""
    run.row("each", count=2)
    run.facts.outcomes["each", None] = Outcome(error=error("too large"))
    (told,) = run.told(Fail("each"))
    assert isinstance(told, StepEnded)
    assert told.error == error("too large")


def test_the_first_of_two_failures_told_one_after_the_other_is_the_error_of_the_run(run: Run) -> None:
    for step in ("a", "last"):
        run.row(step)
        run.facts.outcomes[step, None] = Outcome(error=error(f"{step} broke"))
        run.told(Fail(step))
    assert run.facts.error is not None
    assert run.facts.error.message == "step a: a broke"


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [(Skip("a", "b failed"), S.SKIPPED, "b failed"), (Cancel("a"), S.CANCELLED, "")],
)
def test_a_step_that_never_started_comes_to_be_with_its_end(
    run: Run, command: Any, status: StepStatus, reason: str
) -> None:
    assert run.told(command) == [StepDropped("new 1", "a", None, "m:a", status, reason)]
    row = run.ledger.row("a")
    assert row is not None
    assert (row.id, row.status) == ("new 1", status)


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [(Skip("a", "b failed"), S.SKIPPED, "b failed"), (Cancel("a"), S.CANCELLED, "")],
)
def test_a_step_that_had_begun_ends_in_the_row_that_it_has(
    run: Run, command: Any, status: StepStatus, reason: str
) -> None:
    row = run.row("a")
    assert run.told(command) == [StepEnded("row a", "a", None, status, 1, reason=reason)]
    assert row.status == status


def test_a_dropped_item_says_which(run: Run) -> None:
    assert run.told(Skip("each", "a[2] failed", 2)) == [
        StepDropped("new 1", "each", 2, "m:each", S.SKIPPED, "a[2] failed")
    ]
    assert run.told(Cancel("each", 3)) == [StepDropped("new 2", "each", 3, "m:each", S.CANCELLED, "")]


def test_a_pause_says_why(run: Run) -> None:
    assert run.told(Pause("requested")) == [ChainPaused("requested")]


@pytest.mark.parametrize("status", [ChainStatus.FAILED, ChainStatus.PARTIAL, ChainStatus.CANCELLED])
def test_the_end_of_a_run_names_its_first_cause(run: Run, status: ChainStatus) -> None:
    run.row("a", status=S.FAILED, error=error("broke"))
    assert run.told(Finish(status)) == [ChainEnded(status, ErrorInfo("E_STEP_RAISED", "step a: broke", "ValueError"))]


def test_a_completed_run_has_no_error(run: Run) -> None:
    """A failure that was looked at by nobody's condition is told in its step, not as the run's."""
    run.row("a", status=S.FAILED, error=error())
    assert run.told(Finish(ChainStatus.COMPLETED)) == [ChainEnded(ChainStatus.COMPLETED, None)]


@pytest.mark.parametrize("command", [Start("a"), Collect("a")])
def test_what_owes_an_answer_is_not_recorded(run: Run, command: Any) -> None:
    with pytest.raises(AssertionError, match="needs an answer"):
        run.told(command)


# ---- what a kept failure leaves behind


def test_kept_failures_are_noted_in_the_completed_step(run: Run) -> None:
    row = run.row("each", count=3)
    run.facts.keep_failed_items(row, (0, 2))
    noted = ErrorInfo("E_ITEMS_KEPT", "2 of 3 items failed", failed_items=(0, 2))
    assert run.told(Complete("each")) == [StepEnded("row each", "each", None, S.COMPLETED, 1, error=noted)]


def test_no_failed_item_leaves_no_note(run: Run) -> None:
    row = run.row("each", count=3)
    run.facts.keep_failed_items(row, ())
    assert row.error is None


@pytest.mark.parametrize("command", [Cancel("each"), Wait("each")])
def test_an_error_of_before_stays_only_with_a_completed_step(run: Run, command: Any) -> None:
    row = run.row("each", error=error())
    (told,) = run.told(command)
    assert isinstance(told, StepEnded)
    assert (told.error, row.error) == (None, None)


def test_an_outcomes_error_replaces_the_one_of_before(run: Run) -> None:
    run.row("a", error=error("old"))
    run.facts.outcomes["a", None] = Outcome(error=error("new"))
    (told,) = run.told(Fail("a"))
    assert isinstance(told, StepEnded)
    assert told.error == error("new")


# ---- beginning


def test_a_first_attempt_makes_the_row(run: Run) -> None:
    row = LedgerRow("r", "a", parameters={"n": 1})
    assert run.begun("a", row, recorded=False) == [
        LevelReached(0),
        StepReady("r", "a", None, "m:a", started=True, attempt=1, parameters={"n": 1}),
    ]
    assert run.ledger.row("a") is row
    assert (row.status, row.attempt) == (S.EXECUTING, 1)


def test_a_later_attempt_changes_the_row_that_the_store_has(run: Run) -> None:
    row = run.row("b", status=S.WAITING_APPROVAL, value_stored=True, parameters={"n": 1})
    assert run.begun("b", row, recorded=True) == [LevelReached(1), StepStarted("row b", "b", None, 2, {"n": 1})]
    assert (row.status, row.attempt, row.value_stored) == (S.EXECUTING, 2, False)


def test_a_level_is_told_once_and_never_turned_back(run: Run) -> None:
    """Another step of the level, a step of a level before, and the next attempt of the same step say nothing."""
    row = run.row("last")
    steps = ["b", "b", "c", "a", "last", "b"]
    told = [fact for step in steps for fact in run.begun(step, row, recorded=True) if isinstance(fact, LevelReached)]
    assert told == [LevelReached(1), LevelReached(2)]


@pytest.mark.parametrize(("level", "told"), [(-1, [0, 1]), (0, [1]), (1, [])])
def test_a_continued_run_tells_no_level_that_it_had_reached(level: int, told: list[int]) -> None:
    run = Run(level=level)
    facts = [fact for step in ("a", "b") for fact in run.begun(step, run.row(step), recorded=True)]
    assert [fact.level for fact in facts if isinstance(fact, LevelReached)] == told


def test_a_new_run_reaches_level_0() -> None:
    """-1 is where a run is before its first step."""
    run = Run()
    assert LevelReached(0) in run.begun("a", run.row("a"), recorded=True)


def test_a_mapped_step_has_as_many_items_as_its_list(run: Run) -> None:
    run.row("a", status=S.COMPLETED, value=["x", "y", "z"])
    made: list[Fact] = []
    assert run.facts.expand(run.plan.step("each"), None, made) == 3
    assert made == [LevelReached(1), StepReady("new 1", "each", None, "m:each", started=True, attempt=1, count=3)]
    row = run.ledger.row("each")
    assert row is not None
    assert (row.id, row.status, row.attempt, row.count) == ("new 1", S.EXECUTING, 1, 3)


@pytest.mark.parametrize("pairs", [0, 2])
def test_a_paired_step_has_as_many_items_as_its_partner(run: Run, pairs: int) -> None:
    """None at all is a number too: its own list is not asked, which would not be there."""
    made: list[Fact] = []
    assert run.facts.expand(run.plan.step("each"), pairs, made) == pairs
    assert made[-1] == StepReady("new 1", "each", None, "m:each", started=True, attempt=1, count=pairs)


def test_a_list_that_is_none_leaves_no_row_and_says_why(run: Run) -> None:
    run.row("a", status=S.COMPLETED, value="no list")
    made: list[Fact] = []
    assert run.facts.expand(run.plan.step("each"), None, made) is None
    assert made == []
    assert run.ledger.row("each") is None
    outcome = run.facts.outcomes.pop(("each", None))
    assert outcome.error is not None
    assert outcome.error.code == "E_FOREACH_TYPE"


@pytest.mark.parametrize(("status", "holds"), [(S.COMPLETED, True), (S.FAILED, False)])
def test_a_condition_holds_or_not(run: Run, status: StepStatus, holds: bool) -> None:
    run.row("a", status=status)
    assert run.facts.holds(run.plan.step("c")) is holds


def test_a_condition_that_cannot_be_told_says_why() -> None:
    plan = Plan("demo", (StepPlan("a", "python", "m:a"), StepPlan("c", "python", "m:c", condition="{{ a.output.x }}")))
    run = Run(plan)
    assert run.facts.holds(plan.step("c")) is None
    outcome = run.facts.outcomes["c", None]
    assert outcome.error is not None
    assert outcome.error.code.startswith("E_TEMPLATE")


def test_a_step_is_called_as_the_plan_says_and_as_rejections_changed_it(run: Run) -> None:
    step = run.plan.step("b")
    assert run.facts.call_with(step, None) == {"x": 1, "y": 2}
    run.row("b", overrides={"y": 7, "z": 8})
    assert run.facts.call_with(step, None) == {"x": 1, "y": 7, "z": 8}


def test_arguments_that_cannot_be_had_are_an_outcome_of_the_step(run: Run) -> None:
    assert run.facts.call_with(run.plan.step("last"), None) is None
    outcome = run.facts.outcomes.pop(("last", None))
    assert outcome.error is not None
    assert outcome.error.code == "E_TEMPLATE_UNDEFINED"


# ---- decisions


def test_an_approved_row_is_told_as_a_decision_with_all_that_it_made(run: Run) -> None:
    """The value is recorded since the gate was asked, so it is not told again."""
    row = run.row("b", status=S.WAITING_APPROVAL, value="v", approval="gate 1")
    run.facts.decisions["b", None] = request("approve", "approved", by="anna", reason="fine")
    assert run.told(Complete("b")) == [DecisionApplied("row b", "b", None, "gate 1", S.COMPLETED)]
    assert (row.status, row.error, row.value) == (S.COMPLETED, None, "v")


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (request(by="anna", reason="blurred"), "rejected by anna: blurred"),
        (request(by="anna"), "rejected by anna"),
        (request(reason="blurred"), "rejected: blurred"),
        (request(), "rejected"),
        (request(decision="timed_out", reason="blurred"), "rejected because there was no decision in time"),
    ],
    ids=["who and why", "who", "why", "nobody", "time"],
)
def test_a_rejection_says_who_and_why(run: Run, decision: Request, message: str) -> None:
    """As the error of a failed row and of its run, or as the reason of a skipped one."""
    row = run.row("b", status=S.WAITING_APPROVAL, approval="gate 1")
    run.facts.decisions["b", None] = decision
    rejected = ErrorInfo("E_REJECTED", message)
    assert run.told(Fail("b")) == [DecisionApplied("row b", "b", None, "gate 1", S.FAILED, rejected)]
    assert (row.status, row.error) == (S.FAILED, rejected)
    assert run.facts.error == ErrorInfo("E_REJECTED", f"step b: {message}")
    other = Run()
    row = other.row("b", status=S.WAITING_APPROVAL, error=error())
    other.facts.decisions["b", None] = decision
    assert other.told(Skip("b", "rejected")) == [
        DecisionApplied("row b", "b", None, "gate 1", S.SKIPPED, None, message)
    ]
    assert (row.status, row.error) == (S.SKIPPED, None)


def test_a_decision_about_one_item_is_not_told_of_another(run: Run) -> None:
    for item in (0, 1):
        run.row("each", item, S.WAITING_APPROVAL)
    run.facts.decisions["each", 1] = request("approve", "approved")
    assert run.told(Complete("each", 0)) == [StepEnded("row each[0]", "each", 0, S.COMPLETED, 1)]
    assert run.told(Complete("each", 1)) == [DecisionApplied("row each[1]", "each", 1, "gate 1", S.COMPLETED)]


def test_a_regeneration_sends_the_row_back_with_what_it_changed(run: Run) -> None:
    row = run.row("b", status=S.WAITING_APPROVAL, error=error(), prompt="p", overrides={"x": 3, "y": 4})
    run.facts.decisions["b", None] = request("regenerate", parameters={"y": 5})
    made: list[Fact] = []
    assert run.facts.regenerate("b", None, made) is row
    assert made == [DecisionApplied("row b", "b", None, "gate 1", S.EXECUTING)]
    assert (row.status, row.error, row.prompt, row.regenerations) == (S.EXECUTING, None, None, 1)
    assert row.overrides == {"x": 3, "y": 5}


@pytest.mark.parametrize(
    ("status", "gate", "answer"),
    [
        (S.WAITING_APPROVAL, "gate 1", True),
        (S.WAITING_APPROVAL, "gate 0", False),  # it was asked about an older version
        (S.WAITING_APPROVAL, None, False),  # the chain inside waits, not the row
        (S.EXECUTING, "gate 1", False),  # it is made again already
        (S.COMPLETED, "gate 1", False),  # told twice
        (S.CANCELLED, "gate 1", False),  # the run was cancelled meanwhile
    ],
)
def test_a_decision_counts_only_for_the_gate_that_the_row_waits_at(
    run: Run, status: StepStatus, gate: str | None, answer: bool
) -> None:
    assert asks(run.row("b", status=status, approval=gate), request("approve", "approved")) is answer


# ---- what a store has recorded


def stored(step: str, status: StepStatus = S.FAILED, item: int | None = None, **more: Any) -> StepRow:
    return StepRow(f"row {step}", step, item, status, 1, **more)


def test_the_error_of_a_recorded_run_is_of_a_failed_row_with_a_cause() -> None:
    """Neither kept items, nor a failed row that says nothing, nor a step that completed after a failed try."""
    rows = [
        stored("a", S.COMPLETED, error=error("kept", "E_ITEMS_KEPT"), completed_at=1),
        stored("b", completed_at=2),
        stored("each", item=4, error=error("broke"), completed_at=3),
        stored("gone", error=error("of another plan"), completed_at=1),
        stored("last", S.SKIPPED, completed_at=1),
    ]
    assert first_error(PLAN, rows) == ErrorInfo("E_STEP_RAISED", "step each[4]: broke", "ValueError")


@pytest.mark.parametrize("backwards", [False, True])
def test_the_error_of_a_recorded_run_is_its_first_however_the_rows_come(backwards: bool) -> None:
    """The first in the plan, though it failed last."""
    rows = [stored("a", error=error("first"), completed_at=2), stored("b", error=error("later"), completed_at=1)]
    found = first_error(PLAN, rows[::-1] if backwards else rows)
    assert found is not None
    assert found.message == "step a: first"


def test_a_failed_row_without_a_time_is_no_trouble() -> None:
    """One that was marked by hand, say."""
    found = first_error(PLAN, [stored("b", error=error("later"), completed_at=2), stored("a", error=error("first"))])
    assert found is not None
    assert found.message == "step a: first"


def test_a_recorded_run_without_a_failure_has_no_error() -> None:
    assert first_error(PLAN, [stored("a", S.COMPLETED), stored("b", S.SKIPPED)]) is None
    assert first_error(PLAN, []) is None


def test_a_recorded_row_is_continued_as_it_stood() -> None:
    row = restored(stored("b", S.WAITING_APPROVAL, 3, waits_for_person=True, count=5, rejected=True, regenerations=2))
    assert (row.step, row.item, row.status, row.waits_for_person) == ("b", 3, S.WAITING_APPROVAL, True)
    assert (row.count, row.failed_items, row.rejected, row.regenerations) == (5, False, True, 2)


@pytest.mark.parametrize(
    ("why", "kept"),
    [(None, False), (error(), False), (ErrorInfo("E_ITEMS_KEPT", "1 of 2", failed_items=(0,)), True)],
    ids=["none", "an error", "items"],
)
def test_a_recorded_row_kept_items_only_if_its_error_names_some(why: ErrorInfo | None, kept: bool) -> None:
    assert restored(stored("each", S.COMPLETED, error=why)).failed_items is kept


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (error("broke"), ErrorInfo("E_STEP_RAISED", "chain m:a ended failed: broke")),
        (None, ErrorInfo("E_CHILD_FAILED", "chain m:a ended failed: no step says why")),
    ],
)
def test_the_failure_of_a_chain_inside_is_the_steps_and_is_not_tried_again(
    cause: ErrorInfo | None, expected: ErrorInfo
) -> None:
    assert inner_failure(PLAN.steps[0], ChainStatus.FAILED, cause) == Outcome(error=expected, retryable=False)
