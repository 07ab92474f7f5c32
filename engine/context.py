"""`context()`: what a step's function can read and do while it runs."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, ContextVar
from pathlib import Path

from .artifact import Artifact, File
from .errors import Place, StepCancelled, ValueRefused
from .log_lines import KEPT, Kept, LogLines, StepHandler
from .logs import guarded_logger, step_logger
from .redaction import without_secrets
from .values import NewFile

_log = guarded_logger("towpath")
_current: ContextVar[StepContext] = ContextVar("towpath_step")
_standing: list[StepContext] = []
"""The contexts of tests, the innermost last: a context variable that a fixture sets does not reach every test."""


def running_step() -> StepContext | None:
    """The running step, or None outside of one."""
    return _current.get(None)


def context() -> StepContext:
    """The running step. Raises RuntimeError outside of one, and in a thread that has not got the step's variables."""
    try:
        return _current.get()
    except LookupError:
        if _standing:
            return _standing[-1]
        raise RuntimeError(f"context() works only while a step runs in a chain{_cure()}") from None


def _cure() -> str:
    """What to do in a thread that a step has started: Python gives a new thread no context variables."""
    if threading.current_thread() is threading.main_thread():
        return "; in a test: with towpath.testing.step_context():"
    return (
        "; this thread has not got the context of a step: call context() before, and hand it over, or start the "
        "function with contextvars.copy_context().run(function), as asyncio.to_thread does"
    )


@contextmanager
def standing_in(context: StepContext) -> Iterator[None]:
    """For the time of a test, `context` is the running step for code that runs in none."""
    _standing.append(context)
    try:
        yield
    finally:
        _standing.remove(context)


@contextmanager
def waiting_for_a_run() -> Iterator[None]:
    """For the time in which a caller waits for a run. If the caller is a step, the run may use its slot."""
    step = _current.get(None)
    if step is None or step.lend is None:
        yield
        return
    with step.lend():
        yield


def own_run() -> str | None:
    """The run of the calling step, if the caller is a step."""
    step = _current.get(None)
    return None if step is None else step.run_id


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool | int):
        return value if abs(value) < 2**63 else None
    try:
        number = float(value)  # type: ignore[arg-type]
    except Exception:
        return None
    return number if math.isfinite(number) else None


Figures = tuple[float, float | None]
"""How much is done, and of how much."""


