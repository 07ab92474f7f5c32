"""Durations and retry settings, as people write them."""

from __future__ import annotations

import math
import re

from .errors import InputInvalid, Place

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")

MAX_SECONDS = 10 * 365 * 86400.0
MAX_ATTEMPTS = 1_000


def seconds(value: float | str, place: Place | None = None) -> float:
    """A duration in seconds: a plain number, or text such as `500ms 2s 30m 24h`.

    Raises:
        InputInvalid: E_FIELD_TYPE for other text, E_FIELD_RANGE for what is negative, zero, not finite
            or longer than ten years.
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise InputInvalid(
                "E_FIELD_TYPE",
                "not a duration",
                place=place,
                found=value,
                allowed="seconds as a number, or 500ms, 2s, 30m, 24h, 7d",
            )
        value = float(match[1]) * _UNITS[match[2]]
    if not math.isfinite(value) or not 0 < value <= MAX_SECONDS:
        raise InputInvalid(
            "E_FIELD_RANGE",
            "the duration is out of range",
            place=place,
            found=value,
            allowed="more than 0 s, up to ten years",
        )
    return float(value)
