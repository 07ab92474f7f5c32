"""Checks a graph against a server's node types (`/object_info`) before it is submitted there.

Only certain errors are reported. A declaration that is not understood here is not checked; the server decides.
Servers do not check nodes that no output needs, and neither does this module. Two things only the server knows:
files that are uploaded later, and nodes that check a value themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from towpath.errors import Place, Problem, shown, similar
from towpath.model import Json

from .api_format import is_link, node_title
from .parameters import WRAPPED

SHOWN = 10  # choices in an error

_UPLOADED = frozenset({"image", "video", "audio", "file", "mask", "model_file"})
_DYNAMIC = "COMFY_"  # types that stand for others, or for inputs whose number or kind depends on a value


def check_against(graph: Mapping[str, Any], info: Mapping[str, Any]) -> list[Problem]:
    """What a server with these node types would refuse in the graph, in the order of its nodes.

    `info` is the body of `/object_info`. The codes are E_NODE_UNKNOWN for a type that the server does not
    have, E_NODE_INPUT for a required input that is missing, E_NODE_CHOICE, E_NODE_RANGE, E_NODE_LINK.
    """
    needed = _needed(graph, info)
    problems: list[Problem] = []
    for node_id, node in graph.items():
        spot = _Spot(graph, info, node_id, node)
        if node["class_type"] not in info:
            problems.append(_unknown(spot))
        elif node_id in needed:
            problems += _inputs(spot)
    return problems


def _needed(graph: Mapping[str, Any], info: Mapping[str, Any]) -> set[str]:
    """The output nodes and all nodes that they depend on; every node if no output node is known."""
    rest = [node_id for node_id, node in graph.items() if _about(info, node["class_type"]).get("output_node") is True]
    needed: set[str] = set()
    while rest:
        node_id = rest.pop()
        if node_id in needed or node_id not in graph:
            continue
        needed.add(node_id)
        rest += (value[0] for value in graph[node_id]["inputs"].values() if is_link(value))
    return needed or set(graph)


def _about(info: Mapping[str, Any], class_type: str) -> Mapping[str, Any]:
    about = info.get(class_type)
    return about if isinstance(about, Mapping) else {}


@dataclass(frozen=True, slots=True)
class _Spot:
    """A node of the graph, with what checks and error messages need."""

    graph: Mapping[str, Any]
    info: Mapping[str, Any]
    node_id: str
    node: Mapping[str, Any]

    @property
    def label(self) -> str:
        title, kind = node_title(self.node), self.node["class_type"]
        named = f"node {shown(self.node_id)} ({shown(kind)}"
        return f"{named})" if title == kind else f'{named}, "{shown(title)}")'

    def problem(
        self, code: str, message: str, input_key: str = "", found: object = "", allowed: str = "", cure: str = ""
    ) -> Problem:
        field = f"{self.node_id}.{input_key}" if input_key else self.node_id
        shown_value = "" if found == "" else shown(found)
        return Problem(code, f"{self.label}: {message}", Place(field=shown(field)), shown_value, allowed, cure)


def _unknown(spot: _Spot) -> Problem:
    kind = spot.node["class_type"]
    guess = similar(kind, [name for name in spot.info if isinstance(name, str)])
    cure = "install the custom nodes on this server, or use another server"
    message = "the server does not have this type of node"
    return spot.problem("E_NODE_UNKNOWN", message, found=kind, cure=f"{guess} Or {cure}" if guess else cure)


def _inputs(spot: _Spot) -> Iterator[Problem]:
    declared = dict(_declared(_about(spot.info, spot.node["class_type"])))
    given = spot.node["inputs"]
    for spec in declared.values():
        if spec.required and spec.name not in given and not spec.dynamic:
            message = f"the required input {shown(spec.name)} is missing"
            yield spot.problem(
                "E_NODE_INPUT", message, spec.name, allowed=spec.kind if isinstance(spec.kind, str) else ""
            )
    for input_key, value in given.items():
        spec_of_it = declared.get(input_key)
        problem = _link(spot, input_key, value, spec_of_it) if is_link(value) else _value(spot, value, spec_of_it)
        if problem is not None:
            yield problem


@dataclass(frozen=True, slots=True)
class _Spec:
    """A server's declaration of one input. `kind` is its type, or in the older form the list of its choices."""

    name: str
    kind: Json
    options: Mapping[str, Any]
    required: bool

    @property
    def dynamic(self) -> bool:
        return isinstance(self.kind, str) and self.kind.startswith(_DYNAMIC)

    @property
    def choices(self) -> list[Json] | None:
        """The allowed values, if they are a list of plain values; None otherwise."""
        listed = self.options.get("options") if self.kind == "COMBO" else self.kind
        if not isinstance(listed, list) or not all(isinstance(c, str | int | float | bool) for c in listed):
            return None
        return listed


