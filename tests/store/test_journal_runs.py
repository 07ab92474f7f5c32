"""What each fact changes in the tables: the run itself, and the runs inside it."""

from __future__ import annotations

import pytest

from tests.store.test_journal import OPEN, WRONG, C, S, Tables, ended, event, tables
from towpath.errors import Fenced, StoreFailed
from towpath.events import ChainEnded, ChainPaused, ChainResumed, Fact, LevelReached, LogKept, StepReady
from towpath.model import ChainStatus, ErrorInfo
from towpath.ports import Lease
from towpath.store import journal

__all__ = ["tables"]


def test_the_level_only_grows(tables: Tables) -> None:
    """Several processes may tell it; whoever comes late does not turn it back."""
    assert tables.changed(LevelReached(2)) == {"chains": {"run": {"current_level": 2, "updated_at": 10}}}
    assert tables.changed(LevelReached(1), at=11) == {}
    assert tables.changed(LevelReached(2), at=12) == {}
    assert tables.changed(LevelReached(3), at=13) == {"chains": {"run": {"current_level": 3, "updated_at": 13}}}


@pytest.mark.parametrize("before", ["pending", "running", "paused"])
def test_a_run_goes_on_with_its_owner_and_with_what_was_asked_of_it(tables: Tables, before: str) -> None:
    tables.connection.execute("UPDATE chains SET status = ?, status_reason = 'requested' WHERE id = 'run'", (before,))
    changed = tables.changed(ChainResumed())
    run = changed.pop("chains").pop("run")
    run.pop("status", None)  # unless it was running before
    assert tables.all("chains")["run"]["status"] == "running"
    assert run == {"status_reason": None, "updated_at": 10}
    assert tables.told() == [event("ChainStarted", None, {})]


@pytest.mark.parametrize("before", ["pending", "running", "paused"])
def test_a_paused_run_is_nobodys(tables: Tables, before: str) -> None:
    tables.connection.execute("UPDATE chains SET status = ? WHERE id = 'run'", (before,))
    run = tables.changed(ChainPaused("approval"))["chains"]["run"]
    run.pop("status", None)  # unless it was paused before
    assert tables.all("chains")["run"]["status"] == "paused"
    let_go = {"owner": None, "lease_until": None, "pause_requested_at": None}
    assert run == {"status_reason": "approval", "updated_at": 10, **let_go}
    assert tables.told() == [event("ChainPaused", None, {"reason": "approval"})]


@pytest.mark.parametrize("before", ["pending", "running", "paused"])
@pytest.mark.parametrize("status", [C.COMPLETED, C.PARTIAL, C.FAILED, C.CANCELLED])
@pytest.mark.parametrize("error", [None, WRONG])
def test_an_ended_run(tables: Tables, before: str, status: ChainStatus, error: ErrorInfo | None) -> None:
    tables.connection.execute("UPDATE chains SET status = ?, status_reason = 'x' WHERE id = 'run'", (before,))
    changed = tables.changed(ChainEnded(status, error))
    assert changed.keys() == {"chains", "events"}
    why = {"error_message": "broke", "error_code": "E_STEP_RAISED"} if error else {}
    let_go = {"owner": None, "lease_until": None, "pause_requested_at": None}
    assert changed["chains"] == {
        "run": {"status": status, "status_reason": None, "completed_at": 10, "updated_at": 10, **why, **let_go}
    }
    said = {"error": {"code": "E_STEP_RAISED", "message": "broke"}} if error else {}
    assert tables.told() == [event("ChainEnded", None, {"status": status, **said})]


@pytest.mark.parametrize("final", ["completed", "partial", "failed", "cancelled"])
@pytest.mark.parametrize(
    ("to", "fact"),
    [("running", ChainResumed()), ("paused", ChainPaused("x")), ("failed", ChainEnded(C.FAILED, WRONG))],
)
def test_a_run_that_is_over_stays_as_it_is(tables: Tables, final: str, to: str, fact: Fact) -> None:
    tables.connection.execute("UPDATE chains SET status = ?, completed_at = 5 WHERE id = 'run'", (final,))
    before = tables.everything()
    refused = tables.record(fact)
    assert isinstance(refused, StoreFailed)
    assert refused.problem.message == f"chain run cannot go from its status to {to}"
    assert tables.everything() == before


@pytest.mark.parametrize("lease", [Lease("run", 2), Lease("run", 4), Lease("nothing", 3)])
def test_what_an_owner_of_the_past_records_is_refused(tables: Tables, lease: Lease) -> None:
    """Of a lease that was taken over, of one that is not given yet, and of a run that is gone."""
    tables.connection.execute("UPDATE chains SET epoch = ? WHERE id = 'other'", (lease.epoch,))
    assert isinstance(tables.record(LevelReached(1), lease=lease), Fenced)
    assert tables.all("chains")["run"]["current_level"] == 0
    tables.connection.execute("UPDATE chains SET epoch = 3 WHERE id = 'other'")


def test_what_the_owner_records_counts(tables: Tables) -> None:
    tables.connection.execute("UPDATE chains SET epoch = 8 WHERE id = 'other'")
    assert tables.record(LevelReached(1), lease=Lease("run", 3)) is None
    tables.connection.execute("UPDATE chains SET epoch = 3 WHERE id = 'other'")


