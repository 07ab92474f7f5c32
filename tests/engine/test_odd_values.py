"""Values and classes that are rarely met: what contains itself, what lies about its class, what its file would change."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import signal
import types
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec
import pydantic
import pytest

from towpath import InputInvalid, ValueRefused
from towpath.codecs import files_saved
from towpath.errors import Place
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
