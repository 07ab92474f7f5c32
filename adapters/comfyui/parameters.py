"""Writes the parameters of a step into the graph of its workflow.

A key is `<node id>.<input>`, or `<title>.<input>` if only one node has that title. A node id ends at the first dot,
because inputs may contain dots (`5.resize_type.width`); a title ends at the last dot for which such a title exists.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from posixpath import normpath
from typing import Any

from towpath.errors import InputInvalid, Place, Problem, shown, similar
from towpath.model import Json

from .api_format import is_link, node_title
from .json_files import unfit
from .workflow_files import OVERRIDES, Parameter, Workflow

SHOWN = 20  # keys in an error
COMPARED = 500  # keys, and characters of a key, that are compared to find a similar one
WRAPPED = "__value__"  # a list that is a value, not a link, is sent as {"__value__": […]}

_ACCEPTED: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
_WORDS = {
    "str": "text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "any": "a JSON value",
}


def check_parameters(workflow: Workflow, given: Mapping[str, Any], *, known: Callable[[Any], bool]) -> list[Problem]:
    """The problems of a step's parameters that can be found before it runs.

    `known` says whether a value is known already; of other values only the key is checked.
    """
    return [outcome for _, outcome in _resolved(workflow, given, known) if isinstance(outcome, Problem)]


def apply_parameters(workflow: Workflow, given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the workflow's graph with the given values in it. The values are final: files are server names.

    Raises:
        InputInvalid: the first problem: E_PARAMETER_UNKNOWN, E_PARAMETER_LINK, E_PARAMETER_AMBIGUOUS,
            E_PARAMETER_TYPE.
    """
    graph = copy.deepcopy(workflow.graph)
    for value, outcome in _resolved(workflow, given, lambda _: True):
        if isinstance(outcome, Problem):
            raise _error(outcome)
        own = copy.deepcopy(value)
        graph[outcome.node_id]["inputs"][outcome.input_key] = {WRAPPED: own} if isinstance(own, list) else own
    return graph


def _error(problem: Problem) -> InputInvalid:
    words = {name: getattr(problem, name) for name in ("place", "found", "allowed", "cure")}
    return InputInvalid(problem.code, problem.message, **words)


def _resolved(
    workflow: Workflow, given: Mapping[str, Any], known: Callable[[Any], bool]
) -> Iterator[tuple[Any, Parameter | Problem]]:
    """Each value with its parameter, or with its problem."""
    targets = _Targets.of(workflow)
    keys: dict[tuple[str, str], str] = {}
    for key, value in given.items():
        found = targets.find(key)
        problem = None
        if isinstance(found, Parameter):
            problem = _twice(key, found, keys) or (_wrong_value(key, found, value) if known(value) else None)
        yield value, problem or found


def with_own_prefixes(graph: Mapping[str, Any], prompt_id: str) -> dict[str, Any]:
    """A copy of the graph in which every file is saved below `towpath/<16 characters of the prompt's id>/`.

    With a folder of its own, a prompt never gets another prompt's file from the server's cache. A prefix that leads
    out of the output folder stays as it is: the server refuses it.
    """
    token = prompt_id.replace("-", "")[:16]
    own = copy.deepcopy(dict(graph))
    for node in own.values():
        prefix = node["inputs"].get("filename_prefix")
        if isinstance(prefix, str) and not _leads_out(prefix):
            node["inputs"]["filename_prefix"] = f"towpath/{token}/{prefix}"
    return own


def _leads_out(prefix: str) -> bool:
    path = normpath(prefix.replace("\\", "/"))  # a server on Windows takes both
    return path.startswith(("/", "../")) or path == ".."


# -- which input a key means