class StepContext:
    """The running attempt of a step.

    `run_id`, `step_id`, `item` (the number of the element, from 0; None if the step is not mapped) and `attempt` (from
    1) say which one it is.

    `idempotency_key` is the same for all attempts of this step in this run: give it to services that can
    tell a repeated request from a new one. A regeneration wants a new result, and has a key of its own.
    """

    # Most attempts never change these: as class attributes they cost an attempt nothing.
    figures: Figures | None = None  # what `progress` was called with; replaced as a whole, because threads read it
    on_progress: Callable[[], None] | None = None
    log: LogLines | None = None
    has_news = False  # it has a log, or figures
    kept: Kept = KEPT  # what goes into the log by itself
    shown: Figures | None = None  # the figures that are recorded
    show_at: float | None = None  # when what is new may be recorded, by the clock of the event loop
    asks_approval = False
    regeneration = 0
    lend: Callable[[], AbstractContextManager[None]] | None = None
    variables: Context | None = None  # the context variables of the function
    lasts = False  # the attempt is over, but its thread still works: the thread removes the work folder when it ends
    _over = False
    _logger: logging.Logger | None = None
    _made: Path | None = None

    def __init__(self, run_id: str, step_id: str, item: int | None, attempt: int, folder: Path | None = None) -> None:
        self.run_id = run_id
        self.step_id = step_id
        self.item = item
        self.attempt = attempt
        self.folder = folder
        self.saved: list[NewFile] = []

    @property
    def idempotency_key(self) -> str:
        place = f"{self.run_id}/{self.step_id}" + ("" if self.item is None else f"/{self.item}")
        return f"{place}/regeneration-{self.regeneration}" if self.regeneration else place

    @property
    def logger(self) -> logging.Logger:
        """A standard logger whose last 256 KiB are kept with the attempt (`towpath logs`), without secrets."""
        if self._logger is None:
            logger = without_secrets(step_logger(self.step_id))
            logger.addHandler(StepHandler(self.lines()))
            self._logger = logger
        return self._logger

    def lines(self) -> LogLines:
        """The log of this attempt."""
        if self.log is None:
            vars(self).setdefault(
                "log", LogLines()
            )  # of two threads that make one at the same time, both get the first
            self.has_news = True
        assert self.log is not None
        return self.log

    @property
    def done(self) -> float:
        """How far the step is, as it reported; 0 before."""
        return 0 if self.figures is None else self.figures[0]

    @property
    def total(self) -> float | None:
        """The whole that `done` is a part of, if the step reported one."""
        return None if self.figures is None else self.figures[1]

    @property
    def work_folder(self) -> Path:
        """An empty folder for this attempt, removed after it. Files returned from it are kept."""
        if self._made is None:
            self._made = self._folder_path()
            shutil.rmtree(self._made, ignore_errors=True)
            self._made.mkdir(parents=True, mode=0o700)
        return self._made

    def made_elsewhere(self) -> None:
        """Another process has made the work folder of this attempt. It is removed here, with the attempt."""
        self._made = self._folder_path()

    def _folder_path(self) -> Path:
        if self.folder is None:
            raise RuntimeError("this step runs without a store and has no work folder")
        # A run's id may be longer than a file name can be.
        run = hashlib.sha256(self.run_id.encode()).hexdigest()[:16]
        return self.folder / f"{run}-{self.step_id}-{self.item or 0}-{self.attempt}"

    @property
    def cancelled(self) -> bool:
        """Is the attempt over: timed out, cancelled, or its run has ended? What the function still returns is lost.

        For plain functions and for threads: a thread cannot be stopped from outside. An async function is cancelled by
        `asyncio.CancelledError`.
        """
        return self._over

    def check(self) -> None:
        """Raises StepCancelled if the attempt is over; see `cancelled`. Call it now and then in a long function."""
        if self._over:
            message = f"attempt {self.attempt} at step {self.step_id} is over: it timed out, or was cancelled"
            raise StepCancelled(message)

    def progress(self, done: float, total: float | None = None) -> None:
        """Report how far the step is: `done` of `total`, for example 3 of 10. It may be called often, in any thread of
        the step: pages and other processes see the last figures about once a second.

        Values that are not finite numbers are ignored.

        Raises StepCancelled if the attempt is over, as `check` does.
        """
        self.check()
        so_far, whole = _number(done), _number(total)
        if so_far is None or (whole is None and total is not None):
            return
        self.figures = (so_far, whole)
        self.has_news = True
        if self.on_progress is not None:
            try:
                self.on_progress()
            except Exception:
                _log.exception("what watches the progress of step %s failed; the step continues", self.step_id)
                self.on_progress = None

    def save(self, name: str, data: bytes | str | Path | File | Artifact) -> None:
        """Keep one more file under `name`, besides what the step returns. Recorded when the step completes.

        Raises:
            ValueRefused: E_ARTIFACT_NAME_TWICE if the name was used in this attempt, E_VALUE_TYPE.
        """
        place = Place(step=self.step_id, field=name)
        if any(file.name == name for file in self.saved):
            raise ValueRefused("E_ARTIFACT_NAME_TWICE", f"{name} was saved already", place=place)
        if isinstance(data, str):
            self.saved.append(NewFile(name, data.encode(), name if "." in name else f"{name}.txt"))
        elif isinstance(data, bytes):
            self.saved.append(NewFile(name, data, name if "." in name else None))
        elif isinstance(data, Path):
            self.saved.append(NewFile(name, data, data.name))
        elif isinstance(data, File):
            self.saved.append(NewFile(name, data.data, data.filename, data.media_type, data.origin))
        elif isinstance(data, Artifact):
            self.saved.append(NewFile(name, data, data.filename, data.media_type))
        else:
            raise ValueRefused("E_VALUE_TYPE", "save() keeps files", place=place, found=type(data).__name__)

    def end(self) -> None:
        """The attempt is over: its function can see that, and its work folder is removed."""
        self._over = True
        # Both refer to this context: only the garbage collector would free such a cycle.
        self.variables = self.lend = None
        if not self.lasts:
            self.close()

    def close(self) -> None:
        """Remove the work folder, if one was made."""
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    def enter(self) -> None:
        """Make this the current context of the running task or thread."""
        _current.set(self)
