"""The inputs of a `@chain`: annotations as types, and values and command-line texts checked against them."""

# ruff: noqa: UP007, UP045 - every way to write a type is what is tested
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence  # noqa: F401 - named in texts
from datetime import datetime  # noqa: F401
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional, TypeVar, Union

import pytest

from towpath import Artifact, InputInvalid, chain, step
from towpath.input_types import in_words, input_spec, parsed
from towpath.starting import settle_inputs

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]  # noqa: F401

UserId = NewType("UserId", int)
Number = TypeVar("Number", bound=float)
Either = TypeVar("Either", int, str)
Photos = list[Artifact]


class PathOfALibrary(type(Path())):  # type: ignore[misc]
    """A subclass of Path, as libraries have them."""


class Word(str):
    """A subclass of str."""

    __slots__ = ()


def spec_of(annotation: Any, **default: Any) -> Any:
    parameter = inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation, **default)
    return input_spec(parameter, spec_of)


ANNOTATIONS: list[tuple[str, str, str]] = [
    ("Artifact", "file", "file"),
    ("Optional[Artifact]", "file", "file or null"),
    ("Artifact | None", "file", "file or null"),
    ("Union[None, Artifact]", "file", "null or file"),
    ("Annotated[Artifact, 'a photo']", "file", "file"),
    ("Annotated[Optional[Path], 1]", "file", "file or null"),
    ("Optional[Annotated[Path, 1]]", "file", "file or null"),
    ("PathOfALibrary", "file", "file"),
    ("bytes", "file", "file"),
    ("list[Artifact]", "json", "a list of file"),
    ("Photos", "json", "a list of file"),
    ("Optional[list[Path]]", "json", "a list of file or null"),
    ("dict[str, Artifact]", "json", "a mapping of file"),
    ("tuple[Artifact, int]", "json", "a list of 2: file, integer"),
    ("tuple[int, ...]", "json", "a list of integer"),
    ("Sequence[Path]", "json", "a list of file"),
    ("Mapping[str, int]", "json", "a mapping of integer"),
    ("Iterable[str]", "json", "a list of string"),
    ("set[str]", "json", "a list of string"),
    ("list", "json", "a list"),
    ("dict", "json", "a mapping"),
    ("Optional[str]", "string", "string or null"),
    ("str | int", "json", "string or integer"),
    ("Literal['a', 'b']", "string", '"a" or "b"'),
    ("Literal[1, 'b', None]", "json", '1 or "b" or null'),
    ("Optional[list[int]]", "json", "a list of integer or null"),
    ("list[list[float]]", "json", "a list of a list of number"),
    ("UserId", "integer", "integer"),
    ("Number", "number", "number"),
    ("Either", "json", "integer or string"),
    ("Word", "string", "string"),
    ("bool", "boolean", "boolean"),
    ("Any", "json", "anything"),
    ("object", "json", "anything"),
    ("Optional[Any]", "json", "anything"),
    ("datetime", "json", "anything"),
    ("Unknown", "json", "anything"),
    ("list[Unknown]", "json", "anything"),
    ("not python (", "json", "anything"),
]


@pytest.mark.parametrize(("annotation", "kind", "words"), ANNOTATIONS)
def test_annotations_are_read_as_types(annotation: str, kind: str, words: str) -> None:
    """As text (`from __future__ import annotations`) and as they are. Who cannot be resolved says nothing."""
    spec = spec_of(annotation)
    shape = spec.shape if spec.shape is not None else None if kind == "json" else kind
    assert (spec.type, in_words(shape)) == (kind, words)
    if not {"Unknown", "not"} & set(annotation.replace("[", " ").replace("]", " ").split()):
        assert spec_of(eval(annotation)) == spec  # the annotations of this list, not a stranger's


def test_names_that_only_type_checkers_import_are_known() -> None:
    """`if TYPE_CHECKING: from pathlib import Path` leaves no Path where the chain is described."""
    scope: dict[str, Any] = {}
    exec("def f(a: 'Artifact | None', b: 'list[Path]', c: 'Optional[File]'): ...", scope)
    specs = [input_spec(p, scope["f"]) for p in inspect.signature(scope["f"]).parameters.values()]
    assert [s.type for s in specs] == ["file", "json", "file"]


def test_a_local_class_in_an_annotation_is_found() -> None:
    class Local(str):
        __slots__ = ()

    def sees(x: Local) -> Local:
        return Local(x)

    def does_not_see(x: Local) -> Any:
        return x

    kinds = [input_spec(inspect.signature(f).parameters["x"], f).type for f in (sees, does_not_see)]
    assert kinds == ["string", "json"]


@step
def echo(x: Any) -> Any:
    return x


def accepts(annotation: Any, value: Any) -> Any:
    """What a chain with one input of that annotation makes of a value."""

    def described(x: Any) -> Any:
        return echo(x)

    described.__annotations__ = {"x": annotation}
    return settle_inputs(chain(described).plan, {"x": value})["x"]


FITS: list[tuple[Any, Any]] = [
    (Optional[str], None),
    (Optional[str], "a"),
    (str | int, 3),
    (str | int, "@a.txt"),
    (Literal["a", 2], 2),
    (list[int], [1, 2]),
    (list[int], (1, 2)),
    (tuple[int, str], [1, "a"]),
    (dict[str, list[float]], {"a": [1, 2.5]}),
    (Optional[list[int]], None),
    (Sequence[str], ["a"]),
    (Union[Artifact, str], "text is text"),
    (UserId, 4),
    (Any, {"a": [None]}),
]


