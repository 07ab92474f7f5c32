"""The inputs of a `@chain`: annotations as types, and values and command-line texts checked against them."""

# ruff: noqa: UP007, UP045 - every way to write a type is what is tested
from __future__ import annotations

import enum
import inspect
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence  # noqa: F401 - named in texts
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar, Union
from uuid import UUID

import pytest

from towpath import Artifact, InputInvalid, chain, step
from towpath.input_types import in_words, input_spec, json_or_text, parsed
from towpath.new_run import Reads, settle_inputs

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]  # noqa: F401

UserId = NewType("UserId", int)
Number = TypeVar("Number", bound=float)
Either = TypeVar("Either", int, str)
Photos = list[Artifact]


class PathOfALibrary(type(Path())):  # type: ignore[misc]
    """A subclass of Path, as libraries have them."""


class Shape(TypedDict):
    a: int


class Pair(NamedTuple):
    a: int


@dataclass
class Point:
    a: int


class OwnDict(dict[str, int]):
    pass


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class TextColor(str, enum.Enum):  # noqa: UP042 - as it was written before there was StrEnum
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Flags(enum.IntFlag):
    ONE = 1


class Opaque(enum.Enum):
    """Its values are no data: nothing can be said of it."""

    IT = object()


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
    ("datetime", "string", "datetime as text (ISO 8601)"),
    ("Optional[Decimal]", "string", "decimal as text or null"),
    ("UUID", "string", "UUID as text"),
    ("timedelta", "json", "number or duration as text (ISO 8601)"),
    ("OrderedDict[str, int]", "json", "a mapping of integer"),
    ("OrderedDict", "json", "a mapping"),
    ("defaultdict[str, list[int]]", "json", "a mapping of a list of integer"),
    ("Counter[str]", "json", "a mapping of integer"),
    ("Shape", "json", "a mapping"),
    ("Point", "json", "a mapping"),
    ("list[Point]", "json", "a list of a mapping"),
    ("OwnDict", "json", "a mapping"),
    ("deque[int]", "json", "a list of integer"),
    ("Iterator[int]", "json", "a list of integer"),
    ("Pair", "json", "a list"),
    ("Color", "string", '"red" or "blue"'),
    ("TextColor", "string", '"red"'),
    ("Level", "json", "1 or 2"),
    ("Literal[Color.RED]", "string", '"red"'),
    ("Literal[Level.HIGH, 'none']", "json", '2 or "none"'),
    ("Optional[Color]", "string", '"red" or "blue" or null'),
    ("Flags", "integer", "integer"),
    ("Opaque", "json", "anything"),
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


def test_modules_that_only_type_checkers_import_mean_what_they_mean() -> None:
    """`if TYPE_CHECKING: import towpath as tp`, `import typing as t`."""
    scope: dict[str, Any] = {}
    texts = ["tp.Artifact", "list[tp.File]", "t.Optional[tp.Artifact]", "t.Literal['a']", "p.Path | None"]
    exec(f"def f({', '.join(f'a{i}: {text!r}' for i, text in enumerate(texts))}): ...", scope)
    specs = [input_spec(p, scope["f"]) for p in inspect.signature(scope["f"]).parameters.values()]
    assert [s.type for s in specs] == ["file", "json", "file", "string", "file"]
    assert in_words(specs[1].shape) == "a list of file"


@pytest.mark.parametrize("annotation", ["Unknown", "list[Unknown]", "pd.DataFrame", "not python (", "int[", "1 / 0"])
def test_an_annotation_that_says_nothing_is_told_of(annotation: str) -> None:
    """What it is given is not checked, which nobody wants to find out from a result."""

    def takes(x: Any) -> Any:
        return echo(x)

    takes.__annotations__ = {"x": annotation}
    described = chain(takes)
    with pytest.warns(UserWarning, match="input x is not checked: .* import what it names"):
        assert described.plan.inputs[0].type == "json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert accepts(Any, 1) == 1


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
    (Color, "red"),
    (TextColor, "red"),
    (Literal[Level.HIGH], 2),
    (Shape, {"a": 1}),
    (Point, {"a": 1}),
    (Pair, [1]),
    (deque, [1]),
    (defaultdict[str, int], {"a": 1}),
    (datetime, "2026-01-01"),
    (Decimal, "1.50"),
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
    (OrderedDict[str, int], [1]),
    (defaultdict[str, int], {"a": "1"}),
    (Counter[str], {"a": 1.5}),
    (Shape, "a"),
    (Point, [1]),
    (Pair, {"a": 1}),
    (deque, "abc"),
    (Iterator[int], "12"),
    (Color, "green"),
    (Color, "RED"),
    (Level, True),
    (Literal[Color.RED], "blue"),
    (Literal[Color.RED], Color.BLUE),
    (datetime, 3),
    (datetime, "tomorrow"),
    (UUID, "x"),
    (timedelta, "a while"),
    (Decimal, 1.5),
    (UUID, {"hex": "0"}),
]


