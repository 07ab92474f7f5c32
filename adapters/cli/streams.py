"""Standard output and error of the command line. Text cannot control the terminal, and output cannot stop a run.

Text from a store, a step, a server or a file name passes through `shown` (one line) or `shown_lines` before it is
written. The streams never raise, because the reader of the output may be closed. During a run (`during_a_run`) they
also never block.
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

MAX_QUEUED = 8 * 2**20  # bytes queued for a slow reader during a run; further output is dropped
FLUSH_SECONDS = 2.0  # how long an interrupted command waits for its reader

# C0, DEL, C1, soft hyphen, zero-width and invisible characters, marks and controls of direction, line and paragraph
# separators, tags, rare variation selectors, lone surrogates, noncharacters.
HOSTILE = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_ANY = re.compile(f"[{HOSTILE}]")
NOT_OF_LINES = re.compile(f"(?![\n\t])[{HOSTILE}]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

# Replacements for the signs of our own output in encodings that lack them; each has the width of its sign.
_PLAIN = {
    "·": ".", "●": "*", "✋": "! ", "✓": "+", "✗": "x", "↺": "=", "–": "-", "■": "#", "○": "o", "↻": "~",
    "×": "x", "→": ">", "…": "~", "━": "-", "╸": "-", "╺": "-",
}  # fmt: skip


def shown(text: object) -> str:
    """The text on one line. Control characters and invisible characters are written as escapes."""
    return _ANY.sub(_escaped, str(text))


def shown_lines(text: object) -> str:
    """As `shown`, but line ends and tabs are kept."""
    return NOT_OF_LINES.sub(_escaped, str(text).replace("\r\n", "\n"))


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def write(text: str, *, err: bool = False) -> None:
    """Write text as it is: text of our own, or text that passed through `shown`."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        with suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: replaces our own signs by ASCII, and all other characters by escapes."""
    assert isinstance(error, UnicodeEncodeError)
    piece = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in piece), error.end


codecs.register_error("towpath", _plainly)


class OutputStream(io.TextIOBase):
    """Standard output or error as a stream that never raises and, during a run, never blocks.

    After a write error (a closed pipe, a full disk, a closed terminal) further output is dropped. During a run a
    thread writes: a reader that stops reading blocks only that thread.
    """

    def __init__(self, descriptor: int, encoding: str, terminal: bool) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._encoding = encoding
        self._terminal = terminal
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._runs = 0
        self._thread: threading.Thread | None = None
        self.max_wait: float | None = None  # seconds to wait for the reader at the end; None: without limit
        self.gone = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "towpath"

    @property
    def buffer(self) -> IO[bytes]:
        """The stream of bytes below, for code that calls `sys.stdout.buffer.write`."""
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
        """Change the encoding, as a text stream does; other settings are ignored."""
        if encoding is not None and codecs.lookup(encoding):
            self._encoding = encoding

    def detach(self) -> Any:
        """The stream of bytes below; this stream stays usable."""
        return self.buffer

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            data = text.encode(self._encoding, "towpath")
        except (UnicodeError, LookupError):  # an encoding without ASCII, or not for text
            data = text.encode("ascii", "backslashreplace")
        self.put(data)
        return len(text)

    def flush(self) -> None:
        """Does nothing: `write` buffers nothing, and during a run the thread writes the queue."""

    def close(self) -> None:
        """Does nothing: a step must not close the output of the command."""

    def put(self, data: bytes) -> None:
        """Write bytes now, or queue them."""
        with self._changed:
            queued = self._thread is not None
            if queued:
                if self._size <= MAX_QUEUED and not self.gone:
                    self._queue.append(data)
                    self._size += len(data)
                    self._changed.notify_all()
                return
        self._write(data)

    def begin(self) -> None:
        """Let a thread write from now on."""
        with self._changed:
            self._runs += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._pump, name="towpath output", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """End one run. After the last one, wait until the queue is written, and write directly again."""
        with self._changed:
            self._runs -= 1
            thread = self._thread if self._runs == 0 else None
            self._changed.notify_all()
        if thread is None:
            return
        drained = self._drained(self.max_wait)
        with self._changed:
            self._thread = None
            self.gone = self.gone or not drained
            self._changed.notify_all()
        if drained:
            thread.join()

    def flush_queue(self) -> None:
        """Wait a short time until the thread has written the queue."""
        self._drained(FLUSH_SECONDS)

    def reset_after_fork(self) -> None:
        """In a child process: drop the queue, because the thread that writes it exists only in the parent."""
        self._changed = threading.Condition()
        self._queue, self._size, self._thread = deque(), 0, None

    def _drained(self, seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._size or self.gone, seconds)

    def _pump(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._thread is not me)
                if not self._queue:
                    return
                data = self._queue.popleft()
            self._write(data)
            with self._changed:
                self._size -= len(data)
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.gone:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # another process made the pipe non-blocking: wait as a blocking write does
                self._wait_until_writable()
            except OSError:
                self._end()

    def _wait_until_writable(self) -> None:
        import select  # noqa: PLC0415 - rarely needed

        try:
            select.select([], [self._descriptor], [])
        except (OSError, ValueError):
            self._end()

    def _end(self) -> None:
        self.gone = True
        with self._changed:
            self._queue.clear()
            self._size = 0
            self._changed.notify_all()


