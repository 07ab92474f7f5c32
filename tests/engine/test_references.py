"""References inside a `@chain`: what has a meaning, and that every other question is refused.

An answer about the reference instead of the value would be a wrong value with status `completed`.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import math
import operator
import os
import pickle
import random
import re
import statistics
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pydantic
import pytest
from PIL import Image
from sklearn.linear_model import LinearRegression  # type: ignore[import-untyped]

from towpath import ChainInvalid, chain, step
from towpath.tracing import Ref, is_reference


@step
def echo(x: Any) -> Any:
    return x


@step
def other(x: Any = None) -> Any:
    return x


def traced(question: Callable[[Any], Any], reference: str) -> Any:
    """A chain that puts a question to a reference: to an input, a step, or a part of one."""

    @chain
    def asks(x: Any):
        ref = {"input": lambda: x, "step": lambda: echo(x), "part": lambda: echo(x)["a"][0]}[reference]()
        question(ref)
        return echo(ref)

    return asks


KINDS = ["input", "step", "part"]


# ---- all special methods of Python's data model


ASKED = """
    __str__ __bytes__ __format__ __fspath__
    __lt__ __le__ __eq__ __ne__ __gt__ __ge__ __hash__ __bool__
    __setattr__ __delattr__ __instancecheck__ __subclasscheck__ __mro_entries__ __call__
    __len__ __length_hint__ __setitem__ __delitem__ __iter__ __next__ __reversed__ __contains__
    __add__ __sub__ __mul__ __matmul__ __truediv__ __floordiv__ __mod__ __divmod__ __pow__
    __lshift__ __rshift__ __and__ __xor__ __or__
    __radd__ __rsub__ __rmul__ __rmatmul__ __rtruediv__ __rfloordiv__ __rmod__ __rdivmod__ __rpow__
    __rlshift__ __rrshift__ __rand__ __rxor__ __ror__
    __iadd__ __isub__ __imul__ __imatmul__ __itruediv__ __ifloordiv__ __imod__ __ipow__
    __ilshift__ __irshift__ __iand__ __ixor__ __ior__
    __neg__ __pos__ __abs__ __invert__ __complex__ __int__ __float__ __index__
    __round__ __trunc__ __floor__ __ceil__
    __enter__ __exit__ __await__ __aiter__ __anext__ __aenter__ __aexit__
    __buffer__ __release_buffer__
    __copy__ __deepcopy__ __replace__ __getstate__ __setstate__ __reduce__ __reduce_ex__
    __getnewargs__ __getnewargs_ex__
