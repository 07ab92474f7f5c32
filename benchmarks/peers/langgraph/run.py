"""LangGraph: a state graph of async nodes with its SQLite checkpointer. Each level is a super-step."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from benchmarks.peers.levels import step
from benchmarks.process import System, WrongOutcome, answer
from benchmarks.shapes import Graph, Workload, block


def merged(old: dict[int, Any], new: dict[int, Any]) -> dict[int, Any]:
    """How the values of nodes come together."""
    return {**old, **new}


class Values(TypedDict, total=False):
    """The value of each step."""

    values: Annotated[dict[int, Any], merged]


class LangGraph(System):
    """One checkpointer for all runs."""

    async def open(self) -> None:
        self._path = self.folder / "langgraph.db"
        self._entered = AsyncSqliteSaver.from_conn_string(str(self._path))
        self._saver = await self._entered.__aenter__()
        self._runs = 0

    async def run(self, workload: Workload) -> int:
        compiled = graph_of(workload).compile(checkpointer=self._saver)
        found = await asyncio.gather(*(self._once(compiled) for _ in range(workload.runs)))
        if workload.name == "W7":
            return len({content[:8] for content in found[0].values()})
        return sum(values[i] for values in found for i in workload.shape.last)

    async def _once(self, compiled: Any) -> dict[int, Any]:
        self._runs += 1
        settings = {"recursion_limit": 100_000, "configurable": {"thread_id": str(self._runs)}}
        state = await compiled.ainvoke({"values": {}}, settings)
        values: dict[int, Any] = state["values"]
        return values

    async def close(self) -> None:
        await self._entered.__aexit__(None, None, None)
        with closing(sqlite3.connect(self._path)) as connection:
            found = connection.execute("SELECT count(DISTINCT thread_id) FROM checkpoints").fetchone()[0]
        if found != self._runs:
            raise WrongOutcome(f"{found} runs have a checkpoint, not {self._runs}")


def graph_of(workload: Workload) -> StateGraph[Any, Any, Any, Any]:
    """The workload as a state graph."""
    described, graph = StateGraph(Values), workload.shape
    for i, needed in enumerate(graph.needs):
        described.add_node(f"n{i}", _file(i) if workload.name == "W7" else _node(graph, i))
        if len(needed) > 1:
            described.add_edge([f"n{n}" for n in needed], f"n{i}")
        else:
            described.add_edge(f"n{needed[0]}" if needed else START, f"n{i}")
    for i in graph.last:
        described.add_edge(f"n{i}", END)
    return described


def _node(graph: Graph, i: int) -> Callable[[Values], Awaitable[Values]]:
    async def node(state: Values) -> Values:
        values = state["values"]
        return {"values": {i: await step(graph.adds[i], [values[n] for n in graph.needs[i]], graph.nap(i))}}

    return node


def _file(i: int) -> Callable[[Values], Awaitable[Values]]:
    async def node(_: Values) -> Values:
        return {"values": {i: block(i)}}

    return node


if __name__ == "__main__":
    answer(LangGraph)
