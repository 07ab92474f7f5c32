import asyncio

from dbos import DBOS

DBOS(config={"name": "bench", "system_database_url": "sqlite:///dbos.sqlite", "log_level": "WARNING"})


@DBOS.step()
async def add(value: int) -> int:
    return value + 1


@DBOS.workflow()
async def three(start: int) -> int:
    return await add(await add(await add(start)))


DBOS.launch()
print(asyncio.run(three(39)))
DBOS.destroy()