""".split()


TRACED = {
    "__repr__": "people and debuggers look at a reference; while a chain is described the text could be used",
    "__class__": "isinstance and class patterns ask for it",
}


MEANING = {
    "__getitem__": "a part of the value, by a constant",
    "__getattr__": "refused, except for protocols of libraries: _repr_html_, not __array__",
    "__new__": "making a reference",
    "__init__": "making a reference",
}


NOBODYS = {
    "__getattribute__": "finds .after, .when and the other meanings; what it does not find goes to __getattr__",
    "__dir__": "the names of the meanings, for editors",
    "__sizeof__": "the size of the reference in memory, for profilers",
    "__del__": "not there: nothing is to be done",
    "__doc__ __module__ __dict__ __slots__ __weakref__ __name__ __qualname__": "of the class",
    "__annotations__ __type_params__": "of the class",
    "__get__ __set__ __delete__ __set_name__ __objclass__": "not there: a reference is no descriptor",
    "__init_subclass__ __prepare__ __class_getitem__ __match_args__": "asked of a class",
    "__mro__ __subclasses__ __bases__": "asked of a class",
    "__missing__": "asked by dict of its own subclasses only",
    "__subclasshook__": "asked of a class",
}


def test_the_lists_of_special_methods_do_not_overlap() -> None:
    named = [*ASKED, *TRACED, *MEANING, *(name for names in NOBODYS for name in names.split())]
    assert len(named) == len(set(named))
    everything = {name for kind in (object, int, str, list, dict, type, property, float) for name in dir(kind)}
    special = {name for name in everything if name.startswith("__")}
    assert special - set(named) - _NOT_OF_THE_MODEL == set(), "each says whether it raises or has a meaning"


_NOT_OF_THE_MODEL = {
    "__abstractmethods__", "__base__", "__basicsize__", "__dictoffset__", "__flags__", "__itemsize__",
    "__text_signature__", "__weakrefoffset__", "__isabstractmethod__", "__getformat__", "__firstlineno__",
    "__static_attributes__",
}  # fmt: skip


@pytest.mark.parametrize("reference", KINDS)
@pytest.mark.parametrize("name", [*ASKED, *TRACED])
def test_every_special_method_is_refused(name: str, reference: str) -> None:
    """The method as Python finds it, on the class of the value, with whatever arguments."""

    def question(ref: Any) -> None:
        method = type(ref).__dict__.get(name) or Ref.__dict__[name]
        if isinstance(method, property):
            assert method.fget is not None
            method.fget(ref)
        elif name in ("__setattr__", "__delattr__"):
            method(ref, "x", *([1] if name == "__setattr__" else []))
        elif name in ("__iter__", "__await__", "__repr__"):
            method(ref)
        else:
            method(ref, 1)

    with pytest.raises(ChainInvalid) as refused:
        _ = traced(question, reference).plan
    assert {p.code for p in refused.value.problems} == {"E_CHAIN_TRACE"}


# ---- as people write it


class Sign(StrEnum):
    A = "a"


class Place(IntEnum):
    FIRST = 0


def _with(ref: Any) -> None:
    with ref:
        pass


def _delete(ref: Any) -> None:
    del ref["a"]


def _set(ref: Any) -> None:
    ref["a"] = 1


def _for(ref: Any) -> list[Any]:
    return [one for one in ref]  # noqa: C416 - the loop is the question


def _literal(ref: Any) -> int:
    match ref:
        case "kim":
            return 1
        case _:
            return 2


def _class(ref: Any) -> int:
    match ref:
        case str():
            return 1
        case _:
            return 2


def _sequence(ref: Any) -> int:
    match ref:
        case [first, *_]:
            return int(first)
        case _:
            return 2


async def _async_with(ref: Any) -> None:
    async with ref:
        pass


async def _async_for(ref: Any) -> None:
    async for _ in ref:
        pass


def _awaited(coroutine: Any) -> None:
    """Up to its first await, without a loop."""
    coroutine.send(None)


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "f-string": lambda r: f"Hello {r}",
    "f-string with a format": lambda r: f"{r:>10}",
    "f-string with !r": lambda r: f"{r!r}",
    "f-string with !s": lambda r: f"{r!s}",
    "text of a list that holds it": lambda r: str([r]),
    "str": str,
    "repr": repr,
    "ascii": ascii,
    "print": print,
    "percent": lambda r: "%s" % r,  # noqa: UP031
    "percent with a number": lambda r: "%d" % r,  # noqa: UP031
    "str.format": lambda r: "{}".format(r),  # noqa: UP032, PLW0108
    "str.join": lambda r: ",".join([r]),
    "str.startswith": lambda r: "abc".startswith(r),  # noqa: PLW0108
    "in a text": lambda r: r in "abc",
    "bytes": bytes,
    "json": json.dumps,
    "json with a default": lambda r: json.dumps({"a": r}, default=str),
    "==": lambda r: r == "kim",
    "== the other way": lambda r: "kim" == r,  # noqa: SIM300 - the reflected method
    "!=": lambda r: r != "kim",
    "== itself": lambda r: r == r,  # noqa: PLR0124
    "<": lambda r: r < 3,
    "< the other way": lambda r: 3 < r,  # noqa: SIM300
    "sorted": lambda r: sorted([r, r]),
    "max": lambda r: max(1, r),
    "in a list": lambda r: r in ["kim"],
    "in a set": lambda r: r in {"kim"},
    "as a key": lambda r: {r: 1},
    "dict.get": {"kim": 1}.get,
    "list.index": ["a"].index,
    "list.count": ["a"].count,
    "a list by it": lambda r: ["a", "b"][r],
    "a dict by it": lambda r: {"a": 1}[r],
    "a slice by it": lambda r: "abc"[:r],
    "a slice of it": lambda r: r[1:3],
    "it by a reference": lambda r: r[r],
    "it by a number with a fraction": lambda r: r[1.5],
    "it by a tuple": lambda r: r[1, 2],
    "it by True": lambda r: r[True],
    "it by None": lambda r: r[None],
    "something in it": lambda r: "kim" in r,
    "len": len,
    "bool": bool,
    "not": operator.not_,
    "and": lambda r: r and 1,
    "if": lambda r: 1 if r else 2,
    "any": lambda r: any([r]),
    "filter": lambda r: list(filter(None, [r])),
    "int": int,
    "float": float,
    "complex": complex,
    "operator.index": operator.index,
    "range": range,
    "hex": hex,
    "chr": chr,
    "round": round,
    "math.floor": math.floor,
    "math.sqrt": math.sqrt,
    "math.trunc": math.trunc,
    "abs": abs,
    "divmod": lambda r: divmod(r, 2),
    "divmod the other way": lambda r: divmod(2, r),
    "pow with a modulus": lambda r: pow(r, 2, 5),
    "+": lambda r: r + "!",
    "+ the other way": lambda r: "!" + r,
    "a list +": lambda r: [1] + r,  # noqa: RUF005
    "sum": lambda r: sum([r]),
    "* the other way": lambda r: "a" * r,
    "a list times": lambda r: [0] * r,
    "-": operator.neg,
    "|": lambda r: {"a": 1} | r,
    "+=": lambda r: operator.iadd(r, 1),
    "+= of a number": lambda r: operator.iadd(1, r),
    "isinstance": lambda r: isinstance(r, str),
    "isinstance of several": lambda r: isinstance(r, str | int),
    "isinstance by it": lambda r: isinstance(1, r),
    "issubclass by it": lambda r: issubclass(int, r),
    "as a base class": lambda r: type("X", (r,), {}),
    "match against a constant": _literal,
    "match against a class": _class,
    "match against a sequence": _sequence,
    "iter": iter,
    "next": next,
    "list": list,
    "tuple": tuple,
    "set": set,
    "dict": dict,
    "dict.update": {}.update,
    "reversed": reversed,
    "enumerate": enumerate,
    "zip": lambda r: list(zip(r, [1], strict=False)),
    "unpacking": lambda r: [*r],
    "unpacking into a call": lambda r: print(*r),
    "unpacking of names into a call": lambda r: dict(**r),
    "unpacking into names": lambda r: operator.setitem({}, *r),
    "a loop": _for,
    "calling": lambda r: r(),
    "a method": lambda r: r.upper(),
    "an attribute": lambda r: r.name,
    "a private attribute": lambda r: r._name,
    "getattr with a default": lambda r: getattr(r, "name", None),
    "hasattr": lambda r: hasattr(r, "name"),
    "getattr by it": lambda r: getattr("abc", r),
    "setting an attribute": lambda r: setattr(r, "name", 1),
    "deleting an attribute": lambda r: delattr(r, "_node"),
    "setting a part": _set,
    "deleting a part": _delete,
    "with": _with,
    "async with": lambda r: _awaited(_async_with(r)),
    "async for": lambda r: _awaited(_async_for(r)),
    "aiter": aiter,
    "await": lambda r: r.__await__(),
    "asyncio.gather": asyncio.iscoroutine,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy of what holds it": lambda r: copy.deepcopy({"a": [r]}),
    "pickle": pickle.dumps,
    "os.fspath": os.fspath,
    "Path": Path,
    "Path /": lambda r: Path("/tmp") / r,
    "open": open,
    "os.path.join": lambda r: os.path.join("/tmp", r),
    "an environment variable": lambda r: os.environ.__setitem__("TOWPATH_REFERENCE", r),
    "memoryview": memoryview,
    "hash": hash,
    ".when with a reference": lambda r: other().when(r),
    ".named with a reference": lambda r: other().named(r),
    ".after a constant": lambda r: other().after("echo"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("reference", KINDS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_is_refused_with_the_line_and_a_cure(question: str, reference: str) -> None:
    """Each of these was a wrong value, or an error of Python's own about a class that users never see."""
    with pytest.raises(ChainInvalid) as refused:
        _ = traced(QUESTIONS[question], reference).plan
    (problem,) = refused.value.problems
    assert problem.code == "E_CHAIN_TRACE"
    assert problem.cure
    assert problem.place.file == __file__
    lines = Path(__file__).read_text().splitlines()
    assert lines[problem.place.line - 1].strip(), "a line of the chain, or of what it calls"
    frames = [f for f in traceback.extract_tb(refused.value.__traceback__) if f.filename == __file__]
    assert len([f for f in frames if f.lineno == problem.place.line]) == 1
    assert not [f for f in traceback.extract_tb(refused.value.__traceback__) if f.filename.endswith("tracing.py")]


