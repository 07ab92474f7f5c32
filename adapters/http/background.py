"""What goes on beside the requests of a server that executes: runs that nobody works on are gone on with."""

from __future__ import annotations

import time

import anyio
import anyio.abc

from towpath.adapters.wiring import Engine
from towpath.errors import RunRefused, TowpathError
from towpath.logs import guarded_logger
from towpath.store import unattended

from .records import Records

_log = guarded_logger("towpath.http")

TURN = 1.0  # seconds between looks
FIRST_REST = 5.0  # seconds until a run that could not be taken is tried again; it doubles
LONGEST_REST = 300.0


class Background:
    """Takes over what is unattended: new runs, runs of the dead, and runs whose gate was decided."""

    def __init__(self, engine: Engine, records: Records, execute: bool) -> None:
        self._engine = engine
        self._records = records
        self._execute = execute
        self._news = anyio.Event()
        self._busy: set[str] = set()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._rests: dict[str, tuple[float, float]] = {}  # run: (monotonic time to try again, rest before that)

    def look(self) -> None:
        """Look now: somebody decided, or recorded a run."""
        self._news.set()

    async def run(self) -> None:
        """Look for ever; does nothing in a server that does not execute."""
        if not self._execute:
            return
        async with anyio.create_task_group() as self._tasks:
            while True:
                try:
                    await self._turn(self._tasks)
                except TowpathError as error:
                    _log.warning("the store does not answer, trying again: %s", error.code)
                except Exception:
                    _log.exception("a look for unattended runs failed, trying again")
                with anyio.move_on_after(TURN):
                    await self._news.wait()
                self._news = anyio.Event()

    async def _turn(self, tasks: anyio.abc.TaskGroup) -> None:
        async with self._records.session() as session:
            found = await unattended.unattended_runs(session)
        for run_id in found:
            rests_until, _ = self._rests.get(run_id, (0.0, 0.0))
            if run_id in self._busy or self._engine.adapter.working(run_id) or time.monotonic() < rests_until:
                continue
            self._busy.add(run_id)
            tasks.start_soon(self._go_on, run_id)

    def go_on(self, run_id: str) -> None:
        """Go on with a run that somebody asked for, whatever happened before."""
        self._rests.pop(run_id, None)
        if self._tasks is not None and run_id not in self._busy:
            self._busy.add(run_id)
            self._tasks.start_soon(self._go_on, run_id)

    async def _go_on(self, run_id: str) -> None:
        try:
            await self._engine.resume(run_id)
            self._rests.pop(run_id, None)
        except RunRefused as refused:
            if refused.code == "E_RUN_OWNED":  # by somebody who lives, now
                self._rests[run_id] = (time.monotonic() + FIRST_REST, 0.0)
            elif refused.code != "E_RUN_OVER":
                self._rest(run_id)
        except TowpathError as error:
            if run_id not in self._rests:
                _log.warning("run %s cannot be gone on with: %s", run_id, error)
            self._rest(run_id)
        except Exception:  # one run never ends the service
            _log.exception("run %s cannot be gone on with", run_id)
            self._rest(run_id)
        finally:
            self._busy.discard(run_id)

    def _rest(self, run_id: str) -> None:
        _, before = self._rests.get(run_id, (0.0, 0.0))
        rest = min(LONGEST_REST, before * 2 or FIRST_REST)
        self._rests[run_id] = (time.monotonic() + rest, rest)
