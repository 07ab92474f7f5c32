"""From the steps of a chain to a plan: order, levels, critical path, and the picture of it.

The only module that uses networkx, and it imports it when a chain is compiled: runs, workers and
workflow code get the finished plan, which is plain data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import ChainInvalid, Place, Problem
from .expressions import parse_template
from .model import Plan, StepPlan

if TYPE_CHECKING:
    import networkx as nx


def digraph(steps: Iterable[StepPlan]) -> nx.DiGraph[str]:
    """The dependency graph of some steps; edges point from a step to those that need it."""
    import networkx as nx  # noqa: PLC0415 - 0.2 s that only the compilation of a chain should pay

    graph: nx.DiGraph[str] = nx.DiGraph()
    for step in steps:
        graph.add_node(step.id)
        for dependency in step.depends_on:
            graph.add_edge(dependency, step.id)
    return graph


def find_cycle(steps: Sequence[StepPlan]) -> list[str]:
    """The ids along one cycle, the first repeated at the end; empty if there is none."""
    import networkx as nx  # noqa: PLC0415

    try:
        edges = nx.find_cycle(digraph(steps))
    except nx.NetworkXNoCycle:
        return []
    ids = [edge[0] for edge in edges]
    first = ids.index(min(ids))
    ids = ids[first:] + ids[:first]
    return [*ids, ids[0]]


def compile_plan(plan: Plan, place: Place | None = None) -> Plan:
    """The same chain with its steps in topological order and each step's level set.

    Raises:
        ChainInvalid: E_CHAIN_CYCLE, naming the steps along the cycle.
    """
    import networkx as nx  # noqa: PLC0415

    by_id = {step.id: step for step in plan.steps}
    position = {step.id: i for i, step in enumerate(plan.steps)}
    try:
        generations = list(nx.topological_generations(digraph(plan.steps)))
    except nx.NetworkXUnfeasible:
        raise ChainInvalid([cycle_problem(find_cycle(plan.steps), place or Place())]) from None
    ordered = [
        replace(by_id[step_id], level=level)
        for level, generation in enumerate(generations)
        for step_id in sorted(generation, key=position.__getitem__)
    ]
    return replace(plan, steps=tuple(_paired(ordered)))


def cycle_problem(cycle: Sequence[str], place: Place) -> Problem:
    """The sentence for a cycle, read against the arrows: `a -> b` means a depends on b."""
    path = " -> ".join(reversed(cycle))
    return Problem(
        "E_CHAIN_CYCLE",
        f"steps depend on each other in a circle: {path}",
        place,
        cure="remove one of these depends_on entries",
    )


def _paired(steps: Sequence[StepPlan]) -> Iterable[StepPlan]:
    """Set `pairs_with` where a step maps over exactly the whole value of another mapped step.

    Its items then start before that value is gathered, so nothing else in the step may need it.
    """
    mapped = {step.id for step in steps if step.mapped}
    for step in steps:
        source = _whole_value(step.foreach)
        pairs = (
            step.mapped
            and step.condition is None
            and source in mapped
            and source in step.depends_on
            and not _names(step.parameters, source)
        )
        yield replace(step, pairs_with=source if pairs else None)


def _whole_value(binding: Any) -> str | None:
    reference = binding.get("$ref") if isinstance(binding, dict) else None
    if not isinstance(reference, dict) or reference.get("keys"):
        return None
    return reference.get("step")


def _names(binding: Any, step_id: str) -> bool:
    """Whether a binding takes anything from that step."""
    if isinstance(binding, list):
        return any(_names(inner, step_id) for inner in binding)
    if not isinstance(binding, dict) or "$literal" in binding or "$item" in binding:
        return False
    if "$ref" in binding:
        return bool(binding["$ref"].get("step") == step_id)
    if "$template" in binding:
        template, _ = parse_template(binding["$template"], None, Place())
        return template is None or any(reference.step == step_id for reference in template.references)
    return any(_names(inner, step_id) for inner in binding.values())


def critical_path(plan: Plan) -> tuple[str, ...]:
    """The longest line of steps that wait for each other: no run can be shorter, however wide the machine."""
    length: dict[str, int] = {}
    before: dict[str, str | None] = {}
    for step in plan.steps:
        longest = max(step.depends_on, key=lambda d: length[d], default=None)
        before[step.id] = longest
        length[step.id] = 1 + (length[longest] if longest is not None else 0)
    path: list[str] = []
    at = max(length, key=lambda s: length[s], default=None)
    while at is not None:
        path.append(at)
        at = before[at]
    return tuple(reversed(path))


def mermaid(plan: Plan) -> str:
    """The chain as a Mermaid flowchart; fan-outs are stacked, gates hexagonal, conditions dotted."""
    names = {step.id: f"s{i}" for i, step in enumerate(plan.steps)}
    lines = ["flowchart LR"]
    for step in plan.steps:
        label = step.id + (" ×n" if step.mapped else "")
        if step.approval is not None:
            lines.append(f'  {names[step.id]}{{{{"{label} ✋"}}}}')
        elif step.mapped:
            lines.append(f'  {names[step.id]}[["{label}"]]')
        else:
            lines.append(f'  {names[step.id]}["{label}"]')
    for step in plan.steps:
        arrow = "-.->" if step.condition is not None else "-->"
        lines.extend(f"  {names[dependency]} {arrow} {names[step.id]}" for dependency in step.depends_on)
    return "\n".join(lines) + "\n"
