"""Steps whose failures are worth a retry, or not."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from tests.conformance.chain_steps import note
from towpath import StepFailed, step


class Busy(Exception):
    """A server that is busy: an exception of our own, found by its name."""


class VeryBusy(Busy):
    """A kind of it."""


ERRORS = {
    "connection": lambda: ConnectionResetError("gone"),
    "busy": lambda: VeryBusy("busy"),
    "value": lambda: ValueError("wrong"),
    "two": lambda: ExceptionGroup("two", [ExceptionGroup("in", [ConnectionError("a")]), VeryBusy("b")]),
    "mixed": lambda: ExceptionGroup("two", [ConnectionError("a"), ValueError("b")]),
}


def fail(folder: str, what: str) -> NoReturn:
    note(folder, what)
    raise ERRORS[what]()


@step(retries=2, retry={"attempts": 3, "delay": 0, "jitter": False}, retry_on=(ConnectionError, Busy))
async def listed(folder: str, what: str) -> None:
    fail(folder, what)


@step(retry={"attempts": 3, "delay": 0}, retry_on=["ConnectionError", "tests.conformance.retry_steps.Busy"])
def listed_by_name(folder: str, what: str) -> None:
    fail(folder, what)


@step(retry={"attempts": 3, "delay": 0}, retry_on=ConnectionError, timeout=0.05)
async def listed_without_timeouts(folder: str) -> None:
    note(folder, "slept")
    await asyncio.sleep(60)


@step(retry={"attempts": 2, "delay": 0}, retry_on="TimeoutError", timeout=0.05)
async def listed_timeouts(folder: str) -> None:
    note(folder, "slept")
    await asyncio.sleep(60)


def is_gone(error: BaseException) -> bool:
    return str(error) == "gone"


def is_puzzled(error: BaseException) -> bool:
    raise LookupError("who knows")


@step(retry={"attempts": 3, "delay": 0}, retry_if=is_gone)
async def judged(folder: str, what: str) -> None:
    fail(folder, what)


@step(retry={"attempts": 3, "delay": 0}, retry_if=is_puzzled)
def badly_judged(folder: str, what: str) -> None:
    fail(folder, what)


@step(retry={"attempts": 3, "delay": 0})
async def in_a_group(folder: str, what: str) -> Any:
    """Fails inside task groups, as structured programs do."""
    note(folder, what)
    async with asyncio.TaskGroup() as outer:
        outer.create_task(_in_another(what))


async def _in_another(what: str) -> None:
    async with asyncio.TaskGroup() as inner:
        inner.create_task(_gives_up() if what == "gives-up" else _raises())


async def _gives_up() -> NoReturn:
    raise StepFailed("no face found", retryable=False, code="E_NO_FACE")


async def _raises() -> NoReturn:
    raise KeyError("first")
