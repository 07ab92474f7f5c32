"""Steps with unexpected results, exceptions and effects. The name of each says what it does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import enum
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import anyio

from towpath import File, RunRefused, StepFailed, StoreFailed, context, step
from towpath.errors import Fenced

Outcome = Callable[[], Any]

HALF = "\udce9"  # half a character, as `os.fsdecode` makes of a byte that is no UTF-8


# ---- values


class Label(str):
    """Text of a class of its own, as parsers and arrays return it; its own methods must not be asked."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("asked")

    def encode(self, *_: Any) -> NoReturn:
        raise RuntimeError("asked")

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("asked")


class Twin(str):
    """Two keys that a dict tells apart, and JSON does not."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Colour(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


class Count(int):
    def __index__(self) -> int:
        raise RuntimeError("asked")

    __int__ = __index__


class Share(float):
    """A finite number that says of itself that it is none."""

    def __float__(self) -> float:
        return float("nan")


class Lazy(dict):  # type: ignore[type-arg]
    """A mapping that loads when it is looked at, and the process is asked to end meanwhile."""

    def items(self) -> NoReturn:
        raise KeyboardInterrupt


class Cursor(list):  # type: ignore[type-arg]
    """Rows of a connection that was closed."""

    def __iter__(self) -> Iterator[Any]:
        raise GeneratorExit


class Ghost:
    """A proxy whose target is gone: even its class cannot be asked for."""

    @property
    def __class__(self) -> type:
        raise ReferenceError("weakly referenced object no longer exists")

    @__class__.setter
    def __class__(self, _: type) -> None: ...


async def stream(how: BaseException | None) -> AsyncIterator[bytes]:
    """Bytes that stop in the middle: what runs is the step's code still."""
    yield b"first"
    if how is None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(10)
    elif isinstance(how, KeyboardInterrupt):
        raise KeyboardInterrupt
    else:
        raise how


async def awaited() -> NoReturn:
    raise SystemExit(5)


RETURNED: dict[str, Outcome] = {
    "label": lambda: Label("x"),  # a str whose methods raise
    "label-inside": lambda: [{"name": Label("x")}],
    "label-key": lambda: {Label("k"): 1},
    "str-enum": lambda: Colour.RED,
    "int-enum": lambda: [Size.LARGE],
    "int": lambda: Count(7),  # an int that cannot be made an int
    "share": lambda: {"part": Share(0.5)},  # a float that lies
    "twins": lambda: {Twin("a"): 1, Twin("a"): 2},  # one of two would be lost
    "lazy": lambda: Lazy(a=1),
    "cursor": lambda: {"rows": Cursor([1])},
    "ghost": Ghost,
    "ghost-inside": lambda: [Ghost()],
    "half-deep": lambda: {"rows": [{"path": f"caf{HALF}.png"}]},
    "half-key": lambda: {HALF: 1},
    "half-name": lambda: File(b"x", filename=f"a{HALF}.bin"),  # a name for people that is no text
    "half-type": lambda: File(b"x", media_type=f"image/{HALF}"),
    "no-name": lambda: File(b"x", filename=7),  # type: ignore[arg-type]  # a name of the wrong type
    "stream-exit": lambda: stream(SystemExit(2)),  # the function is over, its stream is not
    "stream-interrupt": lambda: {"file": stream(KeyboardInterrupt())},
    "stream-closed": lambda: stream(GeneratorExit()),
    "stream-cancels": lambda: stream(None),
    "stream-text": lambda: stream(ValueError(HALF)),
}


# ---- exceptions


class NoText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NotText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - that is what is wrong with it


class Forgot(StepFailed):
    """A subclass of ours whose __init__ is not called."""

    def __init__(self) -> None:
        pass


class Elsewhere(BaseException):
    """No Exception at all, as some frameworks end their work."""


class Shy(Exception):
    """An error whose cause cannot be looked at."""

    @property
    def __cause__(self) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("asked")

    @property
    def __notes__(self) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("asked")


def named(name: str) -> BaseException:
    kind: type[Exception] = type(name, (Exception,), {})
    return kind("x")


