"""Listeners hear what was recorded. They steer nothing, whatever they do."""

from __future__ import annotations

from inspect import iscoroutine

from towpath.events import Fact
from towpath.logs import guarded_logger
from towpath.ports import Listener

_log = guarded_logger("towpath")


class Audience:
    """Those who are told of every fact; `listeners` may change at any time."""

    def __init__(self, listeners: list[Listener]) -> None:
        self.listeners = listeners
        self._reported: list[Listener] = []

    def tell(self, run_id: str, fact: Fact) -> None:
        """Call every listener. What one raises is logged the first time, and reaches nobody."""
        for listener in list(self.listeners):
            try:
                answer: object = listener(run_id, fact)
                if iscoroutine(answer):
                    answer.close()
                    raise TypeError("a listener is a plain function, and this one is async")
            except BaseException as error:  # also SystemExit, or a cancellation that it made up
                self._report(listener, error)

    def _report(self, listener: Listener, error: BaseException) -> None:
        if listener not in self._reported:
            self._reported.append(listener)
            _log.error("a listener failed; the run goes on", exc_info=error)
