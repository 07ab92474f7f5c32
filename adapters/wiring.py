"""Composition root: the only module that knows every concrete class."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from anyio import CancelScope, CapacityLimiter
from anyio.abc import TaskGroup
from anyio.to_thread import run_sync

from towpath.capture import capturing
from towpath.errors import FeatureMissing, InputInvalid
from towpath.forks import refuse_while_importing
from towpath.ports import Adapter, EngineStore, Listener
from towpath.service import RunService
from towpath.step_threads import end_idle_threads
from towpath.store.facade import Records, StoreFunctions
from towpath.store.owners import LEASE_SECONDS
from towpath.store.runs import RunStore, open_store
from towpath.user_code import noting_interrupts

if TYPE_CHECKING:
    from towpath.adapters.comfyui.farm import ComfyFarm
    from towpath.adapters.comfyui.pool import ServerPool
    from towpath.adapters.temporal.worker import RunWorker
    from towpath.store.fsck import Report

from towpath.adapters.local import CONCURRENCY, local_adapter
from towpath.adapters.process_pool import ProcessPool
from towpath.adapters.settings import Settings, check_size, settle
from towpath.adapters.step_executor import THREADS, Resources
from towpath.adapters.task_group import HeldOpen, background_tasks
from towpath.adapters.telemetry import Spans, spans_if_wanted
from towpath.adapters.wording import at_store

__all__ = ["Engine", "check_store", "open_engine"]

P = ParamSpec("P")
T = TypeVar("T")


def open_engine(
    store: str | os.PathLike[str] | None = None,
    *,
    blobs: str | os.PathLike[str] | None = None,
    adapter: str | None = None,
    durability: str | None = None,
    concurrency: int | None = None,
    servers: Sequence[str | Mapping[str, Any]] | None = None,
    workflows: str | os.PathLike[str] | None = None,
    limits: Mapping[str, int] | None = None,
    log_prints: bool | None = None,
    log_level: str | None = None,
    threads: int = THREADS,
    processes: int | None = None,
    lease_seconds: float = LEASE_SECONDS,
    busy_timeout: float = 30.0,
    listener: Listener | None = None,
    worker: bool = False,
    temporal: Any = None,
    readonly: bool = False,
) -> AbstractAsyncContextManager[Engine]:
    """Open an engine: `async with open_engine("sqlite:///towpath.db") as engine`.

    Opening starts no run. Leaving the block pauses runs that still work. To open and close in two places (a notebook,
    a fixture), use `engine = await Engine.open(…)` and `await engine.close()`, with the same arguments.

    Args:
        store: the database, e.g. `sqlite:///towpath.db` or a file name. Default: `TOWPATH_STORE`,
            `DATABASE_URL`, `towpath.toml`, then `sqlite:///towpath.db`. `sqlite:///:memory:` is a store for this engine
            alone, in a temporary folder that is removed when the engine closes.
        blobs: folder of files; default `<name>-store` beside the database. Small files are in the database.
        adapter: what executes chains; `local` is this process, `temporal://host:port/namespace` are the workers
            of a Temporal server. Without a host, Temporal's profiles and `TEMPORAL_…` variables give it.
        durability: `full` is safe against power cuts; `normal` saves an fsync per commit, and survives kills only.
        concurrency: steps that run at the same time in this process (default 256).
        servers: ComfyUI servers: addresses, or mappings with the keys of `[[servers]]` in `towpath.toml`
            (`name url tags headers query slots verify`). Default: those of `towpath.toml`.
        workflows: folder of ComfyUI workflow files that are not beside their chain; default `workflows`.
        limits: named limits: how many steps with `limit="gpu"` run at the same time in this process, over all runs:
            `{"gpu": 2}`. Default: `limits` of `towpath.toml`.
        log_prints: whether what steps print is kept in their logs (default true).
        log_level: log records from this level on, of any logger, are kept in the log of the step that made them
            (default `INFO`).
        threads: threads for steps that are plain functions.
        processes: processes for steps with `process=True` (default: one per CPU); each starts when it is needed.
        lease_seconds: after this time without renewal another process may take over a run.
        busy_timeout: seconds to wait for another process that writes to the same database.
        listener: called with (run id, fact) for every fact that this process records. It runs in the event loop and
            must return at once. An exception is logged once and changes nothing.
        worker: run a Temporal worker in this process too, for as long as the engine is open.
        temporal: a connected `temporalio.client.Client` to use, with the converters and codecs it has.
        readonly: open for reading. This works on a store that cannot be written, and does not wait for a write lock.
            A call that would write raises StoreFailed (E_DB_READONLY). Temporal is not contacted.

    Raises:
        InputInvalid, FeatureMissing: a setting is wrong, or its part is not installed.
        StoreFailed: E_DB_…, E_SCHEMA_…. ServerFailed: E_TEMPORAL_….
    """
    refuse_while_importing()
    settings = settle(
        store,
        blobs=blobs,
        adapter=adapter,
        durability=durability,
        concurrency=concurrency,
        servers=servers,
        workflows=workflows,
        limits=limits,
        log_prints=log_prints,
        log_level=log_level,
        memory=True,
    )
    if readonly:  # nothing is executed: neither Temporal nor ComfyUI is needed
        settings = replace(settings, adapter="local", servers=())
    return HeldOpen(
        partial(
            _engine,
            settings,
            None if settings.temporary else at_store(store),
            busy_timeout=busy_timeout,
            lease_seconds=lease_seconds,
            readonly=readonly,
            threads=threads,
            processes=processes,
            listener=listener,
            worker=worker,
            temporal=temporal,
        )
    )


def _opening(
    function: Callable[P, AbstractAsyncContextManager[Engine]],
) -> Callable[Concatenate[type[Engine], P], Coroutine[Any, Any, Engine]]:
    """`function` as a class method that opens, and leaves the closing to the caller."""

    async def opened(cls: type[Engine], /, *args: P.args, **kwargs: P.kwargs) -> Engine:
        """An engine for places that cannot use `async with`; its arguments are those of `open_engine`.

        Any task of the same event loop may `close` it.
        """
        return await function(*args, **kwargs).__aenter__()

    return opened


class Engine(RunService, StoreFunctions):
    """Runs chains against one store through one adapter.

    The functions of the store (`get_workflow`, `create_artifact`, …) are methods too, each in a transaction of
    its own.
    """

    def __init__(
        self,
        store: RunStore,
        adapter: Adapter,
        tasks: TaskGroup,
        close: Callable[[], Awaitable[None]] | None = None,
        at: str | None = "",
    ) -> None:
        gates = Records(store)
        # pyright does not bind `Final` descriptors where it compares with a protocol; mypy does.
        RunService.__init__(self, store, adapter, gates, tasks, close, at)  # pyright: ignore[reportArgumentType]
        StoreFunctions.__init__(self, store)

    open = classmethod(_opening(open_engine))


@asynccontextmanager
async def _engine(
    settings: Settings,
    at: str | None,
    close: Callable[[], Awaitable[None]],
    *,
    busy_timeout: float,
    lease_seconds: float,
    readonly: bool,
    threads: int,
    processes: int | None,
    listener: Listener | None,
    worker: bool,
    temporal: Any,
) -> AsyncIterator[Engine]:
    async with (
        _entered(noting_interrupts()),
        _placed(settings.store, settings.temporary) as store,
        open_store(
            store,
            blobs=settings.blobs,
            durability=settings.durability,
            busy_timeout=busy_timeout,
            lease_seconds=lease_seconds,
            readonly=readonly,
        ) as opened,
        open_farm(opened, settings) as farm,
        _entered(spans_if_wanted()) as spans,
        _threads_and_processes(threads, processes) as pool,
        _entered(nullcontext() if readonly else capturing()),
        _adapter(
            _resources(opened, farm, settings, threads, spans, pool),
            settings,
            lease_seconds,
            worker,
            temporal,
        ) as chosen,
        background_tasks() as tasks,
    ):
        if listener is not None:
            chosen.listeners.append(listener)
        yield Engine(opened, chosen, tasks, close, at)


@asynccontextmanager
async def _placed(store: Path, temporary: bool) -> AsyncIterator[Path]:
    """The file of the store; for a temporary one in a folder that is removed at the end."""
    if not temporary:
        yield store
        return
    folder = await run_sync(partial(mkdtemp, prefix="towpath-"))
    try:
        yield Path(folder, store)
    finally:
        with CancelScope(shield=True):
            await run_sync(partial(rmtree, folder, ignore_errors=True))


@asynccontextmanager
async def _adapter(
    resources: Resources, settings: Settings, lease_seconds: float, worker: bool, client: Any
) -> AsyncIterator[Adapter]:
    concurrency = settings.concurrency or CONCURRENCY
    if settings.adapter == "local":
        if worker or client is not None:
            allowed = "a temporal:// adapter"
            raise InputInvalid("E_SETTING", "`worker` and `temporal` need Temporal", found="local", allowed=allowed)
        async with local_adapter(resources, concurrency=concurrency, lease_seconds=lease_seconds) as local:
            yield local
        return
    with temporal_needed():
        from towpath.adapters.temporal.adapter import temporal_adapter  # noqa: PLC0415 - an SDK that most scripts do not need
    async with temporal_adapter(
        resources, settings.adapter, client=client, worker=worker, concurrency=concurrency
    ) as adapter:
        yield adapter


@asynccontextmanager
async def open_worker(
    store: str | os.PathLike[str] | None = None,
    *,
    adapter: str | None = None,
    concurrency: int | None = None,
    limits: Mapping[str, int] | None = None,
    log_prints: bool | None = None,
    log_level: str | None = None,
    threads: int = THREADS,
    processes: int | None = None,
    grace: float = 30.0,
    metrics_port: int | None = None,
    functions: Mapping[str, Callable[..., Awaitable[Any]]] | None = None,
) -> AsyncIterator[RunWorker]:
    """A Temporal worker on a store, for as long as the block lasts. The store is created if it does not exist.

    `functions` are additional activities by name. Raises as `open_engine`.
    """
    settings = settle(
        store,
        adapter=adapter,
        concurrency=concurrency,
        limits=limits,
        log_prints=log_prints,
        log_level=log_level,
    )
    if settings.adapter == "local":
        cure = "--adapter, TOWPATH_ADAPTER, or `adapter` in towpath.toml"
        raise InputInvalid("E_SETTING", "a worker needs a Temporal server", found="local", cure=cure)
    with temporal_needed():
        from towpath.adapters.temporal.worker import temporal_worker  # noqa: PLC0415
    async with (
        open_store(settings.store, blobs=settings.blobs, durability=settings.durability) as opened,
        open_farm(opened, settings) as farm,
        _entered(spans_if_wanted()) as spans,
        _threads_and_processes(threads, processes) as pool,
        _entered(capturing()),
        temporal_worker(
            _resources(opened, farm, settings, threads, spans, pool),
            settings.adapter,
            metrics_port=metrics_port,
            concurrency=settings.concurrency or CONCURRENCY,
            grace=grace,
            functions=functions,
        ) as worker,
    ):
        yield worker


def _resources(
    store: EngineStore,
    farm: ComfyFarm | None,
    settings: Settings,
    threads: int,
    spans: Spans | None,
    processes: ProcessPool,
) -> Resources:
    return Resources(
        store,
        farm,
        CapacityLimiter(threads),
        spans=spans,
        limits=settings.limits,
        processes=processes,
        kept=settings.kept,
    )


@asynccontextmanager
async def _entered(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """A plain context manager as an async one."""
    with manager as value:
        yield value


@asynccontextmanager
async def _threads_and_processes(threads: int, processes: int | None) -> AsyncIterator[ProcessPool]:
    """The processes for steps. At the end these, and the idle threads for steps, are ended.

    Raises InputInvalid (E_SETTING) for numbers that cannot be.
    """
    check_size("threads", threads)
    if processes is not None:
        check_size("processes", processes)
    pool = ProcessPool(processes)
    try:
        yield pool
    finally:
        end_idle_threads()
        with CancelScope(shield=True):
            await pool.close()


@contextmanager
def temporal_needed() -> Iterator[None]:
    """For imports that need the extra `temporal`. Raises FeatureMissing if it is not installed."""
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "temporalio":
            raise
        cure = 'pip install "towpath[temporal]"'
        raise FeatureMissing("E_FEATURE_MISSING", "Temporal needs more packages", cure=cure) from error


@asynccontextmanager
async def open_farm(store: EngineStore, settings: Settings) -> AsyncIterator[ComfyFarm | None]:
    """The configured ComfyUI servers, or None without any.

    Raises InputInvalid (E_SERVER_CONFIG, E_SETTING, E_URL_…), FeatureMissing without the extra `comfyui`.
    """
    if not settings.servers:
        yield None
        return
    with _comfyui_needed():
        from towpath.adapters.comfyui.configuration import farm_of  # noqa: PLC0415 - an HTTP client that most scripts do not need
    async with farm_of(store, settings.servers, settings.workflows, settings.comfyui) as farm:
        yield farm


@asynccontextmanager
async def open_pool(settings: Settings) -> AsyncIterator[ServerPool]:
    """The configured ComfyUI servers without a store. Raises as `open_farm`."""
    with _comfyui_needed():
        from towpath.adapters.comfyui.configuration import servers_of  # noqa: PLC0415
        from towpath.adapters.comfyui.pool import ServerPool  # noqa: PLC0415
    async with ServerPool(servers_of(settings.servers)) as pool:
        yield pool


@contextmanager
def _comfyui_needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if error.name not in ("httpx", "websockets"):
            raise
        cure = 'pip install "towpath[comfyui]"'
        raise FeatureMissing("E_FEATURE_MISSING", "ComfyUI servers need more packages", cure=cure) from error


async def check_store(
    store: str | os.PathLike[str] | None = None,
    *,
    repair: bool = False,
    grace: float = 3600.0,
    deep: bool = True,
) -> Report:
    """Check a store, and with `repair` repair it. See `towpath.store.fsck`."""
    from towpath.store.fsck import fsck  # noqa: PLC0415 - only this verb needs it

    settings = settle(store)
    async with open_store(settings.store, blobs=settings.blobs, readonly=not repair) as opened:
        return await fsck(opened, repair=repair, grace=grace, deep=deep)
