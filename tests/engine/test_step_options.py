"""Options of steps that say when a step is tried again, and what it shares with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from towpath import ChainInvalid, InputInvalid, RetryPolicy, chain, open_engine, step
from towpath.adapters.limits import refuse_unknown_limits
from towpath.adapters.settings import settle
from towpath.chain_file import load_chain_from_dict
from towpath.model import StepPlan
from towpath.retry_rules import RetryRule, exception_names


class Mine(Exception):
    """An exception of this module."""


def plain() -> int:
    return 1


async def waits() -> int:
    return 1


async def answers(_: BaseException) -> bool:
    return True


def plan_of(**options: Any) -> StepPlan:
    made = step(**options)(plain)

    @chain
    def one():
        return made()

    (only,) = one.plan.steps
    return only


def test_the_options_are_in_the_plan() -> None:
    found = plan_of(retries=2, retry_on=(Mine, "OSError", OSError), limit="gpu", concurrency=2, process=True)
    assert found.retry_on == (f"{__name__}.Mine", "OSError")
    assert (found.limit, found.concurrency, found.process) == ("gpu", 2, True)
    nothing = plan_of()
    assert (nothing.retry_on, nothing.limit, nothing.concurrency, nothing.process) == ((), None, None, False)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"retry_on": OSError}, "E_FIELD_MISSING"),
        ({"retry_if": bool}, "E_FIELD_MISSING"),
        ({"retries": 0, "retry_on": OSError}, "E_FIELD_MISSING"),
        ({"retry": RetryPolicy(), "retry_on": OSError}, "E_FIELD_MISSING"),
        ({"retries": 1, "retry_on": int}, "E_FIELD_TYPE"),
        ({"retries": 1, "retry_on": "int"}, "E_FIELD_TYPE"),
        ({"retries": 1, "retry_on": "ConectionError"}, "E_FIELD_TYPE"),
        ({"retries": 1, "retry_on": "a b"}, "E_FIELD_TYPE"),
        ({"retries": 1, "retry_on": ""}, "E_FIELD_TYPE"),
        ({"retries": 1, "retry_on": [OSError("an instance")]}, "E_FIELD_TYPE"),
        ({"retries": 1, "retry_if": "error"}, "E_FIELD_TYPE"),
        ({"retries": 1, "retry_if": answers}, "E_FIELD_TYPE"),
        ({"limit": ""}, "E_FIELD_TYPE"),
        ({"limit": "a b"}, "E_FIELD_TYPE"),
        ({"limit": 2}, "E_FIELD_TYPE"),
        ({"concurrency": 0}, "E_FIELD_RANGE"),
        ({"concurrency": True}, "E_FIELD_TYPE"),
        ({"process": "yes"}, "E_FIELD_TYPE"),
        ({"requires_approval": "before"}, "E_FIELD_TYPE"),
        ({"requires_approval": 1}, "E_FIELD_TYPE"),
        ({"approval": True}, "E_FIELD_TYPE"),
        ({"cheap": "yes"}, "E_FIELD_TYPE"),
        ({"secret": 1}, "E_FIELD_TYPE"),
        ({"max_retries": 3}, "E_FIELD_UNKNOWN"),
        ({"needs_approval": True}, "E_FIELD_UNKNOWN"),
    ],
    ids=lambda given: str(given) if isinstance(given, str) else "-".join(given),
)
def test_options_that_cannot_be(options: dict[str, Any], code: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        step(**options)
    assert refused.value.code == code
    assert refused.value.problem.allowed or refused.value.problem.cure


def test_a_wrong_name_is_found_in_its_likely_form() -> None:
    with pytest.raises(InputInvalid, match="did you mean ConnectionError"):
        step(retries=1, retry_on="ConectionError")


def test_an_unknown_option_lists_the_options_as_they_are_written() -> None:
    """A newcomer copies from the list."""
    for wrong, meant in {"require_approval": "requires_approval", "retris": "retries", "nmae": "name"}.items():
        with pytest.raises(InputInvalid) as refused:
            step(**{wrong: 1})  # type: ignore[call-overload]
        assert meant in refused.value.problem.cure
        allowed = refused.value.problem.allowed.split()
        for name in allowed:
            assert f"        {name}: " in (step.__doc__ or "") or name in ("approval", "cache")
        assert {"requires_approval", "limit", "concurrency", "process", "retry_on"} <= set(allowed)
    with pytest.raises(InputInvalid) as refused:
        step(plain).with_options(name="x")  # type: ignore[call-arg]
    assert "name" not in refused.value.problem.allowed.split()


def test_one_place_may_have_other_exceptions_but_not_another_predicate() -> None:
    made = step(retries=3, retry_on=OSError, retry_if=lambda error: True)(plain)
    assert made.with_options(retry_on=ValueError).options.retry_on == ("ValueError",)
    assert made.with_options(retries=0).options.retry_on == ("OSError",)
    assert made.with_options(retry_on=None).options.retry_on == ()
    with pytest.raises(InputInvalid) as refused:
        made.with_options(retry_if=bool)
    assert refused.value.code == "E_FIELD_CONFLICT"


def test_a_name_means_the_class_that_a_package_exports() -> None:
    """`http.client.HTTPException` is defined elsewhere in some packages; both names mean it."""
    import json.decoder

    error = json.decoder.JSONDecodeError("", "", 0)
    for name in ("json.JSONDecodeError", "json.decoder.JSONDecodeError", "ValueError"):
        assert RetryRule((name,)).allows(error, [error])
    for name in ("json.Nothing", "nowhere.JSONDecodeError", "json", "KeyError"):
        assert not RetryRule((name,)).allows(error, [error])


def test_a_set_of_exceptions_has_one_order() -> None:
    assert exception_names({OSError, Mine, ValueError}) == ("OSError", "ValueError", f"{__name__}.Mine")


# ---- processes


def test_a_function_that_no_other_process_finds_cannot_have_one() -> None:
    def inside() -> int:
        return 1

    for function in (inside, lambda: 1, waits):
        with pytest.raises(ChainInvalid) as refused:
            step(process=True)(function)
        (problem,) = refused.value.problems
        assert problem.code == "E_STEP_KIND"
        assert problem.cure
    with pytest.raises(ChainInvalid):
        step(waits).with_options(process=True)


# ---- chain files


def codes(**keys: Any) -> list[str]:
    return [p.code for p in problems(**keys)]


def problems(**keys: Any) -> list[Any]:
    target = {} if keys.keys() & {"chain", "workflow"} else {"python": f"{__name__}:filed"}
    with pytest.raises(ChainInvalid) as refused:
        load_chain_from_dict({"steps": [{"id": "a", **target, **keys}]})
    return list(refused.value.problems)


@step
def filed() -> int:
    return 1


@step
async def filed_async() -> int:
    return 1


@step(retries=2, retry_on=OSError, limit="gpu", concurrency=3)
def with_everything() -> int:
    return 1


def test_the_same_keys_in_a_chain_file() -> None:
    written = {"retries": 1, "retry_on": ["OSError", "json.JSONDecodeError"], "limit": "gpu", "concurrency": 2}
    data = {"steps": [{"id": "a", "python": f"{__name__}:filed", "process": True, **written}]}
    (found,) = load_chain_from_dict(data).plan.steps
    assert found.retry_on == ("OSError", "json.JSONDecodeError")
    assert (found.limit, found.concurrency, found.process) == ("gpu", 2, True)
    data = {"steps": [{"id": "a", "python": f"{__name__}:with_everything", "retry_on": "ValueError"}]}
    (found,) = load_chain_from_dict(data).plan.steps
    assert (found.retry_on, found.limit, found.concurrency) == (("ValueError",), "gpu", 3)


def test_what_a_chain_file_may_not_say() -> None:
    assert codes(retry_on="OSError") == ["E_FIELD_MISSING"]
    assert codes(retries=1, retry_on="OsError") == ["E_FIELD_TYPE"]
    assert codes(retries=1, retry_on=["json.JsonDecodeError"]) == ["E_FIELD_TYPE"]
    assert codes(retries=1, retry_on=["no_such_package.Error"]) == ["E_FIELD_TYPE"]
    assert codes(retries=1, retry_on=3) == ["E_FIELD_TYPE"]
    assert codes(limit="a b") == ["E_FIELD_TYPE"]
    assert codes(concurrency=0) == ["E_FIELD_RANGE"]
    assert codes(process="yes") == ["E_FIELD_TYPE"]
    assert codes(retry_if="x") == ["E_FIELD_UNKNOWN"]
    assert codes(python=f"{__name__}:filed_async", process=True) == ["E_STEP_KIND"]


def test_keys_of_functions_are_refused_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(f"name: inner\nsteps:\n- id: a\n  python: {__name__}:filed\n")
    keys = {"limit": "gpu", "concurrency": 2, "process": True, "retry_on": "OSError", "retries": 1}
    with pytest.raises(ChainInvalid) as refused:
        load_chain_from_dict({"steps": [{"id": "a", "chain": "inner", **keys}]}, folder=tmp_path)
    assert [p.code for p in refused.value.problems] == ["E_FIELD_CONFLICT"] * 4


# ---- named limits


def test_limits_come_from_the_argument_or_the_file(tmp_path: Path) -> None:
    file = tmp_path / "towpath.toml"
    file.write_text("limits = { gpu = 2, api = 10 }")
    assert settle(environment={}, file=file).limits == {"gpu": 2, "api": 10}
    assert settle(environment={}, file=file, limits={"gpu": 1}).limits == {"gpu": 1}


@pytest.mark.parametrize("limits", [{"gpu": 0}, {"gpu": "2"}, {"gpu": True}, {"a b": 2}, {"gpu": None}], ids=str)
def test_limits_that_cannot_be(limits: dict[str, Any]) -> None:
    with pytest.raises(InputInvalid) as refused:
        settle(environment={}, limits=limits)
    assert refused.value.code == "E_SETTING"


@pytest.mark.parametrize("given", [{"limits": [1]}, {"concurrency": "2"}, {"concurrency": 0}], ids=str)
def test_settings_of_another_type(given: dict[str, Any]) -> None:
    with pytest.raises(InputInvalid, match=next(iter(given))) as refused:
        settle(environment={}, **given)
    assert refused.value.code == "E_SETTING"


@pytest.mark.parametrize("line", ["limits = 3", "limit = { gpu = 2 }", "concurrency = 'all'"])
def test_lines_of_the_file_that_cannot_be(line: str, tmp_path: Path) -> None:
    file = tmp_path / "towpath.toml"
    file.write_text(line)
    with pytest.raises(InputInvalid) as refused:
        settle(environment={}, file=file)
    problem = refused.value.problem
    assert problem.code == "E_SETTING"
    assert problem.place.field == line.split(maxsplit=1)[0]
    assert problem.allowed


@pytest.mark.parametrize("sizes", [{"threads": 0}, {"threads": "2"}, {"processes": 0}, {"processes": "2"}], ids=str)
@pytest.mark.anyio
async def test_numbers_of_threads_and_processes_that_cannot_be(sizes: dict[str, Any], tmp_path: Path) -> None:
    """Without a thread a plain function would wait for ever."""
    with pytest.raises(InputInvalid, match=next(iter(sizes))) as refused:
        async with open_engine(tmp_path / "x.db", **sizes):
            pass
    assert refused.value.code == "E_SETTING"


def test_a_limit_that_nobody_set_is_refused_also_inside_chains() -> None:
    made = step(limit="gpu")(plain)

    @chain
    def inner():
        return made()

    @chain
    def outer():
        return inner()

    for plan in (inner.plan, outer.plan):
        refuse_unknown_limits(plan, {"gpu": 1})
        with pytest.raises(InputInvalid) as refused:
            refuse_unknown_limits(plan, {"gpus": 1})
        assert refused.value.code == "E_LIMIT_UNKNOWN"
        assert "open_engine" in refused.value.problem.cure
