"""Verbs that work: run, resume, rerun, demo."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import click
from rich.console import Console

from towpath.adapters.wiring import Engine
from towpath.chain_file import ChainFile, load_chain
from towpath.chains import Chain
from towpath.errors import InputInvalid, RunRefused, TowpathError
from towpath.input_types import json_or_text, parsed
from towpath.model import ChainStatus, InputSpec, Plan
from towpath.records import ChainRecord
from towpath.run import Run
from towpath.secrets import Secret

from . import INTERRUPTED, tell
from .options import (
    engine_of,
    find_run,
    import_modules,
    import_option,
    interruptible,
    json_option,
    parse_inputs,
    run_async,
    store_option,
)
from .outlet import beside_a_run
from .screen import print_json, say, terminal, words
from .tables import artifact_table, plan_text, run_json, run_summary
from .watching import Watch

Runnable = ChainFile | Chain[..., Any]


def load_runnable(text: str, *, imports: bool = True) -> Runnable:
    """A chain from what people name it by: a YAML file, `module:chain`, or `file.py:chain`.

    Raises ChainInvalid, InputInvalid (E_CHAIN_NAME).
    """
    head, separator, name = text.rpartition(":")
    if not separator or Path(text).exists() or text.endswith((".yaml", ".yml")):
        return load_chain(text, imports=imports)
    import_modules((head,))
    module = sys.modules[Path(head).stem if head.endswith(".py") else head]
    found = getattr(module, name, None)
    if not isinstance(found, Chain):
        raise InputInvalid(
            "E_CHAIN_NAME", f"{head} has no @chain called {name}", cure="decorate the function with @chain"
        )
    return found


def typed_inputs(plan: Plan, given: dict[str, str]) -> dict[str, Any]:
    """Inputs from the command line by their declared types; `@path` is a file, `env:NAME` a secret of a variable.

    Raises InputInvalid (E_INPUT_TYPE).
    """
    specs = {spec.name: spec for spec in plan.inputs}
    return {name: _given(specs[name], text) if name in specs else text for name, text in given.items()}


def _given(spec: InputSpec, text: str) -> Any:
    if spec.secret and text.startswith("env:"):
        return Secret.env(text.removeprefix("env:"))
    return parsed(spec, text)


def exit_code(run: Run) -> int:
    """0 completed, 3 paused, 1 anything else."""
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
    **settings: Any,
) -> int:
    """Do the work with a live view, survive Ctrl-C, print what came of it."""
    console = console or terminal(stderr=as_json)
    result: Run | None = None
    watch = Watch(console, plan, run_id, quiet=as_json)
    async with engine_of(store, watch.told, **settings) as engine:
        watch.progress = engine.adapter.progress
        with anyio.CancelScope() as scope, interruptible(scope, outlives_terminal=True) as came, watch:
            result = await work(engine)
        if came:
            console.print(words(f"interrupted; go on with: towpath resume {watch.run_id or 'last'}"))
            return INTERRUPTED
        assert result is not None
        if as_json:
            print_json(run_json(result))
        else:
            run_summary(console, result, await engine.approvals(result.id), store)
    return exit_code(result)


@click.command("run")
@click.argument("file")
@click.option("--input", "pairs", metavar="NAME=VALUE", multiple=True, help="A chain input; @PATH for a file.")
@click.option("--run-id", help="Id of the run; one that exists is continued.")
@click.option("--wait/--no-wait", default=None, help="Wait at approvals. Default: on a terminal.")
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
) -> int:
    """Run a chain: a YAML FILE, or module:chain, or file.py:chain."""
    import_modules(modules)
    chain = load_runnable(file)
    inputs = typed_inputs(chain.plan, parse_inputs(pairs))
    waits = sys.stdout.isatty() if wait is None else wait

    async def work(engine: Engine) -> Run:
        return await engine.run(chain, run_id=run_id, wait=waits, inputs=inputs)

    with beside_a_run():
        return run_async(_watched, store, chain.plan, work, as_json, run_id=run_id, durability=durability)


@click.command("resume")
@click.argument("run", required=False)
@click.option("--all", "every", is_flag=True, help="All runs that are not over and that nobody works on.")
@click.option("--wait/--no-wait", default=False, help="Wait at approvals.")
@import_option
@store_option
@json_option
def resume_verb(
    run: str | None, every: bool, wait: bool, modules: tuple[str, ...], store: str | None, as_json: bool
) -> int:
    """Go on with RUN (an id, part of one, or `last`): after a crash, a pause, or a decision."""
    if (run is None) == (not every):
        raise click.UsageError("name a run, or --all")
    import_modules(modules)
    with beside_a_run():
        if run is not None:
            return run_async(_resume_one, store, run_async(_named, store, run), wait, as_json)
        codes = [_resume_or_tell(store, one, wait, as_json) for one in run_async(_open_runs, store)]
    if not codes:
        say("[]" if as_json else "no run to go on with")
    return max(codes, default=0)


def _resume_or_tell(store: str | None, run_id: str, wait: bool, as_json: bool) -> int:
    """Go on with one of many runs: what is wrong with it keeps nobody from the others."""
    try:
        return run_async(_resume_one, store, run_id, wait, as_json)
    except RunRefused as refused:
        if refused.code in ("E_RUN_OWNED", "E_RUN_OVER"):  # somebody was faster
            say(refused.problem.message, err=True)
            return 0
        tell(refused, as_json)
        return refused.exit_code
    except TowpathError as error:
        say(f"run {run_id}:", err=True)
        tell(error, as_json)
        return error.exit_code


async def _named(store: str | None, run: str) -> str:
    async with engine_of(store, readonly=True) as engine:
        return await find_run(engine, run)


async def _open_runs(store: str | None) -> list[str]:
    async with engine_of(store, readonly=True) as engine:
        return [row["id"] for status in ("pending", "running", "paused") for row in await _all_of(engine, status)]


async def _all_of(engine: Engine, status: str) -> list[ChainRecord]:
    """Every outermost run of a status, newest first."""
    rows: list[ChainRecord] = []
    while page := await engine.list_chains(1_000, len(rows), status, inner=False):
        rows += page
    return rows


async def _resume_one(store: str | None, run_id: str, wait: bool, as_json: bool) -> int:
    async with engine_of(store, readonly=True) as engine:
        recorded = await engine.store.load(run_id)
    _import_from(recorded.plan)

    async def work(engine: Engine) -> Run:
        return await engine.resume(run_id, wait=wait)

    return await _watched(store, recorded.plan, work, as_json, run_id=run_id)


def _import_from(plan: Plan) -> None:
    """Modules of a chain's steps may lie beside its file."""
    if plan.folder and plan.folder not in sys.path:
        sys.path.insert(0, plan.folder)


