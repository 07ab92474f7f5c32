"""What can be a step, and that its name means one function."""

from __future__ import annotations

import functools
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from towpath import ChainInvalid, InputInvalid, StepNotRegistered, chain, step
from towpath.chain_file import load_chain
from towpath.steps import find_step, is_loaded


def codes(runnable: Any) -> set[str]:
    with pytest.raises(ChainInvalid) as refused:
        _ = runnable.plan
    assert all(p.place.file and p.cure for p in refused.value.problems)
    return {p.code for p in refused.value.problems}


# ---- two functions under one name


def make(k: Any, **options: Any) -> Any:
    @step(**options)
    def times(x: int) -> Any:
        return (x, k)

    return times


def loud(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that forgets functools.wraps."""

    def wrapper(x: int) -> Any:
        return function(x)

    return wrapper


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(x: int) -> Any:
        return function(x)

    return wrapper


@step
@loud
def one_more(x: int) -> int:
    return x + 1


@step
@loud
def ten_more(x: int) -> int:
    return x + 10


@step
@quiet
def two_more(x: int) -> int:
    return x + 2


@step
@quiet
def three_more(x: int) -> int:
    return x + 3


class Kept:
    """Holds a number, so that its bound methods differ."""

    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, x: int) -> int:
        return x + self.n


class Times:
    """A decorator that is an object."""

    def __init__(self, function: Callable[..., Any], k: int) -> None:
        functools.update_wrapper(self, function)
        self.k = k

    def __call__(self, x: int) -> Any:
        return x * self.k


def plain_one(x: int) -> int:
    return x


def multiplied(x: int, k: int = 1) -> int:
    return x * k


def partly(**given: Any) -> Any:
    return functools.update_wrapper(functools.partial(multiplied, **given), multiplied)


def sub_chain(k: int) -> Any:
    times = make(k)

    @chain
    def inner(x: int):
        return times(x)

    return inner


def with_default(n: int) -> Any:
    def shifted(x: int, by: int = n) -> int:
        return x + by

    return step(shifted)


def in_a_loop() -> tuple[Any, Any]:
    first, second = [step(lambda x, n=n: x + n) for n in range(2)]
    return first, second


def one_bound_method() -> tuple[Any, Any]:
    method = Kept(1).add
    return step(method), step(method)


TWO: dict[str, Callable[[], tuple[Any, Any]]] = {
    "closures of one factory": lambda: (make(2), make(3)),
    "closures over values that are equal and not the same": lambda: (make(1), make(True)),
    "closures over lists": lambda: (make([1]), make([1])),
    "a decorator without functools.wraps": lambda: (one_more, ten_more),
    "lambdas": lambda: (step(lambda x: x + 1), step(lambda x: x * 2)),
    "lambdas of a loop, which differ in a default": in_a_loop,
    "defaults of one factory": lambda: (with_default(1), with_default(2)),
    "chains inside, of one factory": lambda: (sub_chain(2), sub_chain(3)),
    "a step, and the same name in a chain inside": lambda: (make(2), sub_chain(3)),
    "bound methods of two objects": lambda: (step(Kept(1).add), step(Kept(2).add)),
    "one name given twice": lambda: (make(2, name="mine"), make(3, name="mine")),
    "caches around two functions": lambda: (step(functools.cache(lambda x: x)), step(functools.cache(lambda x: -x))),
    "objects that wrap one function": lambda: (step(Times(plain_one, 2)), step(Times(plain_one, 3))),
    "partials that wrap one function": lambda: (step(partly(k=2)), step(partly(k=3))),
    "closures over objects that wrap one function": lambda: (
        step(loud(Times(plain_one, 2))),
        step(loud(Times(plain_one, 3))),
    ),
    "closures over partials": lambda: (step(loud(partly(k=2))), step(loud(partly(k=True)))),
    "closures over partials by position": lambda: (
        step(loud(functools.partial(multiplied, 2))),
        step(loud(functools.partial(multiplied, 3))),
    ),
    "a function, and an object that wraps it": lambda: (step(plain_one), step(Times(plain_one, 3))),
    "options do not make one function of two": lambda: (make(2).with_options(retries=1), make(3)),
}


@pytest.mark.parametrize("kind", TWO)
def test_two_functions_under_one_name_are_refused(kind: str) -> None:
    """A plan knows functions by name alone: the last one would run for both."""
    first, second = TWO[kind]()

    @chain
    def both(x: int):
        return call(first, x, "a"), call(second, x, "b")

    assert codes(both) == {"E_STEP_NAME_TWICE"}


def call(made: Any, x: Any, step_id: str) -> Any:
    return made(x).named(step_id)


@step
def plain(x: int) -> int:
    return x


ONE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "one step twice": lambda: (plain, plain),
    "with other options": lambda: (plain, plain.with_options(retries=2)),
    "functools.wraps gives each its own": lambda: (two_more, three_more),
    "names of their own": lambda: (make(2, name="double"), make(3, name="triple")),
    "one factory, called again with the same": lambda: (make(2), make(2)),
    "one bound method": one_bound_method,
    "a chain inside, and its step": lambda: (sub_chain(2), make(2)),
    "closures over the same step": lambda: (make(plain), make(plain)),
    "partials of the same": lambda: (step(partly(k=2)), step(partly(k=2))),
    "caches around one function": lambda: (step(functools.cache(plain_one)), step(functools.cache(plain_one))),
}


@pytest.mark.parametrize("kind", ONE)
def test_one_function_may_be_called_often(kind: str) -> None:
    first, second = ONE[kind]()

    @chain
    def both(x: int):
        return call(first, x, "a"), call(second, x, "b")

    assert [s.id for s in both.plan.steps] == ["a", "b"]


def test_a_given_name_is_the_identity_and_the_default_id() -> None:
    double = make(2, name="double")
    assert double.name == f"{__name__}:double"
    assert find_step(double.name) is double
    assert is_loaded(double.name)

    @chain
    def named(x: int):
        return double(x)

    assert [(s.id, s.target) for s in named.plan.steps] == [("double", double.name)]
    assert step(name="from_a_lambda")(lambda x: x).name == f"{__name__}:from_a_lambda"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a.b", "a\n", "ä", "-a", "a" * 101, 3, "a/b", "\u202ea", "<x>"])
def test_names_that_are_no_names_are_refused(name: Any) -> None:
    """It is written into plans, and is the step's id where none is given."""
    with pytest.raises(InputInvalid, match="E_FIELD_TYPE"):
        make(2, name=name)


# ---- a name on its own: resume, rerun, YAML


def test_an_ambiguous_name_is_worth_nothing_to_a_recorded_run() -> None:
    double, _ = make(2), make(3)
    with pytest.raises(StepNotRegistered, match="two different functions") as refused:
        find_step(double.name)
    assert refused.value.code == "E_STEP_NAME_TWICE"
    assert "@step(name=" in refused.value.problem.cure


@pytest.mark.parametrize("kind", ["objects that wrap one function", "partials that wrap one function"])
def test_a_name_of_two_objects_is_worth_nothing_to_a_recorded_run(kind: str) -> None:
    first, _ = TWO[kind]()
    with pytest.raises(StepNotRegistered, match="E_STEP_NAME_TWICE"):
        find_step(first.name)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Writes and imports a module; written again, it is reloaded."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written: list[str] = []

    def write(name: str, text: str) -> Any:
        Path(tmp_path, f"{name}.py").write_text("from towpath import chain, step\n" + textwrap.dedent(text))
        importlib.invalidate_caches()
        written.append(name)
        return importlib.reload(sys.modules[name]) if name in sys.modules else importlib.import_module(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_module_that_is_reloaded_defines_its_steps_again(module: Callable[..., Any]) -> None:
    """One function, changed: the new one counts, by name and in chains."""
    text = "@step\ndef f(x): return x + {n}\n@chain\ndef c(x: int): return f(x)\n"
    module("again_a", text.format(n=1))
    made = module("again_a", text.format(n=1000))
    assert find_step("again_a:f").function(1) == 1001
    assert made.c.steps["again_a:f"].function(1) == 1001


def test_an_old_function_beside_a_reloaded_one_is_refused(module: Callable[..., Any]) -> None:
    """`from m import f` holds on to what was there before the reload."""
    first = module("again_b", "@step\ndef f(x): return 'old'\n").f
    reloaded = module("again_b", "@step\ndef f(x): return 'new'\n@chain\ndef inner(x: int): return f(x)\n")

    @chain
    def both(x: int):
        return first(x), reloaded.inner(x)

    assert codes(both) == {"E_STEP_NAME_TWICE"}


def test_a_name_that_one_module_defines_twice_is_ambiguous(module: Callable[..., Any]) -> None:
    """The first one lives on under another name, in a list, or as a default."""
    kept = {"again_c": "first = f", "again_d": "STEPS = [f]", "again_e": "def g(x, f=f): return f"}
    for name, keeps in kept.items():
        module(name, f"@step\ndef f(x): return 'first'\n{keeps}\n@step\ndef f(x): return 'second'\n")
        with pytest.raises(StepNotRegistered, match="E_STEP_NAME_TWICE"):
            find_step(f"{name}:f")


def test_a_function_of_a_notebook_is_defined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells have files of no disk, and a module without a file. An old one under another name is still a second one."""
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    vars(main).update(step=step, chain=chain)

    def cell(number: int, text: str) -> None:
        exec(compile(text, f"<cell {number}>", "exec"), vars(main))

    cell(1, "@step\ndef f(x): return x + 1")
    cell(2, "@chain\ndef c(x: int): return f(x)")
    assert main.c.steps["__main__:f"].function(1) == 2
    cell(3, "@step\ndef f(x): return x + 1000")
    assert main.c.steps["__main__:f"].function(1) == 1001, "the chain's cell was not run again"
    assert find_step("__main__:f").function(1) == 1001
    cell(4, "old = f\n@step\ndef f(x): return 0")
    with pytest.raises(StepNotRegistered, match="E_STEP_NAME_TWICE"):
        find_step("__main__:f")


def test_a_kernel_that_gives_main_a_file_has_cells_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor that runs cells gives `__main__` the file of the notebook, and a module may be made by exec."""
    for name, file in (("__main__", "notebook.py"), ("no_spec", "notebook.py"), ("no_file", None)):
        module = ModuleType(name)
        if file is not None:
            module.__file__ = file
        monkeypatch.setitem(sys.modules, name, module)
        for k in (1, 1000):
            text = f"from towpath import step\n@step(name='of_a_cell')\ndef f(x): return x + {k}"
            exec(compile(text, "/nowhere/cell_A.py", "exec"), vars(module))
        assert find_step(module.f.name).function(1) == 1001
        exec(compile(f"old = f\n{text}", "/nowhere/cell_B.py", "exec"), vars(module))
        with pytest.raises(StepNotRegistered, match="E_STEP_NAME_TWICE"):
            find_step(module.f.name)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("tests.engine.test_steps:<lambda>", '@step(name="…")'),
        ("tests.engine.test_steps:f.<locals>.<lambda>", '@step(name="…")'),
        ("tests.engine.test_steps:loud.<locals>.unheard", "functools.wraps"),
        ("tests.engine.test_steps:nobody", "--import"),
    ],
)
def test_a_name_that_no_module_has_is_cured_by_a_name(name: str, cure: str) -> None:
    """Importing its module does not help."""
    with pytest.raises(StepNotRegistered) as refused:
        find_step(name)
    assert refused.value.code == "E_STEP_NOT_REGISTERED"
    assert cure in refused.value.problem.cure


