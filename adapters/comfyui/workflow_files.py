"""ComfyUI workflow files, and the override files beside them that say which inputs may be set.

`imageSave.json` is a workflow in ComfyUI's API format: `{node id: {class_type, inputs, _meta?}}`, where an
input is a value or a link `[node id, slot]`. `imageSave_overrides.json` lists its parameters. Removing one
there freezes it; its type, description, default and category are the user's to edit.

When the workflow changes, these edits are kept. For that, an override file also has `workflow_values`: the values of
the workflow's inputs when the file was written. They show whether a parameter was removed or its input is new, and
whether a default was edited or came from the workflow. Files of other systems do not have them: there a node without
any parameter counts as new, and every default counts as edited.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NoReturn, Self

import msgspec

from towpath.errors import InputInvalid, Place, shown
from towpath.model import Json

from .api_format import checked_graph, literals, node_title
from .json_files import parse, read_bytes, reason

OVERRIDES = "_overrides.json"
TYPES = ("str", "int", "float", "bool", "any")

_NAMED_TYPES = {name: name for name in TYPES} | dict.fromkeys(("dict", "list", "NoneType"), "any")
_AGAIN = "correct it, or move it away and write a new one"
_ABOUT = (
    "The parameters that may be set. Remove one to freeze it; edit its type, description, default_value or category. "
    "default_value is only shown to people: without a parameter the workflow file's own value is used."
)

# JavaScript writes 1.0 as 1, so the inputs of these names take fractions even if the file shows an integer.
_FRACTIONS = frozenset(
    "alpha blend cfg denoise duration eta factor fps guidance opacity percent rate ratio scale seconds shift sigma "
    "strength temperature threshold weight".split()
)
_CATEGORIES = (  # the first one whose pattern is in the input's name
    ("prompts", re.compile("text|prompt")),
    ("dimensions", re.compile("^(width|height|length|batch_size)$")),
    ("generation", re.compile("seed")),
    ("sampling", re.compile("^(steps|cfg|denoise|sampler_name|scheduler)$")),
    ("video", re.compile("fps|frame|duration")),
    ("media", re.compile("image|video|audio")),
    ("models", re.compile("model|lora|vae|ckpt|unet|clip_name")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """An input of a node that may be set.

    `key` is its name, usually `<node id>.<input>`. `type` is one of `str int float bool any`. `default` is shown to
    people and never written into the graph. `choices`, if there are any, are all the allowed values.
    """

    key: str
    node_id: str
    input_key: str
    type: str
    default: Json = None
    node_class: str = ""
    node_title: str = ""
    description: str = ""
    category: str = "other"
    choices: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow: its graph, and by key the parameters that may be set.

    `stale` says that the override file was written for another version of the workflow and was adapted to this one
    in memory; `write_overrides` writes the adapted file.
    """

    name: str
    graph: dict[str, Any]
    parameters: dict[str, Parameter]
    stale: bool = False

    def to_json(self) -> dict[str, Json]:
        """Plain JSON, which is stored with a run and read by other processes."""
        data: dict[str, Json] = msgspec.to_builtins(self)
        return data

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The workflow in the result of `to_json`. Raises InputInvalid (E_WORKFLOW_FORMAT) for anything else."""
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise InputInvalid("E_WORKFLOW_FORMAT", f"this is not a stored workflow: {error}") from None


# -- reading


def read_workflow(path: Path, name: str) -> Workflow:
    """The workflow in `path` with the parameters of its override file; without one, every value is a parameter.

    Raises:
        InputInvalid: E_WORKFLOW_FILE if it cannot be read or has more than 32 MB, E_WORKFLOW_JSON,
            E_WORKFLOW_FORMAT if it is not a workflow in API format, E_WORKFLOW_OVERRIDES for a wrong override file.
    """
    return _read(path, name)[0]


def discover(folder: Path) -> list[Workflow | InputInvalid]:
    """The workflow files of a folder in the order of their names, without subfolders; for an invalid one, its error.

    Raises:
        InputInvalid: E_WORKFLOW_FILE if the folder cannot be read.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".json") and not entry.is_dir()]
    except OSError as error:
        _fail("E_WORKFLOW_FILE", f"the folder cannot be read: {reason(error)}", Place(str(folder)))
    found: list[Workflow | InputInvalid] = []
    for name in sorted(name.removesuffix(".json") for name in names):
        if name.startswith(".") or f"{name}.json".endswith(OVERRIDES):
            continue
        try:
            found.append(read_workflow(folder / f"{name}.json", name))
        except InputInvalid as error:
            found.append(error)
    return found


def overrides_path(path: Path) -> Path:
    """Where the override file of a workflow file is."""
    return path.with_name(path.name.removesuffix(".json") + OVERRIDES)


def workflow_hash(graph: Mapping[str, Any]) -> str:
    """`sha256:…` of the graph as JSON with sorted keys: which version of a workflow an override file is for."""
    return _hash(graph, None)


