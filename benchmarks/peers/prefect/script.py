import asyncio

from prefect import flow, task


@task
async def add(value: int) -> int:
    return value + 1


@flow
async def three(start: int) -> int:
    return await add(await add(await add(start)))


print(asyncio.run(three(39)))