class HoldsChains:
    @chain
    def method(self, x: int):
        return plain(x)

    @staticmethod
    @chain
    def static(x: int):
        return plain(x)


def test_a_method_is_no_chain() -> None:
    assert codes(HoldsChains.method) == {"E_CHAIN_TRACE"}
    with pytest.raises(ChainInvalid, match=r"is a method: .*\n.*staticmethod"):
        _ = HoldsChains().method.plan
    assert HoldsChains.static.plan.steps

    @chain
    def no_method(self: int):
        return plain(self)

    assert no_method.plan.steps


def test_importing_the_module_finds_names_that_a_factory_made(module: Callable[..., Any]) -> None:
    module(
        "again_f",
        "def make(k):\n    @step(name=f'by_{k}')\n    def f(x): return x * k\n    return f\nA, B = make(2), make(3)",
    )
    assert find_step("again_f:by_3").function(5) == 15
    assert find_step("again_f:A").function(5) == 10, "the module's own name for it"


# ---- chain files


def test_chain_files_inside_each_other_mean_one_module_by_one_name(tmp_path: Path) -> None:
    """Python knows one module of a name: the file beside the inner chain would be passed over in silence."""
    Path(tmp_path, "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        text = f"from towpath import step\n@step\ndef beside() -> str: return {str(folder)!r}\n"
        Path(folder, "twice_beside.py").write_text(text)
        Path(folder, "inner.yaml").write_text("name: inner\nsteps:\n  - {id: a, python: 'twice_beside:beside'}\n")
    outer = "name: outer\nsteps:\n  - {id: a, python: 'twice_beside:beside'}\n  - {id: b, chain: sub/inner.yaml}\n"
    Path(tmp_path, "outer.yaml").write_text(outer)
    try:
        with pytest.raises(ChainInvalid) as refused:
            load_chain(tmp_path / "outer.yaml")
        (problem,) = refused.value.problems
        assert problem.code == "E_STEP_NAME_TWICE"
        assert problem.place.file.endswith("sub/inner.yaml")
        assert problem.place.line == 3
        Path(tmp_path, "outer.yaml").write_text(outer.replace("sub/inner.yaml", "inner.yaml"))
        assert load_chain(tmp_path / "outer.yaml").plan.steps, "one folder, one module"
    finally:
        sys.modules.pop("twice_beside", None)
        sys.path[:] = [p for p in sys.path if not p.startswith(str(tmp_path))]


def test_a_chain_file_with_an_ambiguous_name_is_refused(tmp_path: Path) -> None:
    text = (
        "from towpath import step\ndef make(k):\n    @step(name='times')\n    def f(x): return x * k\n    return f\n"
        "double, triple = make(2), make(3)\n"
    )
    Path(tmp_path, "factory_beside.py").write_text(text)
    file = tmp_path / "c.yaml"
    line = "name: c\nsteps:\n  - {{id: a, python: 'factory_beside:{}', parameters: {{x: 1}}}}\n"
    try:
        file.write_text(line.format("times"))
        with pytest.raises(ChainInvalid, match="E_STEP_NAME_TWICE"):
            load_chain(file)
        file.write_text(line.format("triple"))
        assert load_chain(file).steps["factory_beside:triple"].function(5) == 15, "the module tells them apart"
    finally:
        sys.modules.pop("factory_beside", None)
        sys.path[:] = [p for p in sys.path if not p.startswith(str(tmp_path))]


# ---- a step that is replaced is used


LIMIT = 1


def test_a_replaced_step_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a unit test does it; and so is a constant, and a step behind a closure."""

    @step
    def fake(x: int) -> str:
        return "fake"

    @chain
    def uses(x: int):
        return plain(x), two_more(LIMIT)

    before = uses.plan
    monkeypatch.setattr(sys.modules[__name__], "plain", fake)
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 2)
    after = uses.plan
    assert [s.id for s in before.steps] == ["plain", "two_more"]
    assert [s.id for s in after.steps] == ["fake", "two_more"]
    assert after.steps[1].parameters == {"x": 2}
    assert uses.steps[fake.name] is fake


def test_a_replaced_step_inside_an_inner_chain_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    @chain
    def inner(x: int):
        return plain(x)

    @chain
    def outer(x: int):
        return inner(x), inner(2)

    assert outer.steps[plain.name] is plain
    monkeypatch.setattr(sys.modules[__name__], "plain", two_more)
    assert list(outer.steps) == [two_more.name]


# ---- kinds of functions


class Methods:
    @step
    def method(self, a: int) -> int:
        return a

    @classmethod
    @step
    def of_class(cls, a: int) -> int:
        return a

    @staticmethod
    @step
    def static(a: int) -> int:
        return a

    @step
    @staticmethod
    def static_inside(a: int) -> int:
        return a


class Doubler:
    def __call__(self, x: int) -> int:
        return x


def _numbers(x: int) -> Any:
    yield x


NO_STEPS: dict[str, Any] = {
    "a partial": functools.partial(plain.function, 1),
    "a callable object": Doubler(),
    "a step": plain,
    "a class": Doubler,
    "a builtin class": dict,
    "a chain": sub_chain(2),
    "a generator function": _numbers,
    "a number": 3,
    "a property": property(plain.function),
    "a classmethod before it is bound": classmethod(_numbers),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", NO_STEPS)
def test_what_is_no_function_is_no_step(kind: str) -> None:
    """It has no name by which another process would find it, or gives no value that can be kept."""
    with pytest.raises(ChainInvalid) as refused:
        step(NO_STEPS[kind])
    assert refused.value.code == "E_STEP_KIND"
    assert all(p.cure and p.place.file == __file__ for p in refused.value.problems)


METHODS: dict[str, Callable[[Any], Any]] = {
    "of an object": lambda x: Methods().method(x),
    "mapped": lambda x: Methods().method.map([1]),
    "of a class": Methods.of_class,
    "of a class, through an object": lambda x: Methods().of_class(x),
}


@pytest.mark.parametrize("kind", METHODS)
def test_methods_are_no_steps(kind: str) -> None:
    """The object would be gone when the run goes on in another process."""

    @chain
    def calls(x: int):
        return METHODS[kind](x)

    assert codes(calls) == {"E_STEP_KIND"}


def test_methods_work_outside_of_chains() -> None:
    """A step is the plain function there, for unit tests."""
    assert Methods().method(2) == 2
    assert Methods.of_class(3) == 3
    assert Methods().static(4) == 4


def test_static_methods_are_steps() -> None:
    @chain
    def calls(x: int):
        return Methods.static(x), Methods().static(1), Methods.static_inside(x), Methods().static_inside(2)

    assert [s.target.partition(":")[2] for s in calls.plan.steps] == ["Methods.static"] * 2 + [
        "Methods.static_inside"
    ] * 2
    assert all(find_step(s.target) for s in calls.plan.steps)
