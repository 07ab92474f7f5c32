"""Every error of towpath, one tree, one stable code each.

    TowpathError
    ├── ChainInvalid          a chain file or `@chain` is wrong; carries every problem found (exit 2)
    ├── InputInvalid          an argument, chain input or option is wrong (exit 2)
    ├── FeatureMissing        a key or URL whose part is not built or not installed (exit 2)
    ├── ExpressionFailed      a template or condition could not be evaluated against real values
    ├── ValueRefused          a step returned something that cannot be kept
    ├── StepFailed            raised by a user's step to fail on purpose (`retryable=False` stops retries)
    ├── StepTimedOut          an attempt, or all attempts together, took too long
    ├── SecretMissing         this process has no access to a secret of a run (exit 2)
    ├── StepNotRegistered     a step name that this process cannot resolve (exit 2)
    ├── RunRefused            a run does not exist, has another owner, or is already over
    │   └── Fenced            this process lost the run to another owner; nothing it writes counts
    ├── ApprovalRefused       a decision came too late, twice, or for versions that changed
    ├── ServerFailed          a ComfyUI server is out of reach, refuses, or answers nonsense (exit 4)
    ├── PromptFailed          a ComfyUI server refused or could not finish a workflow
    ├── StoreFailed           database, disk or blob trouble (exit 4)
    ├── ChainFailed           a run failed or was cancelled; it has the run as `.run` (exit 1)
    └── StepNotCompleted      `.value` of a step that did not complete

An error says what is wrong, where (file:line:column, chain, step, field), what was found, what is
allowed and what cures it. `code` is part of the public contract; the sentence is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

from .redaction import redacted

FOUND_OVERLAP = 1024  # characters behind it in which a secret that begins in it may end
FOUND_LIMIT = 80  # characters of a user's text that an error repeats
COMPARED = 500  # names among which `similar` looks
COMPARED_LENGTH = 240  # characters of a name that `similar` looks at


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is wrong. Lines and columns count from 1; 0 means unknown."""

    file: str = ""
    line: int = 0
    column: int = 0
    step: str = ""
    field: str = ""

    def __str__(self) -> str:
        position = self.file
        if self.line:
            column = f":{self.column}" if self.column else ""
            position += f":{self.line}{column}" if position else f"line {self.line}, column {self.column}"
        named = [position] if position else []
        if self.step:
            named.append(f"step {self.step}")
        if self.field:
            named.append(self.field)
        return ", ".join(named)


def shown(value: object) -> str:
    """A user's value without secrets, cut to 80 characters, with control characters escaped, safe for any terminal."""
    text = value if isinstance(value, str) else start_of_repr(value, FOUND_LIMIT + FOUND_OVERLAP)
    text = redacted(text) if len(text) <= FOUND_LIMIT else redacted(text, FOUND_LIMIT - 1, FOUND_OVERLAP) + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def start_of_repr(value: object, length: int) -> str:
    """The `repr` of a value, of which at least the first `length` characters are made if it is longer.

    A list that holds one list twice, which holds one list twice, … has a `repr` without end.
    """
    parts: list[str] = []
    left: list[object] = [value]  # what is not written yet, the next one last
    while left and length > 0:
        one = left.pop()
        text = str.__str__(one) if type(one) is _Text else _written(one, left)
        parts.append(text)
        length -= len(text)
    return "".join(parts)


class _Text(str):
    __slots__ = ()


_BRACKETS: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}")}


def _written(value: object, left: list[object]) -> str:
    """The beginning of the `repr` of a value; the rest is put on `left`."""
    if type(value) not in _BRACKETS:
        return repr(value)
    first, last = _BRACKETS[type(value)]
    parts: list[object] = []
    for one in cast("Iterable[object]", value):
        parts += [one, _Text(": "), value[one], _Text(", ")] if isinstance(value, dict) else [one, _Text(", ")]
        if len(parts) > _MOST_PARTS:
            break
    else:
        parts[-1:] = [_Text(f",{last}" if type(value) is tuple and len(parts) == 2 else last)]
    left += reversed(parts)
    return first


_MOST_PARTS = 2 * (FOUND_LIMIT + FOUND_OVERLAP)  # each second one of them has at least two characters


