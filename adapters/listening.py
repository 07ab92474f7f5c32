"""Listeners hear what was recorded. They steer nothing, whatever they do."""

from __future__ import annotations

from dataclasses import replace
from inspect import iscoroutine

from towpath.events import Fact
from towpath.logs import guarded_logger
from towpath.ports import Listener
from towpath.values import copied

_log = guarded_logger("towpath")


class Audience:
    """Those who are told of every fact; `listeners` may change at any time."""

    def __init__(self, listeners: list[Listener]) -> None:
        self.listeners = listeners
        self._reported: list[Listener] = []

    def tell(self, run_id: str, fact: Fact) -> None:
        """Call every listener. What one raises is logged the first time, and reaches nobody."""
        told = _copied(fact) if self.listeners else fact
        for listener in list(self.listeners):
            try:
                answer: object = listener(run_id, told)
                if iscoroutine(answer):
                    answer.close()
                    raise TypeError("a listener is a plain function, and this one is async")
            except BaseException as error:  # also SystemExit, or a cancellation that it made up
                self._report(listener, error)

    def _report(self, listener: Listener, error: BaseException) -> None:
        if listener not in self._reported:
            self._reported.append(listener)
            _log.error("a listener failed; the run goes on", exc_info=error)


def _copied(fact: Fact) -> Fact:
    """The fact with data of its own: later steps get the values that it tells, and a listener may do with them as it
    likes.
    """
    own = {name: copied(getattr(fact, name)) for name in ("value", "parameters") if _is_data(getattr(fact, name, None))}
    return replace(fact, **own) if own else fact


def _is_data(value: object) -> bool:
    return isinstance(value, dict | list)
