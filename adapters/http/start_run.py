"""Start, rerun and resume runs over HTTP. Nothing is imported for a request.

A chain is sent as YAML or named in the folder of chain files. It may only name steps that this process has loaded.
A request opens no file of this machine, neither by its inputs nor by its YAML. A chain in the folder may read files of
that folder: its author has access to them anyway.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request

from towpath.adapters.wiring import Engine
from towpath.artifact import Artifact, File
from towpath.chain_file import ChainFile, load_chain, load_chain_text
from towpath.chain_files import find_chain
from towpath.errors import InputInvalid, Place, RunRefused, StepNotRegistered, TowpathError
from towpath.model import ChainStatus, InputSpec, Plan, StepPlan
from towpath.new_run import (
    Reads,
    new_run,
    not_for_the_author,
    refuse_unbuilt,
    refuse_written_paths,
    written_path,
)
from towpath.rerun import rerun_of
from towpath.run_labels import check_run_id, label_of, relabelled
from towpath.secrets import Secret
from towpath.steps import find_step, is_loaded

from . import reading
from .access import engine_of, principal_of, records_of
from .errors import Refused
from .requests import RerunBody, StartBody
from .responses import ChainFileRow, Started, chain_inputs

SOURCE = "request"
_NOWHERE = Path(os.devnull, "no-chains")
MAX_FILES = 1_000
_SUFFIXES = (".yaml", ".yml")


async def start(request: Request, body: StartBody) -> Started:
    """Record a run; a server that executes starts it at once. Raises ChainInvalid, InputInvalid, StepNotRegistered."""
    engine, settings = engine_of(request), request.app.state.settings
    plan = (await run_sync(_chain, body, settings.chains, limiter=request.app.state.parsers)).plan
    _refuse_unknown_steps(plan)
    _refuse_paths_outside(plan, settings.chains)
    inputs = await _inputs(engine, plan, body.inputs)
    label = label_of(body.name, body.tags)
    if body.run_id is not None:
        await _refuse_known_id(engine, body.run_id)
    refuse_unbuilt(plan)
    if body.yaml is not None:
        refuse_written_paths(plan)
    reads = Reads.NOTHING if body.chain is None else Reads.WRITTEN
    run_id = body.run_id or engine.store.new_id()
    new = await new_run(engine.store, run_id, engine.adapter.with_resources(plan), inputs, reads=reads, label=label)
    if not await engine.store.create_run(replace(new, by=principal_of(request).name)):
        raise _run_exists(run_id)
    request.app.state.unattended.resume(run_id)
    return Started(id=run_id, status="pending", executing=settings.execute)


async def rerun(request: Request, run_id: str, body: RerunBody) -> Started:
    """Record a run that reuses what another run completed. Raises RunRefused, InputInvalid (E_STEP_UNKNOWN, …)."""
    engine = engine_of(request)
    old = await engine.store.load(run_id)
    inputs = await _inputs(engine, old.plan, body.inputs)
    label = relabelled(old.label, body.name, body.tags)
    new = await rerun_of(engine.store, old, tuple(body.from_steps), inputs, body.parameters, label=label)
    refuse_unbuilt(new.plan)
    new = replace(new, plan=engine.adapter.with_resources(new.plan), by=principal_of(request).name)
    await engine.store.create_run(new)
    request.app.state.unattended.resume(new.id)
    return Started(id=new.id, status="pending", executing=request.app.state.settings.execute)


async def request_resume(request: Request, run_id: str) -> ChainStatus:
    """Have a run resumed by this process; its status now.

    Raises RunRefused: E_RUN_MISSING, E_RUN_OVER; Refused (409 E_SERVE_IDLE) if this process does not execute.
    """
    run = await engine_of(request).store.load(run_id)
    if run.status.final:
        raise RunRefused("E_RUN_OVER", f"run {run_id} is {run.status}", cure="`rerun` makes a new run of it")
    if not request.app.state.settings.execute:
        cure = f"`towpath resume {run_id}` where its steps are, or start the server with --execute"
        raise Refused(409, "E_SERVE_IDLE", "this server does not execute runs", cure=cure)
    await records_of(request).note_resume(run_id, principal_of(request).name)
    request.app.state.unattended.resume(run_id)
    return run.status


async def _refuse_known_id(engine: Engine, run_id: str) -> None:
    check_run_id(run_id)
    if await engine.get_chain(run_id) is not None:
        raise _run_exists(run_id)


def _run_exists(run_id: str) -> RunRefused:
    return RunRefused("E_RUN_EXISTS", "a run with this id exists", found=run_id, cure="choose another run_id")


def _chain(body: StartBody, folder: Path | None) -> ChainFile:
    if (body.chain is None) == (body.yaml is None):
        raise Refused(422, "E_BODY_FIELD", "send either `chain` or `yaml`")
    if body.yaml is not None:
        place = _NOWHERE if folder is None else folder
        return load_chain_text(body.yaml.encode(), folder=place, source=SOURCE, imports=False)
    assert body.chain is not None
    found = None if folder is None else find_chain(body.chain, folder, any_name=False)
    if found is None:
        raise Refused(404, "E_CHAIN_FILE", "there is no such chain file", found=body.chain)
    return _loaded(found)


def _loaded(path: Path) -> ChainFile:
    return load_chain(path, imports=False)


def chain_files(folder: Path | None) -> list[ChainFileRow]:
    """The chain files that can be started by name, and the problem of each one that cannot."""
    if folder is None or not folder.is_dir():
        return []
    names = sorted(p.name for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file())[:MAX_FILES]
    return [_row(folder, name) for name in names]


def _row(folder: Path, name: str) -> ChainFileRow:
    try:
        path = find_chain(name, folder)
        assert path is not None, "the folder lists it"
        plan = _loaded(path).plan
        _refuse_unknown_steps(plan)
        _refuse_paths_outside(plan, folder)
    except TowpathError as error:
        return ChainFileRow(chain=name, valid=False, problem=f"{error.problem.message} [{error.code}]")
    return ChainFileRow(
        chain=name,
        valid=True,
        name=plan.name,
        description=plan.description,
        inputs=chain_inputs(plan),
        steps=len(plan.steps),
    )


def _plans(plan: Plan) -> Iterable[Plan]:
    yield plan
    for step in plan.steps:
        if step.chain is not None:
            yield from _plans(step.chain)


def _steps(plan: Plan) -> Iterable[StepPlan]:
    for step in plan.steps:
        yield step
        if step.chain is not None:
            yield from _steps(step.chain)


def _refuse_unknown_steps(plan: Plan) -> None:
    for step in _steps(plan):
        if step.kind == "python" and is_loaded(step.target):
            find_step(step.target)  # raises if two functions share the name
        elif step.kind == "python":
            raise StepNotRegistered(
                "E_STEP_NOT_REGISTERED",
                "this server has not loaded this step, and imports nothing for a request",
                place=Place(step=step.id, field="python"),
                found=step.target,
                cure="start the server with --import and the module of the step",
            )


def _refuse_paths_outside(plan: Plan, folder: Path | None) -> None:
    """Chains of the folder may only read files inside of it, links followed. Raises InputInvalid (E_INPUT_SOURCE)."""
    root = os.path.realpath(folder or _NOWHERE)
    for one in _plans(plan):
        for spec in one.inputs:
            path = written_path(one, spec)
            if path is not None and os.path.commonpath([root, os.path.realpath(path)]) != root:
                raise not_for_the_author(spec)


async def _inputs(engine: Engine, plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    specs = {spec.name: spec for spec in plan.inputs}
    return {name: await _input(engine, specs.get(name), name, value) for name, value in given.items()}


async def _input(engine: Engine, spec: InputSpec | None, name: str, value: Any) -> Any:
    if spec is not None and spec.secret and value is not None:
        return Secret(
            value
        )  # always kept encrypted: a caller must not learn whether a variable of this process has the same text
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
        return Artifact(reading.artifact_row(row), engine.store.files)
    if isinstance(value, dict) and {"base64"} <= value.keys() <= {"base64", "filename"}:
        try:
            data = await run_sync(partial(base64.b64decode, value["base64"], validate=True))
        except (binascii.Error, ValueError, TypeError):
            raise InputInvalid("E_INPUT_TYPE", "this is not base64", place=place) from None
        filename = value.get("filename")
        if filename is None or isinstance(filename, str):
            return File(data, filename=filename)
    found = type(value).__name__
    raise InputInvalid("E_INPUT_TYPE", f"input {name} must be a file", place=place, found=found, allowed=allowed)
