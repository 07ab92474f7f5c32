"""Runs that are started from outside: chains of a folder or sent as YAML, with nothing imported and no file read.

A chain may only name steps that this process has loaded already; an input may not name a file of this machine.
"""

from __future__ import annotations

import base64
import binascii
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request

from towpath.artifact import Artifact, File
from towpath.chain_file import ChainFile, load_chain, load_chain_text
from towpath.errors import InputInvalid, Place, RunRefused, StepNotRegistered, TowpathError
from towpath.model import InputSpec, Plan, StepPlan
from towpath.references import find_chain
from towpath.rerun import rerun_of
from towpath.secrets import Secret
from towpath.service import Engine
from towpath.starting import new_run, refuse_unbuilt
from towpath.steps import Step
from towpath.store.rows import artifact as artifact_row

from .answering import inputs_of
from .asked import RerunBody, StartBody
from .background import Background
from .records import engine_of
from .refusals import Refused
from .shapes import ChainFileRow, Started

SOURCE = "request"
_NOWHERE = Path(os.devnull, "no-chains")
MAX_FILES = 1_000


async def start(request: Request, body: StartBody) -> Started:
    """Record a run and, if this process executes, begin it. Raises ChainInvalid, InputInvalid, StepNotRegistered."""
    engine, settings = engine_of(request), request.app.state.settings
    chain = await run_sync(_chain, body, settings.chains)
    _refuse_unknown_steps(chain.plan)
    _refuse_sources(chain.plan)
    inputs = await _inputs(engine, chain.plan, body.inputs)
    if body.run_id is not None:
        await _refuse_taken(engine, body.run_id)
    if settings.execute:
        handle = await engine.start(chain, run_id=body.run_id, inputs=inputs)
        return Started(id=handle.id, status=await handle.status(), executing=True)
    run_id = await _record(engine, chain, body.run_id, inputs)
    return Started(id=run_id, status="pending", executing=False)


async def rerun(request: Request, run_id: str, body: RerunBody) -> Started:
    """Record a run that takes over what another one completed. Raises RunRefused, InputInvalid (E_STEP_UNKNOWN, …)."""
    engine = engine_of(request)
    old = await engine.store.load(run_id)
    inputs = await _inputs(engine, old.plan, body.inputs)
    new = await rerun_of(engine.store, old, tuple(body.from_steps), inputs, body.parameters)
    refuse_unbuilt(new.plan)
    new = replace(new, plan=engine.adapter.prepared(new.plan))
    await engine.store.create_run(new)
    background: Background = request.app.state.background
    background.go_on(new.id)
    return Started(id=new.id, status="pending", executing=request.app.state.settings.execute)


async def _record(engine: Engine, chain: ChainFile, run_id: str | None, inputs: Mapping[str, Any]) -> str:
    """Record a run for a process that executes: `towpath resume --all`, or a server with `--execute`."""
    refuse_unbuilt(chain.plan)
    plan = engine.adapter.prepared(chain.plan)
    run_id = run_id or engine.store.new_id()
    await engine.store.create_run(await new_run(engine.store, run_id, plan, inputs))
    return run_id


async def _refuse_taken(engine: Engine, run_id: str) -> None:
    if "/" in run_id or run_id.startswith(".") or not run_id.isprintable():
        raise InputInvalid("E_RUN_ID", "a run id", found=run_id, allowed="printable characters, no /, no leading .")
    if await engine.get_chain(run_id) is not None:
        raise RunRefused("E_RUN_EXISTS", "there is a run of that id", found=run_id, cure="choose another run_id")


def _chain(body: StartBody, folder: Path | None) -> ChainFile:
    if (body.chain is None) == (body.yaml is None):
        raise Refused(422, "E_BODY_FIELD", "name a `chain`, or send its `yaml`: one of the two")
    if body.yaml is not None:
        place = _NOWHERE if folder is None else folder
        return load_chain_text(body.yaml.encode(), folder=place, source=SOURCE, imports=False)
    assert body.chain is not None
    found = None if folder is None else find_chain(body.chain, folder)
    if found is None:
        raise Refused(404, "E_CHAIN_FILE", "there is no such chain file", found=body.chain)
    return _loaded(found)


def _loaded(path: Path) -> ChainFile:
    return load_chain(path, imports=False)


def chain_files(folder: Path | None) -> list[ChainFileRow]:
    """The chain files that may be started by their names, with what is wrong with those that may not."""
    if folder is None or not folder.is_dir():
        return []
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())[:MAX_FILES]
    return [_row(folder, name) for name in names]


def _row(folder: Path, name: str) -> ChainFileRow:
    try:
        path = find_chain(name, folder)
        assert path is not None, "it was listed"
        plan = _loaded(path).plan
        _refuse_unknown_steps(plan)
        _refuse_sources(plan)
    except TowpathError as error:
        return ChainFileRow(chain=name, valid=False, problem=f"{error.problem.message} [{error.code}]")
    return ChainFileRow(
        chain=name,
        valid=True,
        name=plan.name,
        description=plan.description,
        inputs=inputs_of(plan),
        steps=len(plan.steps),
    )


def _steps(plan: Plan) -> Iterable[StepPlan]:
    for step in plan.steps:
        yield step
        if step.chain is not None:
            yield from _steps(step.chain)


def _refuse_unknown_steps(plan: Plan) -> None:
    for step in _steps(plan):
        if step.kind == "python" and not _is_loaded(step.target):
            raise StepNotRegistered(
                "E_STEP_NOT_REGISTERED",
                "this server has not loaded that step, and imports nothing for a request",
                place=Place(step=step.id, field="python"),
                found=step.target,
                cure="start it with --import and the module of the step",
            )


def _is_loaded(name: str) -> bool:
    """Is this a step of a module that is imported already? Looking does not import it."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None) if found is not None else None
    return isinstance(found, Step)


def _refuse_sources(plan: Plan) -> None:
    for spec in plan.inputs:
        if spec.source:
            place = Place(field=f"inputs.{spec.name}.source")
            cure = "leave `source` out and give the input as an artifact"
            message = "a chain started from outside reads no files here"
            raise InputInvalid("E_INPUT_SOURCE", message, place=place, cure=cure)


async def _inputs(engine: Engine, plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    specs = {spec.name: spec for spec in plan.inputs}
    return {name: await _input(engine, specs.get(name), name, value) for name, value in given.items()}


async def _input(engine: Engine, spec: InputSpec | None, name: str, value: Any) -> Any:
    if spec is not None and spec.secret and value is not None:
        return Secret(value)  # always encrypted: whether a variable of this process holds it is not theirs to learn
    return await _file(engine, name, value) if spec is not None and spec.type == "file" else value


async def _file(engine: Engine, name: str, value: Any) -> Any:
    place = Place(field=f"inputs.{name}")
    allowed = '{"artifact": id} or {"base64": text, "filename": name}'
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() == {"artifact"} and isinstance(value["artifact"], str):
        row = await engine.get_artifact(value["artifact"])
        if row is None:
            raise InputInvalid("E_ARTIFACT_MISSING", "there is no such artifact", place=place, found=value["artifact"])
        return Artifact(artifact_row(row), engine.store.files)
    if isinstance(value, dict) and {"base64"} <= value.keys() <= {"base64", "filename"}:
        try:
            data = base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise InputInvalid("E_INPUT_TYPE", "that is no base64", place=place) from None
        filename = value.get("filename")
        if filename is None or isinstance(filename, str):
            return File(data, filename=filename)
    found = type(value).__name__
    raise InputInvalid("E_INPUT_TYPE", f"input {name} is a file", place=place, found=found, allowed=allowed)