@click.command("rerun")
@click.argument("run")
@click.option("--from", "steps", metavar="STEP", multiple=True, help="Run this step and what follows again.")
@click.option("--input", "pairs", metavar="NAME=VALUE", multiple=True, help="Another value for an input.")
@click.option("--set", "changes", metavar="STEP.PARAM=VALUE", multiple=True, help="Another value for a parameter.")
@click.option("--wait/--no-wait", default=False, help="Wait at approvals.")
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
) -> int:
    """Make a new run of RUN that takes over what was completed and runs the rest again."""
    import_modules(modules)
    with beside_a_run():
        return run_async(_rerun, store, run, steps, parse_inputs(pairs), parse_inputs(changes), wait, as_json)


async def _rerun(
    store: str | None,
    run: str,
    steps: tuple[str, ...],
    given: dict[str, str],
    changes: dict[str, str],
    wait: bool,
    as_json: bool,
) -> int:
    async with engine_of(store, readonly=True) as engine:
        run_id = await find_run(engine, run)
        plan = (await engine.store.load(run_id)).plan
    _import_from(plan)
    inputs = typed_inputs(plan, given)
    parameters = {name: json_or_text(text) for name, text in changes.items()}

    async def work(engine: Engine) -> Run:
        return await engine.rerun(run_id, from_steps=steps, inputs=inputs, parameters=parameters, wait=wait)

    return await _watched(store, plan, work, as_json)


@click.command("demo")
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False))
@click.option("--width", default=256, show_default=True, help="Width of the thumbnails in pixels.")
@store_option
@json_option
def demo_verb(folder: str | None, width: int, store: str | None, as_json: bool) -> int:
    """Thumbnails, palettes and a contact sheet of the photographs in FOLDER (default: some that ship).

    Interrupt it or kill it, and start it again: it goes on where it was.
    """
    from towpath.adapters.demo.chain import contact_sheet, photographs  # noqa: PLC0415

    place = Path(folder) if folder else photographs()
    address = store or "towpath-demo/demo.db"
    if store is None:
        Path("towpath-demo").mkdir(exist_ok=True)
    console = terminal(stderr=as_json)
    if not as_json:
        plan_text(console, contact_sheet.plan)
    with beside_a_run():
        return run_async(_demo, address, contact_sheet, place.resolve(), width, as_json, console)


async def _demo(store: str, chain: Chain[..., Any], folder: Path, width: int, as_json: bool, console: Console) -> int:
    unfinished = await _unfinished_demo(store, chain, str(folder), width)
    shown: list[str] = []

    async def work(engine: Engine) -> Run:
        if unfinished:
            if not as_json:
                console.print(words(f"going on with run {unfinished}, which did not finish"))
            run = await engine.resume(unfinished)
        else:
            run = await engine.run(chain, folder=str(folder), width=width)
        shown.append(run.id)
        return run

    code = await _watched(store, chain.plan, work, as_json, console)
    if shown and not as_json:
        async with engine_of(store) as engine:
            await artifact_table(console, await engine.snapshot(shown[0]), store)
        console.print(words(f"look at them in a browser: towpath serve --store {store}", "dim"))
    return code


async def _unfinished_demo(store: str, chain: Chain[..., Any], folder: str, width: int) -> str | None:
    """A demo over the same folder that was interrupted or killed."""
    async with engine_of(store, readonly=True) as engine:
        for status in ("running", "paused", "pending"):
            for row in await engine.list_chains(100, 0, status):
                if row["name"] == chain.name and row["inputs"] == {"folder": folder, "width": width}:
                    return str(row["id"])
    return None
