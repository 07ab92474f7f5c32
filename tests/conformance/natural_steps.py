"""Steps for the tests of natural values: what programs return, and what their functions are annotated with."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import io
import ipaddress
import pathlib
import threading
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import attrs
import matplotlib.figure
import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pydantic
from PIL import Image
from sklearn.linear_model import LinearRegression

import towpath
from towpath import Artifact, context, step

T = TypeVar("T")


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(enum.Enum):
    BOTH = (1, 2)


class Slug(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int
    day: dt.date


@dataclasses.dataclass
class Config:
    lr: float = 0.1
    layers: list[int] = dataclasses.field(default_factory=lambda: [8])
    day: dt.date = dt.date(2024, 5, 6)
    mode: Mode = Mode.FAST


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    inner: Config | None = None
    made: int = dataclasses.field(init=False, default=7)


@dataclasses.dataclass
class Child(Config):
    depth: int = 3


@dataclasses.dataclass
class WithInit:
    size: int
    factor: dataclasses.InitVar[int]
    area: int = dataclasses.field(init=False)

    def __post_init__(self, factor: int) -> None:
        self.area = self.size * factor


@dataclasses.dataclass
class Tree:
    name: str
    kids: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    inside: list[T]


@dataclasses.dataclass
class Report:
    accuracy: float
    table: pd.DataFrame
    notes: bytes = b"notes"


@attrs.define
class Attrs:
    _private: int
    day: dt.date


class Struct(msgspec.Struct, rename="camel", tag="point"):
    how_long: dt.timedelta
    inner: Config


class Model(pydantic.BaseModel):
    learning_rate: float = pydantic.Field(alias="learningRate")
    tags: set[str] = set()
    when: dt.datetime = dt.datetime(2024, 1, 2, 3, 4, 5)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> float:
        return self.learning_rate * 2


class Outer(pydantic.BaseModel):
    inner: Model
    many: list[Model] = []


class Root(pydantic.RootModel[list[int]]):
    pass


class Of(pydantic.BaseModel, Generic[T]):
    one: T


class Hidden(pydantic.BaseModel):
    key: pydantic.SecretStr


@pydantic.dataclasses.dataclass
class Checked:
    size: int


class Keys(TypedDict):
    day: dt.date
    n: int


class Plain:
    """A class that nothing is known of."""


class Kept:
    """A class with a codec."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]


def _save(value: Kept, path: pathlib.Path) -> None:
    path.write_text(value.text)


towpath.codec(Kept, _save, lambda path: Kept(path.read_text()), ".kept", media_type="text/x-kept")

UserId = NewType("UserId", int)
NOON = dt.datetime(2024, 5, 6, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))


def frame() -> pd.DataFrame:
    return pd.DataFrame({"a": [1, 2], "t": pd.to_datetime(["2024-01-01", "2024-01-02"])}, index=["x", "y"])


