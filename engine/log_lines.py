"""The log of one attempt: log records, what was printed, and warnings, as lines of text.

A step adds lines in any thread, and pays only for the line. Secrets are removed when the text is read: at most about
once a second, and only from what is kept then.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache

from .logs import report
from .redaction import HIDDEN, secret_spans

LOG_LIMIT = 256 * 1024  # characters of log kept per attempt; the oldest lines go first

_MOST_UNREAD = LOG_LIMIT + 64 * 1024  # a secret may begin in what is cut away
_MOST_PARTIAL = 16 * 1024  # characters after which a line without an end is a line
_MANY = 100  # parts of a line without an end that are looked at together
_LONGEST_NAME = 32
_OF_TERMINALS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")  # colours, moves
_FORMAT = logging.Formatter()
_LONGEST_SECRET = 4096  # characters of lines that were read before, with which a secret may begin

_Line = tuple[str, str]
"""Its time, level and name, in which no secret is; and its text with the end. Many lines may share one secret."""


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
        self._unread: deque[_Line] = deque()
        self._size = 0
        self._partial: dict[str, list[str]] = {}  # by stream: the parts of a line that has no end yet
        self._grew = 0.0  # when one of these lines did
        self._lock = threading.RLock()  # the garbage collector may run code that logs, in any line of ours
        self._reading = threading.Lock()
        self._kept = ""
        self._before = ""  # the last texts that were read, with their secrets

    def add_record(self, record: logging.LogRecord) -> None:
        """Add a log record. A wrong format or a `__str__` that raises fails nothing."""
        try:
            text = _text_of(record)
        except Exception:
            text = f"{record.msg!s:.500} (its arguments do not fit)" if isinstance(record.msg, str) else "?"
        self._add(_line(record.created, record.levelname, record.name, text))

    def add_line(self, level: str, name: str, text: str) -> None:
        """Add a line of now."""
        self._add(_line(time.time(), level, name, text))

    def add_own(self, at: float, level: str, text: str) -> None:
        """Add a line of the step's own logger."""
        self._add(_line(at, level, "", text))

    def add_lines(self, text: str) -> None:
        """Add complete lines, with their times."""
        self._add(("", text))

    def _add(self, line: _Line) -> None:
        with self._lock:
            self._push(line)
            self.changed = True

    def add_text(self, stream: str, text: str) -> None:
        """Add what was written to a stream. A line is complete with its end; `\\r` begins it anew."""
        with self._lock:
            parts = self._partial.get(stream)
            if parts is None:
                parts = self._partial[stream] = []
            parts.append(text)
            self._grew = now = time.time()
            if "\n" in text:
                *lines, rest = "".join(parts).split("\n")
                self._partial[stream] = [rest] if rest else []
                for line in lines:
                    self._push(_line(now, "INFO", stream, _as_seen(line)))
            elif len(parts) >= _MANY:
                self._shorten(stream, "".join(parts))
            self.changed = True

    def _shorten(self, stream: str, line: str) -> None:
        """Keep only the last state of a line that has many parts. If it is very long, it ends here."""
        line = _last_state(line) if "\r" in line else line
        if len(line) > _MOST_PARTIAL:
            head, text = _line(self._grew, "INFO", stream, _as_seen(line))
            self._push((head, text[:-1]))
            self._push(("\n", ""))  # a secret may go on in the next part
            line = ""
        self._partial[stream] = [line]

    def _push(self, line: _Line) -> None:
        self._unread.append(line)
        self._size += len(line[0]) + len(line[1])
        while self._size > _MOST_UNREAD and len(self._unread) > 1:
            head, text = self._unread.popleft()
            self._size -= len(head) + len(text)

    def text(self, *, final: bool = False) -> str:
        """Everything kept so far, at most 256 Ki characters, without secrets. A line that has no end yet is the last
        one; with `final` it is complete.
        """
        with self._reading:
            new, partial = self._taken(final)
            self._kept = _tail(self._kept + self._clean(new))
            if not partial:
                return self._kept
            return _tail(self._kept + _without_secrets(self._before, partial).removesuffix("\n"))

    def new_text(self, *, final: bool = False) -> str:
        """The complete lines since the last call, without secrets; nothing of them is kept here."""
        with self._reading:
            new, _ = self._taken(final)
            return _tail(self._clean(new))

    def _clean(self, lines: list[_Line]) -> str:
        clean = _without_secrets(self._before, lines)
        for _, text in lines[-100:]:
            self._before += text[-_LONGEST_SECRET:]
        self._before = self._before[-_LONGEST_SECRET:]
        return clean

    def _ends(self) -> list[_Line]:
        """The lines that have no end yet, as if they had."""
        rests = [(stream, "".join(parts)) for stream, parts in self._partial.items()]
        return [_line(self._grew, "INFO", stream, _as_seen(rest)) for stream, rest in rests if rest]

    def _taken(self, final: bool) -> tuple[list[_Line], list[_Line]]:
        with self._lock:
            ends = self._ends()
            if final:
                self._unread.extend(ends)
                self._partial, ends = {}, []
            lines, self._unread, self._size = self._unread, deque(), 0
            self.changed = False
        return list(lines), ends


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
        self._lines.add_own(record.created, record.levelname, text)