RAISED: dict[str, Callable[[], BaseException]] = {
    "exits-in-str": NoText,
    "silent": lambda: StepFailed(""),  # it says nothing
    "silent-code": lambda: StepFailed("", code=""),
    "number-in-str": NotText,
    "forgot-init": Forgot,
    "elsewhere": Elsewhere,
    "shy": Shy,
    "half-class-name": lambda: named(f"E{HALF}"),
    "half-in-ours": lambda: StepFailed(f"cannot read {HALF}"),
    "half-code": lambda: StepFailed("x", code=HALF),
    "half-note": lambda: _with_note(ValueError("x")),
    "full-disk": lambda: StoreFailed("E_DISK_FULL", "says the step, not the disk"),
    "fenced": lambda: Fenced("another run"),  # of a run of the step's own
    "refused": lambda: RunRefused("E_RUN_OWNED", "another run is owned"),
    "stop-async": StopAsyncIteration,
    "thread-cancelled": concurrent.futures.CancelledError,
    "group-of-exits": lambda: BaseExceptionGroup("both", [SystemExit(1), KeyboardInterrupt()]),
    "recursive-group": lambda: ExceptionGroup("a", [ExceptionGroup("b", [NoText()])]),
    "memory": MemoryError,
}


def _with_note(error: ValueError) -> ValueError:
    error.add_note(HALF)
    return error


# ---- what a function does to its own task


async def cancelled_from_a_callback() -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.sleep(10)
    return 1


async def cancelled_by_its_child() -> int:
    """A child that ends what it believes to be its group."""
    mother = asyncio.current_task()

    async def child() -> None:
        assert mother is not None
        mother.cancel()

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await asyncio.sleep(10)
    return 1


async def leaks_a_scope() -> int:
    """A scope that was entered, cancelled and never left, as leaking clients do: it cancels its task for ever."""
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()
    await asyncio.sleep(10)
    return 1


async def leaks_a_scope_and_returns() -> int:
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()
    return 1


async def cancels_and_returns() -> int:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return 1


async def uncancels() -> int:
    task = asyncio.current_task()
    assert task is not None
    for _ in range(5):
        task.uncancel()
    return 1


async def overwrites_context() -> int:
    """All context variables that it can find, also those that are not its own."""
    for variable in contextvars.copy_context():
        variable.set(None)
    return 1


async def swallows() -> int:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        return 1  # and the task stays marked as being cancelled
    return 2


async def logs_halves() -> int:
    context().logger.info("reading %s", HALF)
    context().logger.info("%d of %d", "three")
    return 1


DONE_TO_ITSELF: dict[str, Callable[[], Any]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        cancelled_from_a_callback,
        cancelled_by_its_child,
        leaks_a_scope,
        leaks_a_scope_and_returns,
        cancels_and_returns,
        uncancels,
        overwrites_context,
        swallows,
        logs_halves,
    )
}

PLAIN = [*RETURNED, *RAISED]
ASYNC = [*RETURNED, *RAISED, *DONE_TO_ITSELF]


@step
def odd(what: str) -> Any:
    """A plain function with one of these outcomes."""
    return _come_to(what)


@step
async def async_odd(what: str) -> Any:
    """The same as an async function."""
    if what in DONE_TO_ITSELF:
        return await DONE_TO_ITSELF[what]()
    return _come_to(what)


def _come_to(what: str) -> Any:
    if what in RAISED:
        raise RAISED[what]()
    return RETURNED[what]()


@step
def exits(what: str) -> Any:
    """A plain function that hands on something to be awaited."""
    return awaited()


@step
async def dies(folder: str, times: int) -> int:
    """The process ends without a word, for so many times."""
    with Path(folder, "died").open("a+") as file:  # noqa: ASYNC230 - a few bytes
        file.write("x")
        file.flush()
        file.seek(0)
        if len(file.read()) <= times:
            await asyncio.sleep(0.05)
            os._exit(9)
    return times


@step
async def good(n: int) -> int:
    """Nothing odd."""
    await asyncio.sleep(0.001)
    return n


@step
async def child_exits() -> int:
    """SystemExit in a child task: asyncio lets it end the whole loop."""

    async def child() -> None:
        sys.exit(3)

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await asyncio.sleep(10)
    return 1
