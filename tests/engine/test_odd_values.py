"""Values and classes that are rarely met: what contains itself, lies about its class, or would change."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import signal
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from unittest import mock

import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from PIL import Image

from towpath import File, InputInvalid, ValueRefused, codec
from towpath.codecs import codec_for, files_saved, load_file
from towpath.errors import Place, shown
from towpath.natural import rebuild
from towpath.rescue import parts_left
from towpath.step_calls import may_hold_objects
from towpath.values import take_apart

HERE = Place(step="s")
T = TypeVar("T")


def arrives(value: Any, annotation: Any) -> Any:
    """What a parameter with this annotation gets of a value."""
    return rebuild(msgspec.json.decode(msgspec.json.encode(take_apart(value, HERE)[0])), annotation, HERE)


def _list() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


def _dict() -> Any:
    value: dict[str, Any] = {}
    value |= {"left": value, "right": value}
    return value


def _object() -> Any:
    value = types.SimpleNamespace()
    value.left = value.right = value
    return value


@pytest.mark.parametrize("make", [_list, _dict, _object])
def test_what_contains_itself_twice_is_refused_at_once(make: Any, tmp_path: Path) -> None:
    """Each walk would have 2^100 places to visit."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(30)
    value = {"kept": 1, "self": make()}
    may_hold_objects(value)
    with pytest.raises(ValueRefused) as refused:
        take_apart(files_saved(value, lambda: tmp_path), HERE)
    assert "100 levels" in refused.value.problem.message
    data, _ = parts_left(value, HERE)
    assert data["kept"] == 1
    assert "contains itself" in str(data["self"])
    signal.alarm(0)


def _doubled(make: Any, levels: int = 60) -> Any:
    """A value of a few objects, whose JSON doubles with each level."""
    value: Any = 1
    for _ in range(levels):
        value = make(value)
    return value


class Node(pydantic.BaseModel):
    left: Any
    right: Any


