"""The log of one attempt: log records, what was printed, and warnings, as lines of text.

A step adds lines in any thread, and pays only for the line. Secrets are removed when the text is read: at most about
once a second, and only from what is kept then.
"""

from __future__ import annotations

import copy
import logging
import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache

from .logs import report
from .redaction import redacted

LOG_LIMIT = 256 * 1024  # characters of log kept per attempt; the oldest lines go first

_MOST_UNREAD = LOG_LIMIT + 64 * 1024  # a secret may begin in what is cut away
_MOST_PARTIAL = 16 * 1024  # characters after which a line without an end is a line
_LONGEST_NAME = 32
_OF_TERMINALS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")  # colours, moves
_FORMAT = logging.Formatter()


@dataclass(frozen=True, slots=True)
class Kept:
    """What the log of an attempt keeps by itself: what is printed, and log records from this level on."""

    prints: bool = True
    level: int = logging.INFO


KEPT = Kept()


class LogLines:
    """Keeps the last lines of an attempt."""

    def __init__(self) -> None:
        self.changed = False  # since `text` was called
        self._unread: deque[str] = deque()
        self._size = 0
        self._partial: dict[str, tuple[str, float]] = {}  # by stream: a line that has no end yet, and when it grew
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._kept = ""

    def add_record(self, record: logging.LogRecord) -> None:
        """Add a log record. A wrong format or a `__str__` that raises fails nothing."""
        try:
            # The formatter leaves texts in the record, which handlers of the program would use: it gets a copy.
            text = _FORMAT.format(copy.copy(record))
        except Exception:
            text = f"{record.msg!s:.500} (its arguments do not fit)" if isinstance(record.msg, str) else "?"
        self.add_lines(_line(record.created, record.levelname, record.name, text))

    def add_line(self, level: str, name: str, text: str) -> None:
        """Add a line of now."""
        self.add_lines(_line(time.time(), level, name, text))

    def add_lines(self, text: str) -> None:
        """Add complete lines."""
        with self._lock:
            self._push(text)
            self.changed = True

    def add_text(self, stream: str, text: str) -> None:
        """Add what was written to a stream. A line is complete with its end; `\\r` begins it anew."""
        now = time.time()
        with self._lock:
            held, _ = self._partial.pop(stream, ("", 0.0))
            *lines, rest = (held + text).split("\n") if held or "\n" in text else (text,)
            if len(rest) > _MOST_PARTIAL and "\r" in rest:
                rest = _last_state(rest)
            if len(rest) > _MOST_PARTIAL:
                lines, rest = [*lines, rest], ""
            if rest:
                self._partial[stream] = (rest, now)
            for line in lines:
                self._push(_line(now, "INFO", stream, _as_seen(line)))
            self.changed = True

    def _push(self, line: str) -> None:
        self._unread.append(line)
        self._size += len(line)
        while self._size > _MOST_UNREAD and len(self._unread) > 1:
            self._size -= len(self._unread.popleft())

    def text(self, *, final: bool = False) -> str:
        """Everything kept so far, at most 256 Ki characters, without secrets. A line that has no end yet is the last
        one; with `final` it is complete.
        """
        with self._reading:
            new, partial = self._taken(final)
            self._kept = _tail(self._kept + _clean(new))
            return _tail(self._kept + _clean(partial)) if partial else self._kept

    def new_text(self, *, final: bool = False) -> str:
        """The complete lines since the last call, without secrets; nothing of them is kept here."""
        with self._reading:
            new, _ = self._taken(final)
            return _tail(_clean(new))

    def _end_partial(self) -> None:
        for stream, (rest, at) in self._partial.items():
            self._push(_line(at, "INFO", stream, _as_seen(rest)))
        self._partial = {}

    def _taken(self, final: bool) -> tuple[str, str]:
        with self._lock:
            if final:
                self._end_partial()
            lines, self._unread, self._size = self._unread, deque(), 0
            partial = [_line(at, "INFO", stream, _as_seen(rest)) for stream, (rest, at) in self._partial.items()]
            self.changed = False
        return "".join(lines), "".join(partial).removesuffix("\n")


class StepHandler(logging.Handler):
    """Adds what a step logs with its own logger."""

    def __init__(self, lines: LogLines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = _FORMAT.format(record)
        except Exception:  # a wrong format, a __str__ that raises: the step continues, as with any other logger
            report(record)
            return
        self._lines.add_lines(_line(record.created, record.levelname, "", text))


def _line(at: float, level: str, name: str, text: str) -> str:
    if len(name) > _LONGEST_NAME:
        name = "…" + name[1 - _LONGEST_NAME :]
    about = f"{name}: " if name else ""
    return f"{_second(int(at))},{int(at * 1000) % 1000:03d} {level:<7} {about}{text}\n"


@lru_cache(4)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _as_seen(line: str) -> str:
    """What a terminal shows of a line: what follows the last return to its beginning, without colours."""
    if "\x1b" in line:
        line = _OF_TERMINALS.sub("", line)
    return _last_state(line) if "\r" in line else line


def _last_state(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]


def _clean(text: str) -> str:
    """Text without secrets that any database can store: no half of a surrogate pair, no NUL."""
    if not text:
        return ""
    clean = redacted(text, len(text))
    if "\0" in clean:
        clean = clean.replace("\0", "\\x00")
    return clean if clean.isascii() else clean.encode("utf-8", "backslashreplace").decode()


def _tail(text: str) -> str:
    """The last lines, as far as they are kept. Of a line that is longer, its end."""
    if len(text) <= LOG_LIMIT:
        return text
    cut = text[-LOG_LIMIT:]
    end = cut.find("\n", 0, -1)
    return cut if end < 0 else cut[end + 1 :]