class _Bytes(io.RawIOBase):
    """The bytes below an `OutputStream`."""

    mode = "wb"

    @property
    def raw(self) -> io.RawIOBase:
        return self

    @property
    def name(self) -> str:
        return self._stream.name

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, data: Any, /) -> int:
        self._stream.put(bytes(data))
        return len(data)


_installed: list[OutputStream] = []


def install() -> None:
    """Replace the standard streams of this process. Only `main` does this, never a library call."""
    for descriptor in range(3):  # else the next file that is opened would become standard output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _replacement(sys.stdout, 1), _replacement(sys.stderr, 2)
    os.register_at_fork(after_in_child=_after_a_fork)
    logging.lastResort = _LastResort(logging.WARNING)


def _replacement(stream: Any, descriptor: int) -> OutputStream:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(Exception):
        stream.flush()
    new = OutputStream(descriptor, encoding, os.isatty(descriptor))
    _installed.append(new)
    return new


def _after_a_fork() -> None:
    for stream in _installed:
        stream.reset_after_fork()


@contextmanager
def during_a_run() -> Iterator[None]:
    """Let writes never block inside this block; at its end the queue is written."""
    make_logs_safe()
    streams = list(_installed)
    for stream in streams:
        stream.begin()
    try:
        yield
    finally:
        for stream in streams:
            stream.end()


def hurry() -> None:
    """The process was interrupted: from now on wait only a short time for readers."""
    for stream in _installed:
        stream.max_wait = FLUSH_SECONDS


def flush_queues() -> None:
    """Write queued output before the process ends, waiting only a short time."""
    for stream in _installed:
        stream.flush_queue()


# ---- logging


class SafeFormatter(logging.Formatter):
    """Formats as another formatter does, after control characters of message and traceback are escaped."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        safe = copy.copy(record)
        safe.msg, safe.args = shown_lines(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            safe.exc_text = self._inner.formatException(record.exc_info)
        if safe.exc_text:
            safe.exc_text = shown_lines(safe.exc_text)
        return self._inner.format(safe)


class _LastResort(logging.Handler):
    """Writes log records when the program has not configured logging."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.setFormatter(SafeFormatter(logging.Formatter("%(message)s")))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write(f"{self.format(record)}\n", err=True)
        except Exception:
            self.handleError(record)


def make_logs_safe() -> None:
    """Escape control characters in every logging handler that writes to a terminal, also in handlers of the user."""
    known = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    for handler in [handler for logger in known for handler in getattr(logger, "handlers", ())]:
        if isinstance(handler, logging.StreamHandler) and _is_shown(handler.stream):
            formatter = handler.formatter or logging.Formatter()
            if not isinstance(formatter, SafeFormatter):
                handler.setFormatter(SafeFormatter(formatter))


def _is_shown(stream: Any) -> bool:
    try:
        return stream in (sys.stdout, sys.stderr) or stream.isatty()
    except Exception:  # a stream of the user's own, or a closed one
        return False
