"""Steps of every shape: what works as a plain function works as a step, or is refused with the cure
(python-trial 18).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import operator
import pickle
import sys
import types
from collections.abc import AsyncIterator, Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from towpath import ChainInvalid, Secret, StepNotRegistered, chain, open_engine, step
from towpath.steps import Step, find_step

# ---- what works


def added(a: Any, b: int = 1) -> Any:
    """Adds."""
    return a + b


async def added_later(a: Any, b: int = 1) -> Any:
    return a + b


def returns_a_coroutine(a: Any) -> Any:
    return added_later(a)


def all_of_them(*values: Any) -> list[Any]:
    return list(values)


def some_of_them(a: Any, b: Any = 2, *values: Any, c: Any = 3, **more: Any) -> list[Any]:
    return [a, b, list(values), c, more]


def by_position(a: Any, b: Any = 2, /, *values: Any) -> list[Any]:
    return [a, b, list(values)]


def keeps_what_it_got(a: Any, seen: list[Any] = []) -> list[Any]:  # noqa: B006 - the default is the question
    return [*seen, a]


def with_odd_default(a: Any, log: Any = object(), module: Any = math) -> str:  # noqa: B008
    return f"{a}{type(log).__name__}{module.__name__}"


def without_wraps(function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


def with_wraps(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


def async_around(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class Wrapping:
    """A decorator that is an object."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


@functools.singledispatch
def dispatched(a: Any) -> str:
    return "object"


@dispatched.register
def _(a: int) -> str:
    return "int"


@dataclasses.dataclass
class Times:
    k: int

    def __call__(self, a: Any) -> Any:
        return a * self.k

    def method(self, a: Any) -> Any:
        return a * self.k

    @classmethod
    def of_class(cls, a: Any) -> str:
        return f"{cls.__name__}{a}"

    @staticmethod
    def static(a: Any) -> Any:
        return -a


class LaterTimes(Times):
    async def __call__(self, a: Any) -> Any:
        return a * self.k


def made_by_exec() -> Any:
    names: dict[str, Any] = {}
    exec("def found(a):\n    return a + 7", names)
    return names["found"]


def nested(k: int) -> Callable[[Any], Any]:
    def inner(a: Any) -> Any:
        return a + k

    return inner


WORKS: dict[str, tuple[Callable[[], Any], tuple[Any, ...], dict[str, Any], Any]] = {
    "a partial": (lambda: step(functools.partial(added, b=5), name="a1"), (1,), {}, 6),
    "a partial by position": (lambda: step(functools.partial(added, 5), name="a2"), (), {"b": 2}, 7),
    "a partial of a partial": (lambda: step(name="a3")(functools.partial(functools.partial(added, 1), b=2)), (), {}, 3),
    "a partial of an async function": (lambda: step(functools.partial(added_later, b=5), name="a4"), (1,), {}, 6),
    "an object": (lambda: step(Times(3), name="a5"), (2,), {}, 6),
    "an object with an async call": (lambda: step(LaterTimes(3), name="a6"), (2,), {}, 6),
    "a bound method": (lambda: step(Times(4).method), (2,), {}, 8),
    "a class method": (lambda: step(Times.of_class), (2,), {}, "Times2"),
    "a static method": (lambda: step(Times.static), (2,), {}, -2),
    "a lambda": (lambda: step(lambda a: a + 1, name="a7"), (1,), {}, 2),
    "a nested function": (lambda: step(nested(3)), (1,), {}, 4),
    "a function that exec made": (lambda: step(made_by_exec()), (1,), {}, 8),
    "a decorator without wraps": (lambda: step(without_wraps(added)), (1, 5), {}, 6),
    "a decorator without wraps, by name": (lambda: step(without_wraps(added), name="a8"), (1,), {"b": 5}, 6),
    "a decorator with wraps": (lambda: step(with_wraps(with_wraps(added)), name="a9"), (1,), {"b": 5}, 6),
    "async around sync": (lambda: step(async_around(added), name="b1"), (1,), {}, 2),
    "a decorator that is an object": (lambda: step(Wrapping(added), name="b2"), (1,), {}, 2),
    "a cache": (lambda: step(functools.cache(added), name="b3"), (1,), {}, 2),
    "single dispatch": (lambda: step(dispatched), (1,), {}, "int"),
    "a function that returns a coroutine": (lambda: step(returns_a_coroutine), (1,), {}, 2),
    "a builtin function": (lambda: step(len), ([1, 2],), {}, 2),
    "a function written in C": (lambda: step(math.sqrt), (4,), {}, 2.0),
    "a function of numpy": (lambda: step(np.mean), ([1, 3],), {}, 2.0),
    "a ufunc": (lambda: step(np.add), (1.5, 3), {}, 4.5),
    "a method of a builtin type": (lambda: step(str.upper, name="b4"), ("a",), {}, "A"),
    "a bound method of a builtin object": (lambda: step(",".join, name="b5"), (["a", "b"],), {}, "a,b"),
    "any arguments": (lambda: step(all_of_them), (1, 2), {}, [1, 2]),
    "no arguments for any": (lambda: step(all_of_them), (), {}, []),
    "arguments of all kinds": (lambda: step(some_of_them), (1, 5, 6, 7), {"c": 8, "d": 9}, [1, 5, [6, 7], 8, {"d": 9}]),
    "fewer arguments": (lambda: step(some_of_them), (1,), {}, [1, 2, [], 3, {}]),
    "arguments by position": (lambda: step(by_position), (1, 5, 6), {}, [1, 5, [6]]),
    "a default that is a list": (lambda: step(keeps_what_it_got), (1,), {}, [1]),
    "defaults that are no data": (lambda: step(with_odd_default), (1,), {}, "1objectmath"),
    "a mock": (lambda: step(mock.Mock(return_value=3), name="b6"), (1,), {}, 3),
    "a mock with a signature": (lambda: step(mock.create_autospec(added, return_value=4), name="b7"), (1,), {}, 4),
}


