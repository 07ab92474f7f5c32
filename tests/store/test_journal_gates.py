"""What each fact changes in the tables: gates."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from tests.store.test_journal import WRONG, WRONG_JSON, S, Tables, ended, event, made, tables
from towpath.events import DecisionApplied, NewApproval, StepEnded
from towpath.model import ApprovalPolicy, ErrorInfo, StepStatus
from towpath.store import gates

__all__ = ["tables"]


def asked_with(limit: float | None = None) -> StepEnded:
    policy = ApprovalPolicy("skip", 1, limit, "auto_approve")
    return ended(S.WAITING_APPROVAL, value="v", artifacts=(made(),), approval=NewApproval("g", policy))


@pytest.mark.parametrize(("limit", "ends"), [(None, None), (2.5, 10 + 2_500_000)])
def test_a_gate_is_asked_with_all_that_a_decision_needs(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, limit: float | None, ends: int | None
) -> None:
    monkeypatch.setattr(gates, "this_boot", lambda: "a boot")
    monkeypatch.setattr(gates, "since_boot", lambda: 4)
    tables.row("r", step_id="a")
    changed = tables.changed(asked_with(limit))
    policy = {"on_rejected": "skip", "max_retries": 1, "timeout": limit, "timeout_action": "auto_approve"}
    gate = {
        "id": "g",
        "chain_id": "run",
        "workflow_id": "r",
        "step_id": "a",
        "attempt": 2,
        "status": "pending",
        "artifact_ids": ["file"],
        "policy": policy,
        "requested_at": 10,
        "expires_at": ends,
        "boot": "a boot",
        "booted_at": 6,
        "delivered": 0,
        "created_at": 10,
        "updated_at": 10,
    }
    assert changed["approvals"] == {"g": {k: v for k, v in gate.items() if v is not None}}
    assert changed["artifacts"]["file"]["approval_status"] == "pending"
    row = changed["workflows"]["r"]
    assert (row["status"], row["value"]) == ("waiting_approval", "v")
    assert "completed_at" not in row
    assert [line[:2] for line in tables.told()] == [("ApprovalRequested", "r"), ("StepWaiting", "r")]
    assert tables.told()[0][3] == {"step": "a", "approval": "g"}


def test_a_gate_of_an_item_says_which(tables: Tables) -> None:
    tables.row("r", item_index=0)
    gate = tables.changed(structs.replace(asked_with(), item=0))["approvals"]["g"]
    assert gate["item_index"] == 0
    assert tables.told()[0][3] == {"step": "a", "item": 0, "approval": "g"}


def test_a_row_whose_inner_chain_waits_has_no_gate_of_its_own(tables: Tables) -> None:
    tables.row("r")
    assert tables.changed(ended(S.WAITING_APPROVAL)).keys() == {"workflows", "events"}


def waiting(tables: Tables) -> None:
    """A row that waits, with its gates: one open, one decided but not acted on, one of the past; and another such."""
    for row in ("r", "beside"):
        tables.row(row, status="waiting_approval", prompt_id="prompt")
        tables.gate(f"{row} open", row)
        tables.gate(f"{row} decided", row, status="rejected", decided_at=7, delivered=0)
        tables.gate(f"{row} past", row, status="rejected", decided_at=3, delivered=1)
        tables.version(f"{row} file", row)
        tables.transfer(f"{row} transfer", row, f"{row} file")


@pytest.mark.parametrize("status", [S.FAILED, S.SKIPPED, S.CANCELLED])
def test_a_row_that_ends_without_completing_closes_what_hangs_on_it(tables: Tables, status: StepStatus) -> None:
    """A decision that came too late to be acted on stays on record; gates of the past and of others too."""
    waiting(tables)
    changed = tables.changed(ended(status))
    assert changed["approvals"] == {
        "r open": {"status": "cancelled", "decided_at": 10, "delivered": 1, "updated_at": 10},
        "r decided": {"delivered": 1, "updated_at": 10},
    }
    assert changed["artifact_transfers"].keys() == {"r transfer"}
    assert changed["artifact_transfers"]["r transfer"]["status"] == "failed"


@pytest.mark.parametrize("status", [S.COMPLETED])
def test_a_completed_row_leaves_its_gates(tables: Tables, status: StepStatus) -> None:
    waiting(tables)
    assert tables.changed(ended(status)).keys() == {"workflows", "events"}


def test_what_still_waits_keeps_its_gates_and_transfers(tables: Tables) -> None:
    waiting(tables)
    tables.connection.execute("UPDATE workflows SET status = 'executing' WHERE id = 'r'")
    assert tables.changed(ended(S.WAITING_APPROVAL)).keys() == {"workflows", "events"}


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (S.COMPLETED, None, ""),
        (S.FAILED, WRONG, ""),
        (S.SKIPPED, None, "rejected by anna"),
        (S.EXECUTING, None, ""),
    ],
)
def test_a_decision_takes_effect(tables: Tables, status: StepStatus, error: ErrorInfo | None, reason: str) -> None:
    """What is made again needs a prompt of its own; what is over keeps the one it had, and when it ended."""
    waiting(tables)
    tables.connection.execute("UPDATE approvals SET delivered = 0 WHERE id = 'r past'")
    changed = tables.changed(DecisionApplied("r", "a", None, "r decided", status, error, reason))
    again = status is S.EXECUTING
    expected: dict[str, Any] = {"status": status, "updated_at": 10}
    expected |= {"prompt_id": None} if again else {"completed_at": 10}
    if error:
        expected |= {"error_message": "broke", "error_code": "E_STEP_RAISED", "error": WRONG_JSON}
    elif reason:
        expected |= {"error_message": reason}
    assert changed["workflows"] == {"r": expected}
    assert changed["approvals"] == {"r decided": {"delivered": 1, "updated_at": 10}}
    said = {"step": "a", "approval": "r decided", "status": status}
    assert tables.told() == [event("DecisionApplied", "r", said)]


def test_an_effect_takes_away_the_error_of_before(tables: Tables) -> None:
    tables.row("r", status="waiting_approval", error='{"code": "E_X"}', error_code="E_X", error_message="old")
    row = tables.changed(DecisionApplied("r", "a", None, "g", S.COMPLETED))["workflows"]["r"]
    assert (row["error"], row["error_code"], row["error_message"]) == (None, None, None)


def test_a_gate_that_nobody_decided_is_not_delivered(tables: Tables) -> None:
    waiting(tables)
    assert "approvals" not in tables.changed(DecisionApplied("r", "a", None, "r open", S.COMPLETED))