@dataclass(frozen=True, slots=True)
class _Targets:
    """The parameters of a workflow by key, by node and input, and by title."""

    workflow: Workflow
    by_input: Mapping[tuple[str, str], Parameter]
    by_title: Mapping[str, list[str]]

    @classmethod
    def of(cls, workflow: Workflow) -> _Targets:
        by_title: dict[str, list[str]] = {}
        for node_id, node in workflow.graph.items():
            by_title.setdefault(node_title(node), []).append(node_id)
        by_input = {(p.node_id, p.input_key): p for p in workflow.parameters.values()}
        return cls(workflow, by_input, by_title)

    def find(self, key: str) -> Parameter | Problem:
        """The parameter of a key, or the problem of the key."""
        if key in self.workflow.parameters:
            return self.workflow.parameters[key]
        node_id, dot, input_key = key.partition(".")
        if not dot:
            return self._without_node(key)
        if node_id in self.workflow.graph:
            return self._input(key, node_id, input_key)
        for title, input_key in _splits(key):
            ids = self.by_title.get(title, [])
            if len(ids) == 1:
                return self._input(key, ids[0], input_key)
            if ids:
                allowed = _listed(f"{node_id}.{input_key}" for node_id in ids)
                message = f"{len(ids)} nodes have the title {shown(title)}"
                return _problem("E_PARAMETER_AMBIGUOUS", message, key, allowed, "name the node by its id")
        return self._unknown(key, f"there is no node {shown(node_id)}, and no node with such a title")

    def _input(self, key: str, node_id: str, input_key: str) -> Parameter | Problem:
        if parameter := self.by_input.get((node_id, input_key)):
            return parameter
        inputs = self.workflow.graph[node_id]["inputs"]
        if input_key not in inputs:
            return self._unknown(key, f"node {shown(node_id)} has no input {shown(input_key)}", node_id)
        if is_link(inputs[input_key]):
            source = shown(str(inputs[input_key][0]))
            message = f"this input is linked to node {source}, so it cannot be set"
            return _problem(
                "E_PARAMETER_LINK", message, key, self._allowed(node_id), f"set a parameter of node {source}"
            )
        name = self.workflow.name.rpartition("/")[2].removesuffix(".json")
        cure = f"list it in {name}{OVERRIDES}, or leave it as it is"
        return _problem("E_PARAMETER_UNKNOWN", "this input is frozen", key, self._allowed(node_id), cure)

    def _without_node(self, key: str) -> Problem:
        message = "a parameter is called <node id>.<input>"
        names = [p.input_key for p in self.workflow.parameters.values()]
        close = difflib.get_close_matches(key[:COMPARED], [name[:COMPARED] for name in names[:COMPARED]], 1)
        same = [p.key for p in self.workflow.parameters.values() if [p.input_key] == close]
        if not same:
            return self._unknown(key, message)
        return _problem("E_PARAMETER_UNKNOWN", message, key, _listed(iter(same)), f"did you mean {shown(same[0])}?")

    def _unknown(self, key: str, message: str, node_id: str = "") -> Problem:
        cure = similar(key, [p.key for p in self._near(node_id)])
        workflow = f"workflow {shown(self.workflow.name)}: " if self.workflow.name else ""
        return _problem("E_PARAMETER_UNKNOWN", workflow + message, key, self._allowed(node_id), cure)

    def _allowed(self, node_id: str) -> str:
        return _listed(p.key for p in self._near(node_id)) or "none, all inputs are frozen"

    def _near(self, node_id: str) -> list[Parameter]:
        """All parameters, those of the node first."""
        return sorted(self.workflow.parameters.values(), key=lambda p: p.node_id != node_id)


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """A key split at each of its dots, the last one first."""
    parts = key.split(".")
    for i in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:i]), ".".join(parts[i:])


def _listed(keys: Iterator[str]) -> str:
    names = [shown(key) for key in keys]
    more = f" … and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return " ".join(names[:SHOWN]) + more


def _problem(code: str, message: str, key: str, allowed: str, cure: str, found: str = "") -> Problem:
    place = Place(field=f"parameters.{shown(key)}")
    return Problem(code, message, place, found or shown(key), allowed, cure)


def _twice(key: str, parameter: Parameter, keys: dict[tuple[str, str], str]) -> Problem | None:
    """A problem if another key sets the same input. Adds the key to `keys`."""
    other = keys.setdefault((parameter.node_id, parameter.input_key), key)
    if other == key:
        return None
    message = f"{shown(other)} sets the same input"
    return _problem("E_PARAMETER_AMBIGUOUS", message, key, "each input once", f"remove {shown(key)}")


# -- whether a value fits


def _wrong_value(key: str, parameter: Parameter, value: object) -> Problem | None:
    if why := unfit(value):
        kind = type(value).__name__  # the value itself may be too large or too deep to be shown
        return _problem("E_PARAMETER_TYPE", f"this value contains {why}", key, _WORDS[parameter.type], "", kind)
    if not _fits(parameter.type, value):
        message = f"this parameter takes {_WORDS[parameter.type]}, and this is {_kind(value)}"
        return _problem("E_PARAMETER_TYPE", message, key, _WORDS[parameter.type], _cure(parameter, value), shown(value))
    if parameter.choices and value not in parameter.choices:
        allowed = _listed(str(choice) for choice in parameter.choices)
        cure = similar(value, [c for c in parameter.choices if isinstance(c, str)]) if isinstance(value, str) else ""
        return _problem("E_PARAMETER_TYPE", "this is not one of the allowed values", key, allowed, cure, shown(value))
    return None


def _fits(kind: str, value: Json) -> bool:
    if kind == "any":
        return True
    if isinstance(value, bool):  # which Python takes for an integer
        return kind == "bool"
    return isinstance(value, _ACCEPTED[kind])


def _kind(value: Json) -> str:
    if value is None:
        return "nothing (null)"
    named = {"str": "text", "int": "an integer", "float": "a fraction", "bool": "true or false", "list": "a list"}
    return named.get(type(value).__name__, "an object")


def _cure(parameter: Parameter, value: Json) -> str:
    if isinstance(value, str) and parameter.type in ("int", "float", "bool"):
        return "write it without quotes"
    if isinstance(value, int | float) and parameter.type == "str":
        return "put quotes around it"
    if isinstance(value, float) and parameter.type == "int":
        return f'if the node takes fractions, give {shown(parameter.key)} "type": "float" in the override file'
    return ""
