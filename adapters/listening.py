"""Listeners get every recorded fact. They cannot change a run, whatever they do."""

from __future__ import annotations

from inspect import iscoroutine

from msgspec.structs import replace

from towpath.events import Fact
from towpath.logs import guarded_logger
from towpath.ports import Listener
from towpath.values import copied

_log = guarded_logger("towpath")


class Audience:
    """Calls the listeners of an adapter; the list `listeners` may change at any time."""

    def __init__(self, listeners: list[Listener]) -> None:
        self.listeners = listeners
        self._reported: list[Listener] = []

    def notify(self, run_id: str, fact: Fact) -> None:
        """Call every listener. An exception of a listener is logged the first time, and ignored."""
        own = _copied(fact) if self.listeners else fact
        for listener in list(self.listeners):
            try:
                answer: object = listener(run_id, own)
                if iscoroutine(answer):
                    answer.close()
                    raise TypeError("a listener must be a plain function; this one is async")
            except BaseException as error:  # also SystemExit and CancelledError
                self._report(listener, error)

    def _report(self, listener: Listener, error: BaseException) -> None:
        if listener not in self._reported:
            self._reported.append(listener)
            _log.error("a listener failed; the run continues", exc_info=error)


def _copied(fact: Fact) -> Fact:
    """The fact with copies of its values: a listener may change them, and later steps get the originals."""
    own = {name: copied(getattr(fact, name)) for name in ("value", "parameters") if _is_data(getattr(fact, name, None))}
    return replace(fact, **own) if own else fact


def _is_data(value: object) -> bool:
    return isinstance(value, dict | list)
