# ruff: noqa: ASYNC110, ASYNC240 - steps of different processes meet through files, by looking again
"""The steps of the conformance suite. They have module names, so that every worker finds them.

Steps and tests in different processes signal each other through files in a folder. `hold` writes `<name>.began` and
waits until there is a file `<name>.go`. `note` adds a line to a file and returns how many lines it has.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

from towpath import Artifact, File, StepFailed, context, step

TICK = 0.005
PATIENCE = 180.0
"""Seconds that a test waits for what must come. A busy machine may be slow, so it is no promise about speed."""
NAP = 300.0
"""Seconds of waits that something has to cut short: longer than the patience of the tests that say so."""


def note(folder: str, name: str, text: str = "") -> int:
    """Add a line to a file; how many lines it has now."""
    with Path(folder, name).open("a+", encoding="utf-8") as file:
        file.write(f"{text}\n")
        file.seek(0)
        return len(file.readlines())


def noted(folder: str | Path, name: str) -> list[str]:
    """The lines of such a file, none if there is no such file."""
    path = Path(folder, name)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def let_go(folder: str | Path, *names: str) -> None:
    """Let `hold` steps of these names continue."""
    for name in names:
        Path(folder, f"{name}.go").touch()


async def began(folder: str | Path, *names: str, within: float = PATIENCE) -> None:
    """Wait until `hold` steps of these names began."""
    with anyio.fail_after(within):
        for name in names:
            while not noted(folder, f"{name}.began"):
                await anyio.sleep(TICK)


# ---- values


@step
async def number(n: int = 1) -> int:
    return n


@step
async def echo(value: Any) -> Any:
    return value


@step
async def add(a: Any, b: Any) -> Any:
    return a + b


@step
async def double(n: int) -> int:
    return 2 * n


@step
async def total(values: list[Any]) -> Any:
    return sum(v for v in values if v is not None)


@step
async def up_to(n: int) -> list[int]:
    return list(range(n))


@step
async def nothing() -> None:
    return None


@step
async def long_text(size: int) -> dict[str, Any]:
    return {"text": "x" * size, "size": size}


@step
async def length_of(text: str) -> int:
    return len(text)


@step
async def not_data(kind: str) -> Any:
    wrong: dict[str, Any] = {
        "nan": float("nan"),
        "infinity": [float("inf")],
        "complex": {"a": 1j},
        "tuple key": {(1, 2): "one"},
        "wide": 2**64,
        "object": object(),
        "deep": _nested(200),
        "reserved": {"$artifact": "output"},
        "stored": {"$stored": "value"},
        "generator": (n for n in range(3)),
        "exception": ValueError("returned"),
    }
    return wrong[kind]


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@step(retry={"attempts": 2, "delay": 0.01, "jitter": False})
async def changes_its_argument(values: list[int]) -> list[int]:
    values.append(context().attempt)
    if context().attempt == 1:
        raise ValueError("once")
    return values


@step(retry={"attempts": 2, "delay": 0.01, "jitter": False})
def by_position(n: int, /) -> int:
    if context().attempt == 1:
        raise ValueError("once")
    return n


# ---- files


@step
async def text_file(text: str) -> bytes:
    return text.encode()


@step
async def read_text(file: Artifact) -> str:
    return (await file.read_bytes()).decode()


@step
async def describe(file: Artifact) -> dict[str, Any]:
    streamed = b"".join([chunk async for chunk in file.open()])
    path = await file.path()
    return {
        "name": file.name,
        "filename": file.filename,
        "version": file.version,
        "size": file.size,
        "same": streamed == await file.read_bytes() == path.read_bytes(),
    }


@step
async def many_files() -> dict[str, Any]:
    made = context().work_folder / "made.txt"
    made.write_text("from a path")

    async def stream() -> AsyncIterator[bytes]:
        for n in range(3):
            yield bytes([65 + n]) * 20_000

    context().save("saved", b"saved bytes")
    context().save("note.txt", "saved text")
    return {
        "title": "nested",
        "raw": b"raw bytes",
        "list": [{"path": made}, 7, None, True, 1.5],
        "deep": {"stream": stream(), "named": File(b"%PDF-1.4 x", filename="report.pdf")},
    }


@step
async def contents(value: Any) -> Any:
    if isinstance(value, Artifact):
        return f"{value.name}: {len(await value.read_bytes())}"
    if isinstance(value, dict):
        return {key: await contents.function(inner) for key, inner in value.items()}
    return [await contents.function(inner) for inner in value] if isinstance(value, list) else value


@step
async def hand_on(file: Artifact) -> dict[str, Any]:
    return {"kept": file}


@step
async def streamed(chunks: int, size: int) -> AsyncIterator[bytes]:
    for n in range(chunks):
        yield bytes([n % 256]) * size


@step
async def saves_twice() -> None:
    context().save("again", b"1")
    context().save("again", b"2")


@step
async def saves_what_it_returns() -> dict[str, bytes]:
    context().save("same", b"1")
    return {"same": b"2"}


@step
async def file_called_value(size: int) -> dict[str, Any]:
    return {"value": b"a file", "text": "x" * size}


@step
def folder_left(folder: str) -> str:
    made = context().work_folder
    (made / "big").write_bytes(b"x")
    note(folder, "work-folder", str(made))
    return str(made)


# ---- failing


@step
async def boom(message: str = "boom") -> None:
    raise ValueError(message)


@step
async def boom_if(n: int, bad: list[int]) -> int:
    if n in bad:
        raise ValueError(f"item {n}")
    return n


@step(on_item_failure="keep")
async def boom_if_kept(n: int, bad: list[int]) -> int:
    if n in bad:
        raise ValueError(f"item {n}")
    return n


@step(retry={"attempts": 3, "delay": 0.02, "backoff": 2, "jitter": False})
async def third_time(folder: str) -> int:
    count = note(folder, "third_time", str(time.monotonic()))
    if count < 3:
        raise ValueError(f"try {count}")
    return count


@step(retry={"attempts": 3, "delay": 0.01})
async def refuses(folder: str) -> None:
    note(folder, "refuses")
    raise StepFailed("never", retryable=False, code="E_NO_FACE")


@step(timeout=0.05, retry={"attempts": 2, "delay": 0.01})
async def slow() -> None:
    await anyio.sleep(NAP)


@step(total_timeout=0.3, retry={"attempts": 50, "delay": 0.05, "jitter": False})
async def tries_long() -> None:
    raise ValueError("again")


@step(total_timeout=0.3, retry={"attempts": 2, "delay": NAP, "jitter": False})
async def waits_long() -> None:
    raise ValueError("the cause")


@step(timeout=5, total_timeout=0.1)
async def takes_long() -> None:
    await anyio.sleep(NAP)


@step(timeout=0.1)
def slow_thread(folder: str) -> None:
    _wait_in_thread(folder, "slow_thread")


class Odd(BaseException):
    """Neither an Exception nor one of Python's own ways out."""