def _hash(graph: Mapping[str, Any], separators: tuple[str, str] | None) -> str:
    text = json.dumps(graph, sort_keys=True, ensure_ascii=False, separators=separators)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _read(path: Path, name: str) -> tuple[Workflow, bytes]:
    """The workflow, and the bytes of its override file, b"" if there is none."""
    graph = checked_graph(parse(read_bytes(path, "E_WORKFLOW_FILE"), path, "E_WORKFLOW_JSON"), Place(str(path)))
    beside = overrides_path(path)
    if not os.path.lexists(beside):  # a dangling link is an error: as a missing file it would allow every parameter
        return Workflow(name, graph, {p.key: p for p in _generated(graph)}), b""
    content, place = read_bytes(beside, "E_WORKFLOW_OVERRIDES"), Place(str(beside))
    written = _checked_overrides(parse(content, beside, "E_WORKFLOW_OVERRIDES"), place)
    listed = _listed(written, graph, place)
    # Some systems hash the JSON without spaces.
    if written["workflow_hash"] not in (workflow_hash(graph), _hash(graph, (",", ":"))):
        return Workflow(name, graph, _adapted(listed, written.get("workflow_values"), graph), stale=True), content
    for parameter in listed:
        _check_target(parameter, graph, place)
    return Workflow(name, graph, {p.key: p for p in listed}), content


def _fail(code: str, message: str, place: Place, found: object = "", allowed: str = "", cure: str = "") -> NoReturn:
    raise InputInvalid(code, message, place=place, found=found, allowed=allowed, cure=cure)


# -- what may be set


def _generated(graph: Mapping[str, Any]) -> Iterator[Parameter]:
    """A parameter for every value of the graph."""
    for node_id, input_key, value in literals(graph):
        node = graph[node_id]
        yield Parameter(
            key=f"{node_id}.{input_key}",
            node_id=node_id,
            input_key=input_key,
            type=_type_of(input_key, value),
            default=value,
            node_class=node["class_type"],
            node_title=node_title(node),
            description=f"{input_key} of {node_title(node)}",
            category=_category(input_key),
        )


def _type_of(input_key: str, value: Json) -> str:
    name = _NAMED_TYPES.get(type(value).__name__, "any")
    return "float" if name == "int" and _takes_fractions(input_key) else name


def _takes_fractions(input_key: str) -> bool:
    return not _FRACTIONS.isdisjoint(re.split(r"[_.]", input_key.lower()))


def _category(input_key: str) -> str:
    return next((name for name, pattern in _CATEGORIES if pattern.search(input_key.lower())), "other")


def _checked_overrides(written: Json, place: Place) -> dict[str, Any]:
    """The override file, checked: it has a hash and a list of parameters with a key each."""
    if not isinstance(written, dict):
        _wrong_overrides("an override file is an object", place, type(written).__name__)
    if not isinstance(written.get("workflow_hash"), str):
        _wrong_overrides("workflow_hash is missing", place, allowed='"sha256:…"')
    entries = written.get("parameters")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        _wrong_overrides("parameters is not a list of objects", place)
    keys = [entry.get("key") for entry in entries]
    for key in keys:
        if not isinstance(key, str) or not key:
            _wrong_overrides("a parameter has no key", place, allowed="<node id>.<input>")
    if twice := next((key for key, more in Counter(keys).items() if more > 1), ""):
        _wrong_overrides("a parameter is listed twice", place, twice)
    if not isinstance(written.get("workflow_values", {}), dict):
        _wrong_overrides("workflow_values is not an object", place)
    return written


def _wrong_overrides(message: str, place: Place, found: object = "", allowed: str = "") -> NoReturn:
    _fail("E_WORKFLOW_OVERRIDES", message, place, found, allowed, _AGAIN)


def _listed(written: Mapping[str, Any], graph: Mapping[str, Any], place: Place) -> list[Parameter]:
    """The parameters of an override file. Their class and title are as in the graph now."""
    generated = "workflow_values" not in written  # by a system that reads every 1 as an int
    return [
        _entry(entry, graph, Place(place.file, field=shown(entry["key"])), generated) for entry in written["parameters"]
    ]


def _entry(entry: Mapping[str, Any], graph: Mapping[str, Any], place: Place, generated: bool) -> Parameter:
    before, _, after = entry["key"].partition(".")
    node_id, input_key = entry.get("node_id", before), entry.get("input_key", after)
    if not isinstance(node_id, str) or not isinstance(input_key, str) or not input_key:
        _wrong_overrides("it does not say which input of which node it is", place, allowed="<node id>.<input>")
    node = graph.get(node_id, {})
    default = entry.get("default_value", node.get("inputs", {}).get(input_key))
    named = entry.get("type", _type_of(input_key, default))
    if not isinstance(named, str) or named not in _NAMED_TYPES:
        _wrong_overrides("there is no such type", place, named, " ".join(TYPES))
    words = {name: entry.get(name, usual) for name, usual in (("description", ""), ("category", _category(input_key)))}
    choices = entry.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(word, str) for word in words.values()):
        _wrong_overrides("description and category are text, choices is a list", place)
    return Parameter(
        key=entry["key"],
        node_id=node_id,
        input_key=input_key,
        type="float" if generated and named == "int" and _takes_fractions(input_key) else _NAMED_TYPES[named],
        default=default,
        node_class=str(node.get("class_type", "")),
        node_title=node_title(node),
        choices=tuple(choices),
        **words,
    )


