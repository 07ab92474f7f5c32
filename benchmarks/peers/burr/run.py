"""Burr: a state machine of async actions with its SQLite persister. It has lines and one level of parallel actions."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from itertools import pairwise
from typing import Any

from burr.core import Application, ApplicationBuilder, State, action
from burr.core.parallelism import MapStates
from burr.integrations.persisters.b_aiosqlite import AsyncSQLitePersister

from benchmarks.process import System, WrongOutcome, answer
from benchmarks.shapes import MODULUS, NAP, Workload


@action(reads=["value"], writes=["value"])
async def inc(state: State) -> State:
    """A step of a line."""
    return state.update(value=state["value"] + 1)


@action(reads=[], writes=["first"])
async def source(state: State) -> State:
    """The first step of a fan."""
    return state.update(first=1)


@action(reads=["number", "first"], writes=["result"])
async def plus(state: State) -> State:
    """A step in the middle of a fan."""
    return state.update(result=state["number"] + state["first"])


@action(reads=["number"], writes=["result"])
async def nap(state: State) -> State:
    """A step that takes time."""
    await asyncio.sleep(NAP)
    return state.update(result=1)


class Fan(MapStates):
    """An action beside itself, and the sum of what came of it."""

    def __init__(self, mapped: Any, width: int) -> None:
        super().__init__()
        self._mapped, self._width = mapped, width

    def is_async(self) -> bool:
        return True

    @property
    def reads(self) -> list[str]:
        return ["first"]

    @property
    def writes(self) -> list[str]:
        return ["value"]

    def action(self, state: State, inputs: dict[str, Any]) -> Any:
        return self._mapped

    async def states(self, state: State, context: Any, inputs: dict[str, Any]) -> AsyncGenerator[State, None]:
        for number in range(self._width):
            yield state.update(number=number)

    async def reduce(self, state: State, states: AsyncGenerator[State, None]) -> State:
        total = 0
        async for each in states:
            total += each["result"]
        return state.update(value=total)


class Burr(System):
    """One persister for all applications, as in its documentation."""

    async def open(self) -> None:
        self._path = self.folder / "burr.db"
        self._persister = await AsyncSQLitePersister.from_values(db_path=str(self._path))
        await self._persister.initialize()
        self._made = 0
        self._least = 0

    async def run(self, workload: Workload) -> int:
        self._least += workload.steps
        return sum(await asyncio.gather(*(self._once(workload) for _ in range(workload.runs))))

    async def _once(self, workload: Workload) -> int:
        length = len(workload.shape.needs)
        if workload.name in ("W2", "W5"):
            mapped = Fan(nap if workload.name == "W5" else plus, workload.size)
            app, last = await self._application({"source": source, "fan": mapped}), "fan"
        else:
            app, last = await self._application({f"n{i}": inc for i in range(length)}), f"n{length - 1}"
        *_, state = await app.arun(halt_after=[last])
        return int(state["value"]) % MODULUS if workload.name == "W2" else int(state["value"])

    async def _application(self, actions: dict[str, Any]) -> Application[Any]:
        names = list(actions)
        self._made += 1
        builder = ApplicationBuilder().with_actions(**actions).with_entrypoint(names[0]).with_state(value=0, first=0)
        builder = builder.with_transitions(*pairwise(names))
        builder = builder.with_state_persister(self._persister)
        return await builder.with_identifiers(app_id=f"run-{self._made}", partition_key="bench").abuild()

    async def close(self) -> None:
        await self._persister.cleanup()
        with closing(sqlite3.connect(self._path)) as connection:
            found = connection.execute("SELECT count(*) FROM burr_state").fetchone()[0]
        self.extra["rows"] = found
        if found < self._least:
            raise WrongOutcome(f"{found} rows of {self._least} steps")


if __name__ == "__main__":
    answer(Burr)
