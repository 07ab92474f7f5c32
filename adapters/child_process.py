"""One process for steps with `process=True`: it makes one call at a time, and is killed when the attempt is over.

`ProcessPoolExecutor` cannot stop one call without breaking the others, and anyio's worker processes cannot send back
progress and logs. So the processes here are plain ones of `multiprocessing`, started by `spawn`.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any
from weakref import WeakSet

from towpath.attempt import Reported
from towpath.context import StepContext
from towpath.errors import Place, StepProcessFailed, TowpathError
from towpath.forks import MAIN_GUARD, STEP_PROCESS
from towpath.step_process import (
    Logged,
    MadeFolder,
    Printed,
    Progressed,
    Raised,
    Ready,
    Request,
    Returned,
    pickled,
    serve,
)
from towpath.steps import Step

_spawn = multiprocessing.get_context("spawn")
_children: WeakSet[ChildProcess] = WeakSet()


class ChildProcess:
    """One process, which starts with its first call."""

    def __init__(self) -> None:
        self.alive = True
        self._process: Any = None
        self._connection: Connection | None = None
        _children.add(self)

    def answer(self, request: Request, context: StepContext) -> Returned | Exception:
        """The outcome of a call. It blocks, and never raises."""
        try:
            connection = self._started(context)
            connection.send_bytes(pickled(request))
            while True:
                message = _received(connection)
                if isinstance(message, Returned):
                    return message
                if isinstance(message, Raised):
                    return Reported(message.error, message.retryable)
                _take(message, context)
        except (EOFError, OSError):
            self.kill()
            return _died(context, None if self._process is None else self._process.exitcode)
        except StepProcessFailed as error:
            self.kill()
            return error
        except BaseException as error:  # for example: its value needs a module that this process cannot import
            self.kill()
            return _failed(context, f"what it returned cannot be read here: {type(error).__name__}: {error}", "")

    def stop(self) -> None:
        """Kill the process. The thread that waits for its answer sees that, and waits for its end."""
        self.alive = False
        if self._process is not None:
            self._process.kill()

    def kill(self) -> None:
        """Kill the process, and wait for its end."""
        self.stop()
        _children.discard(self)
        if self._process is not None:
            self._process.join()

    def _started(self, context: StepContext) -> Connection:
        if self._connection is not None:
            return self._connection
        self._connection, theirs = _spawn.Pipe()
        process = _spawn.Process(target=serve, args=(theirs,), name=STEP_PROCESS, daemon=False)
        try:
            process.start()
            self._process = process  # only now: `stop` may be called meanwhile, and there is nothing to kill yet
        except Exception as error:  # no memory, no right; or this is a process that may have no children
            cure = f"in a script: {MAIN_GUARD}; otherwise look at the limits of this process"
            raise _failed(context, f"its process cannot start: {type(error).__name__}: {error}", cure) from None
        finally:
            theirs.close()
        if not self.alive:
            raise EOFError  # stopped before there was a process
        try:
            assert isinstance(_received(self._connection), Ready)
        except (EOFError, OSError):
            self._process.join()
            message = f"its process ended ({_ending(self._process.exitcode)}) before the call; stderr says why"
            raise _failed(context, message, f"if this is a script: {MAIN_GUARD}") from None
        return self._connection


def _received(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())  # noqa: S301 - from our own process


def _take(message: Any, context: StepContext) -> None:
    if isinstance(message, Progressed):
        context.progress(message.done, message.total)
    elif isinstance(message, Logged):
        context.logger.handle(logging.makeLogRecord(message.record))
    elif isinstance(message, Printed):
        context.lines().add_lines(message.lines)
    elif isinstance(message, MadeFolder):
        context.made_elsewhere()
    else:
        raise TypeError(f"the process of a step sent {message!r}")


def request_for(
    step: Step[..., Any],
    arguments: dict[str, Any],
    context: StepContext,
    retry_on: tuple[str, ...],
) -> Request:
    """The request for a call. It blocks: artifacts are read for it.

    Raises StepProcessFailed (E_STEP_PROCESS) for an argument that cannot be sent; StoreFailed.
    """
    try:
        sent = pickled(arguments)
    except TowpathError:
        raise
    except Exception as error:
        cure = "pass data, files and paths, or leave out process=True"
        message = f"an argument cannot be sent to its process: {type(error).__name__}: {error}"
        raise _failed(context, message, cure) from None
    return Request(
        step=step.name,
        arguments=sent,
        path=tuple(sys.path),
        retry_on=retry_on,
        run_id=context.run_id,
        step_id=context.step_id,
        item=context.item,
        attempt=context.attempt,
        regeneration=context.regeneration,
        folder=context.folder,
        kept=context.kept,
    )


def _failed(context: StepContext, message: str, cure: str) -> StepProcessFailed:
    return StepProcessFailed("E_STEP_PROCESS", message, place=Place(step=context.step_id), cure=cure)


def _died(context: StepContext, code: int | None) -> StepProcessFailed:
    message = f"the process of the step died ({_ending(code)}) before its function ended"
    cure = "look at the memory that it uses, and at native code in it"
    return StepProcessFailed(
        "E_STEP_PROCESS_DIED", message, place=Place(step=context.step_id), cure=cure, retryable=True
    )


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"signal {-code}"
    return f"exit code {code}"


@atexit.register
def _end_all() -> None:
    """Kill the processes of engines that were not closed: multiprocessing would wait for them for ever."""
    for child in list(_children):
        child.kill()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_children.clear)  # they are the parent's, and live on
