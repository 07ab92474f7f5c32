"""Shared by verbs: options, imports, finding ids, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import anyio
import click

from towpath.adapters.wiring import Engine
from towpath.errors import InputInvalid, Place, ProcessEnded, RunRefused, TowpathError
from towpath.step_modules import import_module

from . import INTERRUPTED
from .streams import flush_queues, hurry, write

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

STOPPING = "stopping: the run will be paused; press Ctrl-C again to end at once"
FEW = 5  # ids that an error lists when several match
_LAST = re.compile(r"last(?:~([0-9]{1,9}))?", re.ASCII)
_WORDS = {"chains": "runs", "artifacts": "artifacts", "approvals": "approvals"}


def store_option(command: F) -> F:
    """`--store URL`."""
    about = "A database file or sqlite:/// address. Default: TOWPATH_STORE, then towpath.db."
    return click.option("--store", metavar="URL", help=about, callback=not_empty("the name of the database"))(command)


def not_empty(what: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """A check of an option: an empty text is mostly a variable of a shell that is not set."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise click.BadParameter(f"{what} is empty", ctx, param)
        return value

    return check


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def label_options(command: F) -> F:
    """`--name` and `--tag` of a new run."""
    tag = click.option("--tag", "tags", metavar="KEY[=VALUE]", multiple=True, help="A tag of the run. Repeatable.")
    return click.option("--name", help="A name for the run, to find it again.")(tag(command))


def import_option(command: F) -> F:
    """`--import MODULE`."""
    about = "Import a module or .py file with steps. Repeatable."
    return click.option("--import", "modules", metavar="MODULE", multiple=True, help=about)(command)


def search_here() -> None:
    """Search the current folder first when modules are imported, as `python -m` does."""
    with suppress(OSError):  # the current folder was deleted
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.insert(0, here)


def import_modules(modules: Iterable[str]) -> list[ModuleType]:
    """Import the modules of `--import`. Raises InputInvalid (E_IMPORT)."""
    search_here()
    return [import_module(module) for module in modules]


def run_async(function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    """Run an async verb. Raises ProcessEnded: E_PROCESS_EXIT."""
    try:
        return anyio.run(partial(function, *args, **kwargs))
    except SystemExit as ended:
        # asyncio raises it out of the event loop, whichever task it came from; no task can catch it.
        raise ProcessEnded(
            "E_PROCESS_EXIT",
            f"a task that a step had started raised SystemExit {ended.code}, which ends this process",
            cure="raise another error in the step; the run can be resumed",
        ) from None


def is_last(text: str) -> bool:
    """Does it name a run by its place: `last`, `last~1`?"""
    return _LAST.fullmatch(text) is not None


async def find_run(engine: Engine, text: str) -> str:
    """The id of the run that `text` names: an id, the unique beginning or end of one, or `last`, `last~1`, ….

    `last` is the newest top-level run, `last~1` the one before it.
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
    """The id that `text` names in the store, in a list; an empty list without a match.

    Raises `refused` with `code` if several ids match.
    """
    ids = await engine.store.find_ids(what, text)
    if len(ids) > 1:
        several = f"{len(ids)} {_WORDS[what]}" if len(ids) <= FEW else f"more than {FEW} {_WORDS[what]}"
        raise refused(code, f"{several} match {text}", allowed=" ".join(ids[:FEW]), cure="give more of the id")
    return ids


def parse_inputs(pairs: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE options as a dict. Raises InputInvalid (E_INPUT_FORM), also if a name is given twice."""
    result: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise InputInvalid("E_INPUT_FORM", "an input is given as NAME=VALUE", found=pair)
        if name in result:
            cure = f"give it once; a list is one value: {name}=[1, 2]"
            raise InputInvalid("E_INPUT_FORM", f"{name} is given twice", place=Place(field=name), cure=cure)
        result[name] = value
    return result


@contextmanager
def interruptible(
    scope: anyio.CancelScope,
    message: str = STOPPING,
    *,
    hung_up: Callable[[], None] | None = None,
    tell: Callable[[str], bool] = lambda _: False,
) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM prints the message and cancels the scope; the second one ends the process.

    Closing the terminal (SIGHUP) acts as Ctrl-C does, or only calls `hung_up`. If `tell` shows the message itself, it
    returns True.
    Yields a list of the signals that were received.
    """
    import asyncio  # noqa: PLC0415

    received: list[int] = []
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if received:
            _end_now()
        received.append(number)
        hurry()
        if not tell(message):
            write(f"\n{message}\n", err=True)
        scope.cancel()

    ending = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # under nohup it is ignored
        loop.add_signal_handler(signal.SIGHUP, hung_up or partial(stop, signal.SIGHUP))
    for number in ending:
        loop.add_signal_handler(number, stop, number)
    try:
        yield received
    finally:
        for number in ending:
            loop.remove_signal_handler(number)
            if received:  # the store is closing: a second signal does not wait for it
                signal.signal(number, lambda *_: _end_now())


def _end_now() -> None:
    flush_queues()
    os._exit(INTERRUPTED)
