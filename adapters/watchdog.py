"""Names the step that blocks the event loop, while it blocks it.

A thread checks whether the loop still runs. If it has not run for a second, the stack of the loop's thread shows which
step's function is running. If there is none, no step is named.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType

from towpath.logs import guarded_logger

LAG = 1.0  # seconds for which the loop did not run
INTERVAL = 0.25

_log = guarded_logger("towpath")


class Watchdog:
    """Watches one event loop from a thread of its own, as a context manager.

    `steps` returns the code objects of known step functions with their names. The log says once per blockage which
    step it is, and where.
    """

    def __init__(self, steps: Callable[[], dict[CodeType, str]]) -> None:
        self._steps = steps
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._turned = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="towpath watchdog", daemon=True)
        self._beat: asyncio.TimerHandle | None = None

    def __enter__(self) -> Watchdog:
        self._turn()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._beat is not None:
            self._beat.cancel()
        self._thread.join()

    def _turn(self) -> None:
        self._turned = time.monotonic()
        self._beat = self._loop.call_later(INTERVAL, self._turn)

    def _watch(self) -> None:
        reported = 0.0
        while not self._stop.wait(INTERVAL):
            turned = self._turned
            lag = time.monotonic() - turned - INTERVAL
            if lag >= LAG - INTERVAL and reported != turned:
                reported = turned
                _warn(*self._culprit(), lag)

    def _culprit(self) -> tuple[str, str, bool]:
        frame = sys._current_frames().get(self._thread_id)
        steps, popen = self._steps(), getattr(sys.modules.get("subprocess"), "Popen", None)
        place, spawns = "", False
        while frame is not None:
            place = place or f"{frame.f_code.co_filename}:{frame.f_lineno}"
            spawns = spawns or (popen is not None and frame.f_code is popen.__init__.__code__)
            name = steps.get(frame.f_code)
            if name is not None:
                return name, f"{frame.f_code.co_filename}:{frame.f_lineno}", spawns
            frame = frame.f_back
        return "", place, spawns


def _warn(step: str, place: str, spawns: bool, lag: float) -> None:
    if not step:  # towpath itself or other code of the program: no step can correct it
        _log.debug("the event loop is blocked at %s for %.1f s, not by a step", place, lag)
    elif spawns:  # asyncio and anyio start processes in the loop's thread: awaiting does not help
        _log.warning(
            "step %s starts a process at %s, which blocks the event loop, for %.1f s so far: no other step can run. "
            "Give the step process=True, or make it a plain `def` that starts the process with `subprocess`.",
            step,
            place,
            lag,
        )
    else:
        _log.warning(
            "step %s blocks the event loop at %s, for %.1f s so far: no other step can run. "
            "Make the step a plain `def` (it then runs in a thread), or await instead of blocking.",
            step,
            place,
            lag,
        )