@step
async def raises(what: str) -> None:
    if what == "cancelled":
        raise asyncio.CancelledError
    if what == "exit":
        raise SystemExit(3)
    if what == "group":
        raise ExceptionGroup("two things", [ValueError("first"), KeyError("second")])
    if what == "odd":
        raise Odd("unusual")
    if what == "deep":
        _recurse(400)
    raise ValueError("x" * 100_000)


@step
def raises_in_thread(what: str) -> None:
    if what == "exit":
        raise SystemExit(3)
    if what == "stop":
        raise StopIteration
    raise asyncio.CancelledError


def _recurse(depth: int) -> None:
    if depth == 0:
        raise ValueError("at the bottom " + "y" * 1_000)
    # Two lines by turns, or the traceback says "repeated 395 more times".
    if depth % 2:
        _recurse(depth - 1)
    else:
        _recurse(depth - 1)


# ---- order and time


@step
async def hold(folder: str, name: str, value: Any = None) -> Any:
    note(folder, f"{name}.began", str(context().attempt))
    try:
        while not Path(folder, f"{name}.go").exists():
            await anyio.sleep(TICK)
    except asyncio.CancelledError:
        note(folder, f"{name}.cancelled")
        raise
    note(folder, f"{name}.ended")
    return name if value is None else value


