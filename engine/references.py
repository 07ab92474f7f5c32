"""What a chain file refers to: plain files inside its own folder, step functions, and other steps.

A chain file may come from somebody who is not trusted. A path in it never leads out of its folder, neither
by `..` nor by a link, and nothing here waits: a FIFO or a device is looked at, never read. A function is
code that its author put there: importing it is the trust, and `imports=False` does without.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import os
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeAlias, TypeVar

from .binding import MARKS
from .errors import ChainInvalid, InputInvalid, Place, Problem, StepNotRegistered, shown
from .expression_syntax import OPENING, Expression, Reference, parse_text
from .expressions import Condition, Scope, Template, parse_condition, parse_template
from .graph import find_cycle
from .model import Json, StepPlan
from .steps import Step, find_step
from .yaml_source import MAX_BYTES, MAX_PROBLEMS

Parsed = TypeVar("Parsed", Template, Condition)
Parse: TypeAlias = Callable[[str, Scope | None, Place], tuple[Parsed | None, list[Problem]]]
Keys: TypeAlias = tuple[str | int, ...]

MAX_NAME = 1_000  # characters of a reference
MAX_PART = 240  # bytes between two /; Linux allows 255 and we add a suffix
COMPARED = 500  # names among which a similar one is looked for
_BATCH = 4_096  # steps whose descendants are found in one pass
_OF_OTHER_STEPS = frozenset({"E_TEMPLATE_NOT_UPSTREAM", "E_COND_NAME"})
_ALLOWED = "a name, or a relative path below the chain's folder with / between its parts"


def find_workflow(name: str, folder: Path) -> Path | None:
    """The file of a ComfyUI workflow: `name`, `name.json` or `workflows/name.json`. None if there is none.

    Raises:
        InputInvalid: E_REF_PATH for a name that is no safe path, or that leads to no plain file.
    """
    return _found(name, folder, [name, f"{name}.json", f"workflows/{name}.json"])


def find_chain(name: str, folder: Path, *, any_name: bool = True) -> Path | None:
    """The file of another chain: `name`, or `name.yaml`, `name.yml` for a bare one. None if there is none.

    Without `any_name` only what is called a YAML file is one: what is wrong with a chain is told, and other
    files that lie there are nobody's to look at.

    Raises:
        InputInvalid: E_REF_PATH, as for a workflow.
    """
    suffixed = PurePosixPath(name).suffix in (".yaml", ".yml")
    bare = [name] if any_name else []
    return _found(name, folder, [name] if suffixed else [f"{name}.yaml", f"{name}.yml", *bare])


def find_function(name: str, folder: Path) -> Step[..., Any]:
    """The step function `module:function`; modules beside the chain file come first.

    Raises:
        InputInvalid: E_STEP_KIND with the reason: not there, not importable, or not decorated with @step.
            E_STEP_NAME_TWICE if two functions go by the name.
    """
    beside = os.path.abspath(folder)
    if beside not in sys.path:
        sys.path.insert(0, beside)
        importlib.invalidate_caches()
    try:
        found = find_step(name)
    except StepNotRegistered as error:
        if error.code == "E_STEP_NAME_TWICE":
            raise InputInvalid(error.code, error.problem.message, found=name, cure=error.problem.cure) from None
        reason = error.problem.message.partition(": ")[2]
    except (Exception, SystemExit) as error:  # whatever the user's module raises while it is imported
        reason = f"importing the module raised {type(error).__name__}: {shown(str(error))}"
    else:
        _refuse_another_beside(name, beside)
        return found
    module, _, function = name.partition(":")
    raise InputInvalid(
        "E_STEP_KIND",
        f"no step function {name}: {reason}",
        found=name,
        allowed="module:function of a function decorated with @step",
        cure=f"decorate {function} with @step, and put {module}.py beside the chain file or on the Python path",
    )


def _refuse_another_beside(name: str, folder: str) -> None:
    """Python knows one module of a name. Another one beside the chain file is what its author meant."""
    top = name.partition(":")[0].partition(".")[0]
    there = importlib.machinery.PathFinder.find_spec(top, [folder])
    loaded = getattr(sys.modules.get(top, sys.modules["__main__"]), "__file__", None)
    if there is None or there.origin is None or loaded is None:
        return
    if os.path.realpath(there.origin) != os.path.realpath(loaded):
        message = f"there are two modules {top}: {shown(loaded)} is loaded, {shown(there.origin)} lies beside the chain"
        cure = "give one of the modules another name"
        raise InputInvalid("E_STEP_NAME_TWICE", message, found=name, allowed="one function for each name", cure=cure)


def read_chain(path: str | os.PathLike[str], source: str) -> bytes:
    """The bytes of a chain file, of a plain file only, and never more than a chain file may have.

    Raises:
        ChainInvalid: E_CHAIN_FILE if there is no such file or it cannot be read, E_YAML_SIZE.
    """
    place = Place(source)
    try:
        # Without O_NONBLOCK, opening a FIFO waits for somebody to write into it.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            content = _content(number, place)
        finally:
            os.close(number)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ChainInvalid([_unreadable(reason[:1].lower() + reason[1:], place)]) from None
    return content


def _content(number: int, place: Place) -> bytes:
    state = os.fstat(number)
    if not stat.S_ISREG(state.st_mode):
        raise ChainInvalid([_unreadable(f"it is {_kind(state.st_mode)}", place)])
    if state.st_size > MAX_BYTES:
        raise ChainInvalid([_too_large(state.st_size, place)])
    with open(number, "rb", closefd=False) as file:
        content = file.read(MAX_BYTES + 1)  # it may have grown, and files of /proc have no size
    if len(content) > MAX_BYTES:
        raise ChainInvalid([_too_large(len(content), place)])
    return content


def _unreadable(reason: str, place: Place) -> Problem:
    message = f"the chain file cannot be read: {reason}"
    return Problem("E_CHAIN_FILE", message, place, shown(place.file), "a plain YAML file")


def _too_large(size: int, place: Place) -> Problem:
    return Problem(
        "E_YAML_SIZE", "the file is too large", place, f"{size:,} bytes", f"{MAX_BYTES:,} bytes",
        "split it into chains that call each other",
    )  # fmt: skip


def _found(name: str, folder: Path, candidates: Iterable[str]) -> Path | None:
    """The first of the candidates that is there; all of them must stay in the folder."""
    _check_words(name)
    root = os.path.realpath(folder)
    passed_folder = False
    for candidate in candidates:
        path = os.path.realpath(os.path.join(root, candidate))
        if os.path.commonpath([root, path]) != root:
            raise _refused(name, "it leads out of the chain's folder through a link")
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _refused(name, (error.strerror or str(error)).lower()) from None
        if stat.S_ISREG(mode):
            return Path(path)
        if not stat.S_ISDIR(mode):
            raise _refused(name, f"it is {_kind(mode)}, not a plain file")
        passed_folder = True  # a folder may have the name of a workflow: name.json beside it counts
    if passed_folder:
        raise _refused(name, "it is a folder, not a plain file")
    return None


def _check_words(name: str) -> None:
    """Refuse what is no plain relative path, before anything on the disk is looked at."""
    if not name.strip():
        raise _refused(name, "it is empty")
    if not name.isprintable():
        raise _refused(name, "it holds characters that cannot be printed")
    if len(name) > MAX_NAME or any(len(part.encode()) > MAX_PART for part in name.split("/")):
        raise _refused(name, "it is too long")
    if "\\" in name:
        raise _refused(name, "it holds a backslash")
    path = PurePosixPath(name)
    if path.is_absolute():
        raise _refused(name, "it is absolute")
    if ".." in path.parts or not path.parts:
        raise _refused(name, "it leads out of the chain's folder")


def _refused(name: str, reason: str) -> InputInvalid:
    cure = "put the file into the chain's folder and write its name"
    return InputInvalid("E_REF_PATH", f"this file cannot be used: {reason}", found=name, allowed=_ALLOWED, cure=cure)


def _kind(mode: int) -> str:
    """What a thing on the disk is, in words."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "no plain file")


