"""What type checkers have to refuse. Every line with a mark is a mistake of a user, every other line is right."""

from __future__ import annotations

from functools import partial
from typing import Any

from towpath import Artifact, Engine, chain, step


@step
def add(a: int, b: int = 1) -> int:
    return a + b


five_more = step(partial(add.function, b=5), name="five_more")


@step
async def thumbnail(photo: Artifact, width: int) -> bytes:
    return await photo.read_bytes()


@chain
def one(text: str, width: int = 256) -> Any:
    add("1")  # refused: mypy pyright
    add()  # refused: mypy pyright
    add(1, c=2)  # refused: mypy pyright
    add(1, 2, 3)  # refused: mypy pyright
    add(text)  # refused: mypy pyright
    add.map([1, 2], c=2)  # refused: mypy pyright
    add.map(["a", "b"])  # refused: pyright
    add.map(3)  # refused: mypy pyright
    thumbnail.map([])  # refused: mypy pyright
    add.map([1], ["a"])  # refused: pyright
    add.map(["a"], [1])  # refused: pyright
    add.map([1], [2], [3])  # refused: pyright
    add.map({1, 2})  # refused: mypy pyright
    add.map({"a": 1})  # refused: mypy pyright
    add.map(n for n in [1])  # refused: mypy pyright
    five_more("a")  # refused: pyright
    step(add.function, nmae="x")  # refused: mypy pyright
    add.with_options(retrys=3)  # refused: mypy pyright
    add.with_options(timeout=[1])  # refused: mypy pyright
    return add(1)


@chain
def two() -> Any:
    one(3)  # refused: mypy pyright
    return one(txt="a")  # refused: mypy pyright


async def outside_of_a_chain(photo: Artifact) -> None:
    number: int = add.function(1)
    text: str = add.function(1)  # refused: mypy pyright
    data: str = await thumbnail(photo, 3)  # refused: mypy
    print(number, text, data)


async def runs(engine: Engine) -> None:
    await engine.run(one)  # refused: mypy pyright
    await engine.run(one, txt="a")  # refused: mypy pyright
    await engine.run(one, text=3)  # refused: mypy pyright
    await engine.start(one, text="a", wdth=3)  # refused: mypy pyright
    await engine.run(one, run_id=3, text="a")  # refused: mypy pyright
    await engine.run("one")  # refused: mypy pyright


async def rows(engine: Engine) -> None:
    await engine.get_chian("x")  # refused: mypy pyright
    print(engine.approvves)  # refused: mypy pyright
    row = await engine.get_chain("x")
    print(row.status)  # refused: mypy pyright
    assert row is not None
    print(row.statsu)  # refused: mypy pyright
    row.status = "failed"  # refused: mypy pyright
    await engine.get_chain(3)  # refused: mypy pyright
    await engine.list_chains(limt=3)  # refused: mypy pyright
    await Engine.open("x.db", thread=4)  # refused: mypy pyright


async def gates(engine: Engine) -> None:
    gate = await engine.approve("gate", by="Ann", sen=[])  # refused: mypy pyright
    for waiting in await engine.approvals():
        print(waiting.artifact)  # refused: mypy pyright
        gate = await engine.reject(waiting, by="Ann")
        print(gate.decided)  # refused: mypy pyright
    await engine.edit("artifact", 3, by="Ann")  # refused: mypy pyright


@step(retrys=3)  # refused: mypy pyright
def misspelled() -> int:
    return 1
