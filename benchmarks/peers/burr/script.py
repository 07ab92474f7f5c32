import asyncio

from burr.core import ApplicationBuilder, State, action
from burr.integrations.persisters.b_aiosqlite import AsyncSQLitePersister


@action(reads=["value"], writes=["value"])
async def add(state: State) -> State:
    return state.update(value=state["value"] + 1)


async def main() -> None:
    persister = await AsyncSQLitePersister.from_values(db_path="burr.db")
    await persister.initialize()
    builder = ApplicationBuilder().with_actions(a=add, b=add, c=add).with_transitions(("a", "b"), ("b", "c"))
    builder = builder.with_state(value=39).with_entrypoint("a").with_state_persister(persister)
    app = await builder.with_identifiers(app_id="one", partition_key="bench").abuild()
    *_, state = await app.arun(halt_after=["c"])
    await persister.cleanup()
    print(state["value"])


asyncio.run(main())
