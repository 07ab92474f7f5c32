"""What runs in a process of its own: the functions of steps with `process=True`, one call at a time.

The parent (`adapters/process_pool.py`) sends a `Request`; the answers are messages, the last of them `Returned` or
`Raised`. Both sides use pickle: they are the same program. Of an artifact only the way to its bytes is sent.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .attempt import failure
from .capture import capturing, look_at_streams
from .context import StepContext
from .errors import StepProcessFailed
from .forks import OneProcess, main_is_imported
from .log_lines import Kept, LogLines
from .logs import step_logger
from .model import ErrorInfo
from .redaction import without_secrets
from .retry_rules import RetryRule
from .secrets import Secret
from .step_calls import call_plain
from .steps import Step, find_step
from .values import NewFile

TELLING = 0.1  # seconds between two messages about lines and progress


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a step's function. `arguments` are pickled separately: reading them may need modules from `path`."""

    step: str
    arguments: bytes
    path: tuple[str, ...]
    retry_on: tuple[str, ...]
    run_id: str
    step_id: str
    item: int | None
    attempt: int
    regeneration: int
    folder: Path | None
    kept: Kept


@dataclass(frozen=True, slots=True)
class Ready:
    """The process waits for its first request."""


@dataclass(frozen=True, slots=True)
class Progressed:
    done: float
    total: float | None


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of the step's log, as the fields of a `logging.LogRecord`."""

    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Printed:
    """Complete lines for the log of the attempt: what was printed, log records of other loggers, warnings."""

    lines: str


@dataclass(frozen=True, slots=True)
class MadeFolder:
    """The function asked for its work folder."""


@dataclass(frozen=True, slots=True)
class Returned:
    value: Any
    saved: tuple[NewFile, ...]


@dataclass(frozen=True, slots=True)
class Raised:
    error: ErrorInfo
    retryable: bool


class _Pickler(pickle.Pickler):
    """Pickles secrets, which no other pickler may."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Secret:
            return Secret, (value.reveal(),)
        return NotImplemented


def pickled(value: Any) -> bytes:
    """A value for the other process. It blocks: artifacts are read for it, see `Artifact.__reduce__`."""
    file = io.BytesIO()
    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


class ChildContext(StepContext):
    """`context()` in the child process: it reports to the parent."""

    def __init__(self, request: Request, connection: Connection) -> None:
        super().__init__(request.run_id, request.step_id, request.item, request.attempt, request.folder)
        self.regeneration = request.regeneration
        self.kept = request.kept
        self.on_progress = self._start_telling
        self._connection = connection
        self._sending = threading.Lock()  # the function may have threads
        self._telling: threading.Thread | None = None

    def send(self, message: Any) -> None:
        data = pickled(message)
        with self._sending:
            if not self._over:
                self._connection.send_bytes(data)

    def answer(self, outcome: bytes) -> None:
        """Send the last message of the call. Threads that the function left behind send nothing into the next one."""
        self.tell(final=True)
        with self._sending:
            self._over = True
            self._connection.send_bytes(outcome)

    @property
    def logger(self) -> logging.Logger:
        if self._logger is None:
            self._logger = without_secrets(step_logger(self.step_id))
            self._logger.propagate = False  # handlers of the program are in the parent
            self._logger.addHandler(_Sending(self))
        return self._logger

    @property
    def work_folder(self) -> Path:
        if self._made is None:
            self.send(MadeFolder())
        return super().work_folder

    def lines(self) -> LogLines:
        self._start_telling()
        return super().lines()

    def _start_telling(self) -> None:
        """Tell the parent from now on what is new, now and then: a function may print and report very often."""
        if self._telling is None:
            self._telling = threading.Thread(target=self._tell_until_the_end, daemon=True)
            self._telling.start()

    def _tell_until_the_end(self) -> None:
        with suppress(OSError):  # the parent has gone
            while not self._over:
                self.tell()
                time.sleep(TELLING)

    def tell(self, *, final: bool = False) -> None:
        """Tell the parent what is new."""
        figures, log = self.figures, self.log
        if figures is not None and figures is not self.shown:
            self.shown = figures
            self.send(Progressed(*figures))
        if log is not None and (log.changed or final) and (lines := log.new_text(final=final)):
            self.send(Printed(lines))


class _Sending(logging.Handler):
    """Sends lines to the parent, whose loggers treat them like those of any step."""

    def __init__(self, context: ChildContext) -> None:
        super().__init__()
        self._context = context
        self._format = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self._format.format(record)
        except Exception:
            self.handleError(record)
            return
        self._context.tell()  # what was printed before
        fields = ("name", "levelno", "levelname", "pathname", "lineno", "created", "msecs")
        kept = {field: getattr(record, field) for field in fields}
        self._context.send(Logged({**kept, "msg": text, "args": None}))


def serve(connection: Connection) -> None:
    """Answer requests until the parent is gone. This is the main function of the child process."""
    main_is_imported.set()
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the parent, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "register_at_fork"):
        # A process that a step forks must not answer, nor hold the connection open: its end says that this one died.
        os.register_at_fork(after_in_child=connection.close)
    connection.send_bytes(pickled(Ready()))
    with capturing():
        while True:
            try:
                request = pickle.loads(connection.recv_bytes())  # noqa: S301 - from our own parent
            except (EOFError, OSError):
                return
            _answer(request, connection)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _answer(request: Request, connection: Connection) -> None:
    context = ChildContext(request, connection)
    step: Step[..., Any] | None = None
    try:
        sys.path[:] = request.path
        step = find_step(request.step)
        answer = _called(step, request, context)
    except BaseException as error:
        rule = RetryRule(request.retry_on, None if step is None else step.options.retry_if)
        outcome = failure(error, rule)
        assert outcome.error is not None
        answer = pickled(Raised(outcome.error, outcome.retryable))
    context.answer(answer)


def _called(step: Step[..., Any], request: Request, context: ChildContext) -> bytes:
    arguments = pickle.loads(request.arguments)  # noqa: S301 - from our own parent
    context.enter()
    look_at_streams()
    with OneProcess():
        value = call_plain(step, arguments, context)
    try:
        return pickled(Returned(value, tuple(context.saved)))
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        cure = "return data, bytes or paths, or leave out process=True"
        raise StepProcessFailed(
            "E_STEP_PROCESS", f"what it returned cannot leave its process: {what}", cure=cure
        ) from None
