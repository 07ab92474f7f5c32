"""What is said about the mistakes of a first hour: each names the place, and a cure that works."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from towpath import ChainInvalid, File, InputInvalid, chain, context, load_chain, step
from towpath.errors import TowpathError
from towpath.testing import engine


@step
def numbers(n: int) -> list[int]:
    return list(range(n))


@step
def add(xs: list[int], more: int = 0) -> int:
    return sum(xs) + more


@step
def repeated(x: Any) -> Any:
    return 2 * x


@step
def settings() -> dict[str, int]:
    return {"more": 1}


@chain
def added(n: int = 3, names: list[str] | None = None) -> Any:
    return add(numbers(n))


def run(what: Any, **inputs: Any) -> Any:
    async def main() -> Any:
        async with engine() as opened:
            return await opened.run(what, **inputs)

    return asyncio.run(main())


@step
def written(data: str) -> File:
    return File(data, filename="wörter.txt")


@chain
def writing(data: str) -> Any:
    return written(data)


def test_a_file_is_made_of_text() -> None:
    artifact = run(writing, data="Grüße\n").value
    assert (artifact.filename, artifact.media_type) == ("wörter.txt", "text/plain")
    assert File("ü") == File("ü".encode())
    assert File(bytearray(b"a")).data == b"a"


@pytest.mark.parametrize("data", [None, 3, ["a"], io.BytesIO(b"a")])
def test_a_file_of_something_else_is_refused_where_it_is_made(data: Any) -> None:
    with pytest.raises(TypeError, match=f"bytes, text, a pathlib.Path.* not of {type(data).__name__}"):
        File(data)


@pytest.mark.parametrize(
    ("what", "cure"),
    [
        (numbers, "numbers is a step: call it in a @chain"),
        (numbers.function, "numbers is none: put @chain above the function"),
        ("report.yaml", "load_chain('report.yaml')"),
        (Path("report.yaml"), "load_chain('report.yaml')"),
        (None, "a NoneType is none"),
    ],
)
def test_only_a_chain_can_be_run(what: Any, cure: str) -> None:
    with pytest.raises(TypeError) as refused:
        run(what)
    assert cure in str(refused.value)


def test_a_chain_that_is_called_says_how_it_is_run() -> None:
    with pytest.raises(TypeError, match=r"towpath\.run\(added, …\)"):
        added(3)


def _mapped_from_the_reference() -> Any:
    return numbers(3).map(repeated)


def _unpacked() -> Any:
    first, second = numbers(2)
    return [first, second]


def _keywords() -> Any:
    return add(numbers(2), **settings())


def _not_called() -> Any:
    return add(numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "cure"),
    [
        (_mapped_from_the_reference, "step.map(reference)"),
        (_unpacked, "reference[0]"),
        (_keywords, 'step(a=reference["a"])'),
        (_not_called, "call it: numbers(…)"),
    ],
)
def test_the_cure_for_a_reference_fits(body: Callable[[], Any], cure: str) -> None:
    with pytest.raises(ChainInvalid) as refused:
        chain(body).compile()
    assert cure in refused.value.problems[0].cure


def test_an_async_chain_is_refused_with_its_line() -> None:
    async def described() -> None: ...

    with pytest.raises(ChainInvalid, match="not by an async def function") as refused:
        chain(described).compile()
    assert not str(refused.value.problems[0].place).endswith(":0")


@pytest.mark.parametrize(
    ("options", "field", "cure"),
    [
        ({"retry": 3}, "retry", "retries=3"),
        ({"retry": "3"}, "retry", "attempts"),
        ({"timeout": "5 minutes"}, "timeout", ""),
        ({"retries": "3"}, "retries", ""),
        ({"max_retries": 3}, "max_retries", "retries"),
    ],
)
def test_a_wrong_option_is_named_with_its_line(options: Any, field: str, cure: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        step(**options)(lambda: 1)
    problem = refused.value.problem
    assert (problem.place.field, problem.place.file) == (field, __file__)
    assert problem.place.line
    assert cure in problem.cure
    assert field in str(refused.value)


@pytest.mark.parametrize(("value", "cure"), [(3, "range"), ({"a": 1}, "items()"), ("a b", "split")])
def test_a_map_over_no_list_says_how_to_make_one(value: Any, cure: str) -> None:
    @step
    def made() -> Any:
        return value

    @chain
    def mapped() -> Any:
        return repeated.map(made())

    ended = run(mapped, check=False)
    assert ended["repeated"].error.code == "E_FOREACH_TYPE"
    assert cure in ended["repeated"].error.message


def test_a_list_as_text_is_shown_as_json() -> None:
    with pytest.raises(InputInvalid, match="E_INPUT_TYPE") as refused:
        run(added, names="a,b")
    assert refused.value.problem.allowed.startswith("a list of string")

    @chain
    def named(names: list[str], pairs: dict[str, int] | None = None) -> Any:
        return repeated(names)

    with pytest.raises(InputInvalid) as refused:
        run(named, names="['a', 'b']")
    assert refused.value.problem.cure == """as JSON: --input 'names=["a", "a"]'"""


def test_a_file_that_is_not_there_is_a_wrong_input(tmp_path: Path) -> None:
    @chain
    def reads(file: Path) -> Any:
        return repeated(file)

    with pytest.raises(InputInvalid, match="E_VALUE_FILE") as refused:
        run(reads, file=tmp_path / "nope.csv")
    assert refused.value.exit_code == 2
    assert "return" not in refused.value.problem.cure


def test_a_rerun_with_a_parameter_that_the_step_has_not() -> None:
    async def main() -> None:
        async with engine() as opened:
            first = await opened.run(added)
            await opened.rerun(first, parameters={"add.moar": 1})

    with pytest.raises(TowpathError, match="the step has no such parameter") as refused:
        asyncio.run(main())
    assert (refused.value.problem.code, refused.value.problem.allowed) == ("E_PARAMETER", "more xs")


def test_the_context_outside_of_a_step_names_the_one_for_tests() -> None:
    with pytest.raises(RuntimeError, match=r"towpath\.testing\.step_context"):
        context()


def test_a_chain_file_is_loaded_first(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nsteps: [{ id: x, python: 'test_usual_mistakes:settings' }]\n")
    assert load_chain(path, imports=False).plan.name == "a"
