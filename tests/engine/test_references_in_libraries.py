"""References inside a `@chain` that are handed to a library: numpy, pandas, pydantic and others."""

from __future__ import annotations

import itertools
import random
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pydantic
import pytest
from PIL import Image
from sklearn.linear_model import LinearRegression

from tests.engine.test_references import KINDS, echo, other, traced
from towpath import ChainInvalid, chain


class Model(pydantic.BaseModel):
    x: int


class Record(msgspec.Struct):
    x: int


@dataclass(frozen=True, order=True)
class Pair:
    x: Any


IN_LIBRARIES: dict[str, Callable[[Any], Any]] = {
    "np.array": np.array,
    "np.array of a list": lambda r: np.array([r]),
    "np.mean": np.mean,
    "np.float64": np.float64,
    "np.where": lambda r: np.where(r, 1, 2),
    "np.full": lambda r: np.full(3, r),
    "np.stack": lambda r: np.stack([r, r]),
    "np.concatenate": lambda r: np.concatenate([r, r]),
    "an array + it": lambda r: np.array([1]) + r,
    "it + an array": lambda r: r + np.array([1]),
    "an array by it": lambda r: np.array([1])[r],
    "an element of an array": lambda r: np.zeros(2).__setitem__(0, r),
    "an array == it": lambda r: np.array([1]) == r,
    "a number of numpy < it": lambda r: np.int64(2) < r,
    "pd.Series": pd.Series,
    "pd.DataFrame": lambda r: pd.DataFrame({"a": r}),
    "pd.DataFrame of rows": lambda r: pd.DataFrame([r]),
    "a column == it": lambda r: pd.Series([1]) == r,
    "a column is in it": lambda r: pd.Series([1]).isin(r),
    "a column of a table": lambda r: pd.DataFrame({"a": [1]})[r],
    "pd.read_csv": pd.read_csv,
    "pd.concat": lambda r: pd.concat([r]),
    "polars": lambda r: pl.DataFrame({"a": r}),
    "pyarrow": pa.array,
    "a model of pydantic": lambda r: Model(x=r),
    "converted by msgspec": lambda r: msgspec.convert(r, Record),
    "encoded by msgspec": msgspec.json.encode,
    "the text of a dataclass": lambda r: repr(Pair(r)),
    "the hash of a dataclass": lambda r: hash(Pair(r)),
    "a dataclass == another": lambda r: Pair(r) == Pair(1),
    "a dataclass < another": lambda r: Pair(r) < Pair(1),
    "a scikit-learn model": lambda r: LinearRegression().fit(r, [1]),
    "statistics": statistics.mean,
    "a decimal": Decimal,
    "a date": lambda r: date(r, 1, 1),
    "a duration": lambda r: timedelta(days=r),
    "random.choice": random.choice,
    "a regular expression": lambda r: re.match("a", r),
    "PIL.Image.open": Image.open,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reference", KINDS)
@pytest.mark.parametrize("question", IN_LIBRARIES)
def test_questions_in_libraries_are_refused_with_the_line_of_the_chain(question: str, reference: str) -> None:
    """An array that holds a reference would be an object, not data; some libraries hide the refusal behind an error of
    their own, or only name the type.
    """
    with pytest.raises(ChainInvalid) as refused:
        _ = traced(IN_LIBRARIES[question], reference).plan
    (problem,) = refused.value.problems
    assert problem.code == "E_CHAIN_TRACE"
    assert "step" in problem.cure
    assert problem.place.file in (__file__, traced.__code__.co_filename)
    assert problem.place.line > 0


def test_an_error_of_the_chains_own_code_stays_what_it_is() -> None:
    """With a note, because a reference may be behind it: islice only says that it wants a number."""

    @chain
    def wrong(x: Any):
        return echo(list(itertools.islice([1, 2], x)))

    with pytest.raises(ValueError, match="islice") as raised:
        _ = wrong.plan
    assert any("pass the reference to a step" in note for note in raised.value.__notes__)


def test_objects_that_hold_a_reference_may_be_arguments() -> None:
    @chain
    def holds(x: int):
        return echo(Pair(other(x)))

    assert holds.plan.step("echo").parameters == {"x": {"x": {"$ref": {"step": "other", "keys": []}}}}
