"""No silent wrong value: two functions of one name, replaced functions, and runs that are known already."""

from __future__ import annotations

import asyncio
import functools
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.conftest import OpenEngine
from towpath import Artifact, ChainInvalid, File, InputInvalid, RunRefused, StepFailed, StepNotRegistered, chain, step

pytestmark = pytest.mark.anyio


def make(k: int, **options: Any) -> Any:
    @step(**options)
    def times(x: int) -> int:
        return x * k

    return times


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(x: int) -> Any:
        return function(x)

    return wrapper


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(x: int) -> Any:
        return function(x)

    return wrapper


@step
@wrapped
def plus_one(x: int) -> int:
    return x + 1


@step
@wrapped
def plus_ten(x: int) -> int:
    return x + 10


# ---- names


async def test_named_steps_of_a_factory_get_their_own_values(open_engine: OpenEngine) -> None:
    double, triple = make(2, name="double"), make(3, name="triple")

    @chain
    def inner(x: int):
        return triple(x)

    @chain
    def all_of_them(x: int):
        return [double(x), triple(x), plus_one(x), plus_ten(x), inner(x), triple.map([x, 1])]

    async with open_engine() as engine:
        assert (await engine.run(all_of_them, x=5)).value == [10, 15, 6, 15, 15, [15, 3]]


async def test_two_functions_of_one_name_are_refused_before_anything_starts(open_engine: OpenEngine) -> None:
    double, triple = make(2), make(3)

    @chain
    def inner(x: int):
        return triple(x)

    @chain
    def both(x: int):
        return double(x), inner(x)

    async with open_engine() as engine:
        with pytest.raises(ChainInvalid, match="E_STEP_NAME_TWICE"):
            await engine.run(both, x=5)
        with pytest.raises(ChainInvalid, match="E_STEP_NAME_TWICE"):
            await engine.start(both, x=5)
        assert await engine.list_chains() == []


@pytest.mark.parametrize("again", ["resume", "rerun", "run"])
async def test_an_ambiguous_name_is_refused_by_an_engine_that_has_only_the_name(
    open_engine: OpenEngine, tmp_path: Path, again: str
) -> None:
    """The chain of the double was recorded; then the triple came. Which one is meant can nobody say."""

    well = tmp_path / "well"

    def limited(k: int) -> Any:
        @step
        def once(x: int) -> int:
            if not well.exists():
                raise StepFailed("not yet")
            return x * k

        return once

    double = limited(2)

    @chain
    def alone(x: int):
        return double(x).with_approval() if again == "resume" else double(x)

    if again == "resume":
        well.touch()
    async with open_engine() as engine:
        first = await engine.run(alone, x=5, run_id="r", check=False)
        assert first.status == ("paused" if again == "resume" else "failed")
    limited(3)
    well.touch()
    async with open_engine() as engine:
        if again == "run":
            assert (await engine.run(alone, x=5)).value == 10, "whoever has the chain has the function"
            return
        with pytest.raises(StepNotRegistered, match="two different functions") as refused:
            await (engine.resume("r") if again == "resume" else engine.rerun("r"))
        assert refused.value.code == "E_STEP_NAME_TWICE"


async def test_a_wrong_chain_shows_one_frame_of_ours_and_the_users_line(open_engine: OpenEngine) -> None:
    """Thirty lines of towpath's own frames hid what was wrong."""

    @chain
    def asks(x: int):
        return plus_one(x * 2)

    @chain
    def keeps(x: int):
        return plus_one(1j)

    @chain
    def outer(x: int):
        return asks(x)

    here = test_a_wrong_chain_shows_one_frame_of_ours_and_the_users_line.__name__
    async with open_engine() as engine:
        for ask in (engine.run, engine.start):
            for wrong, last in ((asks, ["asks"]), (keeps, []), (outer, ["asks"])):
                with pytest.raises(ChainInvalid) as refused:
                    await ask(wrong, x=1)
                frames = [frame.name for frame in traceback.extract_tb(refused.value.__traceback__)]
                assert frames == [here, ask.__name__, *last]


