"""What steps log, print and warn about goes into the logs of their attempts, while an engine is open.

The program must not notice: its handlers, levels and streams do and show what they would without towpath. A handler on
the root logger would not do: `logging.basicConfig` does nothing when there is one, it gets nothing below the levels of
the loggers or with `propagate=False`, and a level changed for it changes what the handlers of the program show. So the
hooks are where the standard library passes on what it made, and each acts only inside a running step:

- `logging.Logger.isEnabledFor` says yes to a record that only the step's log wants. `callHandlers` then keeps it, and
  calls no handler. A record that the program wants as well is kept, and then goes its usual way.
- `write` of the objects that are `sys.stdout` and `sys.stderr` when an attempt starts. The objects stay the same ones.
- `warnings._showwarnmsg`, which gets each warning that passed the filters, also if `showwarning` was replaced.

What one hook passes on may come to another one: a handler writes to `sys.stderr`. And the garbage collector may run
code that prints, in any line of ours. So inside of one hook, none keeps anything.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

from .context import StepContext, running_step
from .logs import StepLogger

_lock = threading.Lock()
_engines = 0  # open ones
_undo: list[Callable[[], None]] = []


def _nothing() -> object:
    """A reference to no stream."""
    return _nothing


_seen: tuple[Callable[[], Any], Callable[[], Any]] = (_nothing, _nothing)  # the streams that were looked at last
_streams: dict[int, tuple[weakref.ref[Any], Any, Any]] = {}  # by id: the streams with our `write`, it, and theirs
_usual: tuple[Any, Any] = (_nothing, _nothing)  # the same, if they are those of the process


class _Here(threading.local):
    """What the hooks know about their own thread."""

    def __init__(self) -> None:
        self.inside = False  # a hook passes something on
        self.asked: set[tuple[logging.Logger, int]] = set()  # logger and level of records that only a step's log wants


_here = _Here()


@contextmanager
def capturing() -> Iterator[None]:
    """While at least one such block is entered, in any thread, the hooks are in place."""
    global _engines  # noqa: PLW0603 - one process has one `sys.stdout`
    with _lock:
        _engines += 1
        if _engines == 1:
            _install()
    try:
        yield
    finally:
        with _lock:
            _engines -= 1
            if not _engines:
                _remove()


def _install() -> None:
    _replace(logging.Logger, "isEnabledFor", _enabled)
    _replace(logging.Logger, "handle", _handled)
    _replace(logging.Logger, "callHandlers", _called)
    if hasattr(warnings, "_showwarnmsg"):  # not a public name
        _replace(warnings, "_showwarnmsg", _warned)


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    hook = wraps(original)(make(original))
    setattr(owner, name, hook)

    def undo() -> None:
        if getattr(owner, name) is hook:  # else somebody wrapped it: ours stays inside, and passes everything on
            setattr(owner, name, original)

    _undo.append(undo)


def _remove() -> None:
    global _seen, _usual  # noqa: PLW0603
    while _undo:
        _undo.pop()()
    _unhook_streams()
    _seen = _usual = (_nothing, _nothing)


def _step() -> StepContext | None:
    """The running step that keeps what happens here."""
    step = running_step()
    return None if step is None or _here.inside or step.cancelled else step


# ---- logging

_Enabled = Callable[[logging.Logger, int], bool]
_Handled = Callable[[logging.Logger, logging.LogRecord], None]


def _enabled(original: _Enabled) -> _Enabled:
    def is_enabled_for(self: logging.Logger, level: int) -> bool:
        if original(self, level):
            return True
        step = _step()
        if step is None or level < step.kept.level or not _is_wanted(self, level):
            return False
        _here.asked.add((self, level))
        return True

    return is_enabled_for


def _is_wanted(logger: logging.Logger, level: int) -> bool:
    """Does only the level of the root logger, or a configuration that disabled all older loggers, refuse this level?
    A level that somebody gave to a logger below the root is meant: of a library that is too talkative.
    """
    if logger.manager.disable >= level:
        return False
    at = logger
    while at.parent is not None:
        if at.level:
            return level >= at.level
        at = at.parent
    return True


def _handled(original: _Handled) -> _Handled:
    def handle(self: logging.Logger, record: logging.LogRecord) -> None:
        if self.disabled and (self, record.levelno) in _here.asked:
            step, passed = _step(), self.filter(record)  # from Python 3.12 on a filter may return another record
            _here.asked.discard((self, record.levelno))
            if step is not None and passed:
                _here.inside = True
                try:
                    _keep(step, passed if isinstance(passed, logging.LogRecord) else record)
                finally:
                    _here.inside = False
        else:
            original(self, record)

    return handle


def _called(original: _Handled) -> _Handled:
    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        step = _step()
        if step is None:
            original(self, record)
            return
        asked = (self, record.levelno)
        only_asked = asked in _here.asked
        _here.asked.discard(asked)
        _here.inside = True
        try:
            if not isinstance(self, StepLogger):  # that one has a handler
                _keep(step, record)
            # The hook above gave the answer for the step: now the program's own is wanted.
            if not only_asked or self.isEnabledFor(record.levelno):
                original(self, record)
        finally:
            _here.inside = False

    return call_handlers


def _keep(step: StepContext, record: logging.LogRecord) -> None:
    if record.levelno >= step.kept.level:
        step.lines().add_record(record)


# ---- streams


def look_at_streams() -> None:
    """Before an attempt starts: what it writes to `sys.stdout` and `sys.stderr`, as they are now, will be kept."""
    if sys.stdout is _usual[0] and sys.stderr is _usual[1]:  # most steps
        return
    if sys.stdout is not _seen[0]() or sys.stderr is not _seen[1]():
        with _lock:
            _hook_streams()


def _hook_streams() -> None:
    global _seen, _usual  # noqa: PLW0603
    if _engines:
        _seen = (_hooked(sys.stdout), _hooked(sys.stderr))
        if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:
            _usual = (sys.stdout, sys.stderr)


def _hooked(stream: Any) -> Callable[[], Any]:
    """Replace the stream's `write` in the object itself. Returns a reference to it that does not keep it open."""
    try:
        own = vars(stream)
        here = weakref.ref(stream)
        known = _streams.get(id(stream))
        if known is None or own.get("write") is not known[1]:
            _hook(stream, own, here)
    except (TypeError, AttributeError):  # there is no stream, or it has no attributes of its own: it is not seen
        return lambda: stream
    return here


