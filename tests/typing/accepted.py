"""What type checkers have to accept: the documented uses of steps, chains and the engine. It is checked, never run."""

from __future__ import annotations

from functools import partial
from typing import Any, assert_type

import towpath
from towpath import Artifact, Engine, Run, RunHandle, chain, load_chain, open_engine, step
from towpath.records import ArtifactRecord, ChainRecord, Gate, ItemRecord, PendingGate, WorkflowRecord
from towpath.tracing import Ref


@step
def add(a: int, b: int = 1) -> int:
    return a + b


@step(retries=3, timeout="1m", cache={"version": 1})
async def picture(text: str, width: int = 256) -> bytes:
    return text.encode() * width


@step(requires_approval=True)
async def thumbnail(photo: Artifact, width: int) -> bytes:
    return await photo.read_bytes()


@step
def sheet(photos: list[Artifact]) -> dict[str, int]:
    return {"many": len(photos)}


@step
async def labelled(photo: Artifact, text: str, size: int = 3) -> str:
    return text * size


@step
def joined(a: int, b: str, c: float, *, sep: str = "-") -> str:
    return f"{a}{sep}{b}{sep}{c}"


@step
def numbers(n: int) -> list[int]:
    return list(range(n))


five_more = step(partial(add.function, b=5), name="five_more")
six_more = step(name="six_more", retries=1)(partial(add.function, b=6))


@chain
def one(text: str, width: int = 256) -> Any:
    big = picture(text)
    small = thumbnail(big, width=width).named("small").after(big)
    return add(1, add(2, b=3)).when("small.status == 'completed'"), small


@chain(concurrency=2)
def many(texts: list[str]) -> Any:
    pictures = picture.map(texts, width=64)
    small = thumbnail.map(pictures, width=8)
    numbers = add.map(range(3))
    inner = one("inside").with_approval(timeout="24h", on_rejected="stop")
    return sheet(small), numbers[0], inner["part"], picture.with_options(retries=1, timeout=5)("x")


@chain
def several(words: list[str], n: int) -> Any:
    assert_type(add.map([1, 2], (3, 4)), Ref[list[int]])
    assert_type(add.map(numbers(n), range(3)), Ref[list[int]])
    assert_type(labelled.map(picture.map(words), words, size=2), Ref[list[str]])
    assert_type(labelled.map(picture.map(words), text="one"), Ref[list[str]])
    assert_type(joined.map([1], words, [2.5], sep=","), Ref[list[str]])
    assert_type(joined.map([1], words, c=2.5), Ref[list[str]])
    assert_type(five_more.map(numbers(n)), Ref[list[int]])
    assert_type(picture("x"), Ref[bytes])
    return numbers(n)[0], six_more(n)


async def outside_of_a_chain() -> None:
    number: int = add(1, 2)
    many: list[int] = numbers(2)
    print(len(numbers(2)), many, towpath.__version__.split("."))
    data: bytes = await picture("x")
    print(data)
    assert_type(add.function(number, b=2), int)
    assert_type(await picture.function("x"), bytes)


async def runs(engine: Engine) -> None:
    assert_type(await engine.run(one, text="a", width=3), Run)
    assert_type(await engine.start(one, text="a"), RunHandle)
    await engine.run(one, run_id="mine", text="a")
    await engine.run(one, wait=True, text="a")
    assert_type(await engine.run(one, check=False, text="a"), Run)
    assert_type(await engine.run(one, run_id="mine", check=False, text="a"), Run)
    assert_type(await engine.resume("mine", check=False), Run)
    assert_type(await engine.rerun("mine", check=False), Run)
    assert_type(await (await engine.get("mine")).result(check=False), Run)
    await engine.run(many, inputs={"texts": ["a"]})
    await engine.run(load_chain("chain.yaml"), text="a", run_id="mine")
    await (await engine.get("mine")).cancel()


def scripts() -> None:
    assert_type(towpath.run(one, text="a", width=3), Run)
    assert_type(towpath.run(one, store="x.db", check=False, text="a"), Run)
    assert_type(towpath.run(load_chain("chain.yaml"), text="a", run_id="mine"), Run)


async def rows(engine: Engine) -> None:
    row = await engine.get_chain("id")
    assert_type(row, ChainRecord | None)
    assert row is not None
    assert_type(row.status, str)
    assert_type(row.completed_at, int | None)
    assert_type(await engine.get_workflows_by_chain(chain_id="id"), list[WorkflowRecord])
    assert_type(await engine.list_items("id", "step"), list[ItemRecord])
    assert_type(await engine.delete_chain("id"), bool)
    assert_type(await engine.create_artifact("step", data=b"x", name="output"), ArtifactRecord)


async def gates(engine: Engine) -> None:
    waiting = await engine.approvals()
    assert_type(waiting, list[PendingGate])
    assert_type(waiting[0].artifacts[0].filename, str)
    assert_type(await engine.approve(waiting[0], by="Ann", seen=[waiting[0].artifacts[0].id]), Gate)
    assert_type(await engine.reject(waiting[0]["id"], by="Ann", action="skip"), Gate)
    assert_type(await engine.edit("artifact", b"new", by="Ann"), ArtifactRecord)


async def opening() -> None:
    async with open_engine("x.db", concurrency=2) as engine:
        assert_type(engine, Engine)
    assert_type(await Engine.open("x.db", threads=4), Engine)
