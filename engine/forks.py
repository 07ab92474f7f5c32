"""A child process that a step forks never continues as a second engine.

What forks a step should replace the child (`subprocess`) or end it (`multiprocessing`). A child that returns from
the step instead would be a copy of the engine: the same connections, leases and runs, and none of its threads.
"""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Any
from weakref import WeakSet

_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


class OneProcess:
    """`with OneProcess():` around a step's function. A child that was forked inside ends where it would leave.

    Its exit code is that of `sys.exit`, 1 if it raised something else, 0 if it returned. Nothing is flushed or
    tidied up: what is in memory belongs to the parent.
    """

    __slots__ = ("_process",)

    def __enter__(self) -> None:
        self._process = os.getpid()

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if os.getpid() != self._process:
            os._exit(_exit_code(error))


def keep_to_this_process(loop: asyncio.AbstractEventLoop) -> None:
    """From now on the loop turns in this process only: a forked child that comes back to it ends (code 70)."""
    _loops.add(loop)


def _exit_code(error: BaseException | None) -> int:
    if not isinstance(error, SystemExit):
        return 0 if error is None else 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    return 1


def _in_child() -> None:
    """Runs in every forked child. Loops that the child makes for itself turn as they should."""
    ours = frozenset(map(id, _loops))
    if not ours:
        return
    run = asyncio.Handle._run

    def checked(handle: Any) -> None:
        if id(handle._loop) in ours:
            os._exit(70)
        run(handle)

    # Only the child is changed. Every callback of a loop goes through here, so that of what the parent
    # had ready when it was forked nothing is done twice.
    asyncio.Handle._run = checked  # type: ignore[method-assign,assignment]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
