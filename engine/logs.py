"""Loggers of towpath: an error in a handler of the program never fails the code that logs."""

from __future__ import annotations

import logging


class StepLogger(logging.Logger):
    """The logger of an attempt: with a level and handlers of its own, besides those of its parent."""

    def handle(self, record: logging.LogRecord) -> None:
        try:
            super().handle(record)
        except Exception:
            report(record)


class _Proxy(logging.Logger):
    """Stands for the logger of its name: levels, filters and handlers are those that a program gave to that one."""

    def __init__(self, behind: logging.Logger) -> None:
        super().__init__(behind.name)
        self._behind = behind

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        return self._behind.isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        try:
            self._behind.handle(record)
        except Exception:
            report(record)


def guarded_logger(name: str) -> logging.Logger:
    """Logs as `logging.getLogger(name)` does; an error of a filter or a handler is reported, not raised."""
    return _Proxy(logging.getLogger(name))


def step_logger(step_id: str) -> StepLogger:
    """A logger for one attempt of a step: everything is logged, and passed to the handlers of `towpath.steps`."""
    logger = StepLogger(f"towpath.steps.{step_id}", logging.DEBUG)
    logger.parent = logging.getLogger("towpath.steps")
    return logger


def report(record: logging.LogRecord) -> None:
    """Report the current exception as `logging` reports its own: on stderr, or not at all (`raiseExceptions`)."""
    try:
        logging.Handler().handleError(record)
    except Exception:
        return  # standard error is broken as well: no output is left
