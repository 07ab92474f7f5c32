"""Steps that read the files they get, in every way that Python programs read files."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import pickle
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from towpath import Artifact, File, TowpathError, chain, context, step

SIZES = (24, 100_000)  # bytes; the database holds the first, a blob the second


def content(size: int) -> bytes:
    """A table of CSV of that size."""
    return (b"a,b\n" + b"12,345678\n" * (size // 10 + 1))[: size - 1] + b"\n"


@step
def tables() -> list[File]:
    return [File(content(size), filename=f"table-{size}.csv") for size in SIZES]


def every_way(table: Artifact) -> dict[str, bytes]:
    """What each way of reading gives; for a thread without the engine's event loop."""
    copied = shutil.copy(table, context().work_folder / "copied.csv")
    opened = open(table, "rb")  # noqa: SIM115
    with opened, open(table, encoding="utf-8") as text:
        found = {"open": opened.read(), "open as text": text.read().encode()}
    return found | {
        "path": Path(table).read_bytes(),
        "bytes": table.bytes(),
        "text": table.text().encode(),
        "copy": Path(copied).read_bytes(),
        "another loop": asyncio.run(table.read_bytes()),
        "stream": asyncio.run(_stream(table)),
        "path in another loop": asyncio.run(table.path()).read_bytes(),
        "path-like": Path(os.path.join(os.fspath(table))).read_bytes(),
        "pickled": pickle.loads(pickle.dumps(table)).bytes(),
    }


async def _stream(table: Artifact) -> bytes:
    return b"".join([chunk async for chunk in table.open()])


def wrong_ways(table: Artifact) -> list[str]:
    """The ways that did not give the right bytes."""
    return [way for way, found in every_way(table).items() if found != content(table.size)]


@step(timeout=60)
def reads(table: Artifact) -> dict[str, Any]:
    with ThreadPoolExecutor(20) as threads:
        together = set(threads.map(lambda _: (table.bytes(), Path(table).read_bytes()), range(100)))
    return {
        "named": Path(table).name == f"table-{table.size}.csv",
        "wrong": wrong_ways(table),
        "together": len(together),
    }


@step(process=True, timeout=60)
def reads_in_process(table: Artifact) -> dict[str, Any]:
    return {"named": Path(table).name == f"table-{table.size}.csv", "wrong": wrong_ways(table), "together": 1}


@chain
def reading() -> Any:
    found = tables()
    return {"thread": reads.map(found), "process": reads_in_process.map(found)}


@step(timeout=60)
def sends(table: Artifact) -> list[bool]:
    """To processes of its own: by spawn and by fork."""
    answers = []
    for method in ("spawn", "fork"):
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            sent = pool.submit(Artifact.bytes, table).result(30)
            size = pool.submit(os.path.getsize, table).result(30)
            answers.append(sent == content(table.size) and size == table.size)
    return answers


@chain
def sending() -> Any:
    return sends.map(tables())


@step(timeout=30)
async def loop_waits(table: Artifact) -> dict[str, bool]:
    """The loop is blocked while a thread reads, and waits for a thread that reads."""
    found: list[bytes] = []

    def read() -> None:
        found.extend([table.bytes(), Path(table).read_bytes(), asyncio.run(table.read_bytes())])

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)  # blocks the loop
    waited = await asyncio.get_running_loop().run_in_executor(None, table.bytes)
    in_thread = await asyncio.to_thread(os.fspath, table)
    whole = content(table.size)
    right = await asyncio.to_thread(Path(in_thread).read_bytes) == whole
    return {"blocked": found == [whole] * 3, "waits": waited == whole, "path": right}


@chain
def waiting() -> Any:
    return loop_waits.map(tables())


@step
async def in_the_loop(table: Artifact) -> list[str]:
    """The codes of what blocking functions raise there."""
    codes = []
    for read in (table.bytes, table.text, table.__fspath__, lambda: Path(table), lambda: pickle.dumps(table)):
        try:
            read()
        except TowpathError as error:
            codes.append(error.code if "await artifact.read_bytes()" in error.problem.cure else "no cure")
    return codes


@chain
def blocking() -> Any:
    return in_the_loop.map(tables())


@step
def by_libraries(table: Artifact, picture: Artifact, array: Artifact) -> dict[str, Any]:
    import numpy as np
    import pandas as pd
    import polars as pl
    from PIL import Image

    with Image.open(picture) as opened:
        size = list(opened.size)
    shapes = [list(pd.read_csv(table).shape), list(pl.read_csv(Path(table)).shape)]
    return {"shapes": shapes, "size": size, "sum": float(np.load(array).sum())}


@step
def files_of_libraries() -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    picture, array = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 3)).save(picture, "PNG")
    np.save(array, np.ones(5))
    return {
        "tables": [File(b"a,b\n1,2\n", filename="t.csv")],
        "picture": File(picture.getvalue(), filename="p.png"),
        "array": File(array.getvalue(), filename="a.npy"),
    }


@chain
def libraries() -> Any:
    made = files_of_libraries()
    return by_libraries(made["tables"][0], made["picture"], made["array"])
