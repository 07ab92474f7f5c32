"""A known run id: is the requested run the recorded one, or another run with the same id?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from .errors import Place, RunRefused
from .events import StepEnded
from .input_types import of_shape
from .ledger import INPUTS
from .model import Json, Plan, StepPlan
from .ports import NewRun, RunRow
from .redaction import HIDDEN, redacted
from .secrets import MARK, Secret
from .values import REFERENCE

CURE = "choose another run_id, `rerun` to run it again with changes, or `resume` it as it was recorded"
_WORDS = frozenset({"description", "folder", "metadata"})  # fields that do not change what the run does


def refuse_other_plan(run_id: str, recorded: Plan, given: Plan) -> None:
    """Raises RunRefused (E_RUN_CHAIN) if the run was made of another chain, or of another version of it."""
    if recorded.name != given.name:
        raise _other_chain(run_id, "chain", recorded.name, given.name, Place())
    for where, one, other in _plan_differences(recorded, given):
        raise _other_chain(run_id, f"version of chain {given.name}", one, other, where)


def _other_chain(run_id: str, what: str, recorded: Json, given: Json, place: Place) -> RunRefused:
    message = f"run {run_id} is a run of another {what}"
    return RunRefused("E_RUN_CHAIN", message, place=place, found=_both(recorded, given), cure=CURE)


def _plan_differences(recorded: Plan, given: Plan, within: str = "") -> Iterator[tuple[Place, Json, Json]]:
    """Where two plans of one name differ: the place, the recorded value, the requested value."""
    ids, wanted = [s.id for s in recorded.steps], [s.id for s in given.steps]
    if ids != wanted:
        yield Place(step=within, field="steps"), ids, wanted
        return
    for old, new in zip(recorded.steps, given.steps, strict=True):
        name = f"{within}{old.id}"
        if old.chain is not None and new.chain is not None:
            yield from _plan_differences(old.chain, new.chain, f"{name}.")
        yield from ((Place(step=name, field=f), one, other) for f, one, other in _fields(old, new, {"chain"}))
    yield from ((Place(step=within, field=f), one, other) for f, one, other in _fields(recorded, given, {"steps"}))


def _fields(one: Plan | StepPlan, other: Plan | StepPlan, apart: set[str]) -> Iterator[tuple[str, Json, Json]]:
    for name in (name for name in one.__struct_fields__ if name not in _WORDS | apart):
        old, new = _plain(getattr(one, name)), _plain(getattr(other, name))
        if _json(old) != _json(new):
            yield name, old, new


def _plain(value: Any) -> Json:
    """The value as the store returns it: whole seconds are integers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name not in _WORDS}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def refuse_other_inputs(recorded: RunRow, given: NewRun, folder: Path) -> None:
    """Raises RunRefused (E_RUN_INPUTS) if the run was made with other inputs. Files are compared by their bytes,
    secrets by their values; `folder` has the key for them. Raises SecretMissing if this process cannot read a secret.
    """
    old = {a.name: a.digest for row in recorded.rows if row.step == INPUTS for a in row.artifacts if a.version == 1}
    new = {
        a.name: a.digest
        for fact in given.facts
        if isinstance(fact, StepEnded) and fact.step == INPUTS
        for a in fact.artifacts
    }
    shapes = {spec.name: spec.shape if spec.shape is not None else spec.type for spec in recorded.plan.inputs}
    # A file that was edited or deleted since has no digest to compare with.
    known = {name: digest for name, digest in new.items() if name in old}
    for name in sorted(recorded.inputs.keys() | given.inputs.keys()):
        one = _with_digests(recorded.inputs.get(name), old)
        other = _with_digests(given.inputs.get(name), known)
        as_shape = partial(of_shape, shapes.get(name))
        if _json(as_shape(_opened(one, folder))) != _json(as_shape(_opened(other, folder))):
            raise RunRefused(
                "E_RUN_INPUTS",
                f"run {recorded.id} was made with another {name}",
                place=Place(field=f"inputs.{name}"),
                found=_both(one, other),
                cure=CURE,
            )


def _with_digests(value: Json, digests: Mapping[str, str]) -> Json:
    if isinstance(value, dict):
        if value.keys() == {REFERENCE}:
            return {"file": digests.get(value[REFERENCE], "")[:16]}
        return {key: _with_digests(inner, digests) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_digests(inner, digests) for inner in value]
    return value


def _opened(value: Json, folder: Path) -> Json:
    """The value with plain values for its secrets: the same value is encrypted differently each time."""
    if isinstance(value, dict):
        if value.keys() == {MARK}:
            return [MARK, Secret.kept(value, folder).reveal()]
        return {key: _opened(inner, folder) for key, inner in value.items()}
    return [_opened(inner, folder) for inner in value] if isinstance(value, list) else value


def _hidden(value: Json) -> Json:
    if isinstance(value, dict):
        return HIDDEN if value.keys() == {MARK} else {key: _hidden(inner) for key, inner in value.items()}
    return [_hidden(inner) for inner in value] if isinstance(value, list) else value


def _json(value: Json) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _both(recorded: Json, given: Json) -> str:
    """Both values, from a little before their first difference."""
    one, other = (redacted(_json(_hidden(value)).decode()) for value in (recorded, given))
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = 0 if max(len(one), len(other)) <= _EACH or same <= _BEFORE else same - _BEFORE
    return f"recorded {_from(one, start)}, asked for {_from(other, start)}"


def _from(text: str, start: int) -> str:
    begin = "…" if start else ""
    rest = text[start:]
    return begin + rest if len(begin + rest) <= _EACH else (begin + rest)[: _EACH - 1] + "…"


_BEFORE = 8  # characters that are shown before the first difference
_EACH = 28  # characters of each value, so that an error shows both