@pytest.mark.anyio
async def test_what_works_as_a_function_works_as_a_step(tmp_path: Path) -> None:
    made = {kind: row[0]() for kind, row in WORKS.items()}

    @chain
    def calls():
        return {kind: made[kind](*args, **kwargs) for kind, (_, args, kwargs, _value) in WORKS.items()}

    async with open_engine(tmp_path / "x.db") as engine:
        run = await engine.run(calls)
        assert run.value == {kind: row[3] for kind, row in WORKS.items()}


def test_a_step_with_a_given_name_belongs_to_the_module_that_made_it() -> None:
    """Not to the module of functools, nor to that of the class: another process imports this one, and finds it."""
    made: Any
    for made in (functools.partial(added, b=5), Times(3), str.upper, operator.itemgetter(0).__class__.__repr__):
        assert step(made, name="of_mine").name == f"{__name__}:of_mine"
    assert step(functools.partial(added, b=5), name="documented").description == "Adds."


def test_partials_keep_the_annotations_of_their_function() -> None:
    """A secret argument stays one."""

    def opened(where: str, key: Secret[str]) -> str:
        return where

    class Opens:
        def __call__(self, where: str, key: Secret[str]) -> str:
            return where

    made: Any
    for made in (functools.partial(opened, "here"), Opens(), functools.partial(Opens(), "here")):
        assert step(made, name="opens").secrets == {"key"}
    assert step(functools.partial(opened, "here"), name="opens").secrets_among(["key", "where"]) == {"key"}


def test_secrets_among_any_arguments() -> None:
    def opened(*keys: Secret[str]) -> None: ...

    assert step(opened).secrets_among(["*keys"]) == {"*keys"}

    def named(*others: str, **keys: Secret[str]) -> None: ...

    assert step(named).secrets_among(["*others", "a"]) == {"a"}


# ---- what is refused


def generates(a: Any) -> Any:
    yield a


class Generates:
    def __call__(self, a: Any) -> Any:
        yield a


class AnswersToAnything:
    def __getattr__(self, name: str) -> str:
        return "x"

    def __call__(self, a: Any) -> Any:
        return a


@chain
def inner(x: int):
    return step(added)(x)


