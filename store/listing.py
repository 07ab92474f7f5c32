"""Pages of rows for the API and the pages: each table has fixed filters, operators and sorts, and keyset paging.

No text of a caller becomes part of a statement: names are looked up in `listings`, values are bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple
from unicodedata import normalize

from towpath.errors import InputInvalid
from towpath.model import ApprovalStatus, ArtifactApproval, ChainStatus, StepStatus, TransferStatus

from . import levels
from .core import sa, t
from .rows import Record, record
from .session import Session, of_one_moment
from .statements import json_member

MAX_PAGE = 500
MAX_OFFSET = 100_000
LEAST_PART = 4  # characters; a shorter part of an id finds nothing
_NEVER = 2**62  # microseconds; rows without a time are sorted last


class Kind(StrEnum):
    """The type of value that a filter compares."""

    ID = "id"
    TEXT = "text"
    WORD = "word"
    TIME = "time"
    NUMBER = "number"
    FLAG = "flag"
    TAG = "tag"


OPERATORS: dict[Kind, tuple[str, ...]] = {
    Kind.ID: ("eq",),
    Kind.TEXT: ("eq", "contains"),
    Kind.WORD: ("eq",),
    Kind.TIME: ("gte", "lt"),
    Kind.NUMBER: ("eq", "gte", "lt"),
    Kind.FLAG: ("eq",),
    Kind.TAG: ("eq",),
}
"""The operators of a kind of filter; the first is meant where none is named."""


@dataclass(frozen=True, slots=True)
class Field:
    """A filter: its column, the type of its values, and for words the allowed ones.

    `usual` is the word that most rows have. If it is among several filters, rows are read in the order of the list
    until the page is full: the index of the column would find nearly all rows, to be sorted.
    """

    column: sa.ColumnElement[Any]
    kind: Kind
    words: tuple[str, ...] = ()
    about: str = ""
    usual: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What can be listed: the columns shown, the filters, the sorts (the first is the default, newest first)."""

    source: sa.FromClause
    columns: tuple[sa.ColumnElement[Any], ...]
    fields: Mapping[str, Field]
    sorts: Mapping[str, sa.ColumnElement[Any]]
    key: sa.ColumnElement[Any]
    search: tuple[sa.ColumnElement[Any], ...] = ()
    descending: bool = True


class Condition(NamedTuple):
    """One filter of a caller. The value of a filter for words is a list of them; that of a filter for tags is a list of
    keys and values, with None for any value.
    """

    field: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Page:
    """The page that a caller wants. `after` is the sort value and the id of the last row on the page before."""

    conditions: Sequence[Condition] = ()
    search: str = ""
    sort: str = ""
    descending: bool | None = None
    after: tuple[Any, str] | None = None
    limit: int = 50
    offset: int = 0


@dataclass(slots=True)
class Rows:
    """A page of rows, and the place where the next one begins, if there is one."""

    rows: list[Record] = field(default_factory=list)
    next: tuple[Any, str] | None = None


def _only(table: sa.Table, names: str) -> tuple[sa.ColumnElement[Any], ...]:
    return tuple(table.c[name] for name in names.split())


