"""Fakes in the place of steps, by name."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from towpath.errors import InputInvalid, shown, similar
from towpath.steps import Step, find_step, known_steps


@contextmanager
def replaced(fakes: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """While the block lasts, steps call the functions of `fakes` in place of their own.

    This holds for chains in Python and in YAML, for items of mapped steps, for steps with `process=True` (the fake runs
    in this process), and for the workers in this process. Retries, timeouts and gates stay those of the step. A fake
    may be a plain or an async function, or a mock; it gets the arguments of the step. A key is the step, its name
    (`"train"`), or its name with the module (`"flows:train"`).

    Raises InputInvalid: E_STEP_UNKNOWN for a name that no step has, or several have; E_STEP_KIND for a fake that is no
    function.
    """
    changes = [(step, _function(fake)) for key, fake in fakes.items() for step in _meant(key)]
    block = object()
    try:
        for step, fake in changes:
            _put(step, fake, block)
        yield
    finally:
        for step, _ in changes:
            _take(step, block)


@dataclass(slots=True)
class _Replaced:
    """A step with fakes in its place. Blocks of fixtures, tasks and threads may end in any order."""

    step: Step[..., Any]
    function: Callable[..., Any]
    stands_in: bool
    fakes: list[tuple[object, Callable[..., Any]]]  # with the block of each, the newest last


_replaced: dict[int, _Replaced] = {}  # by the id of the step
_lock = threading.Lock()


def _put(step: Step[..., Any], fake: Callable[..., Any], block: object) -> None:
    with _lock:
        there = _replaced.setdefault(id(step), _Replaced(step, step.function, step.stands_in, []))
        there.fakes.append((block, fake))
        step.function, step.stands_in = fake, True


def _take(step: Step[..., Any], block: object) -> None:
    """What stands there now is the newest of the fakes that are left, without one the step's own function."""
    with _lock:
        there = _replaced.get(id(step))
        if there is None:
            return
        there.fakes = [one for one in there.fakes if one[0] is not block]
        if there.fakes:
            step.function = there.fakes[-1][1]
        else:
            step.function, step.stands_in = there.function, there.stands_in
            del _replaced[id(step)]


def _function(fake: Any) -> Callable[..., Any]:
    if isinstance(fake, Step):
        function: Callable[..., Any] = fake.function
        return function
    if not callable(fake):
        cure = "lambda *args, **kwargs: …"
        raise InputInvalid("E_STEP_KIND", "a fake of a step is a function", found=fake, cure=cure)
    return fake  # type: ignore[no-any-return]


def _meant(key: object) -> list[Step[..., Any]]:
    """All step objects with the name: the step itself, and its variants made by `with_options`."""
    if not isinstance(key, str | Step):
        raise InputInvalid("E_STEP_UNKNOWN", "a fake stands for a step, or for the name of one", found=key)
    name = key.name if isinstance(key, Step) else key if ":" in key else _whole(key)
    known = find_step(name) if not isinstance(key, Step) else key
    # Steps are not listed anywhere but by name, because that would cost each of them; a test can afford to search.
    return [known, *(s for s in gc.get_objects() if type(s) is Step and s.name == name and s is not known)]


def _whole(short: str) -> str:
    """The name with its module. Raises InputInvalid (E_STEP_UNKNOWN)."""
    names = known_steps()
    found = [name for name in names if name.rpartition(":")[2].rpartition(".")[2] == short]
    if len(found) == 1:
        return found[0]
    if found:
        message = f"{len(found)} steps are called {shown(short)}"
        raise InputInvalid("E_STEP_UNKNOWN", message, found=", ".join(found[:5]), cure="give the name with its module")
    ends = [name.rpartition(":")[2] for name in names]
    cure = similar(short, ends) or "import the module of the step before, or give the name with its module"
    raise InputInvalid("E_STEP_UNKNOWN", f"no step is called {shown(short)}", cure=cure)