def _hook(stream: Any, own: dict[str, Any], here: weakref.ref[Any]) -> None:
    before = own.get("write")
    hook = own["write"] = _writes_as(here, type(stream).write, before)
    if stream.write is not hook:  # its class decides otherwise
        del own["write"]
        return
    key = id(stream)
    _streams[key] = (weakref.ref(stream, lambda _: _streams.pop(key, None)), hook, before)


def _unhook_streams() -> None:
    while _streams:
        here, hook, before = _streams.popitem()[1]
        stream = here()
        if stream is not None and vars(stream).get("write") is hook:
            del vars(stream)["write"]
            if before is not None:
                vars(stream)["write"] = before


def _writes_as(here: Callable[[], Any], original: Callable[..., Any], before: Callable[..., Any] | None) -> Any:
    """A `write` that keeps the text and then does what `before` did, or without it the `original` of the class.

    A stream of the program may take more than a text, and says itself what is wrong with a call.
    """

    def write(*texts: Any, **more: Any) -> Any:
        stream, step = here(), _step()
        if step is None or not step.kept.prints:
            return original(stream, *texts, **more) if before is None else before(*texts, **more)
        name = "stdout" if stream is sys.stdout else "stderr" if stream is sys.stderr else ""
        _here.inside = True
        try:
            if name and texts and isinstance(texts[0], str):
                step.lines().add_text(name, texts[0])
            return original(stream, *texts, **more) if before is None else before(*texts, **more)
        finally:
            _here.inside = False

    return write


# ---- warnings


def _warned(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def show_warning(message: Any) -> None:
        step = _step()
        if step is None:
            original(message)
            return
        _here.inside = True
        try:
            with suppress(Exception):  # its text is made by a class of the program
                where = f"{os.path.basename(message.filename)}:{message.lineno}"
                text = f"{message.category.__name__}: {message.message} ({where})"
                step.lines().add_line("WARNING", "warnings", text)
            original(message)
        finally:
            _here.inside = False

    return show_warning


def _forked() -> None:
    """A child that a step forked has no engine: what it writes reaches no log, as nothing reads its memory."""
    global _lock, _engines  # noqa: PLW0603 - a thread of the parent may have held the lock
    _lock = threading.Lock()
    _engines = 0
    _remove()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
