"""`towpath.run`: one chain from start to end, for scripts without asyncio."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, ParamSpec, overload

from towpath.adapters.wiring import open_engine
from towpath.chains import Chain
from towpath.errors import InputInvalid
from towpath.run import Run

if TYPE_CHECKING:
    from towpath.chain_file import ChainFile
    from towpath.events import Fact

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

    It opens the store as `open_engine(store)` does, and closes it. All other keywords are those of `Engine.run`: the
    inputs of the chain, `run_id`, `wait`, `check`, `inputs`. Ctrl-C pauses the run, and says how to continue it.

    Raises:
        ChainFailed: the run failed or was cancelled; with `check=False` it is returned.
        InputInvalid: E_LOOP in a running event loop, for example in Jupyter. All that `open_engine` and `Engine.run`
            raise.
    """
    _refuse_in_loop()
    heard: list[str] = []

    def listen(run_id: str, fact: Fact) -> None:
        if not heard:
            heard.append(run_id)

    async def main() -> Run:
        async with open_engine(store, listener=listen) as engine:
            return await engine.run(chain, **named)

    try:
        return asyncio.run(main())
    except KeyboardInterrupt as pressed:
        pressed.add_note(_continuing(heard, store))
        raise pressed.with_traceback(None) from None


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


def _continuing(heard: list[str], store: str | os.PathLike[str] | None) -> str:
    at = "" if store is None else f" --store {os.fspath(store)}"
    name = heard[0] if heard else "last"
    return f"interrupted: the run is left paused; `towpath resume {name}{at}` continues it"