# What is returned, and its JSON form; "file" with the file's media type.
NATURAL: dict[str, tuple[Callable[[], Any], Any]] = {
    "none": (lambda: None, None),
    "bool": (lambda: True, True),
    "wide integer": (lambda: 2**64 - 1, 2**64 - 1),
    "text": (lambda: "é", "é"),
    "tuple": (lambda: (1, (2,)), [1, [2]]),
    "np.float32": (lambda: np.float32(0.5), 0.5),
    "np.float64": (lambda: np.float64(0.5), 0.5),
    "np.longdouble": (lambda: np.longdouble(0.5), 0.5),
    "np.int64": (lambda: np.int64(5), 5),
    "np.uint64": (lambda: np.uint64(2**64 - 1), 2**64 - 1),
    "np.bool": (lambda: np.bool_(True), True),
    "np.str": (lambda: np.str_("x"), "x"),
    "np.datetime64": (lambda: np.datetime64("2024-01-02"), "2024-01-02"),
    "np.timedelta64": (lambda: np.timedelta64(1500, "ms"), 1.5),
    "scalars inside": (lambda: {"acc": np.float32(0.5), "n": [np.int8(1)]}, {"acc": 0.5, "n": [1]}),
    "str subclass": (lambda: Slug("a"), "a"),
    "enum": (lambda: Mode.FAST, "fast"),
    "int enum": (lambda: Level.LOW, 1),
    "str enum": (lambda: Word.YES, "yes"),
    "flag": (lambda: Right.READ | Right.WRITE, 3),
    "enum of tuples": (lambda: Pair.BOTH, [1, 2]),
    "date": (lambda: dt.date(2024, 5, 6), "2024-05-06"),
    "time": (lambda: dt.time(1, 2, 3), "01:02:03"),
    "datetime": (lambda: NOON, "2024-05-06T12:00:00+02:00"),
    "naive datetime": (lambda: NOON.replace(tzinfo=None), "2024-05-06T12:00:00"),
    "timedelta": (lambda: dt.timedelta(minutes=1, milliseconds=5), 60.005),
    "pd.Timestamp": (lambda: pd.Timestamp("2024-05-06 01:02"), "2024-05-06T01:02:00"),
    "zone": (lambda: zoneinfo.ZoneInfo("Europe/Vienna"), "Europe/Vienna"),
    "decimal": (lambda: decimal.Decimal("1.10"), "1.10"),
    "fraction": (lambda: fractions.Fraction(1, 3), "1/3"),
    "uuid": (lambda: uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    "address": (lambda: ipaddress.ip_address("127.0.0.1"), "127.0.0.1"),
    "pure path": (lambda: pathlib.PurePosixPath("a/b"), "a/b"),
    "set": (lambda: {"b", "a"}, ["a", "b"]),
    "mixed set": (lambda: {"b", 2, None, (1, "x"), 1.5, "a"}, [None, 1.5, 2, "a", "b", [1, "x"]]),
    "frozenset": (lambda: frozenset({frozenset({2, 1}), frozenset()}), [[], [1, 2]]),
    "named tuple": (lambda: Point(1, dt.date(2024, 5, 6)), [1, "2024-05-06"]),
    "deque": (lambda: collections.deque([1, 2]), [1, 2]),
    "range": (lambda: range(3), [0, 1, 2]),
    "keys": (dict.fromkeys("ba").keys, ["b", "a"]),
    "mapping proxy": (lambda: types.MappingProxyType({"a": 1}), {"a": 1}),
    "ordered dict": (lambda: collections.OrderedDict(a=1), {"a": 1}),
    "defaultdict": (lambda: collections.defaultdict(list, a=[1]), {"a": [1]}),
    "counter": (lambda: collections.Counter("aab"), {"a": 2, "b": 1}),
    "namespace": (lambda: types.SimpleNamespace(a=1), {"a": 1}),
    "integer keys": (lambda: {1: "a", 2: "b"}, {"1": "a", "2": "b"}),
    "date keys": (lambda: {dt.date(2024, 5, 6): 1, Mode.FAST: 2}, {"2024-05-06": 1, "fast": 2}),
    "dataclass": (Config, {"lr": 0.1, "layers": [8], "day": "2024-05-06", "mode": "fast"}),
    "frozen dataclass": (lambda: Frozen("a"), {"name": "a", "inner": None, "made": 7}),
    "inherited dataclass": (Child, {"lr": 0.1, "layers": [8], "day": "2024-05-06", "mode": "fast", "depth": 3}),
    "dataclass with InitVar": (lambda: WithInit(2, 3), {"size": 2, "area": 6}),
    "recursive dataclass": (lambda: Tree("a", [Tree("b")]), {"name": "a", "kids": [{"name": "b", "kids": []}]}),
    "attrs": (lambda: Attrs(1, dt.date(2024, 5, 6)), {"private": 1, "day": "2024-05-06"}),
    "struct": (
        lambda: Struct(dt.timedelta(seconds=2), Config()),
        {"type": "point", "howLong": 2.0, "inner": {"lr": 0.1, "layers": [8], "day": "2024-05-06", "mode": "fast"}},
    ),
    "pydantic": (
        lambda: Model(learningRate=0.5, tags={"b", "a"}),
        {"learning_rate": 0.5, "tags": ["a", "b"], "when": "2024-01-02T03:04:05"},
    ),
    "root model": (lambda: Root([1, 2]), [1, 2]),
    "generic model": (lambda: Of[int](one=1), {"one": 1}),
    "pydantic dataclass": (lambda: Checked(5), {"size": 5}),
    "frame": (frame, "application/vnd.apache.parquet"),
    "polars frame": (lambda: pl.DataFrame({"a": [1]}), "application/vnd.apache.parquet"),
    "array": (lambda: np.eye(2), "application/x-npy"),
    "array without axes": (lambda: np.array(5), "application/x-npy"),
    "image": (lambda: Image.new("RGBA", (2, 3)), "image/png"),
    "CMYK image": (lambda: Image.new("CMYK", (2, 3)), "image/tiff"),
    "figure": (lambda: matplotlib.figure.Figure((1, 1)), "image/png"),
    "own codec": (lambda: Kept("x"), "text/x-kept"),
}

# What is refused: the type in the message, and a word of its cure.
REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "nan": (lambda: float("nan"), "finite", "None"),
    "np.nan": (lambda: np.float32("nan"), "finite", "None"),
    "infinite decimal": (lambda: decimal.Decimal("Infinity"), "finite", "None"),
    "NaT": (lambda: pd.NaT, "NaTType", "None"),
    "65 bits": (lambda: 2**64, "64 bits", "str"),
    "complex": (lambda: 1j, "complex", "z.real"),
    "two keys of one text": (lambda: {1: "a", "1": "b"}, "same text", "pairs"),
    "tuple keys": (lambda: {(1, 2): 3}, "tuple", "pairs"),
    "generator": (lambda: (n for n in range(3)), "generator", "list("),
    "map": (lambda: map(str, [1]), "map", "list("),
    "lambda": (lambda: _save, "function", "computes"),
    "class": (lambda: Config, "type", "__name__"),
    "exception": (lambda: ValueError("x"), "ValueError", "str(error)"),
    "BytesIO": (lambda: io.BytesIO(b"x"), "BytesIO", "getvalue"),
    "lock": (threading.Lock, "lock", "process"),
    "object": (Plain, "Plain", "towpath.codec"),
    "model": (LinearRegression, "sklearn", "joblib"),
    "series": (lambda: pd.Series([1]), "pandas", "to_frame"),
    "lazy frame": (lambda: pl.LazyFrame({"a": [1]}), "polars", "collect"),
    "objects in an array": (lambda: np.array([object()]), "ndarray", "tolist"),
    "masked array": (lambda: np.ma.masked_array([1], [True]), "MaskedArray", "filled"),
    "mixed column": (lambda: pd.DataFrame({"a": [1, "x", object()]}), "DataFrame", "astype"),
    "HSV image": (lambda: Image.new("HSV", (1, 1)), "Image", "convert"),
    "secret in a model": (lambda: Hidden(key=pydantic.SecretStr("x")), "SecretStr", "get_secret_value"),
}


