"""Query parameters: filters, sorts and pages of lists, typed and limited, and cursors that cannot be forged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from itsdangerous import BadSignature, URLSafeSerializer
from starlette.requests import Request

from towpath.store.listing import (
    LISTINGS,
    MAX_OFFSET,
    MAX_PAGE,
    OPERATORS,
    Condition,
    Field,
    Kind,
    Listing,
    Page,
    field_of,
    sort_of,
)

from .bodies import check_text
from .errors import Refused
from .route_table import Parameter

MAX_VALUE = 500  # characters of a filter's value
MAX_CURSOR = 8_000  # characters; a cursor holds the value that the list is sorted by
_KEY = re.compile(r"([a-z_0-9]+)(?:\[([^\]]*)\])?")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
MAX_PARAMETERS = 100
_WORDS = frozenset(name for one in LISTINGS.values() for name, f in one.fields.items() if f.kind is Kind.WORD)
_PAGING = frozenset({"limit", "offset", "after", "sort", "order", "search"})


def check_query(request: Request) -> None:
    """Nothing stands twice in a query but the words of a filter. Raises Refused: 422 E_PARAM_TYPE, E_PARAM_RANGE."""
    pairs = request.query_params.multi_items()
    if len(pairs) > MAX_PARAMETERS:
        raise Refused(422, "E_PARAM_RANGE", "the query has too many parameters", allowed=str(MAX_PARAMETERS))
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen and name not in _WORDS:
            raise Refused(422, "E_PARAM_TYPE", "a parameter is given twice", found=name, cure="say it once")
        seen.add(name)


def page_of(request: Request, what: str, **fixed: Any) -> Page:
    """The page of a list that the query asks for; `fixed` are filters of the route itself.

    Raises Refused: 400 E_CURSOR, 422 E_PARAM_…, E_FILTER_SIZE; InputInvalid: E_FILTER_FIELD, E_FILTER_OP,
    E_SORT_FIELD.
    """
    listing = LISTINGS[what]
    given = request.query_params
    conditions = [Condition(name, "", value) for name, value in fixed.items()]
    asked = [key for key in dict.fromkeys(given.keys()) if key not in _PAGING]
    conditions += [_condition(listing, key, given.getlist(key), fixed) for key in asked]
    meant = [(one.field, one.operator) for one in conditions]
    if len(set(meant)) < len(meant):  # `size=1&size[eq]=2`
        raise Refused(422, "E_PARAM_TYPE", "a filter is given twice", cure="say it once")
    sort = given.get("sort", "")
    sort_of(listing, sort)
    falling = _falling(given.get("order"))
    after = unsealed(request, _view(what, sort, falling), given["after"]) if "after" in given else None
    return Page(
        conditions=conditions,
        search=_searched(listing, given.get("search", "")),
        sort=sort,
        descending=falling,
        after=after,
        limit=number(given, "limit", 50, 1, MAX_PAGE),
        offset=number(given, "offset", 0, 0, MAX_OFFSET),
    )


def cursor_for(request: Request, what: str, page: Page, place: tuple[Any, str] | None) -> str | None:
    """What the next page is asked for with; None after the last one."""
    return None if place is None else sealed(request, _view(what, page.sort, page.descending), place)


def sealed(request: Request, view: str, place: tuple[Any, str]) -> str:
    """A cursor that is good for one view of a list."""
    return str(_signer(request).dumps([view, *place]))


def unsealed(request: Request, view: str, text: str) -> tuple[Any, str]:
    """The place that a cursor of this view holds. Raises Refused (400 E_CURSOR)."""
    try:
        found, value, last = _signer(request).loads(text[:MAX_CURSOR])
    except (BadSignature, ValueError, TypeError):
        found = value = last = None
    if found != view:
        cure = "take `next` of the page before, and change neither sort nor order"
        raise Refused(400, "E_CURSOR", "this is no cursor of this list", cure=cure)
    return value, str(last)


def number(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number from the query. Raises Refused: 422 E_PARAM_TYPE, E_PARAM_RANGE."""
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
        raise Refused(422, "E_PARAM_TYPE", f"{name} is a whole number", found=text)
    if not least <= int(text) <= most:
        raise Refused(422, "E_PARAM_RANGE", f"{name} is out of range", found=text, allowed=f"{least} to {most}")
    return int(text)


