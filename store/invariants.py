"""What must hold between rows: each check reads one snapshot and reports every row where it does not.

The numbers are ids of invariants (docs/vocabulary.md): I3 versions, I4 latest, I5 pointer, I6 lineage, I7 bytes, I8
orphans, I10 transfers, I12 statuses and their trail, I13 owners, I14 approvals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa

from towpath.model import ApprovalStatus, ArtifactApproval, ChainStatus, GateAction, StepStatus, TransferStatus
from towpath.values import REFERENCE, STORED_VALUE

from .backend import Row, Script
from .clock import now
from .definitions import FIND, elsewhere
from .findings import Check, Finding, each
from .owners import parse
from .statements import Made, one_of
from .statements import param as b
from .tables import (
    approvals,
    artifact_deletions,
    artifact_transfers,
    artifacts,
    blobs,
    chains,
    events,
    workflows,
)
from .versions import given


def _rows(statement: Made, judge: Callable[[Row], Finding]) -> Script[list[Finding]]:
    """One finding for each row of a select that returns only wrong rows."""
    return [judge(row) for row in (yield statement()).rows]


# ---- words and JSON

_STATUSES = (
    (chains.c.status, ChainStatus),
    (workflows.c.status, StepStatus),
    (artifact_transfers.c.status, TransferStatus),
    (approvals.c.status, ApprovalStatus),
    (approvals.c.action, GateAction),
    (artifacts.c.approval_status, ArtifactApproval),
)
_WORDS = [
    (column, Made(sa.select(column.table.c.id, column.label("word")).where(column.not_in(list(kind)))))
    for column, kind in _STATUSES
]
_JSON = (
    (chains.c.id, "", ("chain_definition", "inputs", "owner")),
    (workflows.c.id, "", ("value", "parameters", "error", "workflow_definition")),
    (approvals.c.id, "", ("artifact_ids", "policy", "decision_parameters")),
    (artifacts.c.id, "", ("parameters", "extra_metadata")),
    (events.c.seq, -(2**63), ("data",)),
)


def words() -> Script[list[Finding]]:
    found = []
    for column, wrong in _WORDS:
        for row in (yield wrong()).rows:
            why = f"{column.key} holds the unknown word {row['word']!r:.80}"
            found.append(Finding("I12", "E_DB_VALUE", column.table.name, row["id"], why))
    return found


def json_columns() -> Script[list[Finding]]:
    found = []
    for key, first, columns in _JSON:
        select = sa.select(key, *(key.table.c[name] for name in columns))
        found += yield from each(select, key, first, partial(_no_json, key))
    return found


def _no_json(key: sa.Column[Any], row: Row) -> Iterator[Finding]:
    for name, text in row.items():
        if name != key.key and text is not None and not _is_json(text):
            why = f"{name} holds no JSON: {text!r:.80}"
            yield Finding("I12", "E_DB_VALUE", key.table.name, str(row[key.key]), why)


def _is_json(text: Any) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, TypeError, UnicodeError):
        return False
    return True


_LARGE = sa.select(chains.c.id, chains.c.chain_definition)


def kept_definitions() -> Script[list[Finding]]:
    """The definition that a run names exists, and has the digest in the row."""
    named: list[tuple[str, str]] = []

    def judge(row: Row) -> Iterable[Finding]:
        digest = elsewhere(row["chain_definition"])
        named.extend([] if digest is None else [(row["id"], digest)])
        return ()

    yield from each(_LARGE.where(chains.c.chain_definition.is_not(None)), chains.c.id, "", judge)
    wrong: dict[str, str] = {}
    for digest in {digest for _, digest in named}:
        row = (yield FIND(sha256=digest)).first()
        if row is None:
            wrong[digest] = f"its definition {digest} is not in the store"
        elif hashlib.sha256(row["definition"].encode()).hexdigest() != digest:
            wrong[digest] = f"its definition does not match its digest {digest}"
    code = "E_FSCK_DEFINITION"
    return [Finding("I7", code, "chains", row, wrong[digest]) for row, digest in named if digest in wrong]


# ---- I3 to I6: versions of artifacts

_given = given().c
_many, _distinct = sa.func.count(), sa.func.count(_given.version.distinct())
_lowest, _highest = sa.func.min(_given.version), sa.func.max(_given.version)
_NUMBERS = Made(
    sa.select(
        _given.workflow_id,
        _given.name,
        _many.label("many"),
        _distinct.label("distinct"),
        _lowest.label("lowest"),
        _highest.label("highest"),
    )
    .group_by(_given.workflow_id, _given.name)
    .having(sa.or_(_many != _distinct, _distinct != _highest, _lowest < 1))
)


def versions() -> Script[list[Finding]]:
    return (yield from _rows(_NUMBERS, _wrong_numbers))


def _wrong_numbers(row: Row) -> Finding:
    if row["many"] != row["distinct"]:
        why = "a version number was given twice"
    elif row["lowest"] < 1:
        why = f"a version is numbered {row['lowest']}"
    else:
        there = f"{row['distinct']} versions are there, the highest is {row['highest']}"
        why = f"{there}, and no deletion explains the gap"
    return Finding("I3", "E_FSCK_VERSIONS", "artifacts", row["workflow_id"], f"output {row['name']}: {why}")


_marked = sa.func.coalesce(sa.func.sum(sa.case((artifacts.c.is_latest == 1, 1), else_=0)), 0)
_unclear = sa.func.sum(sa.case((artifacts.c.is_latest.not_in((0, 1)), 1), else_=0))
WRONG_LATEST = Made(
    sa.select(
        artifacts.c.workflow_id,
        artifacts.c.name,
        _marked.label("marked"),
        sa.func.max(artifacts.c.version).label("highest"),
    )
    .group_by(artifacts.c.workflow_id, artifacts.c.name)
    .having(sa.or_(_marked != 1, _unclear > 0))
)


def latest() -> Script[list[Finding]]:
    return (yield from _rows(WRONG_LATEST, _wrong_latest))


def _wrong_latest(row: Row) -> Finding:
    many = "no version is" if not row["marked"] else f"{row['marked']} versions are"
    why = f"output {row['name']}: {many} marked as the latest"
    return Finding("I4", "E_FSCK_LATEST", "artifacts", row["workflow_id"], why)


_pointed = sa.and_(artifacts.c.id == workflows.c.latest_artifact_id, artifacts.c.workflow_id == workflows.c.id)
_any = artifacts.alias("any_artifact")
WRONG_POINTER = Made(
    sa.select(workflows.c.id, workflows.c.latest_artifact_id, artifacts.c.is_latest)
    .select_from(workflows.outerjoin(artifacts, _pointed))
    .where(
        sa.or_(
            sa.and_(
                workflows.c.latest_artifact_id.is_(None),
                sa.exists().where(_any.c.workflow_id == workflows.c.id),
            ),
            sa.and_(
                workflows.c.latest_artifact_id.is_not(None),
                sa.or_(artifacts.c.id.is_(None), artifacts.c.is_latest != 1),
            ),
        )
    )
)


def pointers() -> Script[list[Finding]]:
    return (yield from _rows(WRONG_POINTER, _wrong_pointer))


def _wrong_pointer(row: Row) -> Finding:
    if row["latest_artifact_id"] is None:
        why = "is empty although there are artifacts"
    else:
        why = "names no artifact of this workflow" if row["is_latest"] is None else "names an old version"
    return Finding("I5", "E_FSCK_POINTER", "workflows", row["id"], f"latest_artifact_id {why}")


_parent = artifacts.alias("parent")
_another_output = sa.or_(_parent.c.workflow_id != artifacts.c.workflow_id, _parent.c.name != artifacts.c.name)
_WRONG_PARENT = Made(
    sa.select(artifacts.c.id, _parent.c.id.label("parent"), sa.case((_another_output, 1), else_=0).label("stranger"))
    .select_from(artifacts.outerjoin(_parent, _parent.c.id == artifacts.c.parent_artifact_id))
    .where(
        artifacts.c.parent_artifact_id.is_not(None),
        sa.or_(_parent.c.id.is_(None), _another_output, _parent.c.version >= artifacts.c.version),
    )
)


def lineage() -> Script[list[Finding]]:
    """A parent is a version of the same output with a lower number: so there is no cycle either."""
    return (yield from _rows(_WRONG_PARENT, _wrong_parent))


def _wrong_parent(row: Row) -> Finding:
    if row["parent"] is None:
        why = "is not there"
    else:
        why = "belongs to another output" if row["stranger"] else "is not an older version: the lineage is a circle"
    return Finding("I6", "E_FSCK_LINEAGE", "artifacts", row["id"], f"the parent {why}")


# ---- I7 and I8: bytes in the database

_length = sa.func.length(blobs.c.data)
_WRONG_SIZE = Made(
    sa.select(artifacts.c.id, artifacts.c.file_size, _length.label("there"))
    .join(blobs, blobs.c.sha256 == artifacts.c.sha256)
    .where(sa.or_(blobs.c.size != artifacts.c.file_size, _length != artifacts.c.file_size))
)
ORPHANED = sa.not_(sa.exists().where(artifacts.c.sha256 == blobs.c.sha256))
_ORPHANS = Made(sa.select(blobs.c.sha256, blobs.c.size).where(ORPHANED))


def inline_sizes() -> Script[list[Finding]]:
    return (yield from _rows(_WRONG_SIZE, _wrong_size))


def _wrong_size(row: Row) -> Finding:
    why = f"{row['there']} bytes in the database instead of {row['file_size']}"
    return Finding("I7", "E_BLOB_CORRUPT", "artifacts", row["id"], why)


def inline_bytes() -> Script[list[Finding]]:
    return (yield from each(sa.select(blobs.c.sha256, blobs.c.data), blobs.c.sha256, "", _wrong_bytes))


def _wrong_bytes(row: Row) -> Iterator[Finding]:
    data = row["data"] if isinstance(row["data"], bytes) else str(row["data"]).encode()
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        why = "the bytes in the database do not match the digest"
        yield Finding("I7", "E_BLOB_CORRUPT", "blobs", row["sha256"], why)


def inline_orphans() -> Script[list[Finding]]:
    """Bytes that deleted artifacts have left. They are harmless and have no age, so they are only notes."""
    return (yield from _rows(_ORPHANS, _orphan))


def _orphan(row: Row) -> Finding:
    why = f"{row['size']} bytes in the database belong to no artifact"
    return Finding("I8", "E_FSCK_ORPHAN", "blobs", row["sha256"], why, note=True)


# ---- I10: transfers

_sent = artifact_transfers.c
_completed = _sent.status == TransferStatus.COMPLETED
_NEVER_SENT = Made(sa.select(_sent.id).where(_completed, _sent.uploaded_at.is_(None)))
_SENT_TWICE = Made(
    sa.select(sa.func.max(_sent.id).label("id"), sa.func.count().label("many"), _sent.target_server)
    .where(_completed)
    .group_by(_sent.artifact_id, _sent.target_server, _sent.target_subfolder, _sent.target_workflow_id)
    .having(sa.func.count() > 1)
)


def transfers() -> Script[list[Finding]]:
    found = yield from _rows(_NEVER_SENT, lambda row: _transfer(row, "is completed, but has no time"))
    again = "one artifact was sent {many} times to the same place at {target_server}"
    return found + (yield from _rows(_SENT_TWICE, lambda row: _transfer(row, again.format(**row))))


def _transfer(row: Row, why: str) -> Finding:
    return Finding("I10", "E_FSCK_TRANSFER", "artifact_transfers", row["id"], why)


# ---- I12: statuses

_FINAL_CHAINS = [word for word in ChainStatus if word.final]
_OPEN_STEPS = [word for word in StepStatus if not word.final]
_OPEN_ROWS = Made(
    sa.select(workflows.c.id, workflows.c.status, chains.c.status.label("chain"))
    .join(chains, chains.c.id == workflows.c.chain_id)
    .where(
        chains.c.completed_at.is_not(None),
        one_of(chains.c.status, _FINAL_CHAINS),
        one_of(workflows.c.status, _OPEN_STEPS),
    )
)


def open_rows() -> Script[list[Finding]]:
    return (yield from _rows(_OPEN_ROWS, _open_row))


def _open_row(row: Row) -> Finding:
    why = f"is {row['status']}, but its chain is {row['chain']}"
    return Finding("I12", "E_FSCK_STATUS", "workflows", row["id"], why)


def _wrong_ends(table: sa.Table, final: list[Any]) -> Made:
    ended, over = table.c.completed_at.is_not(None), one_of(table.c.status, final)
    wrong = sa.or_(sa.and_(over, sa.not_(ended)), sa.and_(sa.not_(over), ended))
    return Made(sa.select(table.c.id, table.c.status, table.c.completed_at).where(wrong))


_WRONG_ENDS = {
    table.name: _wrong_ends(table, [word for word in kind if word.final])
    for table, kind in ((chains, ChainStatus), (workflows, StepStatus))
}


def ended_at() -> Script[list[Finding]]:
    found = []
    for table, wrong in _WRONG_ENDS.items():
        for row in (yield wrong()).rows:
            why = "has no end time" if row["completed_at"] is None else "has an end time"
            found.append(Finding("I12", "E_FSCK_STATUS", table, row["id"], f"is {row['status']}, but {why}"))
    return found


_item = workflows.alias("item")
_found, _top = sa.func.count(_item.c.id), sa.func.coalesce(sa.func.max(_item.c.item_index), -1)
_ITEMS = Made(
    sa.select(workflows.c.id, workflows.c.item_count, _found.label("found"), _top.label("top"))
    .select_from(
        workflows.outerjoin(
            _item,
            sa.and_(
                _item.c.chain_id == workflows.c.chain_id,
                _item.c.step_id == workflows.c.step_id,
                _item.c.item_index.is_not(None),
            ),
        )
    )
    .where(workflows.c.item_index.is_(None), workflows.c.item_count.is_not(None))
    .group_by(workflows.c.id, workflows.c.status, workflows.c.item_count)
    .having(
        sa.or_(
            _top >= workflows.c.item_count,
            sa.and_(
                one_of(workflows.c.status, (StepStatus.COMPLETED, StepStatus.CACHED)), _found != workflows.c.item_count
            ),
        )
    )
)


def items() -> Script[list[Finding]]:
    """A completed mapped step has one row for each of its items; no mapped step has more rows than items."""
    return (yield from _rows(_ITEMS, _wrong_items))


def _wrong_items(row: Row) -> Finding:
    why = f"{row['found']} items up to number {row['top']} instead of {row['item_count']}"
    return Finding("I12", "E_FSCK_ITEMS", "workflows", row["id"], why)


_WITH_FILES = sa.select(workflows.c.id, workflows.c.chain_id, workflows.c.step_id, workflows.c.value).where(
    one_of(workflows.c.status, (StepStatus.COMPLETED, StepStatus.CACHED)),
    sa.or_(*(workflows.c.value.contains(f'"{mark}"', autoescape=True) for mark in (REFERENCE, STORED_VALUE))),
)
_ITEM_ROW = Made(
    sa.select(workflows.c.id).where(
        workflows.c.chain_id == b("run"), workflows.c.step_id == b("step"), workflows.c.item_index == b("item")
    )
)
_OUTPUTS = {
    table.name: Made(
        sa.select(sa.literal(1).label("there")).where(table.c.workflow_id == b("row"), table.c.name == b("output"))
    )
    for table in (artifacts, artifact_deletions)
}


def values() -> Script[list[Finding]]:
    """The files that the value of a completed row refers to are there."""
    named: list[tuple[Row, str, int | None]] = []

    def collect(row: Row) -> Iterable[Finding]:
        value = row.pop("value")
        if _is_json(value):  # else `json_columns` reports it
            named.extend((row, name, item) for name, item in _named_in(msgspec.json.decode(value)))
        return ()

    yield from each(_WITH_FILES, workflows.c.id, "", collect)
    found = []
    for row, name, item in named:
        found += yield from _missing_output(row, item, name)
    return found


def _missing_output(row: Row, item: int | None, name: str) -> Script[list[Finding]]:
    holder = row["id"]
    if item is not None:
        there = (yield _ITEM_ROW(run=row["chain_id"], step=row["step_id"], item=item)).first()
        holder = None if there is None else there["id"]
    refers = f"its value refers to the file {name}, which"
    if (yield _OUTPUTS["artifacts"](row=holder, output=name)).rows:
        return []
    if (yield _OUTPUTS["artifact_deletions"](row=holder, output=name)).rows:
        return [Finding("I7", "E_FSCK_VALUE", "workflows", row["id"], f"{refers} was deleted", note=True)]
    return [Finding("I7", "E_FSCK_VALUE", "workflows", row["id"], f"{refers} is not there")]


def _named_in(value: Any) -> Iterator[tuple[str, int | None]]:
    if isinstance(value, dict):
        if REFERENCE in value:
            yield value[REFERENCE], value.get("item")
        elif STORED_VALUE in value:
            yield value[STORED_VALUE], None
        else:
            for inner in value.values():
                yield from _named_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_in(inner)


# ---- I13 and I14: owners and approvals

_RUNNING = Made(
    sa.select(chains.c.id, chains.c.owner, chains.c.lease_until).where(
        chains.c.status == ChainStatus.RUNNING,
        sa.or_(chains.c.owner.is_not(None), chains.c.chain_definition.is_not(None)),
    )
)


def owners() -> Script[list[Finding]]:
    """Running runs without a live owner. Nothing is lost: they can be resumed."""
    found = []
    for row in (yield _RUNNING()).rows:
        if row["owner"] is not None and not _is_json(row["owner"]):
            continue  # `json_columns` reports it
        owner = parse(row["owner"])
        if owner is None or owner.left(row["lease_until"] or 0, now()) < 0:
            who = "no process works on it" if owner is None else f"it was left by {owner}"
            why = f"{who}: `towpath resume {row['id']}`"
            found.append(Finding("I13", "E_FSCK_LEFT", "chains", row["id"], why, note=True))
    return found


_child = chains.alias("child")
_APPROVALS = (
    (
        "workflows",
        "several approvals are pending at once",
        sa.select(approvals.c.workflow_id.label("id"))
        .where(approvals.c.status == ApprovalStatus.PENDING)
        .group_by(approvals.c.workflow_id)
        .having(sa.func.count() > 1),
    ),
    (
        "workflows",
        "waits for an approval that was never requested",
        sa.select(workflows.c.id).where(
            workflows.c.status == StepStatus.WAITING_APPROVAL,
            workflows.c.item_count.is_(None),
            sa.not_(sa.exists().where(_child.c.parent_workflow_id == workflows.c.id)),
            sa.not_(sa.exists().where(approvals.c.workflow_id == workflows.c.id, approvals.c.delivered == 0)),
        ),
    ),
    (
        "approvals",
        "was decided without a time, or has a time without a decision",
        sa.select(approvals.c.id).where(
            sa.or_(
                sa.and_(approvals.c.status == ApprovalStatus.PENDING, approvals.c.decided_at.is_not(None)),
                sa.and_(approvals.c.status != ApprovalStatus.PENDING, approvals.c.decided_at.is_(None)),
            )
        ),
    ),
    (
        "approvals",
        "its row is over, but the decision was not acted on",
        sa.select(approvals.c.id)
        .join(workflows, workflows.c.id == approvals.c.workflow_id)
        .join(chains, chains.c.id == workflows.c.chain_id)
        .where(
            approvals.c.delivered == 0,
            approvals.c.status != ApprovalStatus.PENDING,
            workflows.c.completed_at.is_not(None),
            chains.c.chain_definition.is_not(None),
        ),
    ),
)
_WRONG_APPROVALS = [(table, why, Made(select)) for table, why, select in _APPROVALS]


def gates() -> Script[list[Finding]]:
    found = []
    for table, why, wrong in _WRONG_APPROVALS:
        found += [approval_finding(table, row["id"], why) for row in (yield wrong()).rows]
    return found


def approval_finding(table: str, row: str, why: str) -> Finding:
    return Finding("I14", "E_FSCK_APPROVAL", table, row, why)


ROW_CHECKS: tuple[Check, ...] = (
    words,
    json_columns,
    kept_definitions,
    versions,
    latest,
    pointers,
    lineage,
    inline_sizes,
    inline_orphans,
    transfers,
    open_rows,
    ended_at,
    items,
    values,
    owners,
    gates,
)