@step
async def natural(kind: str) -> Any:
    return NATURAL[kind][0]()


@step
def natural_in_a_thread(kind: str) -> Any:
    return NATURAL[kind][0]()


@step(process=True)
def natural_in_a_process(kind: str) -> Any:
    return NATURAL[kind][0]()


@step
async def refused(kind: str) -> Any:
    return {"kept": 1, "wrong": REFUSED[kind][0]()}


@step
def refused_in_a_thread(kind: str) -> Any:
    return {"kept": 1, "wrong": REFUSED[kind][0]()}


@step
def partly(n: int) -> dict[str, Any]:
    context().save("saved", b"saved")
    return {"table": frame(), "more": threading.Lock() if n else "nothing"}


@step
def named(files: list[Artifact]) -> list[str]:
    return [file.filename for file in files]


# ---- what parameters are annotated with: the value, and a step that says what it got


def _seen(value: Any) -> str:
    if isinstance(value, pd.DataFrame):
        return f"frame {value.to_dict()} {list(value.dtypes)}"
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.tolist()}"
    if isinstance(value, Image.Image):
        return f"image {value.mode} {value.size}"
    if isinstance(value, Report):
        return f"report {value.accuracy!r} {_seen(value.table)} {value.notes!r}"
    return f"{type(value).__qualname__} {value!r}" if not isinstance(value, Kept) else f"Kept {value.text}"