# ---- what has a meaning


def test_parts_by_constants_have_a_meaning() -> None:
    """Also members of enums, which are texts and numbers."""

    @chain
    def parts(x: Any):
        made = echo(x["a"][0])
        return made["b"][-1], made[Sign.A][Place.FIRST]

    assert parts.plan.step("echo").parameters == {"x": {"$ref": {"input": "x", "keys": ["a", 0]}}}
    assert parts.plan.output == [
        {"$ref": {"step": "echo", "keys": ["b", -1]}},
        {"$ref": {"step": "echo", "keys": ["a", 0]}},
    ]
    keys = [type(key) for ref in parts.plan.output for key in ref["$ref"]["keys"]]
    assert keys == [str, int, str, int]


def test_order_condition_gate_name_and_map_have_a_meaning() -> None:
    @chain
    def meant(x: Any):
        first = echo(x).named("first")
        second = other().after(first, x).when("first.output.ok").with_approval(timeout=5)
        return echo.map(second)

    plan = meant.plan
    assert plan.step("other").depends_on == ("first",)
    assert plan.step("other").approval is not None
    assert plan.step("echo").foreach == {"$ref": {"step": "other", "keys": []}}


def test_ids_are_counted_and_a_free_one_is_given_again() -> None:
    """The ids of a chain depend on its calls alone, and counting them takes no longer for many."""

    @chain
    def counted(x: Any):
        for name in ("", "b", "", "echo_3", "", ""):
            made = echo(x)
            if name:
                made.named(name)

    assert [s.id for s in counted.plan.steps] == ["echo", "b", "echo_2", "echo_3", "echo_4", "echo_5"]