def test_logs_are_kept_as_they_stand(tables: Tables) -> None:
    """One text per attempt of a row."""
    tables.row("r")
    tables.record(LogKept("r", 1, "one"), LogKept("r", 2, "two"))
    tables.record(LogKept("r", 1, "one\nmore"), at=11)
    assert list(tables.all("step_logs").values()) == [
        {"workflow_id": "r", "attempt": 1, "text": "one\nmore", "updated_at": 11},
        {"workflow_id": "r", "attempt": 2, "text": "two", "updated_at": 10},
    ]
    assert tables.told() == []


# ---- runs inside a run that ends


def nest(tables: Tables) -> None:
    """A run with a row; a run inside that; a run inside that one; each with rows in all statuses, gates and files."""
    tables.chain("inner", status="paused")
    tables.chain("below", status="pending")
    for run in ("run", "inner", "below"):
        for n, status in enumerate(S):
            over = {"completed_at": 2} if status.final else {}
            tables.row(f"{run} {status}", run, status=status, step_id="s", item_index=n or None, **over)
        tables.version(f"{run} file", f"{run} waiting_approval")
        tables.gate(f"{run} open", f"{run} waiting_approval", run)
        tables.gate(f"{run} decided", f"{run} waiting_approval", run, status="approved", decided_at=7, delivered=0)
        tables.gate(f"{run} past", f"{run} waiting_approval", run, status="approved", decided_at=7, delivered=1)
        for row in ("executing", "completed"):
            for sent in ("pending", "uploading", "completed"):
                more = {"status": sent, "target_workflow_id": f"{run} {row}"}
                tables.transfer(f"{run} {row} {sent}", f"{run} executing", f"{run} file", **more)
    above = "UPDATE chains SET parent_workflow_id = ? WHERE id = ?"
    tables.connection.execute(above, ("run executing", "inner"))
    tables.connection.execute(above, ("inner executing", "below"))


@pytest.mark.parametrize("status", [C.FAILED, C.CANCELLED])
def test_what_is_inside_a_run_that_ends_badly_ends_with_it(tables: Tables, status: ChainStatus) -> None:
    """Rows, gates, transfers and runs that are still open; what is over stays as it was."""
    nest(tables)
    changed = tables.changed(ChainEnded(status))
    runs = ("run", "inner", "below")
    assert changed["workflows"] == {
        f"{run} {s}": {"status": "cancelled", "completed_at": 10, "updated_at": 10} for run in runs for s in OPEN
    }
    open_gate = {"status": "cancelled", "decided_at": 10, "delivered": 1, "updated_at": 10}
    closed = {f"{run} open": open_gate for run in runs}
    assert changed["approvals"] == closed | {f"{run} decided": {"delivered": 1, "updated_at": 10} for run in runs}
    failed = {"status": "failed", "error_message": "cancelled", "updated_at": 10}
    assert changed["artifact_transfers"] == {
        f"{run} executing {s}": failed for run in runs for s in ("pending", "uploading")
    }
    let_go = {"owner": None, "lease_until": None, "epoch": 4}
    inside = {"status": "cancelled", "completed_at": 10, "updated_at": 10, **let_go}
    assert {run: changed["chains"][run] for run in ("inner", "below")} == {"inner": inside, "below": inside}
    assert changed["chains"]["run"]["status"] == status
    told = tables.told()
    assert told[0] == event("ChainEnded", None, {"status": status})
    lines = sorted((line[1], line[3].get("item")) for line in told if line[0] == "StepCancelled")
    items = {s: n or None for n, s in enumerate(S)}
    assert lines == sorted((f"{run} {s}", items[s]) for run in runs for s in OPEN)
    assert all(line[2] == 10 and line[3]["step"] == "s" for line in told if line[0] == "StepCancelled")
    rows = [line[1] for line in told if line[0] == "StepCancelled"]
    assert rows == sorted(rows)
    ends = [(e["chain_id"], e["at"], e["data"]) for e in tables.all("events").values() if e["type"] == "ChainEnded"]
    assert sorted(ends[1:]) == [("below", 10, {"status": "cancelled"}), ("inner", 10, {"status": "cancelled"})]


@pytest.mark.parametrize("status", [C.COMPLETED, C.PARTIAL])
def test_a_run_that_ends_well_has_nothing_open_inside_to_end(tables: Tables, status: ChainStatus) -> None:
    nest(tables)
    assert tables.changed(ChainEnded(status)).keys() == {"chains", "events"}


def test_facts_are_recorded_in_their_order(tables: Tables) -> None:
    ready = StepReady("r", "a", None, "m:f", started=True, attempt=1)
    assert tables.record(ready, ended(S.COMPLETED), ChainEnded(C.COMPLETED)) is None
    assert [line[0] for line in tables.told()] == ["StepStarted", "StepCompleted", "ChainEnded"]


def test_an_error_that_says_nothing_is_recorded_with_what_readers_ask_for() -> None:
    """Code and message are there though they are empty; what is optional is left out."""
    assert journal._error_json(ErrorInfo("", "")) == {"code": "", "message": ""}
    assert journal._error_json(None) is None