@cache
def listings() -> dict[str, Listing]:
    """What can be listed, by name."""
    transfers = t.artifact_transfers
    return {
        "chains": Listing(
            t.chains,
            _only(
                t.chains,
                "id name description status status_reason current_level started_at completed_at error_message "
                "error_code definition_hash parent_run_id regenerated_from_step_id parent_workflow_id created_at "
                "updated_at run_name tags",
            ),
            {
                "name": Field(t.chains.c.name, Kind.TEXT, about="the name of the chain"),
                "run_name": Field(t.chains.c.run_name, Kind.TEXT, about="the name that the run was given"),
                "tag": Field(t.chains.c.tags, Kind.TAG, about="`key` or `key=value`; repeatable, all must be there"),
                "status": Field(t.chains.c.status, Kind.WORD, tuple(ChainStatus), usual=ChainStatus.COMPLETED),
                "started_at": Field(t.chains.c.started_at, Kind.TIME),
                "parent_run_id": Field(t.chains.c.parent_run_id, Kind.ID, about="the run that this is a rerun of"),
                "inner": Field(
                    t.chains.c.parent_workflow_id.is_not(None), Kind.FLAG, about="runs inside steps of others"
                ),
            },
            {"started_at": t.chains.c.started_at, "updated_at": t.chains.c.updated_at, "name": t.chains.c.name},
            t.chains.c.id,
            (t.chains.c.name, t.chains.c.run_name, t.chains.c.id),
        ),
        "workflows": Listing(
            t.workflows,
            _only(
                t.workflows,
                "id chain_id step_id item_index workflow_name server_address prompt_id status latest_artifact_id "
                "attempt item_count queued_at started_at completed_at error_message error_code created_at updated_at",
            ),
            {
                "chain_id": Field(t.workflows.c.chain_id, Kind.TEXT),
                "step_id": Field(t.workflows.c.step_id, Kind.TEXT),
                "status": Field(t.workflows.c.status, Kind.WORD, tuple(StepStatus)),
                "workflow_name": Field(t.workflows.c.workflow_name, Kind.TEXT),
                "queued_at": Field(t.workflows.c.queued_at, Kind.TIME),
                "item": Field(t.workflows.c.item_index.is_not(None), Kind.FLAG, about="items of mapped steps"),
            },
            {
                "queued_at": t.workflows.c.queued_at,
                "updated_at": t.workflows.c.updated_at,
                "workflow_name": t.workflows.c.workflow_name,
            },
            t.workflows.c.id,
            (t.workflows.c.workflow_name, t.workflows.c.step_id),
        ),
        "artifacts": Listing(
            t.artifacts.join(t.workflows, t.workflows.c.id == t.artifacts.c.workflow_id),
            (
                *_only(
                    t.artifacts,
                    "id workflow_id name version is_latest filename file_type file_format file_size media_type sha256 "
                    "parent_artifact_id approval_status approved_by approved_at rejection_reason attempt created_by "
                    "extra_metadata created_at updated_at",
                ),
                *_only(t.workflows, "chain_id step_id item_index"),
            ),
            {
                "chain_id": Field(t.workflows.c.chain_id, Kind.TEXT),
                "workflow_id": Field(t.artifacts.c.workflow_id, Kind.ID),
                "step_id": Field(t.workflows.c.step_id, Kind.TEXT),
                "name": Field(t.artifacts.c.name, Kind.TEXT),
                "filename": Field(t.artifacts.c.filename, Kind.TEXT),
                "file_type": Field(
                    t.artifacts.c.file_type, Kind.TEXT, about="image, video, audio, text, model or file"
                ),
                "media_type": Field(t.artifacts.c.media_type, Kind.TEXT),
                "sha256": Field(t.artifacts.c.sha256, Kind.ID),
                "version": Field(t.artifacts.c.version, Kind.NUMBER),
                "file_size": Field(t.artifacts.c.file_size, Kind.NUMBER, about="bytes"),
                "is_latest": Field(t.artifacts.c.is_latest == 1, Kind.FLAG),
                "approval_status": Field(t.artifacts.c.approval_status, Kind.WORD, tuple(ArtifactApproval)),
                "created_at": Field(t.artifacts.c.created_at, Kind.TIME),
            },
            {
                "created_at": t.artifacts.c.created_at,
                "filename": t.artifacts.c.filename,
                "file_size": t.artifacts.c.file_size,
                "version": t.artifacts.c.version,
            },
            t.artifacts.c.id,
            (t.artifacts.c.filename, t.artifacts.c.name),
        ),
        "transfers": Listing(
            transfers,
            _only(
                transfers,
                "id artifact_id source_workflow_id target_workflow_id target_server target_subfolder target_name "
                "status attempt bytes duration_us uploaded_at error_message created_at updated_at",
            ),
            {
                "artifact_id": Field(transfers.c.artifact_id, Kind.ID),
                "source_workflow_id": Field(transfers.c.source_workflow_id, Kind.ID),
                "target_workflow_id": Field(transfers.c.target_workflow_id, Kind.ID),
                "target_server": Field(transfers.c.target_server, Kind.TEXT),
                "status": Field(transfers.c.status, Kind.WORD, tuple(TransferStatus)),
                "created_at": Field(transfers.c.created_at, Kind.TIME),
            },
            {"created_at": transfers.c.created_at, "updated_at": transfers.c.updated_at},
            transfers.c.id,
        ),
        "approvals": Listing(
            t.approvals,
            _only(
                t.approvals,
                "id chain_id workflow_id step_id item_index attempt status artifact_ids policy requested_at expires_at "
                "decided_at decided_by reason action decision_parameters link_expires_at created_at updated_at",
            ),
            {
                "chain_id": Field(t.approvals.c.chain_id, Kind.TEXT),
                "workflow_id": Field(t.approvals.c.workflow_id, Kind.ID),
                "step_id": Field(t.approvals.c.step_id, Kind.TEXT),
                "status": Field(t.approvals.c.status, Kind.WORD, tuple(ApprovalStatus)),
                "decided_by": Field(t.approvals.c.decided_by, Kind.TEXT),
                "requested_at": Field(t.approvals.c.requested_at, Kind.TIME),
            },
            {
                "requested_at": t.approvals.c.requested_at,
                "updated_at": t.approvals.c.updated_at,
                "expires_at": sa.func.coalesce(t.approvals.c.expires_at, sa.literal(_NEVER, sa.BigInteger)),
            },
            t.approvals.c.id,
            (t.approvals.c.step_id,),
            descending=False,
        ),
        "keys": Listing(
            t.api_keys,
            _only(t.api_keys, "id name role created_at revoked_at"),
            {"name": Field(t.api_keys.c.name, Kind.TEXT)},
            {"created_at": t.api_keys.c.created_at, "name": t.api_keys.c.name},
            t.api_keys.c.id,
            descending=False,
        ),
    }


