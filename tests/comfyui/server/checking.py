"""What POST /prompt finds wrong with a graph, in the words of the original.

A graph of several outputs is accepted when one of them is right: the others are left out, and only `node_errors`
tells. A graph of the wrong shape is not refused: it crashes, and the client gets a 500.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any

from tests.comfyui.server.files import Folders
from tests.comfyui.server.nodes import NODES
from tests.comfyui.server.slots import Slot

Graph = dict[str, Any]
Problem = dict[str, Any]
CONVERT: dict[str, Any] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outputs that are going to run; without any, `error` says why."""

    outputs: list[str] = field(default_factory=list)
    error: Problem | None = None
    node_errors: dict[str, Problem] = field(default_factory=dict)


def problem(kind: str, message: str, details: str = "", **extra: Any) -> Problem:
    """One error as clients get it."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def check(graph: Graph, folders: Folders, targets: list[str] | None = None) -> Verdict:
    """Judge a graph. Literal inputs are converted in place, as the original does it."""
    outputs = []
    for node_id in graph:
        if missing := _unknown(node_id, graph[node_id]):
            return Verdict(error=missing)
        if NODES[graph[node_id]["class_type"]].output and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict(error=problem("prompt_no_outputs", "Prompt has no outputs"))
    return Checker(graph, folders).verdict(outputs)


def _unknown(node_id: str, node: Any) -> Problem | None:
    title = None if "class_type" not in node else node.get("_meta", {}).get("title")
    place = {"node_id": node_id, "class_type": node.get("class_type") if "class_type" in node else None}
    details = f"Node ID '#{node_id}'"
    if "class_type" not in node:
        message = f"Node 'ID #{node_id}' has no class_type. The workflow may be corrupted or a custom node is missing."
        return problem("missing_node_type", message, details, **place, node_title=None)
    if node["class_type"] not in NODES:
        message = f"Node '{title or node['class_type']}' not found. The custom node may not be installed."
        return problem("missing_node_type", message, details, **place, node_title=title or node["class_type"])
    return None


class Checker:
    """Judges the outputs of one graph; a node is judged once."""

    def __init__(self, graph: Graph, folders: Folders) -> None:
        self.graph = graph
        self.folders = folders
        self.judged: dict[str, list[Problem] | None] = {}  # None: wrong because of a node before it
        self.below: list[str] = []  # the nodes that are being judged

    def verdict(self, outputs: list[str]) -> Verdict:
        """Which outputs may run, and what is wrong with the nodes of the others."""
        good: list[str] = []
        node_errors: dict[str, Problem] = {}
        lines: list[str] = []
        for output in outputs:
            try:
                self.judge(output)
            except Exception as error:
                self.judged[output] = [_crashed("exception_during_validation", "Exception when validating node", error)]
                self.below.clear()
            if self.judged[output] == []:
                good.append(output)
                continue
            lines += [f"{each['message']}: {each['details']}" for each in self.judged[output] or ()]
            for node_id, problems in self.judged.items():
                if problems:
                    told = {
                        "errors": problems,
                        "dependent_outputs": [],
                        "class_type": self.graph[node_id]["class_type"],
                    }
                    node_errors.setdefault(node_id, told)["dependent_outputs"].append(output)
        if good:
            return Verdict(good, None, node_errors)
        failed = problem("prompt_outputs_failed_validation", "Prompt outputs failed validation", "\n".join(lines))
        return Verdict([], failed, node_errors)

    def judge(self, node_id: str) -> bool:
        """Whether a node and all before it are right."""
        if node_id in self.judged:
            return self.judged[node_id] == []
        if node_id in self.below:
            cycle = [*self.below[self.below.index(node_id) :], node_id]
            told = problem("dependency_cycle", "Dependency cycle detected", " -> ".join(cycle), cycle_nodes=cycle)
            self.judged[node_id] = [told]
            return False
        self.below.append(node_id)
        node = self.graph[node_id]
        inputs, definition = node["inputs"], NODES[node["class_type"]]
        problems: list[Problem] = []
        right = True
        slots = dict(definition.slots())
        if definition.any_inputs:
            slots |= {name: Slot("*") for name in inputs}
        for name, slot in slots.items():
            if name not in inputs:
                if name in definition.required:
                    told = problem("required_input_missing", "Required input is missing", name, input_name=name)
                    problems.append(told)
            elif isinstance(inputs[name], list):
                right = self._link(name, slot, inputs[name], problems) and right
            elif found := self._literal(name, slot, inputs):
                problems.append(found)
        self.below.pop()
        if node_id not in self.judged:
            self.judged[node_id] = problems if right or problems else None
        return self.judged[node_id] == []

    def _link(self, name: str, slot: Slot, link: list[Any], problems: list[Problem]) -> bool:
        """Whether what is linked is right; what is wrong with the link itself goes to `problems`."""
        more = {"input_name": name, "input_config": slot.told(self.folders)}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            problems.append(problem("bad_linked_input", message, name, **more, received_value=link))
            return True
        source = self.graph[link[0]]["class_type"]
        given = NODES[source].gives[link[1]]
        if "*" not in {slot.type, given} and given != slot.type:
            details = f"{name}, received_type({given}) mismatch input_type({slot.type})"
            message = "Return type mismatch between linked nodes"
            told = problem("return_type_mismatch", message, details, **more, received_type=given, linked_node=link)
            problems.append(told)
            return True
        try:
            return self.judge(link[0])
        except Exception as error:
            message = "Exception when validating inner node"
            self.judged[link[0]] = [_crashed("exception_during_inner_validation", message, error, **more)]
            del self.below[self.below.index(link[0]) :]
            return False

    def _literal(self, name: str, slot: Slot, inputs: dict[str, Any]) -> Problem | None:
        value = inputs[name]
        if isinstance(value, dict) and "__value__" in value:
            value = inputs[name] = value["__value__"]
        more = {"input_name": name, "input_config": slot.told(self.folders), "received_value": value}
        try:
            value = inputs[name] = CONVERT.get(slot.type, lambda same: same)(value)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"Failed to convert an input value to a {slot.type} value"
            details = f"{name}, {value}, {error}"
            return problem("invalid_input_type", message, details, **more, exception_message=str(error))
        if slot.files is not None:
            return self._file(name, value)
        if "min" in slot.options and value < slot.options["min"]:
            message = f"Value {value} smaller than min of {slot.options['min']}"
            return problem("value_smaller_than_min", message, name, **more)
        if "max" in slot.options and value > slot.options["max"]:
            message = f"Value {value} bigger than max of {slot.options['max']}"
            return problem("value_bigger_than_max", message, name, **more)
        if slot.choices is not None and value not in slot.choices:
            details = f"{name}: '{value}' not in {list(slot.choices)}"
            return problem("value_not_in_list", "Value not in list", details, **more)
        return None

    def _file(self, name: str, value: Any) -> Problem | None:
        if isinstance(value, str) and self.folders.named(value).is_file():
            return None
        details = f"{name} - Invalid {name} file: {value}"
        return problem("custom_validation_failed", "Custom validation failed for node", details, input_name=name)


def _crashed(kind: str, message: str, error: Exception, **more: Any) -> Problem:
    name = type(error).__name__
    frames = traceback.format_tb(error.__traceback__)
    return problem(kind, message, str(error), **more, exception_type=name, traceback=frames)
