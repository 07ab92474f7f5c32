"""Secrets that a process was given do not get into what is kept of its errors."""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL|PRIVATE|DATABASE_URL", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]+):([^/\s@]+)(?=@)")
SHORTEST = 6  # characters; a shorter secret would be found in every second word


def redacted(text: str) -> str:
    """The text with `***` for values of environment variables named like secrets, and for passwords in URLs."""
    secrets = {value for name, value in os.environ.items() if len(value) >= SHORTEST and _SECRET_NAME.search(name)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _URL_PASSWORD.sub(r"\1:***", text)