@of_one_moment
async def list_rows(session: Session, what: str, page: Page) -> Rows:
    """One page of a listing, in one query, and one more for the levels of running runs.

    Raises:
        InputInvalid: E_FILTER_FIELD, E_FILTER_OP, E_SORT_FIELD, E_PAGE.
    """
    listing = listings()[what]
    if not (0 < page.limit <= MAX_PAGE and 0 <= page.offset <= MAX_OFFSET):
        allowed = f"limit 1 to {MAX_PAGE}, offset 0 to {MAX_OFFSET}"
        raise InputInvalid("E_PAGE", "limit or offset out of range", found=(page.limit, page.offset), allowed=allowed)
    by = sort_of(listing, page.sort)
    falling = listing.descending if page.descending is None else page.descending
    query = sa.select(*listing.columns, by.label("sorted_by")).select_from(listing.source)
    query = query.where(*filters(what, page.conditions, alone=not page.search))
    if page.search:
        query = query.where(sa.or_(*(column.icontains(page.search, autoescape=True) for column in listing.search)))
    if page.after is not None:
        query = query.where(_beyond(by, listing.key, page.after, falling))
    ends = (by.desc(), listing.key.desc()) if falling else (by.asc(), listing.key.asc())
    query = query.order_by(*ends).limit(page.limit + 1).offset(page.offset)
    found = await session.fetch_all(query)
    more = len(found) > page.limit
    last = found[page.limit - 1] if more else None
    places = [row.pop("sorted_by") for row in found]
    rows = [record(row) for row in found[: page.limit]]
    if what == "chains":
        await levels.shown(session, rows)
    return Rows(rows, None if last is None else (places[page.limit - 1], last["id"]))


