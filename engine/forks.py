"""A child process that a step forks, or is run in, never continues as a second engine.

Code that forks should replace the child (`subprocess`) or end it (`multiprocessing`). If the child returned from the
step's function, it would be a copy of the engine with the same connections, leases and runs, but without its threads.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from types import TracebackType
from typing import Any
from weakref import WeakSet

from .errors import InputInvalid

STEP_PROCESS = "towpath step process"  # the name of a process of a step with `process=True`
MAIN_GUARD = 'put the call that opens the engine below `if __name__ == "__main__":`'

main_is_imported = threading.Event()  # set in such a process, when it has imported the main module of its program
_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


class OneProcess:
    """`with OneProcess():` around a step's function. A child that was forked inside ends when it leaves the block.

    Its exit code is that of `sys.exit`, 1 for any other exception, 0 if it returned. Nothing is flushed or cleaned
    up: all objects in memory belong to the parent.
    """

    __slots__ = ("_process",)

    def __enter__(self) -> None:
        self._process = os.getpid()

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if os.getpid() != self._process:
            os._exit(_exit_code(error))


def keep_to_this_process(loop: asyncio.AbstractEventLoop) -> None:
    """From now on the loop runs in this process only: a forked child that returns to it ends (code 70)."""
    _loops.add(loop)


def refuse_while_importing() -> None:
    """Refuse to open an engine while a step's process imports the main module of its program again.

    Raises InputInvalid (E_STEP_PROCESS): the script lacks its `if __name__ == "__main__":`.
    """
    multiprocessing = sys.modules.get("multiprocessing")  # such a process has loaded it
    if multiprocessing is None or multiprocessing.current_process().name != STEP_PROCESS:
        return
    if not main_is_imported.is_set():
        message = "the process of a step imports this script, and the script opens an engine when it is imported"
        raise InputInvalid("E_STEP_PROCESS", message, cure=MAIN_GUARD)


def _exit_code(error: BaseException | None) -> int:
    if not isinstance(error, SystemExit):
        return 0 if error is None else 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    return 1


def _in_child() -> None:
    """Runs in every forked child. New loops of the child are not affected."""
    ours = frozenset(map(id, _loops))
    if not ours:
        return
    run = asyncio.Handle._run

    def checked(handle: Any) -> None:
        if id(handle._loop) in ours:
            os._exit(70)
        run(handle)

    # Changed in the child only. All callbacks of a loop are called through this function, so the child runs none of
    # those that were ready in the parent.
    asyncio.Handle._run = checked  # type: ignore[method-assign,assignment]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