def similar(name: str, names: Iterable[str], limit: int = COMPARED) -> str:
    """`did you mean …?` for the most similar of the first `limit` names; empty if none is similar."""
    import difflib  # noqa: PLC0415 - only errors need it

    compared = [other[:COMPARED_LENGTH] for other in islice(names, limit)]
    close = difflib.get_close_matches(name[:COMPARED_LENGTH], compared, 1)
    return f"did you mean {shown(close[0])}?" if close else ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, complete enough to be shown, logged and matched by `code`. Its texts hold no secret."""

    code: str
    message: str
    place: Place = field(default_factory=Place)
    found: str = ""
    allowed: str = ""
    cure: str = ""

    def __post_init__(self) -> None:
        for name in ("message", "found", "allowed", "cure"):
            text = getattr(self, name)
            if text:
                object.__setattr__(self, name, redacted(text))

    def __str__(self) -> str:
        where = str(self.place)
        parts = [f"{where}: " if where else "", f"{self.message} [{self.code}]"]
        for label, text in (("found", self.found), ("allowed", self.allowed), ("cure", self.cure)):
            if text:
                parts.append(f"\n    {label}: {text}")
        return "".join(parts)

    def as_json(self) -> dict[str, object]:
        """The problem as plain data for `--json`; empty fields are left out."""
        place = {k: getattr(self.place, k) for k in ("file", "line", "column", "step", "field")}
        body = {"code": self.code, "message": self.message, **place}
        body.update(found=self.found, allowed=self.allowed, cure=self.cure)
        return {k: v for k, v in body.items() if v}


class TowpathError(Exception):
    """Root of all errors that towpath raises on purpose.

    `retryable` says whether a retry may help; `exit_code` is what the command
    line ends with when this error ends it.
    """

    exit_code: int = 1
    retryable: bool = False

    def __init__(
        self,
        code: str,
        message: str,
        *,
        place: Place | None = None,
        found: object = "",
        allowed: str = "",
        cure: str = "",
        retryable: bool | None = None,
    ) -> None:
        self.problem: Problem = Problem(
            code, message, place or Place(), shown(found) if found != "" else "", allowed, cure
        )
        if retryable is not None:
            self.retryable = retryable
        super().__init__(str(self.problem))

    @property
    def code(self) -> str:
        """The stable `E_…` code."""
        return self.problem.code

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems; most errors have one."""
        return (self.problem,)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy(), self.args))


def _rebuild(kind: type[TowpathError], state: dict[str, object], args: tuple[object, ...]) -> TowpathError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class ChainInvalid(TowpathError):
    """A chain was refused when it was loaded. `problems` holds everything that is wrong with it."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = tuple(problems)
        assert found, "a chain is only invalid for a reason"
        super().__init__(found[0].code, found[0].message, place=found[0].place)
        self._problems = found
        self.args: tuple[Any, ...] = ("\n".join(str(p) for p in found),)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self._problems


class InputInvalid(TowpathError):
    """An argument, a chain input or an option is wrong."""

    exit_code = 2


class FeatureMissing(TowpathError):
    """Something that validates but whose part is not built or not installed here."""

    exit_code = 2


class ExpressionFailed(TowpathError):
    """A template or condition met a value that it cannot work with, or one that is not there."""


class ValueRefused(TowpathError):
    """A step returned, or a chain was given, something that is neither JSON data nor a file."""


class StepFailed(TowpathError):
    """Raise it inside a step to fail on purpose: `raise StepFailed("no face found", retryable=False)`."""

    retryable = True

    def __init__(self, message: str, *, retryable: bool = True, code: str = "E_STEP_FAILED") -> None:
        super().__init__(code, message, retryable=retryable)


class StepCancelled(BaseException):
    """`context().check()` and `progress()` raise it in a function whose attempt is over. Let it pass.

    As with `asyncio.CancelledError`, it is no `Exception`, so that `except Exception` does not stop it by accident. It
    fails no step: the outcome of the attempt is decided already.
    """


class StepCrashed(TowpathError):
    """The process died again and again while it tried a step."""


class ProcessEnded(TowpathError):
    """A step ended the whole event loop. Runs are left as recorded, to be resumed."""

    exit_code = 4


class StepProcessFailed(TowpathError):
    """The process of a step with `process=True` cannot be started, or died, or what it needs cannot be sent to it."""


class StepUnkept(TowpathError):
    """The outcome of a step could not be stored; its function is not the cause."""


class StepTimedOut(TowpathError):
    """An attempt ran longer than `timeout`, or all attempts longer than `total_timeout`."""

    retryable = True


class StepNotRegistered(TowpathError):
    """A plan names a step function that this process cannot import."""

    exit_code = 2


class SecretMissing(TowpathError):
    """This process has no access to a secret: its variable is not set, or its key differs.

    Nothing is wrong with the run: a process that has the secret can resume it.
    """

    exit_code = 2


class RunRefused(TowpathError):
    """The run does not exist, has a living owner, or is over."""


class Fenced(RunRefused):
    """Another process took the run over. Nothing that this process still does for it is recorded."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            "E_FENCED",
            f"run {run_id} was taken over by another process",
            cure="nothing is lost: the new owner continues from the recorded steps",
        )


class ApprovalRefused(TowpathError):
    """A decision cannot be taken: decided already, not there, or about versions that changed."""


class ServerFailed(TowpathError):
    """A ComfyUI server is out of reach, busy, refuses us, or answers what no server should."""

    exit_code = 4
    retryable = True


class PromptFailed(TowpathError):
    """A ComfyUI server refused a workflow, or a node of it failed. `nodes` says which, one line each."""

    def __init__(self, code: str, message: str, *, nodes: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(code, message, **more)
        self.nodes = nodes


class StoreFailed(TowpathError):
    """The database, the disk or a blob failed. What was recorded before is safe."""

    exit_code = 4


class ChainFailed(TowpathError):
    """A run failed or was cancelled. `code` is that of its first failed step, or E_CHAIN_FAILED.

    `run` is the `Run`: its steps, values and files. Without it (`None`) the error was pickled: a run holds its store.
    """

    def __init__(self, code: str, message: str, *, run: Any = None, **more: Any) -> None:
        super().__init__(code, message, **more)
        self.run = run

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), {**self.__dict__, "run": None}, self.args))


class StepNotCompleted(TowpathError):
    """`.value` was read of a step that did not complete."""
