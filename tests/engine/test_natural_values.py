"""The JSON forms of values, what annotations make of them, codecs, and the cures in refusals; all without an engine."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import attrs
import matplotlib.figure
import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LinearRegression

import towpath.codecs as known_codecs
from tests.conformance.natural_steps import NATURAL, RECEIVED, REFUSED, Config, Frozen, Mode, Model, Plain, Report, Tree
from towpath import Artifact, ChainInvalid, File, InputInvalid, Secret, ValueRefused, chain, codec, step
from towpath.codecs import codec_for, files_saved, formed, load_file
from towpath.errors import Place
from towpath.natural import rebuild, receives, takes_files
from towpath.rerun import regeneration_parameters
from towpath.values import take_apart

HERE = Place(step="s")
AWARE = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC)


def sent(value: Any, folder: Path | None = None) -> Any:
    """The data that a later step gets of a value, as the store returns it."""
    if folder is not None:
        value = files_saved(value, lambda: folder)
    return msgspec.json.decode(msgspec.json.encode(take_apart(value, HERE)[0]))


# ---- the table


def test_the_tables_are_as_long_as_promised() -> None:
    assert len(NATURAL) >= 60
    assert len(RECEIVED) >= 20


@pytest.mark.parametrize("name", [name for name, (_, form) in NATURAL.items() if "/" not in str(form)])
def test_forms_are_data_and_the_same_with_and_without_saving_files(name: str, tmp_path: Path) -> None:
    make, form = NATURAL[name]
    assert sent(make()) == sent(make(), tmp_path) == form


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_the_same_where_a_value_was_made_and_where_it_is_kept(name: str, tmp_path: Path) -> None:
    """`files_saved` raises nothing: the walk that knows the place does."""
    make, found, cure = REFUSED[name]
    with pytest.raises(ValueRefused) as refused:
        take_apart({"a": [files_saved(make(), lambda: tmp_path)]}, HERE)
    assert "a[0]" in refused.value.problem.message
    assert found in refused.value.problem.message
    assert cure in refused.value.problem.cure
    assert refused.value.problem.allowed
    assert not refused.value.retryable


# ---- by annotation

SAME: list[tuple[Any, Any]] = [
    (Config | None, Config()),
    (Annotated[Config, "doc"], Config()),
    (Config | str, Config()),
    (Config | str, "text"),
    (dict[str, Any] | Config, Config()),
    (list[Config | int], [Config(), 3]),
    (dt.date | int, dt.date(2024, 1, 2)),
    (dt.datetime | dt.date, AWARE),
    (dt.datetime | dt.date, dt.date(2024, 1, 2)),
    (Literal[Mode.FAST, "other"], Mode.FAST),
    (Literal[Mode.FAST, "other"], "other"),
    (tuple[dt.date, ...], (dt.date(2024, 1, 2),)),
    (tuple, (1, 2)),
    (frozenset[Mode], frozenset(Mode)),
    (collections.deque, collections.deque([1])),
    (collections.OrderedDict[str, int], collections.OrderedDict(a=1)),
    (collections.Counter[str], collections.Counter("aab")),
    (dict[uuid.UUID, int], {uuid.UUID(int=1): 1}),
    (dict[bool, int], {True: 1}),
    (dict[float, int], {0.5: 1}),
    (range, range(3, 9, 2)),
    (np.float32, np.float32(0.25)),
    (np.datetime64, np.datetime64("2024-01-02T03:04:05.000000006")),
    (pd.Timestamp, pd.Timestamp("2024-01-02 03:04:05.000000006")),
    (Frozen, Frozen("a", Config(lr=3))),
]


@pytest.mark.parametrize(("annotation", "value"), SAME)
def test_values_come_back(annotation: Any, value: Any) -> None:
    got = rebuild(sent(value), annotation)
    assert got == value
    assert type(got) is type(value)


def test_a_day_of_a_table_is_a_date() -> None:
    """A `pd.Timestamp` is a `date` in Python, and a table's days are time stamps at midnight."""
    assert rebuild(sent(pd.Timestamp("2026-01-28")), dt.date) == dt.date(2026, 1, 28)
    assert rebuild(sent(np.datetime64("2026-01-28T00:00:00")), dt.date) == dt.date(2026, 1, 28)
    with pytest.raises(InputInvalid, match="without a time of day"):
        rebuild(sent(pd.Timestamp("2026-01-28 07:30")), dt.date)