# -- steps that name each other


def similar(name: str, names: Iterable[str]) -> str:
    """`did you mean …?` for the name that looks most like this one, or nothing."""
    compared = [other[:MAX_PART] for other in islice(names, COMPARED)]
    close = difflib.get_close_matches(name[:MAX_PART], compared, 1)
    return f"did you mean {shown(close[0])}?" if close else ""


def order_of(needs: Mapping[str, Iterable[str]]) -> tuple[list[str], list[list[str]]]:
    """Steps after all that they need, and every circle among them (the first id repeated at the end).

    The order of a graph with circles leaves out what the steps of a circle need.
    """
    open_needs = {step: () if step in needed else needed for step, needed in needs.items()}
    circles = [[step, step] for step, needed in needs.items() if step in needed]
    while True:
        try:
            return list(TopologicalSorter(open_needs).static_order()), circles
        except CycleError as error:
            members = dict.fromkeys(error.args[1])
            steps = [StepPlan(m, "", "", depends_on=tuple(d for d in needs[m] if d in members)) for m in members]
            circles.append(find_cycle(steps))
            open_needs.update(dict.fromkeys(members, ()))
            if len(circles) >= MAX_PROBLEMS:
                return list(needs), circles


def upstream_among(
    order: Sequence[str], needs: Mapping[str, Iterable[str]], asked: Mapping[str, Iterable[str]]
) -> dict[str, set[str]]:
    """Which of the steps that each step asks about come before it, directly or not.

    One bit per step asked about travels down the graph: linear in the steps for each batch of bits.
    """
    before: dict[str, set[str]] = {step: set() for step in asked}
    wanted = list(dict.fromkeys(name for names in asked.values() for name in names))
    for start in range(0, len(wanted), _BATCH):
        bits = {name: 1 << i for i, name in enumerate(wanted[start : start + _BATCH])}
        masks: dict[str, int] = {}
        for step in order:
            mask = 0
            for need in needs[step]:
                mask |= masks[need] | bits.get(need, 0)
            masks[step] = mask
        for step, names in asked.items():
            before[step].update(name for name in names if bits.get(name, 0) & masks[step])
    return before


