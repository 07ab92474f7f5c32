"""From the steps of a chain to a plan: order, levels, critical path, and a picture.

The only module that uses networkx. It is imported when a chain that is not just a line of steps is compiled: runs,
workers and workflow code get the finished plan, which is plain data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from .binding import columns_of
from .errors import ChainInvalid, Place, Problem
from .late import Late
from .model import Plan, StepPlan

if TYPE_CHECKING:
    from . import expressions
else:
    expressions = Late("towpath.expressions")


def levels_of(needs: Mapping[str, Iterable[str]], limit: int = 1) -> tuple[list[list[str]], list[list[str]]]:
    """Step ids by level, and the circles among the steps.

    A circle is a list of ids, the first one repeated at the end. If there is one, there are no levels. The edges
    into a circle are removed before the next one is searched for, until none is left or `limit` are found.
    """
    if line := _as_line(needs):
        return [[step] for step in line], []
    import networkx as nx  # noqa: PLC0415 - 0.1 s that only the compilation of a chain should pay

    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(needs)
    graph.add_edges_from((need, step) for step, needed in needs.items() for need in needed)
    circles: list[list[str]] = []
    while len(circles) < limit:
        try:
            levels = list(nx.topological_generations(graph))
        except nx.NetworkXUnfeasible:
            ids = [edge[0] for edge in nx.find_cycle(graph)]
            first = ids.index(min(ids))
            ids = ids[first:] + ids[:first]
            circles.append([*ids, ids[0]])
            graph.remove_edges_from(list(graph.in_edges(ids)))
        else:
            return ([] if circles else levels), circles
    return [], circles


def _as_line(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The steps in order, if each needs exactly the one before it: no graph is needed then. Else an empty list."""
    after: dict[str | None, str] = {}
    for step, needed in needs.items():
        before = list(needed)
        if len(before) > 1 or after.setdefault(before[0] if before else None, step) != step:
            return []
    line: list[str] = []
    at = after.get(None)
    while at is not None:
        line.append(at)
        at = after.get(at)
    return line if len(line) == len(needs) else []


def compile_plan(plan: Plan, place: Place | None = None, levels: Sequence[Sequence[str]] | None = None) -> Plan:
    """The same chain with its steps in topological order and each step's level set.

    `levels` are those of its steps (see `levels_of`), where they are known already.

    Raises:
        ChainInvalid: E_CHAIN_CYCLE, naming the steps along the cycle.
    """
    if levels is None:
        levels, circles = levels_of({step.id: step.depends_on for step in plan.steps})
        if circles:
            raise ChainInvalid([cycle_problem(circles[0], place or Place())])
    by_id = {step.id: step for step in plan.steps}
    position = {step.id: i for i, step in enumerate(plan.steps)}
    mapped = {step.id for step in plan.steps if step.mapped}
    ordered = (
        _placed(by_id[step_id], number, mapped)
        for number, level in enumerate(levels)
        for step_id in sorted(level, key=position.__getitem__)
    )
    return replace(plan, steps=tuple(ordered))


def cycle_problem(cycle: Sequence[str], place: Place) -> Problem:
    """The sentence for a cycle, read against the arrows: `a -> b` means a depends on b."""
    path = " -> ".join(reversed(cycle))
    return Problem(
        "E_CHAIN_CYCLE",
        f"steps depend on each other in a circle: {path}",
        place,
        cure="remove one of these depends_on entries",
    )


def _placed(step: StepPlan, level: int, mapped: Collection[str]) -> StepPlan:
    """The step with its level, and with `pairs_with` if it maps over exactly the whole value of another mapped step."""
    partner = _partner(step, mapped) if step.mapped and step.condition is None else None
    if step.level == level and step.pairs_with == partner:
        return step  # a copy costs more than all else here
    return replace(step, level=level, pairs_with=partner)


def _partner(step: StepPlan, mapped: Collection[str]) -> str | None:
    """The mapped step whose items this step's items follow. They start before its value is complete, so nothing else in
    the step may use that. Of several lists, the first such one counts.
    """
    columns = columns_of(step.foreach)
    for name, column in columns.items():
        source = _whole_value(column)
        if source in mapped and source in step.depends_on:
            others = [other for key, other in columns.items() if key != name]
            if not _names([step.parameters, others], source):
                return source
    return None


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
        template, _ = expressions.parse_template(binding["$template"], None, Place())
        return template is None or any(reference.step == step_id for reference in template.references)
    return any(_names(inner, step_id) for inner in binding.values())


def critical_path(plan: Plan) -> tuple[str, ...]:
    """The longest sequence of steps that wait for each other: with any number of slots, no run is shorter."""
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
