"""Query parameters: filters, sorts and pages of lists, typed and limited; and signed cursors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from itsdangerous import BadSignature, URLSafeSerializer
from starlette.requests import Request
from starlette.responses import Response

from towpath.run_labels import tag_asked
from towpath.store.listing import (
    MAX_OFFSET,
    MAX_PAGE,
    OPERATORS,
    Condition,
    Field,
    Kind,
    Listing,
    Page,
    field_of,
    listings,
    sort_of,
)

from .access import records_of
from .bodies import check_text
from .errors import Refused
from .responses import PageOut, json_response, shaped
from .route_table import QueryParameter

MAX_VALUE = 500  # characters of a filter's value
MAX_CURSOR = 8_000  # characters; a cursor holds the value that the list is sorted by
_KEY = re.compile(r"([a-z_0-9]+)(?:\[([^\]]*)\])?")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
MAX_PARAMETERS = 100
_SEVERAL = frozenset({Kind.WORD, Kind.TAG})
_REPEATED = frozenset(name for one in listings().values() for name, f in one.fields.items() if f.kind in _SEVERAL)
_PAGING = frozenset({"limit", "offset", "after", "sort", "order", "search"})


def check_query(request: Request) -> None:
    """Only filters of several words or tags may occur twice. Raises Refused: 422 E_PARAM_TYPE, E_PARAM_RANGE."""
    pairs = request.query_params.multi_items()
    if len(pairs) > MAX_PARAMETERS:
        raise Refused(422, "E_PARAM_RANGE", "the query has too many parameters", allowed=str(MAX_PARAMETERS))
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen and name not in _REPEATED:
            raise Refused(422, "E_PARAM_TYPE", "a parameter is given twice", found=name, cure="give it once")
        seen.add(name)


def page_of(request: Request, what: str, **fixed: Any) -> Page:
    """The page of a list that the query asks for; `fixed` are filters of the route itself.

    Raises Refused: 400 E_CURSOR, 422 E_PARAM_…, E_FILTER_SIZE; InputInvalid: E_FILTER_FIELD, E_FILTER_OP,
    E_SORT_FIELD.
    """
    listing = listings()[what]
    given = request.query_params
    conditions = [Condition(name, "", value) for name, value in fixed.items()]
    filters = [key for key in dict.fromkeys(given.keys()) if key not in _PAGING]
    conditions += [_condition(listing, key, given.getlist(key), fixed) for key in filters]
    applied = [(one.field, one.operator) for one in conditions]
    if len(set(applied)) < len(applied):  # `size=1&size[eq]=2`
        raise Refused(422, "E_PARAM_TYPE", "a filter is given twice", cure="give it once")
    sort = given.get("sort", "")
    sort_of(listing, sort)
    descending = _descending(given.get("order"))
    after = read_cursor(request, _view(what, sort, descending), given["after"]) if "after" in given else None
    return Page(
        conditions=conditions,
        search=_search(listing, given.get("search", "")),
        sort=sort,
        descending=descending,
        after=after,
        limit=number(given, "limit", 50, 1, MAX_PAGE),
        offset=number(given, "offset", 0, 0, MAX_OFFSET),
    )


def cursor_for(request: Request, what: str, page: Page, place: tuple[Any, str] | None) -> str | None:
    """The cursor of the next page; None after the last page."""
    return None if place is None else signed_cursor(request, _view(what, page.sort, page.descending), place)


async def list_response(request: Request, what: str, kind: Any, **fixed: Any) -> Response:
    """A page of a list, with the filters, the sort and the cursor of the query."""
    page = page_of(request, what, **fixed)
    found = await records_of(request).page(what, page)
    rows = [shaped(kind, row) for row in found.rows]
    return json_response(PageOut(rows=rows, next=cursor_for(request, what, page, found.next)))


def signed_cursor(request: Request, view: str, place: tuple[Any, str]) -> str:
    """A cursor for one view of a list. It is signed, so that a value in it can be trusted."""
    return str(_signer(request).dumps([view, *place]))


def read_cursor(request: Request, view: str, text: str) -> tuple[Any, str]:
    """The place in a cursor that was signed for this view. Raises Refused (400 E_CURSOR)."""
    try:
        found, value, last = _signer(request).loads(text[:MAX_CURSOR])
    except (BadSignature, ValueError, TypeError):
        found = value = last = None
    if found != view:
        cure = "send the `next` of the page before, with the same sort and order"
        raise Refused(400, "E_CURSOR", "this is not a cursor of this list", cure=cure)
    return value, str(last)


def cursor_from(request: Request, view: str) -> tuple[Any, str] | None:
    """The cursor `after` of a page for people; None on its first page. Raises Refused (400 E_CURSOR)."""
    text = request.query_params.get("after", "")
    return read_cursor(request, view, text) if text else None


def next_cursor(request: Request, view: str, place: tuple[Any, str] | None) -> str:
    """The cursor of the next page for people; "" after the last one."""
    return "" if place is None else signed_cursor(request, view, place)


def number(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number from the query. Raises Refused: 422 E_PARAM_TYPE, E_PARAM_RANGE."""
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
        raise Refused(422, "E_PARAM_TYPE", f"{name} must be a whole number", found=text)
    if not least <= int(text) <= most:
        raise Refused(422, "E_PARAM_RANGE", f"{name} is out of range", found=text, allowed=f"{least} to {most}")
    return int(text)


