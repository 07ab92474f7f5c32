import asyncio
from typing import TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph


class Value(TypedDict):
    value: int


async def add(state: Value) -> Value:
    return {"value": state["value"] + 1}


async def main() -> None:
    graph = StateGraph(Value)
    for before, name, after in ((START, "a", None), ("a", "b", None), ("b", "c", END)):
        graph.add_node(name, add)
        graph.add_edge(before, name)
        if after:
            graph.add_edge(name, after)
    async with AsyncSqliteSaver.from_conn_string("langgraph.db") as saver:
        compiled = graph.compile(checkpointer=saver)
        state = await compiled.ainvoke({"value": 39}, {"configurable": {"thread_id": "one"}})
    print(state["value"])


asyncio.run(main())
