import asyncio
import sqlite3


async def add(value: int) -> int:
    return value + 1


async def main() -> None:
    with sqlite3.connect("bare.db") as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE steps (id INTEGER PRIMARY KEY, value INT)")
        value = 39
        for _ in range(3):
            value = await add(value)
            connection.execute("INSERT INTO steps (value) VALUES (?)", (value,))
            connection.commit()
    print(value)


asyncio.run(main())
