"""Steps that set variables, and steps that cancel what is not theirs."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from contextlib import closing
from typing import Any, ClassVar
from urllib.parse import quote

import anyio
from opentelemetry import context as telemetry

from tests.conformance.chain_steps import note
from towpath import StepFailed, context, step

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("isolated_tenant", default="none")
bound: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("isolated_bound")
"""What structlog's `bind_contextvars` keeps, it keeps in such a variable."""


# ---- variables


@step
async def sets(i: int, value: str) -> int:
    tenant.set(value)
    await asyncio.sleep(0.002)
    return i


@step
async def sets_at_once(value: str) -> str:
    """Ends without having waited for anything."""
    before = tenant.get()
    tenant.set(value)
    return before


@step
def sets_in_a_thread(value: str) -> str:
    before = tenant.get()
    tenant.set(value)
    return before


@step
async def who(i: Any = 0) -> str:
    await asyncio.sleep(0.001)
    return tenant.get()


@step
async def keeps(value: str) -> str:
    """Nobody else sets the variable while the step waits."""
    tenant.set(value)
    for _ in range(5):
        await asyncio.sleep(0.002)
        assert tenant.get() == value
    return value


@step
async def binds(**values: Any) -> dict[str, Any]:
    before = bound.get({})
    bound.set({**before, **values})
    return before


@step
async def attaches(value: str) -> str | None:
    """Leaves a value of OpenTelemetry's context, as a step does that forgets to detach."""
    before = telemetry.get_value("tenant")
    telemetry.attach(telemetry.set_value("tenant", value))
    await asyncio.sleep(0)
    return None if before is None else str(before)


# ---- tasks


class Seen:
    """The tasks that steps had."""

    tasks: ClassVar[list[asyncio.Task[Any]]] = []


@step
async def cancels_itself(how: str) -> None:
    """Cancels its own task: by hand, from a task that it made, or from a callback."""
    task = asyncio.current_task()
    assert task is not None
    if how == "by hand":
        task.cancel()
    elif how == "from its child":
        child = asyncio.create_task(_cancel(task))
        await asyncio.sleep(0)
        await child
    else:
        asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.sleep(300)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.sleep(0)


@step
async def cancels_every_task(folder: str) -> str:
    """The first time, all tasks of this loop."""
    if note(folder, "tried") == 1:
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(300)
    return "second"


@step
async def timed() -> list[str]:
    """What a plain program sees of timeouts and scopes."""
    seen: list[str] = []
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(300)
    except TimeoutError:
        seen.append("timeout")
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(300)
    seen.append("moved on" if scope.cancelled_caught else "stayed")
    try:
        with anyio.fail_after(0.01):
            await anyio.sleep(300)
    except TimeoutError:
        seen.append("failed")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 300)
        tasks.cancel_scope.cancel()
    task = asyncio.current_task()
    assert task is not None
    seen.append(f"cancelling {task.cancelling()}")
    return seen


@step
async def own_task(i: int) -> bool:
    """Whether the task is this step's own, the same from its begin to its end."""
    task = asyncio.current_task()
    assert task is not None
    was_free = task not in Seen.tasks
    Seen.tasks.append(task)
    await asyncio.sleep(0.001)
    return was_free and asyncio.current_task() is task


@step
async def leaves_a_scope(n: int) -> int:
    """Enters a scope and never leaves it."""
    await asyncio.sleep(0)
    anyio.CancelScope().__enter__()
    return n


@step
async def fails_in_a_group(kind: str) -> None:
    """Errors of a TaskGroup: of one child, of several, and of one that is final."""
    group = {"asyncio": _asyncio_group, "anyio": _anyio_group}[kind.split(maxsplit=1)[0]]
    kinds: dict[str, list[Exception]] = {
        "one": [ValueError("first")],
        "two": [ValueError("first"), KeyError("second")],
        "final": [StepFailed("not worth a retry", retryable=False, code="E_FINAL")],
    }
    await group(kinds[kind.split()[1]])


async def _raise(error: Exception) -> None:
    raise error


async def _asyncio_group(errors: list[Exception]) -> None:
    async with asyncio.TaskGroup() as group:
        for error in errors:
            group.create_task(_raise(error))


async def _anyio_group(errors: list[Exception]) -> None:
    async with anyio.create_task_group() as group:
        for error in errors:
            group.start_soon(_raise, error)


# ---- what is recorded before a function is called


def _recorded(path: str) -> tuple[str, int]:
    """The status and the attempt of this step's own row, as another connection sees it now."""
    at = context()
    with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as reader:
        row = reader.execute(
            "SELECT status, attempt FROM workflows WHERE chain_id = ? AND step_id = ? AND item_index IS ?",
            (at.run_id, at.step_id, at.item),
        ).fetchone()
    seen: tuple[str, int] = tuple(row) if row is not None else ("missing", 0)
    assert seen == ("executing", at.attempt), seen
    return seen


@step(retry={"attempts": 2, "delay": 0})
async def sees_its_row(n: int, path: str) -> int:
    _recorded(path)
    if context().attempt == 1 and n % 2:
        raise ValueError("once")
    return n


@step(retry={"attempts": 2, "delay": 0})
def sees_its_row_in_a_thread(n: int, path: str) -> int:
    _recorded(path)
    if context().attempt == 1 and n % 2:
        raise ValueError("once")
    return n