async def find_ids(session: Session, what: str, part: str, most: int = 6) -> list[str]:
    """The ids in a listing that are `part`, or begin or end with it, newest first; at most `most`.

    A whole id is the only result, also if other ids end with it. A name of runs means the newest run of that name.
    Fewer than 4 characters of an id find nothing.
    """
    key = listings()[what].key
    places = [sa.select(key.label("id"), sa.literal(0).label("place")).where(key == part)]
    if what == "chains":
        places.append(_newest_named(part))
    if len(part) >= LEAST_PART and "\0" not in part:  # a NUL would end the pattern
        partly = sa.or_(key.startswith(part, autoescape=True), key.endswith(part, autoescape=True))
        places.append(sa.select(key, sa.literal(2)).where(partly))
    found = sa.union_all(*places).subquery()
    rows = await session.fetch_all(sa.select(found).order_by(found.c.place, found.c.id.desc()).limit(most))
    ids = [str(row["id"]) for row in rows]
    return ids[:1] if rows and rows[0]["place"] < 2 else ids


def _newest_named(name: str) -> sa.Select[*tuple[Any, ...]]:
    chains = t.chains.c
    named = sa.select(chains.id).where(chains.run_name == normalize("NFC", name).strip())
    newest = named.order_by(chains.started_at.desc(), chains.id.desc()).limit(1).subquery()
    return sa.select(newest.c.id, sa.literal(1))


def sort_of(listing: Listing, name: str) -> sa.ColumnElement[Any]:
    """The column of a sort, the first one for no name. Raises InputInvalid (E_SORT_FIELD)."""
    if not name:
        return next(iter(listing.sorts.values()))
    if name not in listing.sorts:
        raise InputInvalid(
            "E_SORT_FIELD", "the list cannot be sorted by this", found=name, allowed=" ".join(listing.sorts)
        )
    return listing.sorts[name]


def field_of(listing: Listing, name: str, operator: str) -> tuple[Field, str]:
    """A filter and its operator, checked. Raises InputInvalid (E_FILTER_FIELD, E_FILTER_OP)."""
    if name not in listing.fields:
        raise InputInvalid("E_FILTER_FIELD", "there is no such filter", found=name, allowed=" ".join(listing.fields))
    there = OPERATORS[listing.fields[name].kind]
    if operator and operator not in there:
        raise InputInvalid("E_FILTER_OP", f"no such operator for {name}", found=operator, allowed=" ".join(there))
    return listing.fields[name], operator or there[0]


def filters(what: str, conditions: Sequence[Condition], *, alone: bool = True) -> list[sa.ColumnElement[bool]]:
    """The conditions as expressions. Not `alone` if the query has more of them.

    Raises InputInvalid: E_FILTER_FIELD, E_FILTER_OP.
    """
    listing = listings()[what]
    alone = alone and len(conditions) <= 1 + sum(condition.field == "inner" for condition in conditions)
    return [_where(listing, condition, alone) for condition in conditions]


def _where(listing: Listing, condition: Condition, alone: bool) -> sa.ColumnElement[bool]:
    one, operator = field_of(listing, condition.field, condition.operator)
    value = condition.value
    found: sa.ColumnElement[bool]
    if one.kind is Kind.FLAG:
        found = one.column if value else sa.not_(one.column)
    elif one.kind is Kind.WORD:
        found = _one_of_words(one, list(value), alone)
    elif one.kind is Kind.TAG:
        found = sa.and_(*(_tagged(one.column, key, wanted) for key, wanted in value))
    elif operator == "contains":
        found = one.column.icontains(value, autoescape=True)
    elif operator == "gte":
        found = one.column >= value
    elif operator == "lt":
        found = one.column < value
    else:
        found = one.column == value
    return found


def _one_of_words(one: Field, words: list[str], alone: bool) -> sa.ColumnElement[bool]:
    hidden = one.usual in words and not (alone and len(words) == 1)
    return (one.column.concat("") if hidden else one.column).in_(words)  # no index is used for an expression


def _tagged(column: sa.ColumnElement[Any], key: str, wanted: str | None) -> sa.ColumnElement[bool]:
    found = json_member(column, key)
    return found.is_not(None) if wanted is None else found == wanted


def _beyond(
    by: sa.ColumnElement[Any], key: sa.ColumnElement[Any], after: tuple[Any, str], falling: bool
) -> sa.ColumnElement[bool]:
    value, last = after
    if falling:
        return sa.and_(by <= value, sa.or_(by < value, key < last))
    return sa.and_(by >= value, sa.or_(by > value, key > last))
