"""ComfyUI's API format: `{node id: {class_type, inputs, _meta?}}`, with a value or a link in every input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from towpath.errors import InputInvalid, Place, shown
from towpath.model import Json

_NODE = "{class_type, inputs} for each node id"
_EXPORT = "in ComfyUI turn on the dev mode, choose Workflow > Export (API), and use that file"


def is_link(value: object) -> bool:
    """Whether the value of an input is a link to another node's output: `[node id, slot]`."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def node_title(node: Mapping[str, Any]) -> str:
    """The name of a node for people: its title, or its class if it has none."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return title if isinstance(title, str) and title.strip() else str(node.get("class_type", ""))


def literals(graph: Mapping[str, Any]) -> Iterator[tuple[str, str, Json]]:
    """Node id, input and value of every input whose value is not a list; ComfyUI reads every list as a link."""
    for node_id, node in graph.items():
        for input_key, value in node["inputs"].items():
            if not isinstance(value, list):
                yield node_id, input_key, value


def checked_graph(data: Json, place: Place) -> dict[str, Any]:
    """The graph in the data of a workflow file. Raises InputInvalid, E_WORKFLOW_FORMAT, with the node as field."""
    if not isinstance(data, dict):
        _fail("a workflow is an object of nodes", place, type(data).__name__, _NODE, _EXPORT)
    graph = _unwrapped(data)
    if any(isinstance(body, dict) and isinstance(body.get("nodes"), list) for body in (graph, graph.get("workflow"))):
        message = "this is a workflow in the editor's format, which a server cannot run"
        _fail(message, place, "lists of nodes and links", _NODE, _EXPORT)
    if not graph:
        _fail("the workflow has no nodes", place, cure=_EXPORT)
    for node_id, node in graph.items():
        _check_node(node, Place(place.file, field=shown(node_id)))
    for node_id, node in graph.items():
        for input_key, value in node["inputs"].items():
            _check_link(value, graph, Place(place.file, field=shown(f"{node_id}.{input_key}")))
    return graph


def _unwrapped(data: dict[str, Any]) -> dict[str, Any]:
    """The graph itself: a file may hold it as the `prompt` of a request to a server."""
    inner = data.get("prompt")
    return inner if isinstance(inner, dict) and "class_type" not in inner else data


def _check_node(node: Json, place: Place) -> None:
    if not isinstance(node, dict):
        _fail("a node is not an object", place, type(node).__name__, _NODE, _EXPORT)
    class_type = node.get("class_type")
    if not isinstance(class_type, str) or not class_type:
        found = "" if class_type is None else class_type
        _fail("a node has no class_type", place, found, _NODE, _EXPORT)
    if not isinstance(node.get("inputs"), dict):
        found = type(node["inputs"]).__name__ if "inputs" in node else ""
        _fail("the inputs of a node are not an object", place, found, _NODE, _EXPORT)


def _check_link(value: Json, graph: Mapping[str, Any], place: Place) -> None:
    if is_link(value) and value[0] not in graph:
        message = f"it is linked to node {shown(value[0])}, which does not exist"
        _fail(message, place, value, cure="export the workflow again")
    if isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value):
        message = "a link names its node by a number instead of text"
        _fail(message, place, value, '["node id", slot]', _EXPORT)


def _fail(message: str, place: Place, found: object = "", allowed: str = "", cure: str = "") -> NoReturn:
    raise InputInvalid("E_WORKFLOW_FORMAT", message, place=place, found=found, allowed=allowed, cure=cure)
