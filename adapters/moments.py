"""Moments as people write them in filters: `2d`, `2026-11-01`, `2026-11-01T12:30`."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from towpath.errors import InputInvalid, Place

_AGO = re.compile(r"([0-9]{1,6})(s|m|h|d|w)", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def since(text: str, zone: tzinfo | None = None) -> int:
    """The moment that a filter begins with, in UTC microseconds: a day begins at midnight.

    Times without a zone are in `zone`, by default that of this process. Raises InputInvalid (E_TIME).
    """
    return _moment("since", text, zone, timedelta())


def until(text: str, zone: tzinfo | None = None) -> int:
    """The first moment after a filter's end, in UTC microseconds: a day is included as a whole. As `since`."""
    return _moment("until", text, zone, timedelta(days=1))


def _moment(name: str, text: str, zone: tzinfo | None, day: timedelta) -> int:
    text = text.strip()
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            found = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        elif _DAY.fullmatch(text):
            found = _in_zone(datetime.combine(date.fromisoformat(text) + day, time()), zone)
        else:
            found = _in_zone(datetime.fromisoformat(text), zone)
        return max(0, int(found.timestamp() * 1e6))
    except (ValueError, OverflowError, OSError):
        raise InputInvalid(
            "E_TIME",
            "this is no moment",
            place=Place(field=name),
            found=text,
            allowed="how long ago (30m, 12h, 2d, 3w), a day (2026-11-01) or a time (2026-11-01T12:30)",
        ) from None


def _in_zone(found: datetime, zone: tzinfo | None) -> datetime:
    return found if found.tzinfo is not None else found.replace(tzinfo=zone)