class Spot(Protocol):
    """The step that an expression belongs to; paths begin at the step."""

    @property
    def step(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]: ...

    def place(self, path: Keys) -> Place: ...


@dataclass(frozen=True, slots=True)
class _Question:
    """An expression that names steps which may or may not be ancestors of its own step."""

    ask: Callable[[Scope], list[Problem]]
    step: str
    names: tuple[str, ...]
    mapped: bool


class Expressions:
    """The expressions of a chain's steps. Names of direct dependencies are checked at once, others by `settle`.

    `needs` are the direct dependencies of every step. `problems` collects what is wrong.
    """

    def __init__(self, inputs: Iterable[str], needs: Mapping[str, Collection[str]]) -> None:
        self.inputs, self.needs, self.steps = frozenset(inputs), needs, frozenset(needs)
        self.problems: list[Problem] = []
        self._questions: list[_Question] = []

    def binding(self, value: Json, path: Keys, spot: Spot, *, mapped: bool) -> Json:
        """A value of a chain file as a binding: text with `{{` is a template, all else is itself."""
        if isinstance(value, str):
            self._template(value, path, spot, mapped)
            return {"$template": value} if OPENING.search(value) else value
        if isinstance(value, list):
            return [self.binding(inner, (*path, i), spot, mapped=mapped) for i, inner in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if marks := MARKS & value.keys():
            if _holds_template(value):
                message = "templates cannot stand beside this key"
                cure = "use another key, or compute the value in a step"
                found = shown(min(marks))
                self.problems.append(Problem("E_FIELD_TYPE", message, spot.place(path), found, cure=cure))
            return {"$literal": value}
        return {key: self.binding(inner, (*path, key), spot, mapped=mapped) for key, inner in value.items()}

    def foreach(self, value: Json, path: Keys, spot: Spot) -> Json:
        """What a step maps over: a list, or one whole `{{ … }}`. The whole value of a step is a reference."""
        if isinstance(value, list):
            return self.binding(value, path, spot, mapped=False)
        template = self._template(value, path, spot, False)
        if template is None or not template.whole:
            if OPENING.search(value) is None or template is not None:
                allowed = "a list, or one whole {{ … }} that gives a list"
                message = "foreach cannot be this"
                self.problems.append(Problem("E_FIELD_TYPE", message, spot.place(path), shown(value), allowed))
            return []
        [part] = parse_text(value).parts
        lone = part.lone if isinstance(part, Expression) and not part.otherwise else None
        if lone is not None and (lone.root, lone.part, lone.keys) == ("step", "output", ()):
            return {"$ref": {"step": lone.step, "keys": []}}
        return {"$template": value}

    def condition(self, text: str, path: Keys, spot: Spot) -> tuple[str, ...]:
        """The steps whose status or error a condition looks at."""
        condition = self._parsed(parse_condition, text, path, spot, False)
        if condition is None:
            return ()
        return tuple(dict.fromkeys(r.step for r in condition.references if r.part in ("status", "error")))

    def settle(self, order: Sequence[str], *, circular: bool) -> None:
        """Check the names that are no direct dependencies, now that the whole graph is known.

        In a chain with circles every step counts as an ancestor: the circle has to be cured first.
        """
        asked = {q.step: set[str]() for q in self._questions}
        for question in self._questions:
            asked[question.step].update(self.steps.intersection(question.names))
        limit = len(self.problems) + MAX_PROBLEMS
        known = {} if circular else upstream_among(order, self.needs, asked)
        for question in self._questions:
            if len(self.problems) >= limit:
                return
            upstream = self.steps if circular else known[question.step].union(self.needs[question.step])
            scope = Scope(self.inputs, frozenset(upstream), self.steps, question.mapped)
            self.problems += question.ask(scope)

    def _template(self, text: str, path: Keys, spot: Spot, mapped: bool) -> Template | None:
        if OPENING.search(text) is None:
            return None
        return self._parsed(parse_template, text, path, spot, mapped)

    def _parsed(self, parse: Parse[Parsed], text: str, path: Keys, spot: Spot, mapped: bool) -> Parsed | None:
        """The parsed text; None if it is wrong whatever its names stand for."""
        place = spot.place(path)
        parsed, _ = parse(text, None, place)
        if parsed is not None:
            if not all(self._near(reference, spot, mapped) for reference in parsed.references):
                names = tuple(dict.fromkeys(r.step for r in parsed.references if r.root == "step"))
                self._questions.append(_Question(lambda s: parse(text, s, place)[1], spot.step, names, mapped))
        elif len(self.problems) < MAX_PROBLEMS:
            _, problems = parse(text, Scope(self.inputs, spot.needs, self.steps, mapped), place)
            self.problems += [p for p in problems if p.code not in _OF_OTHER_STEPS]
        return parsed

    def _near(self, reference: Reference, spot: Spot, mapped: bool) -> bool:
        """Whether a name can be used without a look at the whole graph."""
        if reference.root == "step":
            return reference.step in spot.needs
        return reference.keys[0] in self.inputs if reference.root == "inputs" else mapped


def _holds_template(value: Json) -> bool:
    if isinstance(value, str):
        return OPENING.search(value) is not None
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_holds_template, inner))
