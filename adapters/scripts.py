"""`towpath.run`: one chain from start to end, for scripts without asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, cast, overload

from anyio.to_thread import run_sync

from towpath.adapters.settings import Settings, settle
from towpath.adapters.wiring import open_engine
from towpath.adapters.wording import at_store
from towpath.artifact import ArtifactFiles
from towpath.chains import Chain
from towpath.errors import InputInvalid, StoreFailed
from towpath.run import Run, failure_of

if TYPE_CHECKING:
    from towpath.chain_file import ChainFile
    from towpath.events import Fact
    from towpath.ledger import Ledger
    from towpath.model import ArtifactRow
    from towpath.ports import Files

P = ParamSpec("P")


@overload
def run(chain: Chain[P, Any], /, *args: P.args, **named: P.kwargs) -> Run: ...
@overload
def run(chain: Chain[..., Any], *, store: str | os.PathLike[str] | None, **named: Any) -> Run: ...
@overload
def run(chain: ChainFile, *, store: str | os.PathLike[str] | None = None, **named: Any) -> Run: ...
def run(  # type: ignore[misc]  # pyright: ignore[reportInconsistentOverload]  # inputs have names: no *args
    chain: Chain[..., Any] | ChainFile, *, store: str | os.PathLike[str] | None = None, **named: Any
) -> Run:
    """Run a chain, wait for its end, and return its run. For scripts and shells without an event loop.

    It opens the store as `open_engine(store)` does, and closes it; the files of the run can be read all the same. All
    other keywords are those of `Engine.run`: the inputs of the chain, `run_id`, `wait`, `check`, `inputs`. Ctrl-C
    pauses the run, and says how to continue it.

    Raises:
        ChainFailed: the run failed or was cancelled; with `check=False` it is returned.
        InputInvalid: E_LOOP in a running event loop, for example in Jupyter. All that `open_engine` and `Engine.run`
            raise.
    """
    _refuse_in_loop()
    settings = settle(store, memory=True)
    file = None if settings.temporary else settings.store
    heard: list[str] = []

    def listen(run_id: str, fact: Fact) -> None:
        if not heard:
            heard.append(run_id)

    async def main() -> Run:
        async with open_engine(store, listener=listen) as engine:
            ended = await engine.run(chain, **{**named, "check": False})
            folder = engine.store.files.folder
        ended._ledger.read_by(cast("Files", _Later(file, folder, ended._ledger)))
        return ended

    try:
        ended = asyncio.run(main())
    except KeyboardInterrupt as pressed:
        pressed.add_note(f"interrupted: {_what_is_left(heard, settings, at_store(store))}")
        raise pressed.with_traceback(None) from None
    if failed := failure_of(ended, named.get("check", True)):
        raise failed
    return ended


def _refuse_in_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InputInvalid(
        "E_LOOP",
        "towpath.run cannot wait in a running event loop, as in Jupyter or in an async function",
        cure="engine = await Engine.open(), then run = await engine.run(…)",
    )


def _what_is_left(heard: list[str], settings: Settings, at: str) -> str:
    if settings.adapter != "local":
        return f"the workers go on with the run; `towpath ls{at}` shows it"
    if settings.temporary or not heard:
        return "nothing is left of the run"
    return f"the run is left paused; `towpath resume {heard[0]}{at}` continues it"


class _Later:
    """Reads the files of a run whose engine is closed. Implements `ArtifactFiles`.

    When the first file is asked for, the store is opened again, for all files of the run at once.
    """

    def __init__(self, store: Path | None, folder: Path, ledger: Ledger) -> None:
        self.folder = folder
        self._store = store
        self._ledger = ledger

    @cached_property
    def _readers(self) -> dict[str, ArtifactFiles]:
        with ThreadPoolExecutor(1) as thread:  # this thread may have a running event loop
            return thread.submit(asyncio.run, self._found()).result()

    async def _found(self) -> dict[str, ArtifactFiles]:
        if self._store is None:
            cure = "run it with a store that is a file"
            raise StoreFailed("E_DB_CLOSED", "the files were in a store that is gone with its run", cure=cure)

        def readers() -> dict[str, ArtifactFiles]:
            return {row.id: files.for_another_process(row) for row in self._ledger.all_artifacts()}

        async with open_engine(self._store, readonly=True) as engine:
            files = engine.store.files
            return await run_sync(readers)

    def for_another_process(self, row: ArtifactRow) -> ArtifactFiles:
        return self._readers[row.id]

    def read_now(self, row: ArtifactRow) -> bytes:
        return self._readers[row.id].read_now(row)

    def path_now(self, row: ArtifactRow) -> Path:
        return self._readers[row.id].path_now(row)

    async def read_bytes(self, row: ArtifactRow) -> bytes:
        return await run_sync(self.read_now, row)

    async def path(self, row: ArtifactRow) -> Path:
        return await (await run_sync(self.for_another_process, row)).path(row)

    async def open(self, row: ArtifactRow) -> AsyncIterator[bytes]:
        async for chunk in (await run_sync(self.for_another_process, row)).open(row):
            yield chunk