@step
def hold_thread(folder: str, name: str) -> str:
    note(folder, f"{name}.began", str(context().attempt))
    _wait_in_thread(folder, name)
    return name


def _wait_in_thread(folder: str, name: str) -> None:
    """Wait for `<name>.go`, then note the end. A thread cannot be cancelled, so it waits no longer than `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not Path(folder, f"{name}.go").exists() and time.monotonic() < deadline:
        time.sleep(TICK)
    note(folder, f"{name}.ended")


@step(retry={"attempts": 2, "delay": NAP, "jitter": False})
async def naps(folder: str) -> int:
    count = note(folder, "naps.began")
    if count == 1:
        raise ValueError("once")
    return count


@step
async def item_after(n: int, folder: str) -> int:
    """Item 0 is done at once, the others when `<n>.go` is there."""
    while n and not Path(folder, f"{n}.go").exists():
        await anyio.sleep(TICK)
    note(folder, "first", str(n))
    return n


@step
async def seen(n: int, folder: str) -> int:
    note(folder, "second", str(n))
    return n


@step
def which_thread(main: int) -> bool:
    return threading.get_ident() != main


class Busy:
    """How many `work` steps work at the same time, and the most that ever did."""

    now = 0
    most = 0
    order: list[str] = []  # noqa: RUF012 - one for all, on purpose

    @classmethod
    def reset(cls) -> None:
        cls.now, cls.most, cls.order = 0, 0, []


@step
async def work(n: int, whose: str = "") -> int:
    Busy.now += 1
    Busy.most = max(Busy.most, Busy.now)
    Busy.order.append(whose)
    await anyio.sleep(0.001)
    Busy.now -= 1
    return n


# ---- what a step knows


@step
async def says() -> dict[str, Any]:
    here = context()
    here.progress(1, 4)
    return {
        "run": here.run_id,
        "step": here.step_id,
        "item": here.item,
        "attempt": here.attempt,
        "key": here.idempotency_key,
    }


@step
async def logs(folder: str) -> None:
    context().logger.info("the first line")
    context().progress(2, 8)
    note(folder, "logs.began")
    while not Path(folder, "logs.go").exists():
        await anyio.sleep(TICK)
    context().logger.warning("the last line")


# ---- gates


@step(requires_approval=True)
async def draft(text: str) -> bytes:
    return text.encode()


@step(requires_approval=True)
async def proposal(value: Any) -> Any:
    return value


# ---- what gates ask about


@step
async def paint(folder: str, text: str, style: str = "plain") -> bytes:
    """A file too large for the database, of a text and a style; each call is noted with its key."""
    note(folder, "paint", f"{context().attempt} {style} {context().idempotency_key.partition('/')[2]}")
    return f"{text} {style}\n".encode() * 4_000


@step
async def first_line(file: Artifact) -> str:
    return (await file.read_bytes()).split(b"\n")[0].decode()


@step
async def paint_slowly(folder: str, style: str = "plain") -> bytes:
    """The first attempt is quick; every later one waits to be let go."""
    note(folder, "slowly.began", f"{context().attempt} {style}")
    while context().attempt > 1 and not Path(folder, "slowly.go").exists():
        await anyio.sleep(TICK)
    return style.encode()


@step
async def fewer_files(folder: str) -> dict[str, bytes]:
    """Two files at first, one of them when it is made again."""
    again = note(folder, "fewer") > 1
    return {"a": b"a2"} if again else {"a": b"a1", "b": b"b1"}


@step
async def name_all(files: list[Artifact]) -> list[str]:
    return [f"{file.name} v{file.version}" for file in files]


@step
async def paint_once(folder: str) -> bytes:
    """Good for one picture only."""
    if note(folder, "once") > 1:
        raise StepFailed("no paint is left", retryable=False)
    return b"the only one"


@step
async def large_proposal(size: int, text: str = "x") -> list[str]:
    """A value that is too large for its row, or (a small size) not."""
    return [text * 100] * size


@step
async def large_with_file(size: int) -> dict[str, Any]:
    """A value too large for its row, with a file in it."""
    return {"text": "x" * size, "file": b"the file"}
