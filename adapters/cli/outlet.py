"""The streams of the command line: harmless to a terminal, and unable to harm a run.

Text that comes from a store, a step, a server or a file name is passed through `shown` (one line) or
`shown_lines` before it is written. The streams never raise: whoever read our output may be gone. Beside a run
(`beside_a_run`) they do not wait either.
"""

from __future__ import annotations

import codecs
import copy
import io
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

MOST_WAITING = 8 * 2**20  # bytes that wait for a slow reader beside a run; what comes then is dropped
LAST_WORDS = 2.0  # seconds that an interrupted command waits for its reader

# C0, DEL, C1, soft hyphen, zero width and invisible signs, marks and controls of direction, line and paragraph
# separators, tags, variation selectors beyond the usual, halves of surrogate pairs, what is no character.
HOSTILE = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_ANY = re.compile(f"[{HOSTILE}]")
NOT_OF_LINES = re.compile(f"(?![\n\t])[{HOSTILE}]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

# What stands for our own signs where an encoding has none of them: as wide as they are.
_PLAIN = {
    "·": ".", "●": "*", "✋": "! ", "✓": "+", "✗": "x", "↺": "=", "–": "-", "■": "#", "○": "o", "↻": "~",
    "→": ">", "…": "~", "━": "-", "╸": "-", "╺": "-",
}  # fmt: skip


def shown(text: object) -> str:
    """The text on one line, with every character that a terminal might obey, or nobody sees, written as an escape."""
    return _ANY.sub(_escaped, str(text))


def shown_lines(text: object) -> str:
    """As `shown`, but line ends and tabs stay."""
    return NOT_OF_LINES.sub(_escaped, str(text).replace("\r\n", "\n"))


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def write(text: str, *, err: bool = False) -> None:
    """Write text as it is: it is ours, or was passed through `shown`."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        with suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: our signs become ASCII, everything else an escape."""
    assert isinstance(error, UnicodeEncodeError)
    piece = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in piece), error.end


codecs.register_error("towpath", _plainly)


