"""How long steps worked: without the time at gates."""

from __future__ import annotations

from typing import Any

from towpath.adapters.step_times import Work, gates_of, waited, work_of, work_of_step


def row(started: int | None, ended: int | None = None, status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"id": "r", "started_at": started, "completed_at": ended, "status": status, **more}


def gate(asked: int, went_on: int) -> dict[str, Any]:
    return {"workflow_id": "r", "requested_at": asked, "updated_at": went_on}


def test_without_gates_it_is_the_time_between_start_and_end() -> None:
    assert work_of([(row(10, 25), ())]) == Work(15)
    assert work_of([(row(10, None, "executing"), ())]) == Work(0, 10)
    assert work_of([(row(None, 25, "skipped"), ())]) is None


def test_a_gate_behind_a_step() -> None:
    """While it waits, when it was approved, and when it is made again."""
    assert work_of([(row(10, None, "waiting_approval"), [gate(15, 15)])]) == Work(5)
    assert waited(row(10, None, "waiting_approval"), [gate(15, 15)], 100) == 85
    assert work_of([(row(10, 99), [gate(15, 99)])]) == Work(5)
    assert waited(row(10, 99), [gate(15, 99)], 1000) == 84
    assert work_of([(row(10, None, "executing"), [gate(15, 99)])]) == Work(5, 99)
    assert work_of([(row(10, 200), [gate(15, 99), gate(102, 200)])]) == Work(8)
    assert waited(row(10, 200), [gate(15, 99), gate(102, 200)], 1000) == 182


def test_a_decision_that_no_process_has_acted_on_yet() -> None:
    """The step waits on: nobody works."""
    assert work_of([(row(10, None, "waiting_approval"), [gate(15, 40)])]) == Work(5)
    assert waited(row(10, None, "waiting_approval"), [gate(15, 40)], 100) == 85


def test_a_gate_before_a_step_is_no_work_of_it() -> None:
    assert work_of([(row(50, 60), [gate(10, 50)])]) == Work(10)
    assert waited(row(50, 60), [gate(10, 50)], 100) == 40
    assert work_of([(row(None, None, "waiting_approval"), [gate(10, 10)])]) is None


def test_items_work_at_the_same_time() -> None:
    """A mapped step works while one of its items does."""
    items = [row(10, 500, id="a"), row(12, 600, id="b"), row(100, 110, id="c")]
    gates = gates_of([{**gate(20, 500), "workflow_id": "a"}, {**gate(30, 600), "workflow_id": "b"}])
    whole = row(5, 600, id="whole")
    assert work_of_step(whole, items, gates, asks=True) == Work(30)
    assert work_of_step(whole, items, {}, asks=False) == Work(595)
    items[2]["completed_at"] = None
    assert work_of_step(whole, items, gates, asks=True) == Work(20, 100)