SHARED: dict[str, Any] = {
    "lists": lambda: _doubled(lambda inner: [inner, inner]),
    "tuples": lambda: _doubled(lambda inner: (inner, inner)),
    "mappings": lambda: _doubled(lambda inner: {"left": inner, "right": inner}),
    "objects": lambda: _doubled(lambda inner: types.SimpleNamespace(left=inner, right=inner)),
    "models": lambda: _doubled(lambda inner: Node(left=inner, right=inner)),
    "sets": lambda: _doubled(lambda inner: frozenset([frozenset([inner]), frozenset([inner, 2])]), 40),
    "long lists": lambda: _doubled(lambda inner: [inner] * 1_000, 20),
    "a text": lambda: ["x" * 1_000_000] * 100_000,
    "a text in lists": lambda: [["x" * 1_000_000]] * 100_000,
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_holds_one_thing_many_times_is_refused_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in it contains itself, but no disk could hold its JSON. What is a long walk is made shorter here."""
    for many in ("json_form.MANY", "values.MANY", "rescue.MOST_VISITS"):
        monkeypatch.setattr(f"towpath.{many}", 2_000)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(120)
    value = {"kept": 1, "shared": SHARED[kind]()}
    may_hold_objects(value)
    for walk in (take_apart, lambda value, place: take_apart(files_saved(value, lambda: tmp_path), place)):
        with pytest.raises(ValueRefused) as refused:
            walk(value, HERE)
        assert refused.value.problem.code == "E_VALUE_SIZE"
    assert len(msgspec.json.encode(parts_left(value, HERE)[0])) < 64 * 1024 * 1024
    signal.alarm(0)


@pytest.mark.parametrize("kind", ["lists", "tuples", "mappings", "long lists", "a text"])
def test_an_error_shows_the_beginning_of_what_has_no_end(kind: str) -> None:
    assert len(shown([SHARED[kind]()])) == 80


def test_an_error_shows_values_as_python_does() -> None:
    for value in ([], (), {}, (1,), [1, "a'b"], {"a": [1, (2,), {}], 3: None}, ("x", [()]), {1, 2}, b"x"):
        assert shown(value) == repr(value)


def test_what_is_large_but_fits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for many in ("json_form.MANY", "values.MANY"):
        monkeypatch.setattr(f"towpath.{many}", 100)
    row = [1, "two", None]
    value = [[row, row] for _ in range(5_000)]
    assert take_apart(value, HERE)[0] == value


@dataclasses.dataclass
class Circle:
    size: int
    kind: Literal["circle"] = "circle"


@dataclasses.dataclass
class Square:
    size: int
    kind: Literal["square"] = "square"


@pytest.mark.parametrize("value", [Circle(1), Square(1)])
def test_a_literal_field_tells_classes_with_equal_fields_apart(value: Any) -> None:
    assert arrives(value, Circle | Square) == value
    assert arrives([value], list[Circle | Square]) == [value]
    with pytest.raises(InputInvalid, match="does not fit"):
        rebuild({"size": 1, "kind": "other"}, Circle, HERE)


def test_a_literal_parameter_refuses_nothing() -> None:
    assert rebuild("other", Literal["circle"], HERE) == "other"


@dataclasses.dataclass
class Box(Generic[T]):
    inside: T


@dataclasses.dataclass
class DateBox(Box[dt.date]):
    name: str = ""


@dataclasses.dataclass
class ListBox(Box[list[T]], Generic[T]):
    pass


def test_fields_of_a_generic_base_class_have_the_type_that_it_is_used_with() -> None:
    day = dt.date(2024, 5, 6)
    assert arrives(DateBox(day), DateBox) == DateBox(day)
    assert arrives(ListBox([day]), ListBox[dt.date]) == ListBox([day])


class Pair(enum.Enum):
    LOW = (1, 2)


class Unset(enum.Enum):
    NOTHING = None
    RAW = b"raw"
    ONE = 1


@pytest.mark.parametrize("member", [Unset.NOTHING, Unset.RAW])
def test_a_member_that_would_not_come_back_is_refused(member: Unset, tmp_path: Path) -> None:
    assert arrives(Unset.ONE, Unset) is Unset.ONE
    for value in (member, [member], {"a": member}):
        with pytest.raises(ValueRefused, match=r"member\.name"):
            take_apart(value, HERE)
        with pytest.raises(ValueRefused, match=r"member\.name"):
            take_apart(files_saved(value, lambda: tmp_path), HERE)


class Strict(pydantic.BaseModel, strict=True):
    pair: Pair
    day: dt.date
    sizes: tuple[int, ...]


class Holder(pydantic.BaseModel):
    strict: Strict
    count: int = 0


def test_a_model_with_an_enum_of_tuples_comes_back() -> None:
    """Pydantic writes its value as a list, and does not read that."""
    value = Holder(strict=Strict(pair=Pair.LOW, day=dt.date(2024, 5, 6), sizes=(1,)))
    assert arrives(value, Holder) == value
    with pytest.raises(InputInvalid) as refused:
        rebuild({"strict": {"pair": [1, 2], "day": "2024-05-06", "sizes": ["x"]}}, Holder, HERE)
    assert refused.value.problem.code == "E_ARGUMENT_TYPE"


def test_data_of_a_subclass_says_what_to_annotate() -> None:
    with pytest.raises(InputInvalid) as refused:
        arrives([DateBox(dt.date(2024, 5, 6))], list[Box[dt.date]])
    assert refused.value.problem.cure == "annotate DateBox | Box"


class Lying:
    __class__ = str  # type: ignore[assignment]


class Raising:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class Lost(Mapping[str, int]):
    """Its data cannot be read any more."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        raise OSError("the file is gone")


def _mock_of_text() -> Any:
    return mock.MagicMock(spec=str)


@pytest.mark.parametrize("make", [Lying, Raising, mock.MagicMock, mock.AsyncMock, _mock_of_text, Lost])
@pytest.mark.parametrize("saved", [False, True])
def test_what_only_looks_like_data_or_a_file_is_refused_with_its_place(make: Any, saved: bool, tmp_path: Path) -> None:
    """A mock has all methods of a stream: it would become an empty file."""
    value = {"a": [make()]}
    with pytest.raises(ValueRefused) as refused:
        take_apart(files_saved(value, lambda: tmp_path) if saved else value, HERE)
    assert refused.value.problem.code == "E_VALUE_TYPE"
    assert "a[0]" in refused.value.problem.message
    assert refused.value.problem.cure


class Scaled(np.ndarray):
    pass


class Frame(pd.DataFrame):
    pass


@pytest.mark.parametrize("value", [np.ones(2).view(Scaled), np.ones(2).view(np.recarray), Frame({"a": [1]})])
def test_an_object_of_a_subclass_that_its_file_would_lose_is_refused(value: Any, tmp_path: Path) -> None:
    assert codec_for(type(value)) is None
    with pytest.raises(ValueRefused) as refused:
        take_apart(files_saved(value, lambda: tmp_path), HERE)
    assert "plain" in refused.value.problem.cure


@pytest.mark.parametrize("unit", ["Y", "M", "ps", "generic"])
def test_a_numpy_duration_that_is_no_number_of_seconds_is_refused(unit: str) -> None:
    made: Any = np.timedelta64
    value = made(5) if unit == "generic" else made(5, unit)
    with pytest.raises(ValueRefused):
        take_apart(value, HERE)


@pytest.mark.parametrize("value", [(5, "D"), (123456789123456000, "ns"), (-1, "us"), (10, "W"), (1, "ns")])
def test_a_numpy_duration_comes_back(value: Any) -> None:
    assert arrives(np.timedelta64(*value), np.timedelta64) == np.timedelta64(*value)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (pd.DataFrame([[1, 2]], columns=[True, False]), "column names"),
        (pd.DataFrame([[1, 2]], columns=["a", 1]), "column names"),
        (pd.DataFrame([[1]], columns=pd.CategoricalIndex(["a"])), "column names"),
        (pd.DataFrame({"a": [{"x": 1}, {"y": 2}]}), "the same keys"),
        (pd.DataFrame({"a": [{1}]}), "sets"),
    ],
)
def test_a_table_that_parquet_would_change_is_refused(frame: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueRefused) as refused:
        take_apart(files_saved(frame, lambda: tmp_path), HERE)
    assert refused.value.problem.code == "E_CODEC"
    assert why in refused.value.problem.message