def _check_target(parameter: Parameter, graph: Mapping[str, Any], place: Place) -> None:
    """Refuse a parameter that cannot be set. An input that is missing in the workflow is added when it is set."""
    place = Place(place.file, field=shown(parameter.key))
    node = graph.get(parameter.node_id)
    if node is None:
        _wrong_overrides("the workflow has no such node", place, parameter.node_id)
    if isinstance(node["inputs"].get(parameter.input_key), list):
        _wrong_overrides("this input is linked to another node, so it cannot be set", place)


def _adapted(
    listed: list[Parameter], values: Mapping[str, Json] | None, graph: Mapping[str, Any]
) -> dict[str, Parameter]:
    """The parameters for another version of the workflow: those of the user, and new inputs."""
    now = {(node_id, input_key): value for node_id, input_key, value in literals(graph)}
    kept = [_followed(p, values, now[p.node_id, p.input_key]) for p in listed if (p.node_id, p.input_key) in now]
    known = {(p.node_id, p.input_key) for p in listed}
    nodes = {p.node_id for p in listed}
    new = [
        p
        for p in _generated(graph)
        if (p.node_id, p.input_key) not in known and (p.node_id not in nodes if values is None else p.key not in values)
    ]
    return {p.key: p for p in (*kept, *new)}


def _followed(parameter: Parameter, values: Mapping[str, Json] | None, now: Json) -> Parameter:
    """The parameter with the default and type of the new version, unless the user had edited them."""
    at = f"{parameter.node_id}.{parameter.input_key}"
    if values is None or at not in values:
        return parameter
    was, same_type = values[at], parameter.type == _type_of(parameter.input_key, values[at])
    return replace(
        parameter,
        default=now if (type(was), was) == (type(parameter.default), parameter.default) else parameter.default,
        type=_type_of(parameter.input_key, now) if same_type else parameter.type,
    )


# -- writing


def overrides_of(workflow: Workflow) -> dict[str, Json]:
    """The override file for this version of a workflow, as JSON."""
    return {
        "workflow_hash": workflow_hash(workflow.graph),
        "generated_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "workflow_name": workflow.name,
        "description": _ABOUT,
        "parameters": [_written(parameter) for parameter in workflow.parameters.values()],
        "workflow_values": {f"{node}.{input_key}": value for node, input_key, value in literals(workflow.graph)},
    }


def _written(parameter: Parameter) -> dict[str, Json]:
    return {
        "key": parameter.key,
        "node_id": parameter.node_id,
        "input_key": parameter.input_key,
        "default_value": parameter.default,
        "type": parameter.type,
        "node_class": parameter.node_class,
        "node_title": parameter.node_title,
        "description": parameter.description,
        "category": parameter.category,
        **({"choices": list(parameter.choices)} if parameter.choices else {}),
    }


def write_overrides(path: Path) -> Path | None:
    """Write the override file of a workflow file, or adapt it to a changed workflow. None if it is up to date.

    Everything that people wrote into it is kept, also keys that towpath does not know. The old file is kept as
    `….bak1`, `….bak2` and so on. The new file is complete or not there at all.

    Raises:
        InputInvalid: as `read_workflow`, and E_WORKFLOW_FILE if it cannot be written.
    """
    workflow, before = _read(path, path.name.removesuffix(".json"))
    if before and not workflow.stale:
        return None
    beside = overrides_path(path)
    made = overrides_of(workflow)
    if before:
        made = _with_edits(made, json.loads(before.decode("utf-8-sig")))
    try:
        target = Path(os.path.realpath(beside))
        if before:
            _back_up(target, before)
        _replace(target, json.dumps(made, indent=2, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        _fail("E_WORKFLOW_FILE", f"it cannot be written: {reason(error)}", Place(str(beside)))
    return beside


def _with_edits(made: dict[str, Json], old: Mapping[str, Any]) -> dict[str, Json]:
    """The new file, with all other keys of the old one."""
    entries = {entry["key"]: entry for entry in old["parameters"]}
    parameters = [{**entries.get(entry["key"], {}), **entry} for entry in made["parameters"]]
    return {**old, **made, "description": old.get("description", made["description"]), "parameters": parameters}


def _back_up(target: Path, content: bytes) -> None:
    for number in count(1):
        with suppress(FileExistsError), open(f"{target}.bak{number}", "xb") as file:
            file.write(content)
            return


def _replace(target: Path, content: bytes) -> None:
    temp = target.with_name(f".{target.name}-{secrets.token_hex(8)}.tmp")
    try:
        with open(temp, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, target)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