class Outlet(io.TextIOBase):
    """Standard output or error as a stream that never raises and, beside a run, never waits.

    Where nobody reads (a closed pipe, a full disk, a terminal that is gone) the rest is dropped. Beside a run a
    thread writes; a reader that stops reading holds up the thread, and nothing else.
    """

    def __init__(self, descriptor: int, encoding: str, terminal: bool) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._encoding = encoding
        self._terminal = terminal
        self._news = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._beside = 0
        self._thread: threading.Thread | None = None
        self.patience: float | None = None  # seconds that the reader is waited for at the end; None: as he likes
        self.gone = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "towpath"

    @property
    def buffer(self) -> IO[bytes]:
        """The stream of bytes below, for those who write bytes (`sys.stdout.buffer.write`)."""
        return _Bytes(self)  # type: ignore[return-value]

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        return self._descriptor

    @property
    def name(self) -> str:
        return "<stderr>" if self._descriptor == 2 else "<stdout>"

    mode = "w"
    line_buffering = True
    write_through = True

    def reconfigure(self, *, encoding: str | None = None, **_: Any) -> None:
        """As a text stream's: another encoding is taken, the rest stays ours."""
        if encoding is not None and codecs.lookup(encoding):
            self._encoding = encoding

    def detach(self) -> Any:
        """The bytes below; the stream itself stays usable."""
        return self.buffer

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            data = text.encode(self._encoding, "towpath")
        except (UnicodeError, LookupError):  # an encoding without ASCII, or none for text
            data = text.encode("ascii", "backslashreplace")
        self.put(data)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back; beside a run what is queued is on its way."""

    def close(self) -> None:
        """A step that closes our output closes nothing."""

    def put(self, data: bytes) -> None:
        """Write bytes now, or queue them."""
        with self._news:
            queued = self._thread is not None
            if queued:
                if self._size <= MOST_WAITING and not self.gone:
                    self._waiting.append(data)
                    self._size += len(data)
                    self._news.notify_all()
                return
        self._write(data)

    def begin(self) -> None:
        """From now on a thread writes."""
        with self._news:
            self._beside += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._pump, name="towpath output", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """A run is over: when none is left, write as other programs do again, after what is queued."""
        with self._news:
            self._beside -= 1
            thread = self._thread if self._beside == 0 else None
            self._news.notify_all()
        if thread is None:
            return
        drained = self._drained(self.patience)
        with self._news:
            self._thread = None
            self.gone = self.gone or not drained
            self._news.notify_all()
        if drained:
            thread.join()

    def last_words(self) -> None:
        """Let the thread write what is queued, but not for long."""
        self._drained(LAST_WORDS)

    def alone(self) -> None:
        """In a child process: the thread stayed in the parent, with what was queued there."""
        self._news = threading.Condition()
        self._waiting, self._size, self._thread = deque(), 0, None

    def _drained(self, seconds: float | None) -> bool:
        with self._news:
            return self._news.wait_for(lambda: not self._size or self.gone, seconds)

    def _pump(self) -> None:
        me = threading.current_thread()
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._thread is not me)
                if not self._waiting:
                    return
                data = self._waiting.popleft()
            self._write(data)
            with self._news:
                self._size -= len(data)
                self._news.notify_all()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.gone:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # somebody made the pipe non-blocking: wait as a blocking one does
                self._wait_until_writable()
            except OSError:
                self._end()

    def _wait_until_writable(self) -> None:
        import select  # noqa: PLC0415 - hardly ever needed

        try:
            select.select([], [self._descriptor], [])
        except (OSError, ValueError):
            self._end()

    def _end(self) -> None:
        self.gone = True
        with self._news:
            self._waiting.clear()
            self._size = 0
            self._news.notify_all()


class _Bytes(io.RawIOBase):
    """The bytes below an `Outlet`."""

    mode = "wb"

    @property
    def raw(self) -> io.RawIOBase:
        return self

    @property
    def name(self) -> str:
        return self._outlet.name

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._outlet.fileno()

    def write(self, data: Any, /) -> int:
        self._outlet.put(bytes(data))
        return len(data)


_installed: list[Outlet] = []


def install() -> None:
    """Make the streams of this process ours. Only a program may do that: `main` does."""
    for descriptor in range(3):  # a file that is opened later must not become somebody's standard output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _outlet(sys.stdout, 1), _outlet(sys.stderr, 2)
    os.register_at_fork(after_in_child=_after_a_fork)
    logging.lastResort = _LastResort(logging.WARNING)


def _outlet(stream: Any, descriptor: int) -> Outlet:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(Exception):
        stream.flush()
    outlet = Outlet(descriptor, encoding, os.isatty(descriptor))
    _installed.append(outlet)
    return outlet


def _after_a_fork() -> None:
    for outlet in _installed:
        outlet.alone()


@contextmanager
def beside_a_run() -> Iterator[None]:
    """While this lasts, writing waits for no reader; at its end what is queued is written."""
    guard_logs()
    outlets = list(_installed)
    for outlet in outlets:
        outlet.begin()
    try:
        yield
    finally:
        for outlet in outlets:
            outlet.end()


def hurry() -> None:
    """Somebody wants the process to end: from now on no reader is waited for at length."""
    for outlet in _installed:
        outlet.patience = LAST_WORDS


def last_words() -> None:
    """Before the process ends in a hurry."""
    for outlet in _installed:
        outlet.last_words()


# ---- logging


class Harmless(logging.Formatter):
    """Formats as another formatter does, with the message and the traceback made harmless to a terminal."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        tame = copy.copy(record)
        tame.msg, tame.args = shown_lines(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            tame.exc_text = self._inner.formatException(record.exc_info)
        if tame.exc_text:
            tame.exc_text = shown_lines(tame.exc_text)
        return self._inner.format(tame)


class _LastResort(logging.Handler):
    """What is logged where nobody set up logging."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.setFormatter(Harmless(logging.Formatter("%(message)s")))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write(f"{self.format(record)}\n", err=True)
        except Exception:
            self.handleError(record)


def guard_logs() -> None:
    """Handlers that write where a person looks write nothing that a terminal obeys, whoever set them up."""
    known = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    for handler in [handler for logger in known for handler in getattr(logger, "handlers", ())]:
        if isinstance(handler, logging.StreamHandler) and _seen_by_people(handler.stream):
            formatter = handler.formatter or logging.Formatter()
            if not isinstance(formatter, Harmless):
                handler.setFormatter(Harmless(formatter))


def _seen_by_people(stream: Any) -> bool:
    try:
        return stream in (sys.stdout, sys.stderr) or stream.isatty()
    except Exception:  # a stream of somebody's own, or a closed one
        return False
