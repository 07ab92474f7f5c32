"""Verbs that execute steps: run, resume, rerun, demo."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import click
from rich.console import Console
from uuid_utils import uuid7

from towpath.adapters.settings import settle
from towpath.adapters.wiring import Engine, open_engine
from towpath.adapters.wording import at_store
from towpath.chains import Chain
from towpath.errors import FeatureMissing, RunRefused, TowpathError
from towpath.input_types import json_or_text, parsed
from towpath.model import ChainStatus, InputSpec, Plan
from towpath.ports import RunRow
from towpath.records import ChainRecord
from towpath.run import Run
from towpath.run_labels import label_of, tags_written
from towpath.secrets import Secret

from . import INTERRUPTED, print_error
from .live_view import Watch
from .options import (
    STOPPING,
    find_run,
    import_modules,
    import_option,
    interruptible,
    json_option,
    label_options,
    parse_inputs,
    run_async,
    store_option,
)
from .runnables import load_runnable
from .screen import print_json, say, short_id, terminal, words
from .streams import during_a_run
from .tables import print_artifacts, print_plan, print_summary, run_json

# What Ctrl-C does: this process executes the run, or only watches what workers do.
_ON_CTRL_C = {True: "Ctrl-C pauses the run", False: "Ctrl-C ends this view; the workers go on with the run"}
_STOPPING = {True: STOPPING, False: "ending this view; the workers go on with the run"}
_INTERRUPTED = {
    True: "interrupted; continue with: towpath resume {0}",
    False: "the workers go on with the run; look at it with: towpath show {0}, end it with: towpath cancel {0}",
}


def typed_inputs(plan: Plan, given: dict[str, str]) -> dict[str, Any]:
    """Inputs from the command line, parsed by their declared types.

    `@path` is a file; `env:NAME` is a secret from an environment variable, if the input is a secret.

    Raises InputInvalid (E_INPUT_TYPE).
    """
    specs = {spec.name: spec for spec in plan.inputs}
    return {name: _parsed(specs[name], text) if name in specs else text for name, text in given.items()}


def _parsed(spec: InputSpec, text: str) -> Any:
    if spec.secret and text.startswith("env:"):
        return Secret.env(text.removeprefix("env:"))
    return parsed(spec, text)


def exit_code(run: Run) -> int:
    """0 completed, 3 paused, 1 otherwise."""
    if run.status is ChainStatus.COMPLETED:
        return 0
    return 3 if run.status is ChainStatus.PAUSED else 1


async def _watched(
    store: str | None,
    plan: Plan,
    work: Callable[[Engine], Awaitable[Run]],
    as_json: bool,
    console: Console | None = None,
    run_id: str | None = None,
    recorded: RunRow | None = None,
    **settings: Any,
) -> int:
    """Do the work with a live view, and print the result. Ctrl-C pauses the run. `recorded` is the run so far."""
    console = console or terminal(stderr=as_json)
    result: Run | None = None
    at = at_store(store)
    ours = _is_ours(store)
    watch = Watch(console, plan, run_id, quiet=as_json, at=at, on_ctrl_c=_ON_CTRL_C[ours])
    if recorded is not None:
        watch.begin_with(recorded)
    async with open_engine(store, listener=watch.on_fact, **settings) as engine:
        with (
            anyio.CancelScope() as scope,
            _until_a_gate(engine, watch, scope) as hung_up,
            interruptible(scope, _STOPPING[ours], hung_up=hung_up, tell=watch.tell) as signals,
            watch,
        ):
            async with watch.following(engine):
                result = await work(engine)
            await watch.settle(engine, result)
        if signals:
            named = short_id(watch.run_id, console) if watch.run_id else "last"
            console.print(words(_INTERRUPTED[ours].format(f"{named}{at}")))
            return INTERRUPTED
        if result is None:  # left at a gate
            assert watch.run_id is not None
            result = await engine.snapshot(watch.run_id)
        if as_json:
            print_json(run_json(result))
        else:
            print_summary(console, result, await engine.approvals(result.id), store)
    return exit_code(result)


@contextmanager
def _until_a_gate(engine: Engine, watch: Watch, scope: anyio.CancelScope) -> Iterator[Callable[[], None]]:
    """Yields what a closed terminal calls: the run goes on, but nobody is left who knows of a process that waits for
    people. So it ends at the next gate.
    """
    waiting: list[asyncio.Task[None]] = []

    async def leave_at_a_gate() -> None:
        while True:
            with suppress(TowpathError):  # the store is busy: the next look tells
                chain = await engine.get_chain(watch.run_id) if watch.run_id else None
                if chain is not None and (chain["status"], chain["status_reason"]) == (ChainStatus.PAUSED, "approval"):
                    scope.cancel()
            await anyio.sleep(1)

    try:
        yield lambda: waiting.append(asyncio.ensure_future(leave_at_a_gate()))
    finally:
        for task in waiting:
            task.cancel()


@click.command("run")
@click.argument("file")
@click.option("--input", "pairs", metavar="NAME=VALUE", multiple=True, help="A chain input; @PATH for a file.")
@click.option("--run-id", help="Id of the run. A run with this id is continued.")
@label_options
@click.option("--wait/--no-wait", default=None, help="Wait for approvals. Default: only on a terminal.")
@click.option("--durability", type=click.Choice(["full", "normal"]), help="normal: safe against kills, not power cuts.")
@import_option
@store_option
@json_option
def run_verb(
    file: str,
    pairs: tuple[str, ...],
    run_id: str | None,
    wait: bool | None,
    durability: str | None,
    modules: tuple[str, ...],
    store: str | None,
    as_json: bool,
    **label: Any,
) -> int:
    """Run a chain. FILE is a YAML file, a Python file or module, or one of its chains: file.py:chain, module:chain.

    If a Python file has one chain, its name may be left out.
    """
    import_modules(modules)
    chain = load_runnable(file)
    inputs = typed_inputs(chain.plan, parse_inputs(pairs))
    waits = sys.stdout.isatty() if wait is None else wait
    named = label_of(label["name"], tags_written(label["tags"]))
    run_id = run_id or _id_to_watch(store)

    async def work(engine: Engine) -> Run:
        return await engine.run(chain, run_id=run_id, wait=waits, check=False, inputs=inputs, name=named)

    with during_a_run():
        return run_async(_watched, store, chain.plan, work, as_json, run_id=run_id, durability=durability)


def _id_to_watch(store: str | None) -> str | None:
    """On Temporal other processes record what happens to a run: to be watched, its id is chosen here."""
    return None if _is_ours(store) else str(uuid7())


def _is_ours(store: str | None) -> bool:
    """Does this process execute runs, not the workers of a server?"""
    return settle(store).adapter == "local"


@click.command("resume")
@click.argument("run", required=False)
@click.option("--all", "every", is_flag=True, help="All unfinished runs without a live owner.")
@click.option("--wait/--no-wait", default=False, help="Wait for approvals.")
@import_option
@store_option
@json_option
def resume_verb(
    run: str | None, every: bool, wait: bool, modules: tuple[str, ...], store: str | None, as_json: bool
) -> int:
    """Continue RUN (an id, a part of one, or `last`) after a crash, a pause or a decision."""
    if (run is None) == (not every):
        raise click.UsageError("give a run, or --all")
    import_modules(modules)
    with during_a_run():
        if run is not None:
            return run_async(_resume_one, store, run_async(_named, store, run), wait, as_json)
        codes = [_resume_or_report(store, one, wait, as_json) for one in run_async(_open_runs, store)]
    if not codes:
        say("[]" if as_json else "no run to continue")
    return max(codes, default=0)


def _resume_or_report(store: str | None, run_id: str, wait: bool, as_json: bool) -> int:
    """Resume one of several runs. Its errors are printed and do not stop the others."""
    try:
        return run_async(_resume_one, store, run_id, wait, as_json)
    except RunRefused as refused:
        if refused.code in ("E_RUN_OWNED", "E_RUN_OVER"):  # another process took it first
            say(refused.problem.message, err=True)
            return 0
        print_error(refused, as_json)
        return refused.exit_code
    except TowpathError as error:
        say(f"run {run_id}:", err=True)
        print_error(error, as_json)
        return error.exit_code


async def _named(store: str | None, run: str) -> str:
    async with open_engine(store, readonly=True) as engine:
        return await find_run(engine, run)


async def _open_runs(store: str | None) -> list[str]:
    async with open_engine(store, readonly=True) as engine:
        return [row["id"] for status in ("pending", "running", "paused") for row in await _all_of(engine, status)]


async def _all_of(engine: Engine, status: str) -> list[ChainRecord]:
    """All top-level runs with a status, newest first."""
    rows: list[ChainRecord] = []
    while page := await engine.list_chains(1_000, len(rows), status, inner=False):
        rows += page
    return rows


async def _resume_one(store: str | None, run_id: str, wait: bool, as_json: bool) -> int:
    async with open_engine(store, readonly=True) as engine:
        recorded = await engine.store.load(run_id)
    _import_from(recorded.plan)

    async def work(engine: Engine) -> Run:
        return await engine.resume(run_id, wait=wait, check=False)

    return await _watched(store, recorded.plan, work, as_json, run_id=run_id, recorded=recorded)


def _import_from(plan: Plan) -> None:
    """Make modules in the folder of the chain's file importable."""
    if plan.folder and plan.folder not in sys.path:
        sys.path.insert(0, plan.folder)


