"""A process that works for long: `python -m tests.reliability.long_runner STORE STEPS`.

It runs chains of all shapes, one batch of runs after the other, and prints a line of JSON after every 1,000 steps: how
many steps, bytes in memory, open files, threads, bytes of the write-ahead log.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from towpath import Artifact, Engine, chain, context, open_engine, step

EVERY = 1_000  # steps
RUNS = 8  # at a time
CACHE = -512  # KiB for each connection: it is full before the first sample counts


@step
async def plus_one(n: int) -> int:
    await anyio.lowlevel.checkpoint()
    return n + 1


@step
def plus_one_in_a_thread(n: int) -> int:
    return n + 1


@step(retry={"attempts": 2, "delay": 0}, retry_on=ValueError)
async def fails_once(n: int) -> bytes:
    if context().attempt == 1:
        raise ValueError("once")
    return b"x" * (100 if n % 20 else 30_000)


@step
async def size_of(file: Artifact) -> int:
    return len(await file.read_bytes())


@step
async def fails(n: int) -> int:
    raise ValueError(f"never {n}")


@chain
def part(n: int):
    return plus_one(n)


@chain
def mixed(first: int, items: list[int]):
    value: Any = plus_one(first)
    for number in range(8):
        value = plus_one(value) if number % 3 else plus_one_in_a_thread(value)
    mapped = plus_one.map(items)
    return value, mapped, size_of(fails_once(first)), part(value)


@chain
def broken(n: int):
    return plus_one(fails(n)), plus_one(n).named("other")


STEPS = 9 + 1 + 50 + 2 + 2 + 2  # that a pair of runs executes


async def work(engine: Engine, number: int) -> None:
    """One run that completes and one that fails."""
    run = await engine.run(mixed, first=number, items=list(range(50)))
    assert run.value[0] == number + 9, run.error
    failed = await engine.run(broken, n=number, check=False)
    assert failed.status == "failed"


async def main(store: Path, steps: int) -> None:
    """Work until so many steps are done."""
    async with open_engine(store, durability="normal") as engine:
        for connection in engine.store.database._connections._open:  # type: ignore[attr-defined]
            await connection.run(lambda c: c.execute(f"PRAGMA cache_size={CACHE}").fetchall())
        done = number = 0
        told = 0
        while done < steps:
            async with anyio.create_task_group() as tasks:
                for _ in range(RUNS):
                    tasks.start_soon(work, engine, number)
                    number += 1
            done += RUNS * STEPS
            if done // EVERY > told:
                told = done // EVERY
                say(store, done)


def say(store: Path, done: int) -> None:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    log = store.with_name(store.name + "-wal")
    told = {
        "steps": done,
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "log": log.stat().st_size if log.exists() else 0,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