def _text_of(record: logging.LogRecord) -> str:
    """As `logging.Formatter.format`, which leaves texts in the record that handlers of the program would use."""
    text = record.getMessage()
    if record.exc_info and not record.exc_text:
        text += "\n" + _FORMAT.formatException(record.exc_info)
    elif record.exc_text:
        text += "\n" + record.exc_text
    return f"{text}\n{record.stack_info}" if record.stack_info else text


def _line(at: float, level: str, name: str, text: str) -> _Line:
    if len(name) > _LONGEST_NAME:
        name = "…" + name[1 - _LONGEST_NAME :]
    about = f"{name}: " if name else ""
    if "\x1b" in text:  # a formatter for a terminal coloured the message
        text = _OF_TERMINALS.sub("", text)
    return f"{_second(int(at))},{int(at * 1000) % 1000:03d} {level:<7} {about}", f"{text}\n"


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


def _without_secrets(before: str, lines: list[_Line]) -> str:
    """The lines without secrets, as text that any database can store: no half of a surrogate pair, no NUL.

    A secret of several lines is found in the texts alone, and may have begun `before` them.
    """
    if not lines:
        return ""
    at = len(before)
    found = secret_spans(before + "".join([text for _, text in lines]))
    spans = deque(span for span in found if span[1] > at)
    parts: list[str] = []
    for head, text in lines:
        if not text or not spans or spans[0][0] >= at + len(text):
            parts += (head, text)
        elif rest := _hidden(text, at, spans):
            parts += (head, rest)
        at += len(text)
    clean = "".join(parts)
    if "\0" in clean:
        clean = clean.replace("\0", "\\x00")
    return clean if clean.isascii() else clean.encode("utf-8", "backslashreplace").decode()


def _hidden(text: str, at: int, spans: deque[tuple[int, int]]) -> str:
    """The text, which begins `at`, without the secrets. Empty if all of it is in a secret that began before."""
    line = text.removesuffix("\n")
    began, done, end = spans[0][0] < at - 1, at, at + len(line)  # more of it than the end of a line
    parts: list[str] = []
    while spans and spans[0][0] < at + len(text):
        first, last = spans[0]
        if first < end:
            parts += (line[done - at : max(first, at) - at], HIDDEN)
            done = min(last, end)
        if last > at + len(text):
            break
        spans.popleft()
    if began and done == end and parts == ["", HIDDEN]:
        return ""
    return "".join([*parts, text[done - at :]])


def _tail(text: str) -> str:
    """The last lines, as far as they are kept. Of a line that is longer, its end."""
    if len(text) <= LOG_LIMIT:
        return text
    cut = text[-LOG_LIMIT:]
    end = cut.find("\n", 0, -1)
    return cut if end < 0 else cut[end + 1 :]