@click.command("rerun")
@click.argument("run")
@click.option("--from", "steps", metavar="STEP", multiple=True, help="Run this step again, and all that depend on it.")
@click.option("--input", "pairs", metavar="NAME=VALUE", multiple=True, help="A new value for an input.")
@click.option("--set", "changes", metavar="STEP.PARAM=VALUE", multiple=True, help="A new value for a parameter.")
@label_options
@click.option("--wait/--no-wait", default=False, help="Wait for approvals.")
@import_option
@store_option
@json_option
def rerun_verb(
    run: str,
    steps: tuple[str, ...],
    pairs: tuple[str, ...],
    changes: tuple[str, ...],
    wait: bool,
    modules: tuple[str, ...],
    store: str | None,
    as_json: bool,
    **label: Any,
) -> int:
    """Make a new run of RUN: completed steps are reused, all others run. It keeps the name and the tags of RUN."""
    import_modules(modules)
    label["tags"] = tags_written(label["tags"]) if label["tags"] else None
    given, changed = parse_inputs(pairs), parse_inputs(changes)
    with during_a_run():
        return run_async(_rerun, store, run, steps, given, changed, wait, as_json, **label)


async def _rerun(
    store: str | None,
    run: str,
    steps: tuple[str, ...],
    given: dict[str, str],
    changes: dict[str, str],
    wait: bool,
    as_json: bool,
    **label: Any,
) -> int:
    async with open_engine(store, readonly=True) as engine:
        run_id = await find_run(engine, run)
        plan = (await engine.store.load(run_id)).plan
    _import_from(plan)
    inputs = typed_inputs(plan, given)
    parameters = {name: json_or_text(text) for name, text in changes.items()}

    async def work(engine: Engine) -> Run:
        return await engine.rerun(
            run_id, from_steps=steps, inputs=inputs, parameters=parameters, wait=wait, check=False, **label
        )

    return await _watched(store, plan, work, as_json)