class Shaped(Protocol):
    x: int


T = TypeVar("T")
B = TypeVar("B", bound=Config)


@pytest.mark.parametrize(
    "annotation",
    [int, str, float, bool, None, Any, object, list, dict, list[int], list[str], dict[str, int], dict[str, Any],
     int | None, list[int] | None, T, Shaped, Callable, "NotThere", Artifact, Secret[str], list[Artifact]],
)  # fmt: skip
def test_what_fits_as_json_costs_nothing(annotation: Any) -> None:
    assert not receives(annotation)


def test_what_takes_something_is_known() -> None:
    assert all(map(receives, [Config, B, list[Config], bytes, Path, set, tuple, dict[int, str], Mode, pd.DataFrame]))
    assert takes_files(str)
    assert takes_files(list[str])
    assert not takes_files(list[int])


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int, "a"), (list[int], ["a"]), (dict[str, int], {"a": "b"}), (dt.date, None), (Config, None), (Path, "text"),
     (tuple[int, int], [1, 2, 3]), (set[int], ["a"]), (np.ndarray, [1]), (Config | None, None)],
)  # fmt: skip
def test_an_annotation_alone_refuses_nothing(annotation: Any, value: Any) -> None:
    """Programs whose annotations are not exact go on working."""
    got = rebuild(value, annotation)
    assert got == value or list(got) == value