def test_a_library_that_looks_for_a_protocol_of_its_own_finds_none() -> None:
    """They ask with getattr and go on without; an error would hide what they do next."""

    @chain
    def looks(x: Any):
        for name in ("__html__", "__json__", "_repr_html_", "_ipython_display_", "__fspath"):
            assert not hasattr(x, name)
        return echo(x)

    assert looks.plan.steps


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
    assert problem.place.file == __file__
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


def test_outside_of_a_chain_a_reference_can_be_looked_at() -> None:
    """In a debugger, or in the text of a failed test. What could become a value is refused there, too."""
    kept: list[Any] = []

    @chain
    def keeps(x: Any):
        kept.extend([x["a"], echo(x)[1]])
        return kept[1]

    assert keeps.plan.steps
    assert [repr(ref) for ref in kept] == ["<input x['a']>", "<value of step echo[1]>"]
    assert all(isinstance(ref, Ref) and is_reference(ref) for ref in kept)
    for question in (str, bool, hash, len, list, lambda r: r == 1, lambda r: f"{r}", lambda r: r.name):
        with pytest.raises(ChainInvalid, match="E_CHAIN_TRACE"):
            question(kept[0])


# ---- references of other chains


KEPT: dict[str, Any] = {}


@chain
def lends(x: Any, y: Any = None):
    KEPT["input"], KEPT["step"] = x, echo(x)
    return KEPT["step"]


def _passes(ref: Any) -> Any:
    return echo(ref)


FOREIGN: dict[str, Callable[[Any], Any]] = {
    "as an argument": _passes,
    "inside a list": lambda r: echo([1, [r]]),
    "inside a mapping": lambda r: echo({"a": {"b": r}}),
    "a part of it": lambda r: echo(r["a"]),
    "mapped over": echo.map,
    "as the value of the chain": lambda r: (echo(1), r)[1],
    "as what comes before": lambda r: echo(1).after(r),
    "beside mapped elements": lambda r: other.map([1]).after(r),
}


@pytest.mark.parametrize("reference", ["input", "step"])
@pytest.mark.parametrize("use", FOREIGN)
def test_a_reference_of_another_chain_is_refused(use: str, reference: str) -> None:
    """Both chains have an input `x` and a step `echo`: the names alone would find the wrong ones."""
    assert lends.plan.steps

    @chain
    def borrows(x: Any):
        echo(x)
        return FOREIGN[use](KEPT[reference])

    with pytest.raises(ChainInvalid, match="belongs to another chain"):
        _ = borrows.plan


@pytest.mark.parametrize("change", ["when", "named", "after", "with_approval"])
def test_a_step_of_another_chain_is_not_changed(change: str) -> None:
    assert lends.plan.steps

    @chain
    def changes(x: Any):
        mine = echo(x)
        arguments: dict[str, list[Any]] = {
            "when": ["inputs.x"],
            "named": ["mine"],
            "after": [mine],
            "with_approval": [],
        }
        getattr(KEPT["step"], change)(*arguments[change])
        return mine

    with pytest.raises(ChainInvalid, match="belongs to another chain"):
        _ = changes.plan


def test_a_reference_kept_from_an_earlier_description_of_the_same_chain_is_refused() -> None:
    """A list outside of the function fills up each time the function is asked."""
    seen: list[Any] = []

    @chain
    def grows(x: Any):
        seen.append(echo(x))
        return seen[0]

    assert grows.plan.steps
    with pytest.raises(ChainInvalid, match="belongs to another chain"):
        _ = grows.plan