def _takes(annotation: Any, name: str) -> Any:
    def takes(value: Any) -> str:
        return _seen(value)

    takes.__annotations__ = {"value": annotation, "return": str}
    takes.__qualname__ = takes.__name__ = f"takes_{name}"
    return step(takes)


# The annotation, the value that is given, and what arrives if it is not the value itself.
RECEIVED: dict[str, tuple[Any, Callable[[], Any]]] = {
    "date": (dt.date, lambda: dt.date(2024, 5, 6)),
    "datetime": ("dt.datetime", lambda: NOON),
    "timedelta": (dt.timedelta | None, lambda: dt.timedelta(seconds=1.5)),
    "decimal": (decimal.Decimal, lambda: decimal.Decimal("1.10")),
    "uuid": (uuid.UUID, lambda: uuid.UUID(int=5)),
    "enum": (Mode, lambda: Mode.SLOW),
    "literal": (Literal[Mode.FAST], lambda: Mode.FAST),
    "set": (set[int], lambda: {3, 1}),
    "pair": (tuple[int, dt.date], lambda: (1, dt.date(2024, 5, 6))),
    "named_tuple": (Point, lambda: Point(1, dt.date(2024, 5, 6))),
    "keys": (dict[int, str], lambda: {1: "a"}),
    "dates_by_mode": (dict[Mode, list[dt.date]], lambda: {Mode.FAST: [dt.date(2024, 5, 6)]}),
    "typed_dict": (Keys, lambda: {"day": dt.date(2024, 5, 6), "n": 1}),
    "config": ("Config", Config),
    "child": (Child, Child),
    "with_init": (WithInit, lambda: WithInit(2, 3)),
    "tree": (Tree, lambda: Tree("a", [Tree("b")])),
    "generic": (Box[dt.date], lambda: Box([dt.date(2024, 5, 6)])),
    "configs": (list[Config], lambda: [Config(lr=2)]),
    "either": (int | Config, Config),
    "attrs": (Attrs, lambda: Attrs(1, dt.date(2024, 5, 6))),
    "struct": (Struct, lambda: Struct(dt.timedelta(seconds=2), Config())),
    "model": (Outer, lambda: Outer(inner=Model(learningRate=0.5, tags={"a"}))),
    "checked": (Checked, lambda: Checked(5)),
    "new_type": (UserId, lambda: 5),
    "frame": (pd.DataFrame, frame),
    "array": (np.ndarray, lambda: np.arange(6, dtype=np.int16).reshape(2, 3)),
    "image": (Image.Image, lambda: Image.new("L", (2, 3))),
    "own": (Kept, lambda: Kept("x")),
    "report": (Report, lambda: Report(0.5, frame())),
    "frames": (dict[str, list[pd.DataFrame]], lambda: {"a": [frame()]}),
}
TAKES = {name: _takes(annotation, name) for name, (annotation, _) in RECEIVED.items()}
for _name, _step in TAKES.items():
    globals()[f"takes_{_name}"] = _step


@step
def given(name: str) -> Any:
    return RECEIVED[name][1]()


@step(process=True)
def report_in_a_process(report: Report, config: Config) -> Report:
    assert isinstance(report.table, pd.DataFrame)
    return Report(config.lr, report.table, report.notes)


@step
def is_report(report: Report, config: Config, days: set[dt.date]) -> str:
    return f"{_seen(report)} {config!r} {sorted(days)}"


@step
def is_figure(picture: Image.Image, file: Artifact) -> str:
    return f"{picture.size} {file.filename}"