def flag(given: Mapping[str, str], name: str, default: bool = False) -> bool:
    """A yes or no from the query. Raises Refused (422 E_PARAM_TYPE)."""
    if name not in given:
        return default
    if given[name] not in _FLAGS:
        raise Refused(422, "E_PARAM_TYPE", f"{name} is true or false", found=given[name])
    return _FLAGS[given[name]]


# ---- parts


def _condition(listing: Listing, key: str, values: list[str], fixed: Mapping[str, Any]) -> Condition:
    named = _KEY.fullmatch(key)
    name, operator = (named[1], named[2]) if named else (key, None)
    one, operator = field_of(listing, "" if name in fixed else name, "?" if operator == "" else operator or "")
    if len(values) > 1 and one.kind is not Kind.WORD:
        raise Refused(422, "E_PARAM_TYPE", f"{name} is given twice")
    if sum(map(len, values)) > MAX_VALUE:
        raise Refused(422, "E_FILTER_SIZE", f"the value of {name} is too long", allowed=f"{MAX_VALUE} characters")
    return Condition(name, operator, _typed(name, one, values))


def _typed(name: str, one: Field, values: list[str]) -> Any:
    value = check_text(values[0])
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
        raise Refused(422, "E_PARAM_TYPE", f"{name} is no id", found=value)
    return value


def _searched(listing: Listing, text: str) -> str:
    if len(text) > MAX_VALUE:
        raise Refused(422, "E_FILTER_SIZE", "the search is too long", allowed=f"{MAX_VALUE} characters")
    if text and not listing.search:
        raise Refused(422, "E_FILTER_FIELD", "nothing is searched here", found="search")
    return check_text(text)


def _falling(order: str | None) -> bool | None:
    if order not in (None, "asc", "desc"):
        raise Refused(422, "E_SORT_ORDER", "no such order", found=order, allowed="asc desc")
    return None if order is None else order == "desc"


def _view(what: str, sort: str, falling: bool | None) -> str:
    return f"{what} {sort} {falling}"


def _signer(request: Request) -> URLSafeSerializer:
    return URLSafeSerializer(request.app.state.secret, salt="towpath-cursor", serializer=_Compact)


class _Compact:
    """JSON as small as it gets."""

    @staticmethod
    def dumps(value: Any) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(data: str) -> Any:
        return msgspec.json.decode(data)


# ---- for the OpenAPI document


def list_parameters(what: str) -> tuple[Parameter, ...]:
    """Every query parameter that a list takes."""
    listing = LISTINGS[what]
    found = [
        Parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50}, "rows of a page"),
        Parameter(
            "offset", {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET, "default": 0}, "rows to leave out"
        ),
        Parameter("after", {"type": "string"}, "`next` of the page before"),
        Parameter("sort", {"type": "string", "enum": list(listing.sorts)}),
        Parameter("order", {"type": "string", "enum": ["asc", "desc"]}),
    ]
    if listing.search:
        found.append(Parameter("search", {"type": "string", "maxLength": MAX_VALUE}, "a part of a name"))
    for name, one in listing.fields.items():
        for number_of, operator in enumerate(OPERATORS[one.kind]):
            named = name if number_of == 0 and operator == "eq" else f"{name}[{operator}]"
            found.append(Parameter(named, _schema(one), one.about))
    return tuple(found)


def _schema(one: Field) -> dict[str, Any]:
    if one.kind is Kind.WORD:
        return {"type": "string", "enum": list(one.words)}
    if one.kind in (Kind.TIME, Kind.NUMBER):
        return {"type": "integer", "minimum": 0, "maximum": 2**60}
    if one.kind is Kind.FLAG:
        return {"type": "boolean"}
    if one.kind is Kind.ID:
        return {"type": "string", "pattern": f"^{_ID.pattern}$"}
    return {"type": "string", "maxLength": MAX_VALUE}