def flag(given: Mapping[str, str], name: str, default: bool = False) -> bool:
    """A yes or no from the query. Raises Refused (422 E_PARAM_TYPE)."""
    if name not in given:
        return default
    if given[name] not in _FLAGS:
        raise Refused(422, "E_PARAM_TYPE", f"{name} must be true or false", found=given[name])
    return _FLAGS[given[name]]


# ---- parts


def _condition(listing: Listing, key: str, values: list[str], fixed: Mapping[str, Any]) -> Condition:
    named = _KEY.fullmatch(key)
    name, operator = (named[1], named[2]) if named else (key, None)
    one, operator = field_of(listing, "" if name in fixed else name, "?" if operator == "" else operator or "")
    if len(values) > 1 and one.kind not in _SEVERAL:
        raise Refused(422, "E_PARAM_TYPE", f"{name} is given twice")
    if sum(map(len, values)) > MAX_VALUE:
        raise Refused(422, "E_FILTER_SIZE", f"the value of {name} is too long", allowed=f"{MAX_VALUE} characters")
    return Condition(name, operator, _value(name, one, values))


def _value(name: str, one: Field, values: list[str]) -> Any:
    value = check_text(values[0])
    if one.kind is Kind.TAG:
        return [tag_asked(check_text(text)) for text in values]
    if one.kind is Kind.WORD:
        words = [word for text in values for word in text.split(",")]
        unknown = [word for word in words if word not in one.words]
        if unknown:
            raise Refused(422, "E_PARAM_TYPE", f"no such {name}", found=unknown[0], allowed=" ".join(one.words))
        return words
    if one.kind in (Kind.TIME, Kind.NUMBER):
        return number({name: value}, name, 0, 0, 2**60)
    if one.kind is Kind.FLAG:
        return flag({name: value}, name)
    if one.kind is Kind.ID and not _ID.fullmatch(value):
        raise Refused(422, "E_PARAM_TYPE", f"{name} is not an id", found=value)
    return value


def _search(listing: Listing, text: str) -> str:
    if len(text) > MAX_VALUE:
        raise Refused(422, "E_FILTER_SIZE", "the search is too long", allowed=f"{MAX_VALUE} characters")
    if text and not listing.search:
        raise Refused(422, "E_FILTER_FIELD", "this list has no search", found="search")
    return check_text(text)


def _descending(order: str | None) -> bool | None:
    if order not in (None, "asc", "desc"):
        raise Refused(422, "E_SORT_ORDER", "no such order", found=order, allowed="asc desc")
    return None if order is None else order == "desc"


def _view(what: str, sort: str, descending: bool | None) -> str:
    return f"{what} {sort} {descending}"


def _signer(request: Request) -> URLSafeSerializer:
    return URLSafeSerializer(request.app.state.secret, salt="towpath-cursor", serializer=_Compact)


class _Compact:
    """JSON without spaces."""

    @staticmethod
    def dumps(value: Any) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(data: str) -> Any:
        return msgspec.json.decode(data)


# ---- for the OpenAPI document


def list_parameters(what: str) -> tuple[QueryParameter, ...]:
    """Every query parameter that a list takes."""
    listing = listings()[what]
    found = [
        QueryParameter(
            "limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50}, "rows of a page"
        ),
        QueryParameter(
            "offset", {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET, "default": 0}, "rows to skip"
        ),
        QueryParameter("after", {"type": "string"}, "the `next` of the page before"),
        QueryParameter("sort", {"type": "string", "enum": list(listing.sorts)}),
        QueryParameter("order", {"type": "string", "enum": ["asc", "desc"]}),
    ]
    if listing.search:
        found.append(QueryParameter("search", {"type": "string", "maxLength": MAX_VALUE}, "a part of the name"))
    for name, one in listing.fields.items():
        for number_of, operator in enumerate(OPERATORS[one.kind]):
            named = name if number_of == 0 and operator == "eq" else f"{name}[{operator}]"
            found.append(QueryParameter(named, _schema(one), one.about))
    return tuple(found)


def _schema(one: Field) -> dict[str, Any]:
    if one.kind is Kind.WORD:
        return {"type": "string", "enum": list(one.words)}
    if one.kind in (Kind.TIME, Kind.NUMBER):
        return {"type": "integer", "minimum": 0, "maximum": 2**60}
    if one.kind is Kind.FLAG:
        return {"type": "boolean"}
    if one.kind is Kind.TAG:
        return {"type": "array", "items": {"type": "string", "maxLength": MAX_VALUE}}
    if one.kind is Kind.ID:
        return {"type": "string", "pattern": f"^{_ID.pattern}$"}
    return {"type": "string", "maxLength": MAX_VALUE}
