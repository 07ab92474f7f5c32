"""Times, sizes and statuses for people. Pure functions; templates use them as filters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from towpath.model import Json

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_CODE = re.compile(r"(`[^`]+`|\bE_[A-Z_]+\b)")
_SLACK = 30  # seconds; 23 hours, 59 minutes and 40 seconds are shown as one day


@dataclass(frozen=True, slots=True)
class Status:
    """How a status is shown: a colour (a class of the style sheet), an icon, and words."""

    tone: str
    icon: str
    words: str


NOT_STARTED = Status("idle", "pending", "not started")

STATUSES = {
    # steps
    "queued": Status("idle", "queued", "queued"),
    "executing": Status("run", "running", "running"),
    "waiting_approval": Status("wait", "waiting", "waits for approval"),
    "completed": Status("ok", "completed", "completed"),
    "failed": Status("bad", "failed", "failed"),
    "skipped": Status("idle", "skipped", "skipped"),
    "cancelled": Status("idle", "cancelled", "cancelled"),
    "cached": Status("ok", "cached", "reused"),
    # runs
    "pending": Status("idle", "pending", "pending"),
    "running": Status("run", "running", "running"),
    "paused": Status("wait", "paused", "paused"),
    "partial": Status("wait", "partial", "partial"),
    # versions and gates
    "approved": Status("ok", "completed", "approved"),
    "auto_approved": Status("idle", "completed", "no approval needed"),
    "rejected": Status("bad", "failed", "rejected"),
    "edited": Status("run", "edited", "edited"),
    "timed_out": Status("bad", "failed", "timed out"),
    # transfers
    "uploading": Status("run", "running", "being sent"),
}


def status(word: str | None) -> Status:
    """How a status is shown; None is a step that has not started."""
    return NOT_STARTED if word is None else STATUSES.get(str(word), Status("idle", "pending", str(word)))


def moment(microseconds: int | None) -> str:
    """A time in UTC, to the second."""
    return "" if microseconds is None else f"{_utc(microseconds):%Y-%m-%d %H:%M:%S} UTC"


def iso(microseconds: int | None) -> str:
    """A time for the `datetime` attribute."""
    return "" if microseconds is None else _utc(microseconds).isoformat(timespec="seconds").replace("+00:00", "Z")


def ago(microseconds: int | None, now: int) -> str:
    """The distance of a time from now: in the past or in the future."""
    if microseconds is None:
        return ""
    seconds = (now - microseconds) // 1_000_000
    if abs(seconds) < _MINUTE:
        return "just now" if seconds >= 0 else "in less than a minute"
    return f"{_rough(seconds)} ago" if seconds > 0 else f"in {_rough(_SLACK - seconds)}"


def _rough(seconds: int) -> str:
    for unit, length in (("day", _DAY), ("hour", _HOUR), ("minute", _MINUTE)):
        count = seconds // length
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "a moment"


def run_url(run_id: str) -> str:
    """The page of a run. People may choose ids such as `50%?`."""
    return f"/runs/{quote(run_id, safe='')}"


def step_url(run_id: str, step: str, item: int | None = None) -> str:
    """The page of a step, or of an item of it."""
    return f"{run_url(run_id)}/steps/{quote(step, safe='')}{'' if item is None else f'/{item}'}"


def short(run_id: str) -> str:
    """The beginning and the end of a run's id: ids that are ordered by time differ at the end."""
    return run_id if len(run_id) <= 16 else f"{run_id[:8]}…{run_id[-6:]}"


def prose(text: str) -> list[tuple[str, bool]]:
    """The parts of a sentence, and whether each is code: in backticks, or an error code."""
    parts = [part for part in _CODE.split(text) if part]
    return [(part.strip("`"), bool(_CODE.fullmatch(part))) for part in parts]


def one_line(value: Json) -> str:
    """A JSON value on one line."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _utc(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
