"""Bindings: parameters whose values are known only at run time, as plain JSON inside a plan.

{"$ref": {"step": "photos", "keys": ["files", 0]}}      the value of a step, or a part of it
{"$ref": {"input": "width", "keys": []}}                a chain input
{"$item": []}                                           the element of a mapped step; keys as above
{"$template": "{{ frame.output.image }}"}               a template of the expression language
{"$literal": {"$ref": "not a reference"}}               data that only looks like a binding

A step may be mapped over several lists: `foreach` is then {"$zip": {"x": binding, "y": binding}}, and an element is the
mapping of these names to one element of each list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from .artifact import Artifact
from .errors import ExpressionFailed, Place, Problem, shown
from .late import Late
from .model import Json, StepPlan
from .secrets import Secret, holds_secret, marks_in, revealed

if TYPE_CHECKING:
    from . import expressions
else:
    expressions = Late("towpath.expressions")

ZIP = "$zip"
MARKS = frozenset({"$ref", "$item", "$template", "$literal"})
FILE_KINDS = frozenset({"image", "video", "audio", "text", "model", "file"})


class Environment(Protocol):
    """What a driver knows of a run when the arguments of a step are resolved."""

    def input(self, name: str) -> object:
        """The value of a chain input; an `Artifact` for a file input."""
        ...

    def value(self, step: str) -> Any:
        """The value of a step with artifacts in place. Raises ExpressionFailed if it did not complete."""
        ...

    def files(self, step: str) -> list[Artifact]:
        """The latest version of every file of a completed step."""
        ...

    def status(self, step: str) -> str: ...

    def parameters(self, step: str) -> Json: ...

    def error(self, step: str) -> Json:
        """`{"code": …, "message": …}` of a failed step, else None."""
        ...


def escape(value: Json) -> Json:
    """Literal data as a binding: data that looks like a binding is wrapped."""
    if isinstance(value, dict):
        if MARKS & value.keys():
            return {"$literal": value}
        return {key: escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escape(inner) for inner in value]
    return value


def columns_of(foreach: Json) -> dict[str, Json]:
    """The lists that a step is mapped over, by name. A single list has the name ""."""
    if isinstance(foreach, dict) and foreach.keys() == {ZIP}:
        columns: dict[str, Json] = foreach[ZIP]
        return columns
    return {"": foreach}


def check_lengths(lengths: Mapping[str, int], place: Place) -> None:
    """Check that lists that are mapped over together have one length. Raises ExpressionFailed (E_MAP_LENGTHS)."""
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{shown(name)} has {length}" for name, length in lengths.items())
        message = f"a step is mapped over lists of different lengths: {found}"
        cure = "give it lists of one length; what is the same for all items is a parameter of its own"
        raise ExpressionFailed("E_MAP_LENGTHS", message, place=place, allowed="lists of one length", cure=cure)


def bind(binding: Json, place: Place, env: Environment, item: Any = None, index: int | None = None) -> Any:
    """The value of a binding now. `item` and `index` are those of a mapped step.

    Raises:
        ExpressionFailed: E_TEMPLATE_UNDEFINED, E_TEMPLATE_FAILED.
    """
    if isinstance(binding, list):
        return [bind(inner, place, env, item, index) for inner in binding]
    if not isinstance(binding, dict):
        return binding
    if "$ref" in binding:
        return _referred(binding["$ref"], env)
    if "$item" in binding:
        keys = tuple(binding["$item"])
        return _part(item, expressions.Reference("item", "", "", keys)) if keys else item
    if "$template" in binding:
        return _rendered(binding["$template"], place, lambda ref: resolve(ref, env, item, index))
    if "$literal" in binding:
        return binding["$literal"]
    return {key: bind(inner, place, env, item, index) for key, inner in binding.items()}


def _rendered(text: str, place: Place, find: Callable[[expressions.Reference], Any]) -> Any:
    """The value of a template. If a secret is in it, the whole value is secret."""
    template, problems = expressions.parse_template(text, None, place)
    assert template is not None, problems
    secrets: list[Secret[Any]] = []
    value = template.render(lambda ref: revealed(find(ref), secrets))
    if len(secrets) == 1 and value == secrets[0].reveal():
        return secrets[0]  # nothing was added to it: it is kept as it was
    return Secret(value) if secrets else value


def _part(value: Any, reference: expressions.Reference, known: int = 0) -> Any:
    """What a reference names in a value. A part of a secret is secret."""
    if isinstance(value, Secret) and len(reference.keys) > known:
        return Secret(expressions.look_up(value.reveal(), reference, known))
    return expressions.look_up(value, reference, known)


def _referred(target: dict[str, Json], env: Environment) -> Any:
    keys: tuple[str | int, ...] = tuple(target.get("keys") or [])
    if "input" in target:
        value = env.input(target["input"])
        return _part(value, expressions.Reference("inputs", "", "", (target["input"], *keys)), 1) if keys else value
    value = env.value(target["step"])
    return _part(value, expressions.Reference("step", target["step"], "output", keys)) if keys else value


def compile_condition(text: str, place: Place) -> Callable[[Environment], bool]:
    """A step's condition as a function.

    It raises ExpressionFailed: E_COND_TYPE, E_SECRET_USE, E_TEMPLATE_UNDEFINED.
    """
    condition, problems = expressions.parse_condition(text, None, place)
    assert isinstance(condition, expressions.Condition), problems
    return lambda env: condition.holds(lambda ref: _in_the_open(resolve(ref, env, None, None), place))


def _in_the_open(value: Any, place: Place) -> Any:
    """A value that everybody may see the consequences of: whether a step runs is recorded and shown."""
    if holds_secret(value):
        raise _misused("a condition cannot look at a secret", place)
    return value


def _misused(message: str, place: Place) -> ExpressionFailed:
    cure = "let a step that gets the secret return what may be known"
    return ExpressionFailed("E_SECRET_USE", message, place=place, cure=cure)


def literal_secrets(step: StepPlan, place: Place) -> list[Problem]:
    """Problems for secret arguments that are written into the plan, where everyone can read them."""
    wrong = [name for name in step.secrets if name in step.parameters and _is_written(step.parameters[name], step)]
    return [literal_secret(name, replace(place, field=f"parameters.{name}")) for name in wrong]


def literal_secret(name: str, place: Place) -> Problem:
    """The error for a plain argument of a parameter that takes a secret."""
    message = f"{name} is a secret, and what is given here is kept and shown as it is"
    allowed = "an input, or what a step returned"
    return Problem("E_SECRET_PLACE", message, place, allowed=allowed, cure="give it as a secret input")


def _is_written(binding: Json, step: StepPlan) -> bool:
    if isinstance(binding, dict) and "$item" in binding:
        columns = columns_of(step.foreach)
        column = columns.get("", columns.get(next(iter(binding["$item"]), "")))
        return column is not None and not _is_bound(column)
    return binding is not None and not _is_bound(binding)


def _is_bound(binding: Json) -> bool:
    """Is anything of it known only at run time?"""
    if isinstance(binding, list):
        return any(map(_is_bound, binding))
    if not isinstance(binding, dict) or "$literal" in binding:
        return False
    return bool(MARKS & binding.keys()) or any(map(_is_bound, binding.values()))


def of_item(binding: Json) -> bool:
    """Does the value depend on the item of a mapped step?"""
    if isinstance(binding, list):
        return any(map(of_item, binding))
    if not isinstance(binding, dict) or "$literal" in binding:
        return False
    if "$template" in binding:
        template, _ = expressions.parse_template(binding["$template"], None, Place())
        return template is None or any(ref.root in ("item", "index") for ref in template.references)
    return "$item" in binding or ("$ref" not in binding and any(map(of_item, binding.values())))


def inputs_used(step: StepPlan) -> frozenset[str]:
    """The chain inputs that a step's arguments, its fan-out or its condition look at."""
    targets, references = _references(step)
    named = {str(r.keys[0]) for r in references if r.root == "inputs" and r.keys}
    return frozenset(named.union(target["input"] for target in targets if "input" in target))


