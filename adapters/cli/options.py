"""What several verbs share: options, opening an engine, naming a run, printing."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import anyio
import click

from towpath.adapters.wiring import Engine, open_engine
from towpath.errors import InputInvalid, Place, ProcessEnded, RunRefused, TowpathError
from towpath.ports import Listener
from towpath.steps import import_module

from . import INTERRUPTED
from .outlet import hurry, last_words, write

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

FEW = 5  # ids that are named where several match
_LAST = re.compile(r"last(?:~([0-9]{1,9}))?", re.ASCII)
_WORDS = {"chains": "runs", "artifacts": "artifacts", "approvals": "approvals"}


def store_option(command: F) -> F:
    """`--store URL`."""
    about = "Database, e.g. sqlite:///towpath.db or a file name. Default: TOWPATH_STORE, then towpath.db here."
    return click.option("--store", metavar="URL", help=about, callback=_given)(command)


def _given(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter("names no database", ctx, param)
    return value


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def import_option(command: F) -> F:
    """`--import MODULE`."""
    about = "Import a module (or a .py file) that defines steps. May be repeated."
    return click.option("--import", "modules", metavar="MODULE", multiple=True, help=about)(command)


def import_modules(modules: Iterable[str]) -> None:
    """Import what `--import` names, as `python -m` would: the current folder is looked into first.

    Raises InputInvalid (E_IMPORT).
    """
    with suppress(OSError):  # the folder is gone
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.insert(0, here)
    for module in modules:
        import_module(module)


def run_async(function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    """Run an async verb. Raises ProcessEnded: E_PROCESS_EXIT."""
    try:
        return anyio.run(partial(function, *args, **kwargs))
    except SystemExit as ended:
        # asyncio lets it through the loop from whatever task raises it, before anybody can catch it.
        raise ProcessEnded(
            "E_PROCESS_EXIT",
            f"a task that a step had started ended this process: SystemExit {ended.code}",
            cure="raise an error in the step instead; its run can be resumed",
        ) from None


@asynccontextmanager
async def engine_of(store: str | None, listener: Listener | None = None, **settings: Any) -> AsyncIterator[Engine]:
    """The engine on the store that `--store` (or what stands for it) names."""
    async with open_engine(store, listener=listener, **settings) as engine:
        yield engine


async def find_run(engine: Engine, text: str) -> str:
    """A run's id from the id, from its beginning or end where that is enough, or from `last`, `last~1`, ….

    `last` is the newest of the outermost runs, `last~1` the one before it.
    Raises RunRefused: E_RUN_MISSING, E_RUN_AMBIGUOUS.
    """
    back = _LAST.fullmatch(text)
    if back is not None:
        found = await engine.list_chains(1, int(back[1] or 0), inner=False)
        if not found:
            raise RunRefused("E_RUN_MISSING", f"there is no {'run' if text == 'last' else text} in this store yet")
        return str(found[0]["id"])
    ids = await find_ids(engine, "chains", text, "E_RUN_AMBIGUOUS", RunRefused)
    if not ids:
        raise RunRefused("E_RUN_MISSING", f"there is no run {text}", cure="`towpath ls` lists the runs of a store")
    return ids[0]


async def find_ids(engine: Engine, what: str, text: str, code: str, refused: type[TowpathError]) -> list[str]:
    """The one id in the whole store that `text` stands for, or none. Raises `refused` with `code` for several."""
    ids = await engine.store.find_ids(what, text)
    if len(ids) > 1:
        several = f"{len(ids)} {_WORDS[what]}" if len(ids) <= FEW else f"more than {FEW} {_WORDS[what]}"
        raise refused(code, f"{several} match {text}", allowed=" ".join(ids[:FEW]), cure="give more of the id")
    return ids


def parse_inputs(pairs: tuple[str, ...]) -> dict[str, str]:
    """`k=v` options as a dict, each name once. Raises InputInvalid (E_INPUT_FORM)."""
    result: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise InputInvalid("E_INPUT_FORM", "an input is NAME=VALUE", found=pair)
        if name in result:
            cure = f"give it once; a list is one value: {name}=[1, 2]"
            raise InputInvalid("E_INPUT_FORM", f"{name} is given twice", place=Place(field=name), cure=cure)
        result[name] = value
    return result


@contextmanager
def interruptible(
    scope: anyio.CancelScope,
    said: str = "stopping: the run is left paused; once more ends at once",
    *,
    outlives_terminal: bool = False,
) -> Iterator[list[int]]:
    """Ctrl-C (or SIGTERM) once ends the scope in order; twice ends the process at once.

    A terminal that goes away (SIGHUP) does the same, or nothing with `outlives_terminal`.
    Yields a list that holds the signal that came, if one did.
    """
    import asyncio  # noqa: PLC0415

    came: list[int] = []
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if came:
            _end_now()
        came.append(number)
        hurry()
        write(f"\n{said}\n", err=True)
        scope.cancel()

    ending = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # else somebody (nohup) has decided already
        loop.add_signal_handler(signal.SIGHUP, _nothing if outlives_terminal else partial(stop, signal.SIGHUP))
    for number in ending:
        loop.add_signal_handler(number, stop, number)
    try:
        yield came
    finally:
        for number in ending:
            loop.remove_signal_handler(number)
            if came:  # the store is being closed; whoever asks again does not want to wait for that
                signal.signal(number, lambda *_: _end_now())


def _nothing() -> None:
    """The terminal has gone: there is nobody to tell."""


def _end_now() -> None:
    last_words()
    os._exit(INTERRUPTED)