@pytest.mark.parametrize(
    ("annotation", "value", "place"),
    [
        (dt.date, "tomorrow", ""),
        (dt.date, 5, ""),
        (Mode, "slowly", ""),
        (Config, "text", ""),
        (Config, {"lr": "much"}, ".lr"),
        (Config, {"lrr": 1}, ".lrr"),
        (list[Config], [{}, {"day": "x"}], "[1].day"),
        (dict[str, list[dt.date]], {"a": ["x"]}, "['a'][0]"),
        (dict[int, str], {"x": "a"}, "['x']"),
        (Tree, {"name": "a", "kids": [{"name": "b", "kids": [{"kids": []}]}]}, ".kids[0].kids[0]"),
        (Model, {"learningRate": "x"}, ".learningRate"),
        (int | Config, "text", ""),
        (uuid.UUID, "x", ""),
        (decimal.Decimal, "x", ""),
        (set[int], 5, ""),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(annotation: Any, value: Any, place: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        rebuild(value, annotation, Place(step="s", field="x"))
    problem = refused.value.problem
    assert problem.code == "E_ARGUMENT_TYPE"
    assert problem.place.field == f"x{place}"
    assert problem.found
    assert problem.allowed
    assert not refused.value.retryable


@dataclasses.dataclass
class Cat:
    name: str


@dataclasses.dataclass
class Dog:
    name: str


@dataclasses.dataclass
class Tagged:
    name: str
    kind: Literal["tagged"] = "tagged"


def test_classes_with_equal_fields_are_not_guessed() -> None:
    """A wrong class would be a wrong result that nobody sees."""
    with pytest.raises(InputInvalid, match="does not fit") as refused:
        rebuild(sent(Dog("x")), Cat | Dog)
    assert "Cat and Dog" in refused.value.problem.cure
    assert rebuild(sent(Tagged("x")), Cat | Tagged) == Tagged("x")
    assert rebuild(sent(Cat("x")), Cat | Tagged) == Cat("x")


@dataclasses.dataclass
class Positive:
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("n must not be negative")


def test_the_class_itself_may_refuse_data() -> None:
    with pytest.raises(InputInvalid) as refused:
        rebuild({"n": -1}, Positive)
    assert "must not be negative" in refused.value.problem.allowed


@dataclasses.dataclass
class Mixed:
    number: float
    text: str
    day: dt.date
    moment: dt.datetime
    took: dt.timedelta
    price: decimal.Decimal
    key: uuid.UUID
    mode: Mode
    tags: set[str]
    pair: tuple[int, str]
    by_number: dict[int, list[bool]]
    maybe: int | None
    inner: list[Positive]


numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"))
mixed = st.builds(
    Mixed,
    number=numbers | st.integers(-(2**63), 2**64 - 1),
    text=texts,
    moment=st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    took=st.timedeltas(dt.timedelta(days=-10_000), dt.timedelta(days=10_000)),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    tags=st.sets(texts),
    pair=st.tuples(st.integers(-9, 9), texts),
    by_number=st.dictionaries(st.integers(), st.lists(st.booleans())),
    maybe=st.none() | st.integers(-9, 9),
    inner=st.lists(st.builds(Positive, n=st.integers(0, 9))),
)


@settings(max_examples=60, deadline=None)
@given(mixed)
def test_dataclasses_of_mixed_fields_come_back(value: Mixed) -> None:
    assert rebuild(sent(value), Mixed) == value
    assert sent(rebuild(sent(value), Mixed)) == sent(value)


members = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | texts,
    lambda inner: st.frozensets(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(members, max_size=6))
def test_the_order_of_a_set_is_that_of_its_members(items: list[Any]) -> None:
    """Whatever the process's hashes are."""
    backwards: set[Any] = set()
    for item in items[::-1]:
        backwards.add(item)
    assert sent(set(items)) == sent(backwards)


def test_pydantic_fields_with_files_are_files(tmp_path: Path) -> None:
    class Holder(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        table: pd.DataFrame
        raw: bytes
        took: dt.timedelta

    data, files = take_apart(
        files_saved(Holder(table=pd.DataFrame({"a": [1]}), raw=b"x", took=dt.timedelta(seconds=2)), lambda: tmp_path),
        HERE,
    )
    assert [file.name for file in files] == ["table", "raw"]
    assert data == {"table": {"$artifact": "table"}, "raw": {"$artifact": "raw"}, "took": 2.0}


def test_a_secret_keeps_its_form() -> None:
    made = formed({"key": Secret(Mode.FAST)})
    assert isinstance(made["key"], Secret)


# ---- files


def saved(value: Any, folder: Path) -> Path:
    file = files_saved(value, lambda: folder)
    assert isinstance(file, File)
    assert isinstance(file.data, Path)
    return file.data


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr", "LAB"])
def test_images_keep_their_mode_and_pixels(mode: str, tmp_path: Path) -> None:
    image = Image.new(mode, (3, 2), 1 if mode in ("1", "L", "P", "I", "F", "I;16") else None)
    back = load_file(saved(image, tmp_path), Image.Image)
    assert (back.mode, back.size, back.tobytes()) == (mode, (3, 2), image.tobytes())


def test_an_image_of_several_frames_is_refused(tmp_path: Path) -> None:
    """A PNG would keep the first only."""
    first = Image.new("L", (2, 2))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (2, 2), 255)])
    with Image.open(tmp_path / "a.gif") as image, pytest.raises(ValueRefused, match="frames") as refused:
        take_apart(files_saved(image, lambda: tmp_path), HERE)
    assert refused.value.code == "E_CODEC"


@pytest.mark.parametrize(
    "array",
    [np.array(5), np.zeros((0, 3)), np.arange(6).reshape(2, 3), np.array(["a", "é"]), np.array([1 + 2j]),
     np.array([("a", 1)], dtype=[("n", "U1"), ("v", "i4")]), np.asfortranarray(np.eye(3, dtype=np.float16))],
)  # fmt: skip
def test_arrays_come_back(array: Any, tmp_path: Path) -> None:
    back = load_file(saved(array, tmp_path), np.ndarray)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert (back == array).all()


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(InputInvalid, match="allow_pickle"):
        load_file(tmp_path / "a.npy", np.ndarray)


def test_frames_without_parquet_are_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is kept; what CSV cannot keep is refused."""
    monkeypatch.setattr(known_codecs, "_has_parquet", lambda: False)
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    path = saved(frame, tmp_path)
    assert path.suffix == ".csv"
    pd.testing.assert_frame_equal(load_file(path, pd.DataFrame), frame)
    with pytest.raises(ValueRefused, match="cannot keep its index"):
        take_apart(files_saved(frame.rename_axis("id"), lambda: tmp_path), HERE)


def test_a_csv_file_of_the_user_is_a_frame(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.tsv").write_text("a\tb\n1\t2\n")
    expected = pd.DataFrame({"a": [1], "b": [2]})
    for name in ("a.csv", "b.tsv"):
        pd.testing.assert_frame_equal(load_file(tmp_path / name, pd.DataFrame), expected)
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(InputInvalid, match="parquet"):
        load_file(tmp_path / "a.xlsx", pd.DataFrame)


def test_one_object_in_two_places_is_saved_once(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1]})
    value = files_saved({"a": frame, "b": [frame]}, lambda: tmp_path)
    assert value["a"] is value["b"][0]


class Weights:
    pass


class Heavier(Weights):
    pass


@pytest.mark.parametrize(
    ("save", "says"),
    [
        (lambda value, path: None, "no file"),
        (lambda value, path: path.mkdir(), "a folder"),
        (lambda value, path: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_codec_that_fails_is_named(
    save: Callable[[Any, Path], object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_codecs, "_registered", dict(known_codecs._registered))
    codec(Weights, save, lambda path: Weights(), ".w")
    try:
        with pytest.raises(ValueRefused) as refused:
            take_apart(files_saved({"w": [Heavier()]}, lambda: tmp_path), HERE)
    finally:
        known_codecs._found.cache_clear()
    problem = refused.value.problem
    assert (problem.code, refused.value.retryable) == ("E_CODEC", False)
    assert problem.message.startswith("w[0] is of type")
    assert "Heavier" in problem.message
    assert says in problem.message
    assert problem.cure


def test_the_nearest_class_has_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_codecs, "_registered", dict(known_codecs._registered))
    codec(Weights, print, lambda path: Weights(), ".a")
    codec(Heavier, print, lambda path: Heavier(), ".b")
    found = codec_for(Heavier), codec_for(type("Own", (Weights,), {}))
    monkeypatch.undo()
    known_codecs._found.cache_clear()
    assert [one and one.suffix for one in found] == [".b", ".a"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [((1, print, print, ".a"), "kind"), ((Weights, 1, print, ".a"), "save"), ((Weights, print, print, "a"), "suffix")],
)
def test_a_codec_is_checked(wrong: Any, field: str) -> None:
    with pytest.raises(InputInvalid, match=field):
        codec(*wrong)


# ---- annotations that cannot work


def described(annotation: Any, *, returned: bool) -> Any:
    def works(x: Any) -> Any: ...

    works.__annotations__ = {"return" if returned else "x": annotation}
    made: Any = step(works)
    return _chain_with(made, 1)


def _chain_with(made: Any, value: Any) -> Any:
    def one() -> Any:
        return made(value)

    return chain(one)


@pytest.mark.parametrize(
    "annotation",
    [Plain, LinearRegression, threading.Thread, Iterator[int], pd.Series, complex, list[Plain], dict[str, Plain],
     tuple[int, Plain], Plain | LinearRegression, Annotated[Plain, 1], pydantic.SecretStr],
)  # fmt: skip
def test_a_return_annotation_that_cannot_work_is_refused_before_the_work(annotation: Any) -> None:
    with pytest.raises(ChainInvalid) as refused:
        _ = described(annotation, returned=True).plan
    (problem,) = refused.value.problems
    assert problem.code == "E_ANNOTATION"
    assert problem.place.field == "return"
    assert problem.place.file == __file__
    assert problem.found
    assert problem.allowed
    assert problem.cure


@pytest.mark.parametrize(
    ("annotation", "cure"),
    [(Plain, "codec"), (LinearRegression, "codec"), (matplotlib.figure.Figure, "PIL"), (pd.Series, "DataFrame")],
)
def test_a_parameter_that_cannot_be_given_is_refused_before_the_work(annotation: Any, cure: str) -> None:
    with pytest.raises(ChainInvalid) as refused:
        _ = described(annotation, returned=False).plan
    assert refused.value.code == "E_ANNOTATION"
    assert cure in refused.value.problems[0].cure


class Base:
    """The base of a class that works."""


@dataclasses.dataclass
class Works(Base):
    n: int = 1


@pytest.mark.parametrize("returned", [True, False])
@pytest.mark.parametrize(
    "annotation",
    [Any, object, "NotThere", Shaped, T, B, Base, Plain | None, list[Any], Callable[[int], int], enum.Enum,
     pydantic.BaseModel, Iterable[int], Sequence[int], Hashable,
     np.ndarray, "np.typing.NDArray[np.float64]", pd.DataFrame, Image.Image, np.float32, Report, Mode, bytes, Path,
     type, None, Artifact, Literal["a"], dict[int, str], attrs.make_class("Made", ["a"]), Config | None],
)  # fmt: skip
def test_what_may_work_is_not_refused(annotation: Any, returned: bool) -> None:
    assert described(annotation, returned=returned).plan.steps


def test_a_parameter_that_is_not_given_may_have_any_annotation() -> None:
    @step
    def works(x: int, lock: threading.Thread | Plain = Plain()) -> int:  # noqa: B008
        return x

    assert _chain_with(works, 1).plan.steps


def test_a_codec_that_is_registered_after_the_step_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = described(Weights, returned=True)
    with pytest.raises(ChainInvalid):
        _ = made.plan
    monkeypatch.setattr(known_codecs, "_registered", dict(known_codecs._registered))
    codec(Weights, print, lambda path: Weights(), ".w")
    assert made.plan.steps
    monkeypatch.undo()
    known_codecs._found.cache_clear()


# ---- what a chain is given


def test_references_in_the_fields_of_an_object_are_references() -> None:
    @step
    def number() -> float:
        return 1

    @step
    def takes(config: Any) -> Any:
        return config

    @chain
    def described() -> Any:
        n = number()
        return takes([Config(lr=n), {1: n}])

    plan = described.plan
    first, second = plan.step("takes").parameters["config"]
    assert first["lr"] == {"$ref": {"step": "number", "keys": []}}
    assert second == {"1": {"$ref": {"step": "number", "keys": []}}}
    assert plan.step("takes").depends_on == ("number",)


def test_objects_with_a_codec_are_no_literals() -> None:
    @step
    def takes(x: Any) -> Any:
        return x

    with pytest.raises(ChainInvalid) as refused:
        _ = _chain_with(takes, np.eye(2)).plan
    (problem,) = refused.value.problems
    assert "input" in problem.cure
    assert "ndarray" in problem.message


def test_parameters_of_a_regeneration_are_kept_as_data() -> None:
    @step
    def takes(config: Any) -> Any:
        return config

    plan = _chain_with(takes, 1).plan
    assert regeneration_parameters(plan.step("takes"), {"config": {Mode.FAST}}) == {"config": ["fast"]}


def test_no_library_is_imported_for_a_value() -> None:
    """In a process that has none of them."""
    code = (
        "import sys, dataclasses, towpath\n"
        "from towpath.codecs import files_saved\n"
        "from towpath.natural import rebuild\n"
        "from towpath.values import take_apart\n"
        "from towpath.errors import Place\n"
        "@dataclasses.dataclass\nclass A:\n    n: int\n"
        "take_apart(files_saved({'a': A(1), 'b': {1}}, None), Place())\n"
        "rebuild({'n': 1}, A)\n"
        "others = {'numpy', 'pandas', 'polars', 'PIL', 'pydantic', 'attr', 'matplotlib', 'sklearn'}\n"
        "wrong = others & sys.modules.keys()\n"
        "assert not wrong, wrong\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
