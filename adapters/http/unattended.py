"""Resumes unattended runs while the server is up."""

from __future__ import annotations

import time

import anyio
import anyio.abc

from towpath.adapters.wiring import Engine
from towpath.errors import RunRefused, TowpathError
from towpath.logs import guarded_logger

from .access import ServerRecords
from .reading import unattended_runs

_log = guarded_logger("towpath.http")

POLL = 1.0  # seconds between two polls of the store
FIRST_DELAY = 5.0  # seconds until the next attempt to resume a run that could not be resumed; doubles each time
LONGEST_DELAY = 300.0


class UnattendedRunner:
    """Resumes runs without a live owner: new ones, those of a process that died, those whose gate was decided."""

    def __init__(self, engine: Engine, records: ServerRecords, execute: bool) -> None:
        self._engine = engine
        self._records = records
        self._execute = execute
        self._woken = anyio.Event()
        self._active: set[str] = set()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._delays: dict[str, tuple[float, float]] = {}  # run: (monotonic time of the next attempt, last delay)

    def wake(self) -> None:
        """Poll now: a decision or a new run was recorded."""
        self._woken.set()

    async def run(self) -> None:
        """Poll until cancelled. A server that does not execute has nothing to do."""
        if not self._execute:
            return
        async with anyio.create_task_group() as self._tasks:
            while True:
                try:
                    await self._resume_all(self._tasks)
                except TowpathError as error:
                    _log.warning("the store does not answer, retrying: %s", error.code)
                except Exception:
                    _log.exception("polling for unattended runs failed, retrying")
                with anyio.move_on_after(POLL):
                    await self._woken.wait()
                self._woken = anyio.Event()

    async def _resume_all(self, tasks: anyio.abc.TaskGroup) -> None:
        for run_id in await unattended_runs(self._records):
            next_attempt, _ = self._delays.get(run_id, (0.0, 0.0))
            if run_id in self._active or self._engine.adapter.working(run_id) or time.monotonic() < next_attempt:
                continue
            self._active.add(run_id)
            tasks.start_soon(self._resume, run_id)

    def resume(self, run_id: str) -> None:
        """Resume a run now, without waiting for a delay to end."""
        self._delays.pop(run_id, None)
        if self._tasks is not None and run_id not in self._active:
            self._active.add(run_id)
            self._tasks.start_soon(self._resume, run_id)

    async def _resume(self, run_id: str) -> None:
        try:
            await self._engine.resume(run_id, check=False)
            self._delays.pop(run_id, None)
        except RunRefused as refused:
            if refused.code == "E_RUN_OWNED":  # its owner is alive
                self._delays[run_id] = (time.monotonic() + FIRST_DELAY, 0.0)
            elif refused.code != "E_RUN_OVER":
                self._delay(run_id)
        except TowpathError as error:
            if run_id not in self._delays:
                _log.warning("run %s cannot be resumed: %s", run_id, error)
            self._delay(run_id)
        except Exception:  # an error in one run must not stop the others
            _log.exception("run %s cannot be resumed", run_id)
            self._delay(run_id)
        finally:
            self._active.discard(run_id)

    def _delay(self, run_id: str) -> None:
        _, last = self._delays.get(run_id, (0.0, 0.0))
        delay = min(LONGEST_DELAY, last * 2 or FIRST_DELAY)
        self._delays[run_id] = (time.monotonic() + delay, delay)