# ---- what is replaced


@step
def real(x: int) -> str:
    return f"real {x}"


BY = 1


@chain
def uses_real(x: int):
    return [real(x), plus_one(BY)]


async def test_what_is_replaced_between_two_runs_is_used(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test replaces a step or a constant; somebody edits a cell."""

    @step
    def fake(x: int) -> str:
        return f"fake {x}"

    async with open_engine() as engine:
        assert (await engine.run(uses_real, x=1)).value == ["real 1", 2]
        with monkeypatch.context() as patch:
            patch.setattr("tests.adapters.test_values.real", fake)
            patch.setattr("tests.adapters.test_values.BY", 41)
            assert (await engine.run(uses_real, x=1)).value == ["fake 1", 42]
        assert (await engine.run(uses_real, x=1)).value == ["real 1", 2]


# ---- run ids that are known


@step
def contents(f: Artifact, n: Any = None) -> Any:
    return [f.digest, n]


@chain
def with_file(f: Artifact, n: Any = None, more: list[Artifact] | None = None):
    return contents(f, n)


async def streamed(data: bytes) -> AsyncIterator[bytes]:
    yield data


def inputs(tmp_path: Path, **changed: Any) -> dict[str, Any]:
    Path(tmp_path, "a.bin").write_bytes(b"a")
    Path(tmp_path, "same.bin").write_bytes(b"a")
    Path(tmp_path, "b.bin").write_bytes(b"b")
    return {"f": tmp_path / "a.bin", "n": {"a": [1, True]}, "more": [b"x", b"y"], **changed}


SAME: dict[str, Callable[[Path], dict[str, Any]]] = {
    "the same": lambda at: {},
    "the same bytes in another file": lambda at: {"f": at / "same.bin"},
    "the same bytes": lambda at: {"f": b"a"},
    "the same bytes as a stream": lambda at: {"f": streamed(b"a")},
    "the same bytes with a name": lambda at: {"f": File(b"a", filename="other.txt")},
    "a tuple for a list": lambda at: {"n": {"a": (1, True)}},
    "keys in another order": lambda at: {"n": dict(reversed([("a", [1, True])]))},
}
OTHER: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "another value": ("n", lambda at: {"n": 2}),
    "1 for True": ("n", lambda at: {"n": {"a": [1, 1]}}),
    "1.0 for 1": ("n", lambda at: {"n": {"a": [1.0, True]}}),
    "one more key": ("n", lambda at: {"n": {"a": [1, True], "b": None}}),
    "another file": ("f", lambda at: {"f": at / "b.bin"}),
    "other bytes": ("f", lambda at: {"f": b"b"}),
    "another stream": ("f", lambda at: {"f": streamed(b"b")}),
    "files in another order": ("more", lambda at: {"more": [b"y", b"x"]}),
    "one file less": ("more", lambda at: {"more": [b"x"]}),
    "the default for a given value": ("n", lambda at: {"n": None}),
}


@pytest.mark.parametrize("kind", SAME)
async def test_a_run_id_with_the_same_inputs_is_the_same_run(
    open_engine: OpenEngine, tmp_path: Path, kind: str
) -> None:
    async with open_engine() as engine:
        first = await engine.run(with_file, run_id="r", inputs=inputs(tmp_path))
        again = await engine.run(with_file, run_id="r", inputs=inputs(tmp_path, **SAME[kind](tmp_path)))
        assert again.value == first.value
        assert len(await engine.list_chains()) == 1


@pytest.mark.parametrize("kind", OTHER)
async def test_a_run_id_with_other_inputs_is_refused(open_engine: OpenEngine, tmp_path: Path, kind: str) -> None:
    """The old result would be taken for the new one."""
    name, change = OTHER[kind]
    async with open_engine() as engine:
        await engine.run(with_file, run_id="r", inputs=inputs(tmp_path))
        for ask in (engine.run, engine.start):
            with pytest.raises(RunRefused) as refused:
                await ask(with_file, run_id="r", inputs=inputs(tmp_path, **change(tmp_path)))
            problem = refused.value.problem
            assert (problem.code, problem.place.field) == ("E_RUN_INPUTS", f"inputs.{name}")
            assert "recorded" in problem.found
            assert "asked for" in problem.found
            assert "rerun" in problem.cure


@step
def same(value: Any) -> Any:
    return value


@chain
def takes_numbers(x: float, many: list[float] | None = None, named: dict[str, float | str] | None = None):
    return same([x, many, named])


async def test_one_number_written_in_two_ways_is_the_same_input(open_engine: OpenEngine) -> None:
    """Where a float is asked for, 1 is one; where anything may stand, 1 and 1.0 are two."""
    one: dict[str, Any] = {"x": 1, "many": [1, 2.5], "named": {"a": 1, "b": "1"}}
    other: dict[str, Any] = {"x": 1.0, "many": [1.0, 2.5], "named": {"a": 1.0, "b": "1"}}
    async with open_engine() as engine:
        first = await engine.run(takes_numbers, run_id="r", inputs=one)
        assert (await engine.run(takes_numbers, run_id="r", inputs=other)).value == first.value
        for wrong in ({"x": 1.5}, {"x": 2}, {"many": [1, 2]}, {"named": {"a": 1, "b": "1.0"}}):
            with pytest.raises(RunRefused, match="E_RUN_INPUTS"):
                await engine.run(takes_numbers, run_id="r", inputs={**one, **wrong})


async def test_both_sides_are_shown_from_where_they_differ(open_engine: OpenEngine) -> None:
    """The beginnings of two long texts say nothing."""

    @chain
    def long(x: Any):
        return same(x)

    start = "the same words again and again, " * 5
    async with open_engine() as engine:
        for n, (one, other, shows) in enumerate(
            [
                (start + "left", start + "right", ("left", "right")),
                ([start, 1], [start, 2], (", 1]".replace(" ", ""), ",2]")),
                ({"a": start, "b": "one"}, {"a": start, "c": "one"}, ('"b"', '"c"')),
                (start, start + "more", ('"', "more")),
                ("left", "right", ("left", "right")),
                ("left" + start, "right" + start, ('"left', '"right')),
            ]
        ):
            await engine.run(long, run_id=f"r{n}", x=one)
            with pytest.raises(RunRefused) as refused:
                await engine.run(long, run_id=f"r{n}", x=other)
            recorded, asked = refused.value.problem.found.split(", asked for ")
            assert (shows[0] in recorded, shows[1] in asked) == (True, True), refused.value.problem.found


async def test_of_two_that_ask_for_one_run_id_at_once_the_loser_is_refused(open_engine: OpenEngine) -> None:
    """Both saw that there was no such run. One of them made it; the other one got its result."""

    @chain
    def other(x: int):
        return plus_ten(x)

    @chain
    def same_name(x: int):
        return plus_ten(x)

    same_name.name = uses_plus_one.name
    rivals: dict[str, tuple[Any, dict[str, Any], str]] = {
        "inputs": (uses_plus_one, {"x": 2}, "E_RUN_INPUTS"),
        "chain": (other, {"x": 1}, "E_RUN_CHAIN"),
        "version": (same_name, {"x": 1}, "E_RUN_CHAIN"),
        "unknown input": (uses_plus_one, {"x": "1"}, "E_INPUT_TYPE"),
    }
    async with open_engine() as engine, open_engine() as another:
        for kind, (rival, given, code) in rivals.items():
            for n, (one, two) in enumerate(((engine, engine), (engine, another))):
                run_id = f"{kind} {n}"
                results = await asyncio.gather(
                    one.run(uses_plus_one, run_id=run_id, x=1),
                    two.run(rival, run_id=run_id, inputs=given),
                    two.run(uses_plus_one, run_id=run_id, x=1),
                    return_exceptions=True,
                )
                lost = [getattr(r, "code", None) for r in results]
                values = [r.value for r in results if not isinstance(r, BaseException)]
                assert lost[1] == code or (lost[0] == lost[2] and lost[0] in (code, "E_RUN_INPUTS")), results
                assert len(set(map(str, values))) == 1


@chain
def uses_plus_one(x: int):
    return plus_one(x)


async def test_a_known_run_id_with_another_function_of_the_same_name_is_refused(open_engine: OpenEngine) -> None:
    """The plan is the same, letter by letter: it names its functions, and both go by one name."""

    def chains(k: int) -> tuple[Any, Any]:
        times = make(k)

        @chain
        def over(x: int):
            return times(x)

        @chain
        def gated(x: int):
            return times(plus_one(x).with_approval())

        return over, gated

    (over, gated), (over_3, gated_3) = chains(2), chains(3)
    async with open_engine() as engine:
        assert (await engine.run(over, run_id="r", x=5)).value == 10
        assert (await engine.run(gated, run_id="g", x=5)).status == "paused"
        for ask in (engine.run, engine.start):
            for other, run_id in ((over_3, "r"), (gated_3, "g")):
                with pytest.raises(StepNotRegistered, match="E_STEP_NAME_TWICE"):
                    await ask(other, run_id=run_id, x=5)
                with pytest.raises(StepNotRegistered, match="E_STEP_NAME_TWICE"):
                    await engine.run(other, run_id=run_id)
        assert (await engine.run(over, run_id="r", x=5)).value == 10
        for gate in await engine.approvals():
            await engine.approve(gate, by="kim")
        assert (await engine.run(gated, run_id="g", x=5)).value == 12
        assert (await engine.run(over_3, x=5)).value == 15, "a run of its own"
    async with open_engine() as engine:
        for either in (over, over_3):
            with pytest.raises(StepNotRegistered, match="E_STEP_NAME_TWICE"):
                await engine.run(either, run_id="r", x=5)


def chain_of(times: Any) -> Any:
    @chain
    def alone(x: int):
        return times(x)

    return alone


async def test_a_rerun_uses_the_functions_that_the_run_had(open_engine: OpenEngine) -> None:
    """A step of a factory, made anew in every test of a module, and another engine for each test."""
    for k in (2, 3):
        alone = chain_of(make(k))
        async with open_engine() as engine:
            run = await engine.run(alone, x=5)
            again = await engine.rerun(run, from_steps=["times"])
            assert (run.value, again.value) == (5 * k, 5 * k)
            assert (await engine.rerun(again, from_steps=["times"])).value == 5 * k


async def test_a_function_in_place_of_a_steps_own_is_called(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step
    async def slow(x: int) -> str:
        raise StepFailed("it asks the network")

    @chain
    def asks(x: int):
        return slow(x)

    monkeypatch.setattr(slow, "function", lambda x: f"fake {x}")
    async with open_engine() as engine:
        assert (await engine.run(asks, x=1)).value == "fake 1"


async def test_inputs_of_a_known_run_are_checked_like_any(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        await engine.run(uses_real, x=1, run_id="r")
        for given, code in (({"x": "1"}, "E_INPUT_TYPE"), ({"x": 1, "y": 2}, "E_INPUT_UNKNOWN")):
            with pytest.raises(InputInvalid, match=code):
                await engine.run(uses_real, run_id="r", inputs=given)
        assert (await engine.run(uses_real, run_id="r")).status == "completed", "without inputs it can only be that one"


async def test_secrets_of_the_environment_are_not_shown(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter22")

    @chain
    def takes(word: str):
        return kinds(word)

    async with open_engine() as engine:
        await engine.run(takes, word="hunter22", run_id="r")
        with pytest.raises(RunRefused) as refused:
            await engine.start(takes, word="other", run_id="r")
        assert "hunter22" not in str(refused.value)


def versions() -> dict[str, tuple[Any, Any, str]]:
    """Two chains of one name, and where they differ."""

    def version(body: Callable[[Any], Any], **options: Any) -> Any:
        def c(x: int, y: int = 1) -> Any:
            return body(x)

        return chain(c) if not options else chain(**options)(c)

    def sub(by: int) -> Any:
        @chain
        def inner(x: int):
            return plus_one(by)

        return inner

    one = version(lambda x: plus_ten(plus_one(x)))
    return {
        "other wiring, the same ids": (one, version(lambda x: (plus_one(x), plus_ten(99))[1]), "parameters"),
        "a constant": (version(lambda x: plus_one(1)), version(lambda x: plus_one(2)), "parameters"),
        "1 and True": (version(lambda x: plus_one(1)), version(lambda x: plus_one(True)), "parameters"),
        "other steps": (one, version(plus_one), "steps"),
        "another function, the same id": (
            version(lambda x: plus_one(x).named("a")),
            version(lambda x: plus_ten(x).named("a")),
            "target",
        ),
        "retries": (version(plus_one), version(plus_one.with_options(retries=3)), "retry"),
        "a timeout": (version(plus_one), version(plus_one.with_options(timeout=9)), "timeout"),
        "a gate": (version(plus_one), version(lambda x: plus_one(x).with_approval()), "approval"),
        "a condition": (version(plus_one), version(lambda x: plus_one(x).when("inputs.x > 1")), "condition"),
        "an order": (
            version(lambda x: (plus_one(x), plus_ten(x))),
            version(lambda x: ((first := plus_one(x)), plus_ten(x).after(first))),
            "depends_on",
        ),
        "what it returns": (version(lambda x: [plus_one(x)]), version(lambda x: {"a": plus_one(x)}), "output"),
        "a chain inside": (version(sub(1)), version(sub(2)), "parameters"),
        "concurrency": (version(plus_one), version(plus_one, concurrency=2), "concurrency"),
    }


@pytest.mark.parametrize("kind", versions())
async def test_a_run_id_of_another_version_of_the_chain_is_refused(open_engine: OpenEngine, kind: str) -> None:
    """It would go on with the old plan, or give its old result."""
    old, new, field = versions()[kind]
    async with open_engine() as engine:
        await engine.run(old, run_id="r", x=1)
        await engine.run(old, run_id="r", x=1)
        with pytest.raises(RunRefused) as refused:
            await engine.run(new, run_id="r", x=1)
        problem = refused.value.problem
        assert (problem.code, problem.place.field) == ("E_RUN_CHAIN", field)
        assert "recorded" in problem.found
        assert "asked for" in problem.found
        assert (await engine.run(new, run_id="r2", x=1)).id == "r2"


# ---- files as inputs, whatever way their annotation is written


async def test_files_reach_inputs_of_every_annotation(open_engine: OpenEngine, tmp_path: Path) -> None:
    @chain
    def takes(a: Artifact | None, b: list[Artifact], c: dict[str, Path], d: Artifact | str = "text"):
        return kinds([a, b, c, d])

    file = tmp_path / "a.txt"
    file.write_text("a")
    async with open_engine() as engine:
        run = await engine.run(takes, a=str(file), b=[file, str(file)], c={"k": str(file)})
        assert run.value == ["Artifact", ["Artifact", "Artifact"], {"k": "Artifact"}, "str"]
        run = await engine.run(takes, a=None, b=[], c={}, d=file)
        assert run.value == ["NoneType", [], {}, "Artifact"]


@step
def kinds(value: Any) -> Any:
    if isinstance(value, list):
        return [kinds(one) for one in value]
    if isinstance(value, dict):
        return {key: kinds(one) for key, one in value.items()}
    return type(value).__name__
