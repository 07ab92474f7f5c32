"""Ownership of runs: claim a run, renew and release its lease, and request a run with an owner to stop.

Scripts. What they say of owners is true now, and may change; `owners.py` defines owners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from towpath.errors import RunRefused
from towpath.model import ChainStatus, Json
from towpath.ports import Lease

from . import crashes, gates, levels, rows
from .backend import Row, Script
from .clock import now
from .core import sa, t
from .ended_tree import end_tree
from .event_log import line
from .owners import Owner, parse
from .run_rows import missing
from .run_tree import inside
from .statements import Statement, each
from .statements import param as b

FOREVER = 2**62  # microseconds: the lease of a service never expires

_OWNER = Statement(
    lambda: (
        sa.select(t.chains.c.status, t.chains.c.owner, t.chains.c.lease_until, t.chains.c.epoch)
        .where(t.chains.c.id == b("run"))
        .with_for_update()
    )
)
_INSIDE = Statement(lambda: inside(b("run")))
_SHORTEN = Statement(lambda: sa.update(t.chains).where(t.chains.c.id == b("run")).values(lease_until=b("until")))
_CLAIM = Statement(
    lambda: (
        sa.update(t.chains)
        .where(t.chains.c.id == b("run"))
        .values(
            owner=b("new_owner"),
            epoch=b("new_epoch"),
            lease_until=b("until"),
            pause_requested_at=None,
            updated_at=b("at"),
        )
    )
)


def _of_lease() -> sa.ColumnElement[bool]:
    return sa.and_(t.chains.c.id == b("run"), t.chains.c.epoch == b("lease_epoch"))


_RENEW = Statement(
    lambda: (
        sa.update(t.chains)
        .where(_of_lease())
        # A run that has just ended or paused has no owner: it was released, not lost.
        .values(
            owner=sa.case((t.chains.c.owner.is_(None), None), else_=b("new_owner")),
            lease_until=b("until"),
            current_level=sa.case((t.chains.c.current_level < b("level"), b("level")), else_=t.chains.c.current_level),
        )
    )
)
RELEASE = Statement(lambda: sa.update(t.chains).where(_of_lease()).values(owner=None, lease_until=None))
_REQUEST: dict[str, Statement] = each(
    ("cancel", "pause"),
    lambda kind: (
        sa.update(t.chains)
        .where(t.chains.c.id == b("run"))
        .values({f"{kind}_requested_at": b("at"), "updated_at": b("at")})
    ),
)
_PAUSE_UNOWNED = Statement(
    lambda: (
        sa.update(t.chains)
        .where(t.chains.c.id == b("run"))
        .values(
            status=ChainStatus.PAUSED,
            status_reason="requested",
            pause_requested_at=None,
            owner=None,
            lease_until=None,
            epoch=t.chains.c.epoch + 1,
        )
    )
)


@dataclass(frozen=True, slots=True)
class Claimer:
    """The owner of a claim, and its lease."""

    owner: Owner
    seconds: float

    def until(self, at: int) -> int:
        """The end of a lease that begins now, in UTC microseconds."""
        return FOREVER if self.owner.service else at + int(self.seconds * 1e6)

    @property
    def row(self) -> str:
        """The owner for the row. For a service the lease never expires."""
        return (self.owner if self.owner.service else self.owner.leased(self.seconds)).to_json()


class Mark(Protocol):
    """Knows whether this process works on a run."""

    def works_here(self) -> bool:
        """Does it work on the run, which names it as owner?"""
        ...

    def claimed(self) -> None:
        """From now on it does, unless the transaction fails."""
        ...


def claim(run_id: str, claimer: Claimer, this_process: Owner, mark: Mark) -> Script[int | RunRefused]:
    """The new epoch of a run without a living owner, or why it cannot be claimed.

    A refusal is returned, not raised, because the script may also have shortened a lease (written by a clock ahead of
    ours).
    """
    found = (yield _OWNER(run=run_id)).first()
    if found is None:
        return missing(run_id)
    status = rows.word(ChainStatus, found["status"], "chains", run_id, "status")
    if status.final:
        return RunRefused("E_RUN_OVER", f"run {run_id} is {status}", cure="`towpath rerun` makes a new run of it")
    at, owner = now(), parse(found["owner"])
    if owner is not None and owner.service and owner != claimer.owner:
        return _owned(run_id, owner)
    if owner is not None and not owner.service:
        refused = yield from _ask_process(run_id, owner, found, claimer, None if owner != this_process else mark)
        if refused is not None:
            return refused
    epoch = int(found["epoch"]) + 1
    yield _CLAIM(run=run_id, new_owner=claimer.row, new_epoch=epoch, until=claimer.until(at), at=at)
    yield from gates.expire((yield from gates.expired([run_id], at)), at)
    if not claimer.owner.service:
        mark.claimed()
    return epoch


def _ask_process(
    run_id: str, owner: Owner, found: Row, claimer: Claimer, mark: Mark | None
) -> Script[RunRefused | None]:
    """Why a process keeps its run; None if it has lost the run. With a `mark` it is this process."""
    at, until = now(), found["lease_until"] or 0
    alive = mark.works_here() if mark is not None else owner.left(until, at) >= 0
    if alive:
        longest = at + int(claimer.seconds * 1e6)
        if until > longest:
            # A clock ahead of ours wrote this lease: it is shortened to the usual length.
            yield _SHORTEN(run=run_id, until=longest)
        return _owned(run_id, owner, owner.left(min(until, longest), at))
    if not owner.dead:
        # It stood still for longer than its lease, or left without a release: it did not die during a step.
        yield line(run_id, None, crashes.RELEASED, at)
    return None


def renew(leases: Sequence[Lease], claimer: Claimer, level_of: Callable[[str], int]) -> Script[list[str]]:
    """Renew leases, and write the levels of their runs; returns the ids of runs that another owner has taken over.

    A run without a row is not lost: its birth is still queued.
    """
    until, lost = claimer.until(now()), []
    for lease in leases:
        level = level_of(lease.run_id)
        changed = yield _RENEW(
            run=lease.run_id, lease_epoch=lease.epoch, new_owner=claimer.row, until=until, level=level
        )
        if changed.touched != 1 and (yield _OWNER(run=lease.run_id)).rows:
            lost.append(lease.run_id)
    return lost


def request(run_id: str, kind: str, by: str) -> Script[ChainStatus]:
    """Request `cancel` or `pause`. Without a living owner, the run changes at once.

    Raises RunRefused: E_RUN_MISSING, E_RUN_OVER.
    """
    found = (yield _OWNER(run=run_id)).first()
    if found is None:
        raise missing(run_id)
    status = rows.word(ChainStatus, found["status"], "chains", run_id, "status")
    if status.final:
        raise RunRefused("E_RUN_OVER", f"run {run_id} is {status} already")
    at, owner = now(), parse(found["owner"])
    yield _REQUEST[kind](run=run_id, at=at)
    yield line(run_id, None, "CancelRequested" if kind == "cancel" else "PauseRequested", at, asked_by(by))
    if owner is not None and owner.left(found["lease_until"] or 0, at) >= 0:
        return status
    yield from levels.written([row["id"] for row in (yield _INSIDE(run=run_id)).rows])
    if kind == "pause":
        yield _PAUSE_UNOWNED(run=run_id)
        return ChainStatus.PAUSED
    for query in end_tree(run_id, at):  # noqa: UP028 - a list takes no result
        yield query
    return ChainStatus.CANCELLED


def asked_by(name: str) -> dict[str, Json]:
    """The name of the caller, for the audit trail; requests of a script have none."""
    return {"by": name} if name else {}


def _owned(run_id: str, owner: Owner, left: float | None = None) -> RunRefused:
    return RunRefused(
        "E_RUN_OWNED",
        f"run {run_id} is worked on by {owner}",
        found="" if left is None else f"a lease for {left:.0f} s more",
        cure=f"wait for it, or `towpath cancel {run_id}`"
        if owner.service
        else "wait for it, or end that process: its run can then be taken over at once",
        retryable=True,
    )
