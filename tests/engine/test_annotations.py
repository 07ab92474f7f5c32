"""Which arguments must become what their parameters say, and which returned values may hold objects with a file."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest

from towpath import Artifact, File, Secret, step
from towpath.annotations import annotations_of, receivers_of
from towpath.step_calls import may_hold_objects

if TYPE_CHECKING:
    from pathlib import Path as OnlyForCheckers

    from nowhere import Unknown  # type: ignore[import-not-found]

T = TypeVar("T")


def receivers(function: Callable[..., Any]) -> dict[str, bool]:
    found = receivers_of(function, inspect.signature(function))
    return {name: receiver.always for name, receiver in found.items()}


def fits_as_it_is(  # noqa: PLR0917
    a: int, b: float, c: bool, d: dict[str, Any], e: list[int], f: Any, g: Artifact, h: None, i: object, j: T,
    k: list[Artifact], m: Artifact | None, n: Secret[str],
) -> None: ...  # fmt: skip


def takes_files(p: Path, q: bytes, r: Path | None, s: list[Path], t: str, u: dict[str, str], v: str | None) -> None: ...


def half_known(p: Path, u: Unknown, v: list[Unknown], w: NotDefined, x: str) -> None: ...  # type: ignore[name-defined] # noqa: F821


def test_most_annotations_need_nothing() -> None:
    assert receivers(fits_as_it_is) == {}


def test_text_is_looked_at_only_for_files() -> None:
    """Every other argument for `str` is left alone."""
    found = receivers(takes_files)
    assert set(found) == set("pqrstuv")
    assert [name for name in found if not found[name]] == ["t", "u", "v"]


def test_a_name_that_cannot_be_found_hides_only_its_own_parameter() -> None:
    assert set(receivers(half_known)) == {"p", "x"}


def test_names_that_only_checkers_know_are_found_if_they_are_ours() -> None:
    def late(p: OnlyForCheckers) -> None: ...

    assert receivers(late) == {}  # under another name it is not known, and that is no error


class Reads:
    def __call__(self, p: Path, n: int) -> str:
        return p.read_text() * n


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def of_module(p: Path, n: int) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        of_module,
        functools.partial(of_module, n=1),
        Reads(),
        wrapping(wrapping(of_module)),
        functools.partial(wrapping(of_module), n=2),
        Reads().__call__,
    ],
    ids=["function", "partial", "object", "wrapped", "partial of wrapped", "method"],
)
def test_annotations_are_found_behind_callables(function: Callable[..., Any]) -> None:
    assert annotations_of(function, inspect.signature(function))["p"] is Path


def test_a_step_with_plain_parameters_receives_nothing() -> None:
    assert not step(fits_as_it_is).receives
    assert step(takes_files).receives


def itself() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.mark.parametrize(
    ("value", "may"),
    [
        (1, False),
        ("text", False),
        (b"bytes", False),
        ([1, "a", None, b"x"], False),
        ({"a": [1.0] * 3, "b": {"c": (1, 2)}}, False),
        ([File(b"x"), {"a": File(b"y")}], False),
        (itself(), False),
        (np.arange(3), True),
        ({"deep": [[{"array": np.arange(3)}]]}, True),
        (Reads(), True),
    ],
)
def test_objects_are_found_by_type(value: object, may: bool) -> None:
    assert may_hold_objects(value) is may


def test_a_file_is_given_to_an_input_without_a_type() -> None:
    """As the command line promises: `@path` is a file. Text that begins so is given as JSON."""
    from towpath.input_types import parsed
    from towpath.model import InputSpec

    spec = InputSpec("given", "json", True, None)
    assert parsed(spec, "@a.csv") == Path("a.csv")
    assert parsed(spec, '"@a.csv"') == "@a.csv"
    assert parsed(spec, '["@a.csv"]') == ["@a.csv"]