def steps_used(step: StepPlan) -> frozenset[str]:
    """The steps that a step's arguments, its fan-out or its condition look at."""
    targets, references = _references(step)
    named = {r.step for r in references if r.step}
    return frozenset(named.union(target["step"] for target in targets if "step" in target))


def _references(step: StepPlan) -> tuple[list[dict[str, Json]], tuple[expressions.Reference, ...]]:
    """What the bindings of a step refer to: `$ref` targets, and references in templates and in its condition."""
    targets: list[dict[str, Json]] = []
    todo: list[Json] = [step.parameters, step.foreach]
    references: tuple[expressions.Reference, ...] = ()
    if step.condition is not None:
        condition, _ = expressions.parse_condition(step.condition, None, Place(step=step.id))
        references = condition.references if condition is not None else ()
    while todo:
        at = todo.pop()
        if isinstance(at, list):
            todo += at
        elif isinstance(at, dict) and "$template" in at:
            template, _ = expressions.parse_template(at["$template"], None, Place(step=step.id))
            references += template.references if template is not None else ()
        elif isinstance(at, dict) and "$ref" in at:
            targets.append(at["$ref"])
        elif isinstance(at, dict) and "$literal" not in at:
            todo += at.values()
    return targets, references


def resolve(reference: expressions.Reference, env: Environment, item: Any, index: int | None) -> Any:
    """The native value of one reference. Raises ExpressionFailed naming the step and the key."""
    if reference.root == "inputs":
        if not reference.keys:
            raise ExpressionFailed("E_TEMPLATE_UNDEFINED", "name an input: inputs.<name>")
        return _part(env.input(str(reference.keys[0])), reference, 1)
    if reference.root == "item":
        return _part(_with_files(item, reference.keys), reference)
    if reference.root == "index":
        return index
    if reference.part == "status":
        return env.status(reference.step)
    if reference.part == "parameters":
        value = expressions.look_up(env.parameters(reference.step), reference)
        if any(marks_in(value)):
            raise _misused("a recorded argument does not hold its secret", Place(step=reference.step))
        return value
    if reference.part == "error":
        return expressions.look_up(env.error(reference.step), reference)
    return _output(reference, env)


def _output(reference: expressions.Reference, env: Environment) -> Any:
    value = env.value(reference.step)
    keys = reference.keys
    if keys and not (isinstance(value, dict) and keys[0] in value):
        if keys[0] == "files":
            return expressions.look_up(env.files(reference.step), reference, 1)
        if keys[0] in FILE_KINDS:
            first = next((f for f in env.files(reference.step) if f.kind == keys[0]), None)
            if first is not None:
                return expressions.look_up(_file_fields(first, keys[1:]), reference, 1)
    return _part(_with_files(value, keys), reference)


def _with_files(value: Any, keys: tuple[str | int, ...]) -> Any:
    """A lone artifact with keys behind it shows its public fields; anything else is itself."""
    return _file_fields(value, keys) if isinstance(value, Artifact) else value


def _file_fields(file: Artifact, keys: tuple[str | int, ...]) -> Any:
    if not keys:
        return file
    return {name: getattr(file, name) for name in ("name", "version", "filename", "digest", "size", "media_type")}