REFUSED: dict[str, tuple[Any, str]] = {
    "a partial without a name": (functools.partial(added, b=1), "name="),
    "an object without a name": (Times(3), "name="),
    "a method of a builtin type": (str.upper, "name="),
    "a bound method of a builtin object": (",".join, "name="),
    "a function without a signature": (max, "`def`"),
    "a getter": (operator.itemgetter(0), "name="),
    "a class": (Times, "function"),
    "a generator function": (generates, "list"),
    "an object that generates": (Generates(), "list"),
    "a partial of a generator function": (functools.partial(generates, 1), "list"),
    "a chain": (inner, "inside another chain"),
    "a class method that is not bound": (classmethod(added), "@staticmethod"),
    "a property": (property(added), "@staticmethod"),
    "a cached property": (functools.cached_property(added), "@staticmethod"),
    "a partial method": (functools.partialmethod(added, 1), "@staticmethod"),
    "an object that answers to any name": (AnswersToAnything(), "`def`"),
    "a number": (3, "`def`"),
    "a text": ("added", "`def`"),
    "a module": (math, "`def`"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_a_step_is_refused_with_the_cure(kind: str) -> None:
    made, cure = REFUSED[kind]
    with pytest.raises(ChainInvalid) as refused:
        step(made)
    (problem,) = refused.value.problems
    assert problem.code == "E_STEP_KIND"
    assert cure in problem.cure
    assert problem.found
    assert problem.place.file == __file__


@pytest.mark.parametrize("made", [generates, Generates(), max, Times, classmethod(added), operator.itemgetter(0)])
def test_a_name_makes_no_step_of_what_cannot_be_one(made: Any) -> None:
    with pytest.raises(ChainInvalid, match="E_STEP_KIND"):
        step(made, name="given")


class Methods:
    @step
    def method(self, a: int) -> int:
        return a

    @property
    @step
    def shown(self) -> int:
        return 1

    @classmethod
    @step
    def of_class(cls, a: int) -> int:
        return a


METHODS: dict[str, Any] = {
    "unbound, without the object": Methods.method,
    "unbound, with the object": lambda x: Methods.method(Methods(), x),
    "unbound, mapped": lambda x: Methods.method.map([1]),
    "a plain method, unbound": step(Times.method),
    "as a property": lambda x: Methods().shown,
}


@pytest.mark.parametrize("kind", METHODS)
def test_methods_say_that_they_are_no_steps(kind: str) -> None:
    @chain
    def calls(x: int):
        return step(added)(METHODS[kind](x))

    with pytest.raises(ChainInvalid) as refused:
        _ = calls.plan
    (problem,) = refused.value.problems
    assert problem.code == "E_STEP_KIND"
    assert "is a method" in problem.message
    assert "@staticmethod" in problem.cure


def test_a_lambda_needs_a_name() -> None:
    @chain
    def calls(x: int):
        return step(lambda a: a)(x)

    with pytest.raises(ChainInvalid) as refused:
        _ = calls.plan
    assert refused.value.code == "E_STEP_ID"
    assert "name=" in refused.value.problems[0].cure


async def texts() -> AsyncIterator[Any]:
    yield "abc"


async def numbers() -> AsyncIterator[Any]:
    yield 3


async def dicts() -> AsyncIterator[Any]:
    yield b"x" * 100_000
    yield {"a": 1}


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [texts, numbers, dicts])
async def test_a_stream_that_gives_no_bytes_is_refused(stream: Any, tmp_path: Path) -> None:
    """The bytes of 3 would be three zeros."""
    streams = step(stream)

    @chain
    def calls():
        return streams()

    async with open_engine(tmp_path / "x.db") as engine:
        run = await engine.run(calls, check=False)
    assert run.error is not None
    assert run.error.code == "E_VALUE_TYPE"
    assert "bytes" in run.error.message


# ---- found again: defined anew, in other processes


def module_of(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (folder / f"{name}.py").write_text("import functools\nfrom towpath import step\n" + text)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


def test_named_callables_of_a_reloaded_module_are_defined_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "def f(x, k): return x * k\nclass C:\n    def __call__(self, x): return x + {n}\n"
        "p = step(functools.partial(f, k={n}), name='p')\nc = step(C(), name='c')\n"
    )
    module_of("shapes_again", text.format(n=2), tmp_path, monkeypatch)
    (tmp_path / "shapes_again.py").write_text("import functools\nfrom towpath import step\n" + text.format(n=5))
    importlib.reload(sys.modules["shapes_again"])
    assert find_step("shapes_again:p").function(10) == 50
    assert find_step("shapes_again:c").function(10) == 15


def test_two_callables_with_one_given_name_are_ambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "class C:\n    def __call__(self, x): return x\na = step(C(), name='c')\nb = step(C(), name='c')\n"
    module_of("shapes_twice", text, tmp_path, monkeypatch)
    with pytest.raises(StepNotRegistered, match="E_STEP_NAME_TWICE"):
        find_step("shapes_twice:c")


def test_named_callables_of_a_notebook_are_defined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    vars(main).update(step=step, functools=functools)
    for n in (1, 1000):
        text = f"f = step(functools.partial(lambda x, k: x + k, k={n}), name='cell')"
        exec(compile(text, f"<cell {n}>", "exec"), vars(main))
    assert find_step("__main__:cell").function(1) == 1001


hundred = step(Times(100), name="hundred")
five_more = step(functools.partial(added, b=5), name="five_more")


@pytest.mark.parametrize("made", [hundred, five_more, hundred.with_options(retries=2)], ids=str)
def test_named_callables_are_pickled_by_name(made: Step[..., Any]) -> None:
    again = pickle.loads(pickle.dumps(made))
    assert again.function is made.function
    assert again.options == made.options


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_step_that_another_process_cannot_find_says_so(method: str) -> None:
    """A worker that cannot read its task would die, or keep the pool waiting for ever."""
    with get_context(method).Pool(1) as pool:
        assert pool.map_async(hundred, [1, 2]).get(60) == [100, 200]
        with pytest.raises(StepNotRegistered, match="top level of a module"):
            pool.map_async(step(nested(3)), [1]).get(60)