@pytest.mark.parametrize(("annotation", "value"), MISFITS)
def test_values_that_do_not_fit_are_refused(annotation: Any, value: Any) -> None:
    """Before anything starts; else the step would get them as if they were right."""
    with pytest.raises(InputInvalid) as refused:
        accepts(annotation, value)
    assert refused.value.code == "E_INPUT_TYPE"
    assert refused.value.problem.allowed
    assert refused.value.problem.place.field.startswith("inputs.x")


@pytest.mark.parametrize(
    ("annotation", "member", "value"),
    [
        (Color, Color.BLUE, "blue"),
        (TextColor, TextColor.RED, "red"),
        (Level, Level.HIGH, 2),
        (Literal[Color.RED], Color.RED, "red"),
        (Optional[Color], Color.RED, "red"),
        (list[Color], [Color.RED], ["red"]),
    ],
)
def test_a_member_of_an_enum_is_its_value(annotation: Any, member: Any, value: Any) -> None:
    taken = accepts(annotation, member)
    assert (taken, type(taken)) == (value, type(value))
    if not isinstance(member, list):
        default = spec_of(annotation, default=member).default
        assert (default, type(default)) == (value, type(value))


def test_a_path_as_the_default_is_a_file_where_text_is_allowed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.txt").write_text("d")

    def described(
        a: str | Path = Path("d.txt"),
        b: Union[Path, str, None] = Path("d.txt"),
        c: Path = Path("d.txt"),
        d: str | Path = "d.txt",
        e: Any = Path("d.txt"),
        f: int | Path = Path("d.txt"),
    ):
        return echo([a, b, c, d, e, f])

    taken = settle_inputs(chain(described).plan, {}, Reads.ANYTHING)
    assert [type(value) is str for value in taken.values()] == [False, False, False, True, False, False]
    assert [Path(value).resolve() for value in taken.values()] == [tmp_path / "d.txt"] * 6
    with pytest.raises(InputInvalid, match="E_INPUT_SOURCE"):
        settle_inputs(chain(described).plan, {}, Reads.NOTHING)


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
    (bool | int, "1", 1),
    (int | bool | None, "0", 0),
    (bool | float, "1", 1.0),
    (bool | str, "no", "no"),
    (bool | str, "1", "1"),
    (bool | str, "True", "True"),
    (bool | str, "true", True),
    (bool | None, "yes", True),
    (int | str, "007", "007"),
    (int | str, "+7", "+7"),
    (int | str, "-0", "-0"),
    (int | str, "-7", -7),
    (float | str, "1e5", "1e5"),
    (float | str, "1.50", "1.50"),
    (float | str, "1.5", 1.5),
    (float | str, ".5", ".5"),
    (str | float | None, "3", 3.0),
    (int | float, "1e5", 100000.0),
    (Color, "blue", "blue"),
    (Level, "2", 2),
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
    """newcomer F14: `depths=2,4` for a list was a text, and a map over it ran once for each of its characters."""
    with pytest.raises(InputInvalid) as refused:
        parsed(spec_of(annotation), text)
    assert refused.value.code == "E_INPUT_TYPE"
    assert refused.value.problem.allowed


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]', '{"a": 1, "\\u0061": 2}', '{"": [], "": {}}']
)
def test_a_key_that_is_given_twice_is_refused(text: str) -> None:
    """The last one would count, in silence."""
    for annotation in (Any, dict, list, dict[str, Any] | list[Any], dict | str | list):
        with pytest.raises(InputInvalid) as refused:
            parsed(spec_of(annotation), text)
        fits = annotation not in (dict, list) or (text[0] == "{") == (annotation is dict)
        assert not fits or refused.value.code == "E_INPUT_FORM"
    with pytest.raises(InputInvalid, match="E_INPUT_FORM"):
        json_or_text(text)


def test_functions_keep_their_annotations_apart() -> None:
    """One chain per test of the engine: the types are in its plan, which survives JSON."""

    @chain
    def typed(
        a: list[Artifact], b: Optional[int] = None, c: Callable[[], int] | None = None, d: Mapping[str, Any] = {}
    ):
        return echo([a, b])

    assert [s.type for s in typed.plan.inputs] == ["json", "integer", "json", "json"]
    assert [s.required for s in typed.plan.inputs] == [True, False, False, False]
