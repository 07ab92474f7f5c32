"""Gates in the tables: who decided what and when, whose time is over, and who has to be told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.conformance.records import a_run, a_step, a_version, a_workflow
from tests.raw_sql import raw
from towpath import store as api
from towpath.errors import ApprovalRefused
from towpath.events import GateFact
from towpath.model import ApprovalStatus, GateAction
from towpath.ports import Request
from towpath.store import Record, RunStore, gates, requests, run_tree
from towpath.store.gates import Past

pytestmark = pytest.mark.anyio

EPOCH = 1_767_225_600_000_000  # 2026-01-01 00:00:00 UTC


@dataclass
class Clock:
    """What the host says: the time of day, the time since it was started, and which start that was."""

    now: int = EPOCH
    since_boot: int = 5_000
    boot: str = "this boot"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gates, "now", lambda: clock.now)
    monkeypatch.setattr(gates, "since_boot", lambda: clock.since_boot)
    monkeypatch.setattr(gates, "this_boot", lambda: clock.boot)
    return clock


async def change(store: RunStore, table: str, row: str, **values: Any) -> None:
    """Put values into a row as they are."""
    names = ", ".join(f"{name} = ?" for name in values)
    sql = f"UPDATE {table} SET {names} WHERE id = ?"
    await raw(store, sql, *values.values(), row)


async def a_gate(
    store: RunStore, row: str = "", run: str | None = None, listed: Sequence[str] = (), **more: Any
) -> str:
    """The id of a gate that waits, at step `a` if nothing else is said."""
    columns = {k: more.pop(k) for k in ("boot", "booted_at", "attempt") if k in more}
    row = row or await a_workflow(store)
    async with store.session() as session:
        gate = await api.create_approval(session, row, listed, chain_id=run, **{"step_id": "a", **more})
    if columns:
        await change(store, "approvals", gate.id, **columns)
    return str(gate.id)


async def gate_of(store: RunStore, gate: str) -> Record:
    async with store.session() as session:
        found = await api.get_approval(session, gate)
    assert found is not None
    return found


async def file_of(store: RunStore, artifact: str) -> Record:
    async with store.session() as session:
        found = await api.get_artifact(session, artifact)
    assert found is not None
    return found


async def trail(store: RunStore, *kinds: GateFact) -> list[tuple[Any, ...]]:
    """What the audit trail says about gates."""
    sql = "SELECT type, chain_id, workflow_id, at, data FROM events ORDER BY seq"
    rows = [tuple(row.values()) for row in await raw(store, sql)]
    return [(*row[:4], msgspec.json.decode(row[4])) for row in rows if row[0] in kinds]


async def late_runs(store: RunStore, at: int) -> list[tuple[str, int]]:
    """The runs of gates that are late, and until when there was time."""
    late = await store.database.fetch(gates.LATE(**gates.clock(at)))
    return [(gate["chain_id"], gate["expires_at"]) for gate in late if gate["chain_id"] is not None]


# ---- what the gates behind a row came to


def asked(
    row: str = "row", attempt: int = 1, action: str | None = None, delivered: int = 1, parameters: str | None = None
) -> dict[str, Any]:
    return {
        "workflow_id": row,
        "attempt": attempt,
        "action": action,
        "delivered": delivered,
        "decision_parameters": parameters,
    }


def test_the_past_of_a_row_counts_what_was_acted_on() -> None:
    """The last gate is still open: its regeneration, and what it is to change, are yet to come."""
    again = [
        asked(action="regenerate", parameters='{"seed": 1, "size": 2}'),
        asked(attempt=2, action="regenerate"),
        asked(attempt=3, action="regenerate", parameters='{"seed": 3}'),
        asked(attempt=4, action="regenerate", parameters='{"seed": 4}', delivered=0),
    ]
    past = gates.pasts(again)["row"]
    assert (past.open, past.last) == (again[3], again[3])
    assert (past.regenerations, past.overrides) == (3, {"seed": 3, "size": 2})


def test_other_decisions_are_no_regenerations() -> None:
    past = gates.pasts([asked(action="stop", parameters='{"seed": 1}'), asked(action="approve")])["row"]
    assert (past.open, past.regenerations, past.overrides) == (None, 0, {})


def test_rows_have_their_own_pasts() -> None:
    gate, other = asked(action="regenerate"), asked("other", delivered=0)
    found = gates.pasts([gate, other])
    assert found == {"row": Past(None, gate, 1, {}), "other": Past(other, other, 0, {})}
    found["row"].overrides["x"] = 1
    assert found["other"].overrides == {}


@pytest.mark.parametrize(
    ("decided", "attempt", "rejected"),
    [
        (asked(attempt=2, action="stop"), 2, True),
        (asked(attempt=2, action="skip"), 2, True),
        (asked(attempt=2, action=None), 2, True),  # a gate closed by hand
        (asked(attempt=2, action="approve"), 2, False),
        (asked(attempt=1, action="stop"), 2, False),  # an older attempt was: this one is judged by itself
        (asked(attempt=3, action="stop"), 2, False),
        (None, 2, False),
    ],
)
def test_what_an_attempt_made_is_rejected_only_by_a_decision_about_it(
    decided: dict[str, Any] | None, attempt: int, rejected: bool
) -> None:
    assert Past(last=decided).rejected(attempt) is rejected


def test_only_the_last_decision_says_whether_a_row_was_rejected() -> None:
    past = gates.pasts([asked(attempt=1, action="regenerate"), asked(attempt=2, action="approve")])["row"]
    assert not past.rejected(1)
    assert not past.rejected(2)


def test_the_run_inside_a_step_is_the_latest_unless_it_is_to_be_replaced() -> None:
    def child(run: str, row: str) -> dict[str, Any]:
        return {"id": run, "parent_workflow_id": row}

    children = [child("1", "row"), child("2", "other"), child("3", "row")]
    assert gates.runs_inside(children, {}) == {"row": "3", "other": "2"}
    pasts = {"row": Past(regenerations=1), "other": Past(regenerations=1), "gone": Past(regenerations=1)}
    assert gates.runs_inside(children, pasts) == {"row": "3"}, "the second of `row` is made; the one of `other` not yet"
    assert gates.runs_inside(children, {"row": Past(regenerations=2)}) == {"other": "2"}


async def test_the_gates_of_a_run_come_in_the_order_they_were_asked(store: RunStore) -> None:
    """By attempt, then by id; ids of one moment may be in any order. Gates of other runs are not among them."""
    run, other = (await a_run(store)).run_id, (await a_run(store)).run_id
    row = await a_workflow(store)
    for name, of, attempt in (("3", run, 1), ("1", run, 2), ("2", run, 1), ("0", other, 1)):
        await a_gate(store, row, of, id=name, attempt=attempt)
        await change(store, "approvals", name, status="rejected", decided_at=EPOCH)
    found = await store.database.fetch(gates.OF_RUN(run=run))
    assert [gate["id"] for gate in found] == ["2", "3", "1"]


# ---- a decision


async def test_an_approval_is_recorded_with_who_when_and_what(store: RunStore, clock: Clock) -> None:
    """In the gate, in the versions that it lists and in no others, and in the audit trail."""
    row, other = await a_workflow(store), await a_workflow(store)
    shown = await a_version(store, row, approval_status="pending")
    left = await a_version(store, other, approval_status="pending")
    gate = await a_gate(store, row, listed=[shown.id])
    clock.now += 77
    async with store.session() as session:
        told = await api.approve(session, gate, "anna", seen=[shown.id])
    found = await gate_of(store, gate)
    assert told == found
    assert (found.status, found.action, found.decided_by, found.delivered) == ("approved", "approve", "anna", False)
    assert (found.decided_at, found.updated_at) == (clock.now, clock.now)
    assert (found.reason, found.decision_parameters) == (None, None)
    marked = await file_of(store, shown.id)
    assert (marked.approval_status, marked.approved_by, marked.rejection_reason) == ("approved", "anna", None)
    assert (marked.approved_at, marked.updated_at) == (clock.now, clock.now)
    untouched = await file_of(store, left.id)
    assert untouched == left
    said = {"step": "a", "approval": gate, "status": "approved", "action": "approve", "by": "anna"}
    assert await trail(store, GateFact.RECORDED) == [("DecisionRecorded", None, row, clock.now, said)]


async def test_a_rejection_is_recorded_with_why_and_with_what_is_to_change(store: RunStore, clock: Clock) -> None:
    """Item 0 is an item too."""
    lease = await a_run(store)
    row = await a_step(store, lease)
    shown = await a_version(store, row, approval_status="pending")
    policy = {"max_retries": 1}
    gate = await a_gate(store, row, lease.run_id, [shown.id], step_id="s", item_index=0, policy=policy)
    async with store.session() as session:
        await api.reject(session, gate, "ben", reason="blurred", action="regenerate", parameters={"seed": 2})
    found = await gate_of(store, gate)
    assert (found.status, found.action, found.reason) == ("rejected", "regenerate", "blurred")
    assert found.decision_parameters == {"seed": 2}
    marked = await file_of(store, shown.id)
    assert (marked.approval_status, marked.approved_by, marked.rejection_reason) == ("rejected", "ben", "blurred")
    (event,) = await trail(store, GateFact.RECORDED)
    assert event[1:3] == (lease.run_id, row)
    assert event[4] == {
        "step": "s",
        "item": 0,
        "approval": gate,
        "status": "rejected",
        "action": "regenerate",
        "by": "ben",
        "reason": "blurred",
        "parameters": {"seed": 2},
    }


async def test_a_gate_that_is_closed_by_hand_judges_nothing(store: RunStore) -> None:
    row = await a_workflow(store)
    shown = await a_version(store, row, approval_status="pending")
    gate = await a_gate(store, row, listed=[shown.id], step_id=None)
    async with store.session() as session:
        await api.cancel_approval(session, gate, "anna", reason="not needed")
    found = await gate_of(store, gate)
    assert (found.status, found.action, found.reason) == ("cancelled", None, "not needed")
    assert await file_of(store, shown.id) == shown
    ((_, _, _, _, said),) = await trail(store, GateFact.RECORDED)
    assert said == {"approval": gate, "status": "cancelled", "by": "anna", "reason": "not needed"}


async def test_a_decision_takes_effect_only_on_a_gate_that_still_waits(store: RunStore) -> None:
    """Whoever comes with what was read before the first decision changes nothing."""
    row = await a_workflow(store)
    shown = await a_version(store, row, approval_status="pending")
    gate = await a_gate(store, row, listed=[shown.id])
    async with store.session() as session:
        read_before = await session.write(gates.undecided, gate)
    async with store.session() as session:
        await api.approve(session, gate, "anna", seen=[shown.id])
    decided = await gate_of(store, gate)
    decision = gates.Decision(ApprovalStatus.REJECTED, GateAction.STOP, "ben")
    with pytest.raises(AssertionError):
        async with store.session() as session:
            await session.write(gates.decide, read_before, decision)
    assert await gate_of(store, gate) == decided
    assert (await file_of(store, shown.id)).approval_status == "approved"
    assert len(await trail(store, GateFact.RECORDED)) == 1


async def test_a_decision_is_about_its_own_gate_only(store: RunStore) -> None:
    first, second = await a_gate(store), await a_gate(store)
    async with store.session() as session:
        await api.approve(session, second, "anna")
    assert [(await gate_of(store, g)).status for g in (first, second)] == ["pending", "approved"]


async def test_a_gate_that_is_not_there_is_refused(store: RunStore) -> None:
    async with store.session() as session:
        with pytest.raises(ApprovalRefused) as caught:
            await session.write(gates.undecided, "nothing")
    assert caught.value.code == "E_APPROVAL_MISSING"
    assert caught.value.problem.found == "nothing"


SECOND = [
    ({"status": "approved", "decided_by": "anna", "decided_at": EPOCH}, "approved by anna already, at 2026-01-01 "),
    ({"status": "rejected", "action": "skip"}, "this was rejected already, which means skip; the first"),
    ({"status": "rejected"}, "this was rejected already; the first decision is final"),
    ({"status": "approved", "action": "approve"}, "this was approved already; the first decision is final"),
    ({"status": "cancelled", "decided_at": EPOCH}, "this was cancelled already, at 2026-01-01 00:00:00 UTC; the first"),
]


@pytest.mark.parametrize(("first", "says"), SECOND, ids=["who, when", "what", "no action", "approved", "when"])
@pytest.mark.parametrize("reason", ["blurred", None])
async def test_a_second_decision_is_told_of_the_first(
    store: RunStore, first: dict[str, Any], says: str, reason: str | None
) -> None:
    gate = await a_gate(store)
    await change(store, "approvals", gate, reason=reason, **first)
    async with store.session() as session:
        with pytest.raises(ApprovalRefused) as caught:
            await session.write(gates.undecided, gate)
    assert caught.value.code == "E_APPROVAL_DECIDED"
    assert says in caught.value.problem.message
    assert caught.value.problem.found == (reason or "")
    await change(store, "approvals", gate, decided_at=EPOCH)  # for `fsck`: only a damaged gate lacks it


async def test_a_decision_after_a_timeout_is_told_what_counts(store: RunStore, clock: Clock) -> None:
    """What was recorded, or what the policy says as long as nobody recorded it."""
    recorded = await a_gate(store, policy={"on_rejected": "skip"}, expires_at=EPOCH)
    await change(store, "approvals", recorded, status="timed_out", action="approve", decided_at=EPOCH)
    waiting = await a_gate(store, policy={"on_rejected": "skip"}, expires_at=EPOCH)
    for gate, what in ((recorded, "approve"), (waiting, "skip")):
        async with store.session() as session:
            with pytest.raises(ApprovalRefused) as caught:
                await session.write(gates.undecided, gate)
        assert caught.value.code == "E_APPROVAL_EXPIRED"
        assert caught.value.problem.message == (
            f"the time for this decision ended at 2026-01-01 00:00:00 UTC; the gate's timeout decides: {what}"
        )


# ---- what waits, and what was asked before


async def test_the_gate_behind_a_row_is_the_one_that_waits(store: RunStore) -> None:
    row, other, third = [await a_workflow(store) for _ in range(3)]
    await a_gate(store, other)
    decided = await a_gate(store, row)
    async with store.session() as session:
        await api.approve(session, decided, "anna")
        assert await gates.pending_of(session, row) is None
    waits = await a_gate(store, row)
    async with store.session() as session:
        found = await gates.pending_of(session, row)
        assert found is not None
        assert found.id == waits
        assert await gates.pending_of(session, third) is None


async def test_only_regenerations_of_the_row_are_counted(store: RunStore) -> None:
    row, other = await a_workflow(store), await a_workflow(store)
    for place, action in ((row, "regenerate"), (row, "stop"), (other, "regenerate"), (row, "regenerate")):
        gate = await a_gate(store, place, policy={"max_retries": 9})
        async with store.session() as session:
            await api.reject(session, gate, "ben", action=action)
    async with store.session() as session:
        assert await gates.regenerations(session, row) == 2
        assert await gates.regenerations(session, other) == 1


async def test_an_open_gate_lists_the_latest_version_of_each_output_in_its_order(store: RunStore, clock: Clock) -> None:
    """A new version takes the place of its own output; a new output comes last; other gates stay as they are."""
    row, other = await a_workflow(store), await a_workflow(store)
    first, second = [await a_version(store, row, name=name) for name in ("b", "a")]
    theirs = await a_version(store, other, name="b")
    gate, their_gate = (
        await a_gate(store, row, listed=[first.id, second.id]),
        await a_gate(store, other, listed=[theirs.id]),
    )
    clock.now += 5
    newer = await a_version(store, row, name="b")
    assert (await gate_of(store, gate)).artifact_ids == [newer.id, second.id]
    assert (await gate_of(store, gate)).updated_at == clock.now
    added = await a_version(store, row, name="c")
    assert (await gate_of(store, gate)).artifact_ids == [newer.id, second.id, added.id]
    assert (await gate_of(store, their_gate)).artifact_ids == [theirs.id]
    async with store.session() as session:
        await api.delete_artifact(session, newer.id)
        await api.delete_artifact(session, second.id)
    assert set((await gate_of(store, gate)).artifact_ids) == {first.id, added.id}


async def test_an_output_that_no_gate_lists_stays_out_of_it_until_it_changes(store: RunStore) -> None:
    row = await a_workflow(store)
    shown, hidden = [await a_version(store, row, name=name) for name in ("shown", "hidden")]
    gate = await a_gate(store, row, listed=[shown.id])
    newer = await a_version(store, row, name="shown")
    assert (await gate_of(store, gate)).artifact_ids == [newer.id]
    assert hidden.id not in (await gate_of(store, gate)).artifact_ids


async def test_a_decided_gate_keeps_what_it_listed(store: RunStore) -> None:
    """That is what the person saw."""
    row = await a_workflow(store)
    shown = await a_version(store, row, name="b")
    gate = await a_gate(store, row, listed=[shown.id])
    async with store.session() as session:
        await api.approve(session, gate, "anna", seen=[shown.id])
    await a_version(store, row, name="b")
    assert (await gate_of(store, gate)).artifact_ids == [shown.id]


async def test_a_listed_version_that_is_gone_hides_no_other(store: RunStore) -> None:
    row = await a_workflow(store)
    shown = await a_version(store, row, name="b")
    gate = await a_gate(store, row, listed=["gone", shown.id])
    newer = await a_version(store, row, name="b")
    assert (await gate_of(store, gate)).artifact_ids == [newer.id]


# ---- the end of the time

HOUR = 3_600_000_000
LATE = [
    # asked in which boot, that began when, ends when, late
    ("this boot", EPOCH, EPOCH + 5_000, True, "the very moment"),
    ("this boot", EPOCH, EPOCH + 5_001, False, "a microsecond before it"),
    ("this boot", EPOCH - 9 * HOUR, EPOCH - HOUR, False, "somebody set the clock on"),
    ("this boot", EPOCH + 9 * HOUR, EPOCH + HOUR, True, "somebody set the clock back"),
    ("a boot before", EPOCH + 9 * HOUR, EPOCH, True, "after a reboot the time of day counts"),
    ("a boot before", EPOCH + 9 * HOUR, EPOCH + 1, False, "after a reboot, a microsecond before it"),
    (None, None, EPOCH, True, "the boot was not known"),
    (None, None, EPOCH + 1, False, "the boot was not known, a microsecond before it"),
    ("this boot", EPOCH, None, False, "there is no end"),
    (None, None, None, False, "there is no end and no boot"),
]


@pytest.mark.parametrize(("boot", "booted", "ends", "late"), [case[:4] for case in LATE], ids=[c[4] for c in LATE])
async def test_when_the_time_of_a_gate_is_over(
    store: RunStore, clock: Clock, boot: str | None, booted: int | None, ends: int | None, late: bool
) -> None:
    """Whoever asks (a person who decides, the owner of the run, somebody who looks for work) is told the same."""
    lease = await a_run(store)
    row = await a_step(store, lease)
    gate = await a_gate(store, row, lease.run_id, expires_at=ends, boot=boot, booted_at=booted)
    run = lease.run_id
    assert await late_runs(store, clock.now) == ([(run, ends)] if late else [])
    assert await store.database.read(gates.expired, [run], clock.now) == ([gate] if late else [])
    async with store.session() as session:
        if late:
            with pytest.raises(ApprovalRefused, match="E_APPROVAL_EXPIRED"):
                await session.write(gates.undecided, gate)
        else:
            assert (await session.write(gates.undecided, gate)).id == gate
    await store.database.write(gates.expire, [gate], clock.now)
    assert (await gate_of(store, gate)).status == ("timed_out" if late else "pending")


async def test_a_gate_of_no_run_is_nobodys_work(store: RunStore, clock: Clock) -> None:
    """It can be late, but no owner has to be woken for it."""
    await a_gate(store, expires_at=EPOCH)
    assert await late_runs(store, clock.now) == []
    assert await store.database.read(gates.expired, ["run"], clock.now) == []


@pytest.mark.parametrize("status", ["approved", "rejected", "cancelled", "timed_out"])
async def test_a_decided_gate_is_never_late(store: RunStore, clock: Clock, status: str) -> None:
    """A second person is told of the decision, not that the time is over, which it is by now as well."""
    lease = await a_run(store)
    gate = await a_gate(store, await a_step(store, lease), lease.run_id, expires_at=EPOCH)
    await change(store, "approvals", gate, status=status, decided_at=EPOCH)
    before = await gate_of(store, gate)
    assert await late_runs(store, clock.now) == []
    assert await store.database.read(gates.expired, [lease.run_id], clock.now) == []
    await store.database.write(gates.expire, [gate], clock.now)
    assert await gate_of(store, gate) == before
    async with store.session() as session:
        with pytest.raises(ApprovalRefused) as caught:
            await session.write(gates.undecided, gate)
    assert caught.value.code == ("E_APPROVAL_EXPIRED" if status == "timed_out" else "E_APPROVAL_DECIDED")


TIMEOUTS: list[tuple[dict[str, Any], str]] = [
    ({}, "stop"),
    ({"on_rejected": "stop", "timeout_action": "auto_reject"}, "stop"),
    ({"on_rejected": "skip", "timeout_action": "auto_reject"}, "skip"),
    ({"on_rejected": "regenerate", "max_retries": 3}, "stop"),  # nobody can say what should be different
    ({"on_rejected": "stop", "timeout_action": "auto_approve"}, "approve"),
    ({"on_rejected": "skip", "timeout_action": "auto_approve"}, "approve"),
]


@pytest.mark.parametrize(("policy", "action"), TIMEOUTS)
async def test_what_the_end_of_the_time_does(
    store: RunStore, clock: Clock, policy: dict[str, Any], action: str
) -> None:
    lease = await a_run(store)
    row = await a_step(store, lease)
    shown = await a_version(store, row, approval_status="pending")
    left = await a_version(store, await a_workflow(store), approval_status="pending")
    gate = await a_gate(store, row, lease.run_id, [shown.id], policy=policy, expires_at=EPOCH, item_index=0)
    await change(store, "approvals", gate, delivered=1)
    await store.database.write(gates.expire, [gate], EPOCH + 9)
    found = await gate_of(store, gate)
    assert (found.status, found.action, found.decided_by, found.delivered) == ("timed_out", action, None, False)
    assert (found.decided_at, found.updated_at) == (EPOCH + 9, EPOCH + 9)
    marked = await file_of(store, shown.id)
    judged = ("auto_approved", None) if action == "approve" else ("rejected", "there was no decision in time")
    assert (marked.approval_status, marked.rejection_reason) == judged
    assert (marked.approved_at, marked.updated_at) == (EPOCH + 9, EPOCH + 9)
    assert await file_of(store, left.id) == left
    said = {"step": "a", "item": 0, "approval": gate, "action": action}
    assert await trail(store, GateFact.TIMED_OUT) == [("ApprovalTimedOut", lease.run_id, row, EPOCH + 9, said)]


async def test_of_several_late_gates_the_ones_still_open_are_closed(store: RunStore, clock: Clock) -> None:
    """One that a person decided meanwhile stays decided and does not keep the others open."""
    run = (await a_run(store)).run_id
    ids = [await a_gate(store, await a_workflow(store), run, expires_at=EPOCH - n) for n in range(3)]
    await change(store, "approvals", ids[0], status="approved", decided_at=EPOCH)
    await store.database.write(gates.expire, ids, EPOCH)
    assert [(await gate_of(store, g)).status for g in ids] == ["approved", "timed_out", "timed_out"]
    assert [event[4] for event in await trail(store, GateFact.TIMED_OUT)] == [
        {"step": "a", "approval": gate, "action": "stop"} for gate in ids[1:]
    ]


async def test_late_gates_are_closed_in_the_order_in_which_their_time_was_over(store: RunStore, clock: Clock) -> None:
    run = (await a_run(store)).run_id
    later, sooner = [await a_gate(store, await a_workflow(store), run, expires_at=EPOCH - n) for n in (1, 2)]
    assert await store.database.read(gates.expired, [run], EPOCH) == [sooner, later]


def test_a_gate_remembers_in_which_boot_it_was_asked(clock: Clock) -> None:
    """And when that began, by the clock of the day, so that nobody's setting of it counts."""
    assert gates.boot(EPOCH) == ("this boot", EPOCH - 5_000)
    clock.boot = ""
    assert gates.boot(EPOCH) == (None, EPOCH - 5_000)


