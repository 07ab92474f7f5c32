"""Where the next page of a list begins, as text for an address."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import msgspec

from towpath.errors import InputInvalid

Cursor = tuple[Any, str]
_LIMIT = 2_000


def cursor_text(cursor: Cursor | None) -> str:
    """A cursor for a link; "" if there is no next page."""
    return "" if cursor is None else base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def read_cursor(text: str) -> Cursor | None:
    """The cursor in an address, None for "". Raises InputInvalid (E_CURSOR)."""
    if not text:
        return None
    try:
        data = base64.urlsafe_b64decode(text[:_LIMIT] + "=" * (-len(text[:_LIMIT]) % 4))
        value, last = msgspec.json.decode(data, type=tuple[Annotated[int, msgspec.Meta(ge=0, le=2**62)] | str, str])
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise InputInvalid("E_CURSOR", "no page begins there", found=text) from error
    return value, last