@click.command("demo")
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False))
@click.option("--width", default=256, show_default=True, help="Width of the thumbnails in pixels.")
@store_option
@json_option
def demo_verb(folder: str | None, width: int, store: str | None, as_json: bool) -> int:
    """Make thumbnails, palettes and a contact sheet of the photographs in FOLDER.

    Without FOLDER it uses photographs that come with towpath. Kill it and start it again: it continues the same run.
    """
    try:
        from towpath.adapters.demo.chain import contact_sheet, photographs  # noqa: PLC0415
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "PIL":
            raise
        cure = 'pip install "towpath[demo]"'
        raise FeatureMissing("E_FEATURE_MISSING", "the demo needs Pillow", cure=cure) from error

    place = Path(folder) if folder else photographs()
    address = store or "towpath-demo/demo.db"
    if store is None:
        Path("towpath-demo").mkdir(exist_ok=True)
    console = terminal(stderr=as_json)
    if not as_json:
        print_plan(console, contact_sheet.plan)
    with during_a_run():
        return run_async(_demo, address, contact_sheet, place.resolve(), width, as_json, console)


async def _demo(store: str, chain: Chain[..., Any], folder: Path, width: int, as_json: bool, console: Console) -> int:
    unfinished = await _unfinished_demo(store, chain, str(folder), width)
    run_ids: list[str] = []

    async def work(engine: Engine) -> Run:
        if unfinished:
            if not as_json:
                console.print(words(f"continuing run {unfinished}, which did not finish"))
            run = await engine.resume(unfinished, check=False)
        else:
            run = await engine.run(chain, check=False, folder=str(folder), width=width)
        run_ids.append(run.id)
        return run

    code = await _watched(store, chain.plan, work, as_json, console)
    if run_ids and not as_json:
        async with open_engine(store) as engine:
            await print_artifacts(console, await engine.snapshot(run_ids[0]), store)
        console.print(words(f"see them in a browser: towpath serve{at_store(store)}", "dim"))
    return code


async def _unfinished_demo(store: str, chain: Chain[..., Any], folder: str, width: int) -> str | None:
    """The id of an unfinished demo run with the same folder and width."""
    async with open_engine(store, readonly=True) as engine:
        for status in ("running", "paused", "pending"):
            for row in await engine.list_chains(100, 0, status):
                if row["name"] == chain.name and row["inputs"] == {"folder": folder, "width": width}:
                    return str(row["id"])
    return None