def _declared(about: Mapping[str, Any]) -> Iterator[tuple[str, _Spec]]:
    inputs = about.get("input")
    for group in ("optional", "required"):
        specs = inputs.get(group) if isinstance(inputs, Mapping) else None
        for name, spec in specs.items() if isinstance(specs, Mapping) else ():
            if isinstance(name, str) and isinstance(spec, list) and spec:
                options = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
                yield name, _Spec(name, spec[0], options, group == "required")


def _link(spot: _Spot, input_key: str, value: Json, spec: _Spec | None) -> Problem | None:
    source_id, slot = value
    if source_id not in spot.graph:
        return spot.problem("E_NODE_LINK", f"there is no node {shown(source_id)}", input_key, value)
    source = spot.graph[source_id]["class_type"]
    outputs = _about(spot.info, source).get("output")
    if not isinstance(outputs, list):
        return None
    if not 0 <= slot < len(outputs):
        message, allowed = f"node {shown(source_id)} ({shown(source)}) has no output {slot}", f"0 to {len(outputs) - 1}"
        return spot.problem("E_NODE_LINK", message, input_key, value, allowed if outputs else "it has no outputs")
    if spec is None or spec.dynamic or _types_fit(outputs[slot], spec.kind):
        return None
    message = f"output {slot} of node {shown(source_id)} ({shown(source)}) is of another type"
    return spot.problem("E_NODE_LINK", message, input_key, outputs[slot], shown(spec.kind))


def _types_fit(sent: Json, wanted: Json) -> bool:
    """Whether an output may be linked to an input: they share a type, or one accepts all. Lists are not checked."""
    if not isinstance(sent, str) or not isinstance(wanted, str) or "COMBO" in (sent, wanted):
        return True
    sent_types, wanted_types = ({part.strip() for part in text.split(",")} for text in (sent, wanted))
    either = sent_types | wanted_types
    return "*" in either or any(t.startswith(_DYNAMIC) for t in either) or not sent_types.isdisjoint(wanted_types)


def _value(spot: _Spot, value: Json, spec: _Spec | None) -> Problem | None:
    if spec is None:
        return None
    if isinstance(value, Mapping) and WRAPPED in value:
        value = value[WRAPPED]
    if isinstance(value, int | float) and not isinstance(value, bool) and spec.kind in ("INT", "FLOAT"):
        return _range(spot, value, spec)
    if spec.choices is None or _arrives_later(spot, spec):
        return None
    chosen = value if isinstance(value, list) and spec.options.get("multiselect") is True else [value]
    wrong = [one for one in chosen if one not in spec.choices]
    return _no_choice(spot, wrong[0], spec, spec.choices) if wrong else None


def _no_choice(spot: _Spot, value: Json, spec: _Spec, choices: list[Json]) -> Problem:
    more = f" … and {len(choices) - SHOWN} more" if len(choices) > SHOWN else ""
    allowed = " ".join(shown(str(choice)) for choice in choices[:SHOWN]) + more
    cure = similar(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
    message = f"the server does not have this {shown(spec.name)}"
    return spot.problem("E_NODE_CHOICE", message, spec.name, value, allowed or "the server has none", cure)


def _arrives_later(spot: _Spot, spec: _Spec) -> bool:
    """Whether the choices are files in the server's input folder, where files are uploaded before the run."""
    if any(isinstance(name, str) and name.endswith("upload") and on for name, on in spec.options.items()):
        return True
    return spec.name in _UPLOADED and "load" in spot.node["class_type"].lower()  # not every node declares it


def _range(spot: _Spot, value: float, spec: _Spec) -> Problem | None:
    least, most = (_bound(spec.options.get(name)) for name in ("min", "max"))
    if (least is None or value >= least) and (most is None or value <= most):
        return None
    allowed = f"from {least}" if most is None else f"to {most}" if least is None else f"from {least} to {most}"
    return spot.problem("E_NODE_RANGE", f"{shown(spec.name)} is out of range", spec.name, value, allowed)


def _bound(bound: Json) -> float | None:
    """The limit of a number, None if there is none; NaN is no limit."""
    return bound if isinstance(bound, int | float) and not isinstance(bound, bool) and bound == bound else None  # noqa: PLR0124