# ---- runs inside runs


@dataclass
class Nest:
    """A run inside a run inside a run, and one beside them."""

    outer: str
    middle: str
    inner: str
    beside: str
    rows: dict[str, str]


async def nested(store: RunStore) -> Nest:
    outer = await a_run(store)
    outer_row = await a_step(store, outer, "a")
    middle = await a_run(store, parent_workflow_id=outer_row)
    middle_row = await a_step(store, middle, "b")
    await change(store, "workflows", middle_row, item_index=4)
    inner = await a_run(store, parent_workflow_id=middle_row)
    inner_row = await a_step(store, inner, "c")
    beside = await a_run(store)
    beside_row = await a_step(store, beside, "a")
    runs = (outer.run_id, middle.run_id, inner.run_id, beside.run_id)
    return Nest(*runs, dict(zip(runs, (outer_row, middle_row, inner_row, beside_row), strict=True)))


async def test_the_runs_around_a_run(store: RunStore) -> None:
    nest = await nested(store)
    found = await store.database.read(run_tree.around, [nest.inner, nest.outer, "nothing"])
    around = [[run.id for run in found[start]] for start in (nest.inner, nest.outer, "nothing")]
    assert around == [[nest.inner, nest.middle, nest.outer], [nest.outer], []]


async def test_whose_late_gates_are_whose(store: RunStore, clock: Clock) -> None:
    """The owner of a run closes the gates in it and in the runs inside it."""
    nest = await nested(store)
    gate = await a_gate(store, nest.rows[nest.inner], nest.inner, expires_at=EPOCH)
    theirs = await a_gate(store, nest.rows[nest.beside], nest.beside, expires_at=EPOCH)
    for run, expected in ((nest.inner, [gate]), (nest.outer, [gate]), (nest.beside, [theirs]), ("nothing", [])):
        assert await store.database.read(gates.expired, [run], EPOCH) == expected
    assert await store.database.read(gates.expired, [nest.inner, nest.beside], EPOCH) == [gate, theirs]