@pytest.mark.parametrize(("annotation", "value"), FITS)
def test_values_that_fit_are_taken_as_they_are(annotation: Any, value: Any) -> None:
    taken = accepts(annotation, value)
    assert taken == (list(value) if isinstance(value, tuple) else value)


MISFITS: list[tuple[Any, Any]] = [
    (Optional[str], 3),
    (Literal["a", "b"], "zzz"),
    (Literal[1], True),
    (Literal[1], 1.0),
    (str | int, 1.5),
    (str | int, None),
    (list[int], "2,4"),
    (list[int], [1, "2"]),
    (list[int], [True]),
    (list[int], {"a": 1}),
    (Optional[list[int]], 3),
    (tuple[int, str], [1]),
    (tuple[int, str], ["a", 1]),
    (dict[str, int], [1]),
    (dict[str, int], {"a": None}),
    (list[list[int]], [[1], 2]),
    (list[float], [float("nan")]),
    (Optional[float], float("inf")),
    (list[str], [None]),
    (UserId, "4"),
    (Number, "x"),
    (Either, 1.5),
    (Annotated[int, "n"], "1"),
]


@pytest.mark.parametrize(("annotation", "value"), MISFITS)
def test_values_that_do_not_fit_are_refused(annotation: Any, value: Any) -> None:
    """Before anything starts; else the step would get them as if they were right."""
    with pytest.raises(InputInvalid) as refused:
        accepts(annotation, value)
    assert refused.value.code == "E_INPUT_TYPE"
    assert refused.value.problem.allowed
    assert refused.value.problem.place.field.startswith("inputs.x")


def test_a_misfit_inside_a_value_has_its_place() -> None:
    with pytest.raises(InputInvalid) as refused:
        accepts(dict[str, list[int]], {"a": [1], "b": [2, "3"]})
    assert refused.value.problem.place.field == "inputs.x['b'][1]"


TEXTS: list[tuple[Any, str, Any]] = [
    (Optional[Artifact], "@a.txt", Path("a.txt")),
    (Artifact | None, "a.txt", Path("a.txt")),
    (Artifact | None, "null", None),
    (Optional[Path], "@a.txt", Path("a.txt")),
    (Annotated[Artifact, 1], "@a.txt", Path("a.txt")),
    (bytes, "@a.txt", Path("a.txt")),
    (Union[Artifact, str], "@a.txt", Path("a.txt")),
    (Union[Artifact, str], "a.txt", "a.txt"),
    (list[Artifact], '["@a.txt", "b.txt"]', [Path("a.txt"), Path("b.txt")]),
    (dict[str, Artifact], '{"a": "@a.txt"}', {"a": Path("a.txt")}),
    (Optional[list[Path]], '["@a.txt"]', [Path("a.txt")]),
    (tuple[Artifact, int], '["@a.txt", 1]', [Path("a.txt"), 1]),
    (list[int], "[2, 4]", [2, 4]),
    (list[str], '["@a"]', ["@a"]),
    (Optional[list[int]], "null", None),
    (Optional[list[int]], "[1]", [1]),
    (Optional[int], "3", 3),
    (Optional[int], "null", None),
    (Optional[str], "null", "null"),
    (Optional[str], "3", "3"),
    (str, "@a", "@a"),
    (int | str, "3", 3),
    (int | str, "x", "x"),
    (bool | int, "true", True),
    (Literal["a", "b"], "b", "b"),
    (Literal[1, 2], "2", 2),
    (Literal["1", 1], "1", "1"),
    (float, "1e3", 1000.0),
    (float, "-.5", -0.5),
    (bool, "Yes", True),
    (bool, "0", False),
    (Any, "{not json", "{not json"),
    (Any, "[1]", [1]),
]


@pytest.mark.parametrize(("annotation", "text", "value"), TEXTS)
def test_texts_of_the_command_line_become_values(annotation: Any, text: str, value: Any) -> None:
    read = parsed(spec_of(annotation), text)
    assert (read, type(read)) == (value, type(value))


WRONG_TEXTS: list[tuple[Any, str]] = [
    (list[int], "2,4"),
    (list[int], "2"),
    (list[int], '{"a": 1}'),
    (list[str], "a b"),
    (list, "a"),
    (dict, "a=1"),
    (dict[str, int], "[1]"),
    (tuple[int, str], "1,a"),
    (set[int], "{1}"),
    (Sequence[Path], "@a.txt"),
    (Optional[list[int]], "2,4"),
    (Optional[int], "x"),
    (Literal["a", "b"], "c"),
    (Literal[1], "one"),
    (bool, "maybe"),
    (bool, "2"),
    (float, "nan"),
    (float, "inf"),
    (float, "1_0"),
    (int, "1.0"),
    (int, "1_000"),
    (int, "٣"),
    (int, ""),
    (int | None, "@a"),
]


@pytest.mark.parametrize(("annotation", "text"), WRONG_TEXTS)
def test_texts_that_do_not_say_it_are_refused(annotation: Any, text: str) -> None:
    """`depths=2,4` for a list was a text, and a map over it ran once for each of its characters."""
    with pytest.raises(InputInvalid) as refused:
        parsed(spec_of(annotation), text)
    assert refused.value.code == "E_INPUT_TYPE"
    assert refused.value.problem.allowed


def test_functions_keep_their_annotations_apart() -> None:
    """One chain per test of the engine: the types are in its plan, which survives JSON."""

    @chain
    def typed(
        a: list[Artifact], b: Optional[int] = None, c: Callable[[], int] | None = None, d: Mapping[str, Any] = {}
    ):
        return echo([a, b])

    assert [s.type for s in typed.plan.inputs] == ["json", "integer", "json", "json"]
    assert [s.required for s in typed.plan.inputs] == [True, False, False, False]
