import asyncio

from towpath import chain, open_engine, step


@step
async def add(value: int) -> int:
    return value + 1


@chain
def three(start: int):  # type: ignore[no-untyped-def]
    return add(add(add(start)))


async def main() -> None:
    async with open_engine("towpath.db") as engine:
        run = await engine.run(three, start=39)
    print(run.value)


asyncio.run(main())