async def test_a_decision_is_told_to_its_run_and_to_every_run_around_it(store: RunStore) -> None:
    nest = await nested(store)
    gate = await a_gate(store, nest.rows[nest.inner], nest.inner, step_id="c", item_index=2, policy={"max_retries": 1})
    everyone = frozenset({nest.outer, nest.middle, nest.inner, nest.beside})
    assert await store.database.read(requests.undelivered, everyone) == [], "nothing is decided yet"
    async with store.session() as session:
        await api.reject(session, gate, "ben", reason="blurred", action="regenerate", parameters={"seed": 2})
    decision = Request(nest.inner, "decision", "c", 2, gate, "rejected", "regenerate", "blurred", "ben", {"seed": 2})
    in_middle, in_outer = Request(nest.middle, "inner", "b", 4), Request(nest.outer, "inner", "a", None)
    assert await store.database.read(requests.undelivered, everyone) == [decision, in_middle, in_outer]
    for run, request in ((nest.inner, decision), (nest.middle, in_middle), (nest.outer, in_outer)):
        assert await store.database.read(requests.undelivered, frozenset({run})) == [request]
    assert await store.database.read(requests.undelivered, frozenset({nest.beside})) == []
    await change(store, "approvals", gate, delivered=1)
    assert await store.database.read(requests.undelivered, everyone) == [], "it was acted on"


async def test_decisions_are_told_in_the_order_in_which_they_were_taken(store: RunStore, clock: Clock) -> None:
    run = (await a_run(store)).run_id
    ids = [await a_gate(store, await a_workflow(store), run) for _ in range(3)]
    for gate in (ids[2], ids[0], ids[1]):
        clock.now += 1
        async with store.session() as session:
            await api.approve(session, gate, "anna")
    told = await store.database.read(requests.undelivered, frozenset({run}))
    assert [request.approval for request in told] == [ids[2], ids[0], ids[1]]


async def test_a_gate_closed_by_hand_stops_its_step(store: RunStore) -> None:
    """It has no action, no reason and, here, no name; nothing of that is None for the owner."""
    run = (await a_run(store)).run_id
    gate = await a_gate(store, await a_workflow(store), run, step_id=None)
    await change(store, "approvals", gate, status="cancelled", decided_at=EPOCH)
    (told,) = await store.database.read(requests.undelivered, frozenset({run}))
    assert told == Request(run, "decision", "", None, gate, "cancelled", "stop", "", "", {})
