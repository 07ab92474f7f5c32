"""Steps whose parameters say how they take a file, and steps that return objects with a file of their own."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pandas as pd
from PIL import Image

from towpath import Artifact, File, chain, step

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

TEXT = "a,b\n1,2\n"


@dataclass
class Job:
    table: Path
    texts: list[str]
    width: int = 3


@step
def tables() -> list[File]:
    return [File(TEXT.encode(), filename=f"table{n}.csv") for n in range(3)]


@step
def as_path(table: Path, times: int = 1) -> list[Any]:
    return [table.suffix, table.read_text() * times]


@step
async def as_path_async(table: Path) -> list[Any]:
    return [table.suffix, table.read_text()]  # noqa: ASYNC240 - a small file


@step(process=True)
def as_path_in_process(table: Path) -> list[Any]:
    return [table.suffix, table.read_text()]


@step
def as_bytes(table: bytes, note: bytes | None = None) -> list[Any]:
    return [table.decode(), note]


@step
def as_text(table: str, other: str) -> list[str]:
    return [table, other]


@step
async def as_text_async(table: str) -> list[Any]:
    return [table, threading.current_thread() is threading.main_thread()]


@step
def in_holders(some: list[str], named: dict[str, Path], maybe: Optional[bytes], either: Path | int) -> list[Any]:  # noqa: UP045
    return [some, named["x"].read_text(), maybe and maybe.decode(), isinstance(either, Path)]


@step
def job_of(table: Artifact) -> Job:
    return Job(Path(table), [TEXT, "plain"])


@step
def do(job: Job) -> list[Any]:
    return [type(job).__name__, job.table.read_text(), job.texts, job.width]


@step
def as_it_is(table: Artifact, unknown: Unknown, free, data: Any) -> list[str]:
    return [type(one).__name__ for one in (table, unknown, free, data)]


@step
def named_by_keyword(**tables: Path) -> list[str]:
    return [path.read_text() for path in tables.values()]


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@step
@timed
def wrapped(table: Path) -> str:
    return table.read_text()


@chain
def receiving() -> Any:
    made = tables()
    return {
        "mapped": as_path.map(made, times=1),
        "async": as_path_async(made[0]),
        "process": as_path_in_process(made[0]),
        "bytes": as_bytes(made[1]),
        "text": as_text(made[0], "no file"),
        "text async": as_text_async(made[0]),
        "holders": in_holders(made, {"x": made[1]}, made[2], made[0]),
        "job": do(job_of(made[0])),
        "as it is": as_it_is(made[0], made[1], made[2], {"x": made[0]}),
        "keyword": named_by_keyword(x=made[0], y=made[1]),
        "wrapped": wrapped(made[0]),
    }


RECEIVED = {
    "mapped": [[".csv", TEXT]] * 3,
    "async": [".csv", TEXT],
    "process": [".csv", TEXT],
    "bytes": [TEXT, None],
    "text": [TEXT, "no file"],
    "text async": [TEXT, True],
    "holders": [[TEXT] * 3, TEXT, TEXT, True],
    "job": ["Job", TEXT, [TEXT, "plain"], 3],
    "as it is": ["Artifact", "Artifact", "Artifact", "dict"],
    "keyword": [TEXT, TEXT],
    "wrapped": TEXT,
}


# ---- objects that have a file


def three_objects() -> dict[str, Any]:
    frame = pd.DataFrame({"a": [1, 2]})
    return {"frame": frame, "deep": [{"array": np.arange(3)}], "picture": Image.new("RGB", (4, 3)), "n": np.int64(7)}


@step
def in_thread() -> dict[str, Any]:
    return three_objects()


@step
async def in_task() -> dict[str, Any]:
    return three_objects()


@step(process=True)
def in_process() -> dict[str, Any]:
    return three_objects()


@step
def summed(frame: pd.DataFrame, array: np.ndarray, picture: Image.Image) -> list[int]:
    return [int(frame["a"].sum()), int(array.sum()), picture.width]


@step
async def summed_in_task(frame: pd.DataFrame, array: np.ndarray, picture: Image.Image) -> list[int]:
    return [int(frame["a"].sum()), int(array.sum()), picture.width]


@step(process=True)
def summed_in_process(frame: pd.DataFrame, array: np.ndarray, picture: Image.Image) -> list[int]:
    return [int(frame["a"].sum()), int(array.sum()), picture.width]


@chain
def objects() -> Any:
    sums = []
    for make in (in_thread, in_task, in_process):
        made = make()
        given = made["frame"], made["deep"][0]["array"], made["picture"]
        sums += [summed(*given), summed_in_task(*given), summed_in_process(*given), made["n"]]
    return sums


@step(retries=3)
def not_a_table(table: pd.DataFrame) -> int:
    return len(table)


@chain
def wrong_file() -> Any:
    return not_a_table(broken())


@step
def broken() -> File:
    return File(b"no parquet", filename="broken.parquet")


@step(retries=3)
def small_only(text: str) -> int:
    return len(text)


@step
def large() -> File:
    return File(bytes(64 * 1024 * 1024 + 1), filename="large.bin")


@chain
def too_large() -> Any:
    return small_only(large())