@pytest.mark.parametrize("columns", [["a", "b"], [0, 1], [0.5, 1.5], pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])])
def test_a_table_with_these_column_names_comes_back(columns: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame([[1, 2]], columns=columns)
    kept = files_saved(frame, lambda: tmp_path)
    pd.testing.assert_frame_equal(load_file(kept.data, pd.DataFrame), frame)


def test_a_photo_that_must_be_turned_still_says_so(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "photo.jpg", exif=exif)
    photo = Image.open(tmp_path / "photo.jpg")
    kept = files_saved(photo, lambda: tmp_path)
    loaded = load_file(kept.data, Image.Image)
    assert (loaded.size, loaded.getexif()[274]) == ((4, 2), 6)


class Bag(dict[str, int]):
    pass


def test_a_codec_of_a_subclass_of_dict_is_used(tmp_path: Path) -> None:
    codec(Bag, lambda bag, path: path.write_text(str(len(bag))), lambda path: Bag(), ".bag")
    assert isinstance(files_saved([Bag(a=1)], lambda: tmp_path)[0], File)
    assert isinstance(files_saved(Bag(a=1), lambda: tmp_path), File)


@pytest.mark.parametrize("kind", [object, str, int, dict, bytes, Path, File])
def test_a_codec_for_what_has_a_form_is_refused(kind: type) -> None:
    """All values would become files: dates, paths, and members of a StrEnum."""
    with pytest.raises(InputInvalid, match="E_FIELD_TYPE"):
        codec(kind, print, print, ".bin")
