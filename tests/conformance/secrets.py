"""What every adapter promises of secrets: they reach the steps, and nothing that is kept or shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.adapters.conftest import OpenEngine
from towpath import ChainStatus, InputInvalid, RunRefused, Secret, SecretMissing
from towpath.redaction import _in_base64, _written

from . import secret_steps as steps

NAME = "UPSTREAM_KEY"
CANARY = "canary/7f3a+Qz81"


def traces(store: Path, secret: str = CANARY) -> list[str]:
    """The files beside a store that hold a secret in any form."""
    forms = [form.encode() for form in _written(secret) | set(_in_base64(secret))]
    kept = [file for file in store.parent.rglob("*") if file.is_file()]
    return [file.name for file in kept if any(form in file.read_bytes() for form in forms)]


async def recorded(engine: Any, run_id: str) -> str:
    """All that the store tells of a run, as text."""
    row = await engine.store.load(run_id)
    return f"{row!r} {await engine.store.events(run_id)!r} {await engine.store.logs(run_id)!r}"


GIVEN = {
    "a plain text": lambda: CANARY,
    "a Secret": lambda: Secret(CANARY),
    "a variable by name": lambda: Secret.env(NAME),
}


@pytest.mark.parametrize("given", GIVEN)
async def test_a_secret_input_reaches_its_steps_and_nothing_else(
    given: str, open_engine: OpenEngine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, parameters, events, log lines and files of the store hold where it is, or its cipher text."""
    monkeypatch.setenv("SOMETHING_ELSE" if given != "a variable by name" else NAME, CANARY)
    async with open_engine() as engine:
        run = await engine.run(steps.session, key=GIVEN[given]())
        told = await recorded(engine, run.id)
        (mark,) = ((await engine.store.load(run.id)).inputs).values()
    assert run.status is ChainStatus.COMPLETED, run.error
    assert run.value == {"length": len(CANARY) + 8, "more": len(CANARY), "kind": "str"}
    assert CANARY not in told
    assert "logging in with *** as *** and ***" in told
    assert f"{run['login'].value!r} {run['login'].value}" == "*** ***"
    assert run["login"].value.reveal() == f"session-{CANARY}"
    assert list(mark["$secret"]) == (["env"] if given == "a variable by name" else ["sealed"])
    assert traces(store) == []


async def test_a_plain_text_that_a_variable_holds_is_kept_as_its_name(
    open_engine: OpenEngine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has to be encrypted that can be looked up."""
    monkeypatch.setenv(NAME, CANARY)
    async with open_engine() as engine:
        run = await engine.run(steps.session, key=CANARY)
        assert (await engine.store.load(run.id)).inputs == {"key": {"$secret": {"env": NAME}}}
    assert run.status is ChainStatus.COMPLETED, run.error
    assert traces(store) == []


async def test_secret_values_of_every_kind(open_engine: OpenEngine, store: Path) -> None:
    """A whole value, parts of it, items of a fan-out, chains inside steps: what a secret becomes stays one."""
    async with open_engine() as engine:
        run = await engine.run(steps.all_kinds, key=CANARY)
        told = await recorded(engine, run.id)
    assert run.status is ChainStatus.COMPLETED, run.error
    assert CANARY not in told
    assert "123456789" not in told
    long = len(CANARY)
    assert run.value == {
        "part of a secret": {"length": long + 7, "more": 4, "kind": "str"},
        "number": {"length": 1, "more": 9, "kind": "str"},
        "secret in a value": {"length": long + 5, "more": len(str([{"deep": f"deep-{CANARY}"}])), "kind": "str"},
        "items": [long + 7] * 3,
        "inner": {"length": long + 5, "more": 4, "kind": "str"},
        "optional": "Secret",
    }
    assert run["parts"].value["name"] == "bob"
    assert str(run["per_item"].value) == "[***, ***, ***]"
    assert traces(store) == []


async def test_an_error_tells_no_secret(open_engine: OpenEngine, store: Path) -> None:
    """Neither its message nor its traceback, though the step puts it into both."""
    async with open_engine() as engine:
        run = await engine.run(steps.failing, key=CANARY, check=False)
        told = await recorded(engine, run.id)
    assert run.status is ChainStatus.FAILED
    assert run["boom"].error is not None
    assert CANARY not in f"{told} {run.error} {run['boom'].error}"
    assert "***" in run["boom"].error.message
    assert "raise ValueError" in run["boom"].error.traceback
    assert traces(store) == []


@pytest.mark.parametrize(
    ("chain", "code"),
    [
        ("looking", "E_SECRET_USE"),  # whether a step ran is recorded and shown
        ("looking_at_value", "E_SECRET_USE"),
        ("mapping", "E_FOREACH_TYPE"),  # how many items there are is, too
        ("filing", "E_VALUE_TYPE"),  # files are kept as they are
    ],
)
async def test_what_a_secret_cannot_be_used_for(chain: str, code: str, open_engine: OpenEngine) -> None:
    """Refused with a code of its own, before any part of it is shown."""
    async with open_engine() as engine:
        run = await engine.run(getattr(steps, chain), inputs={} if chain == "filing" else {"key": CANARY}, check=False)
    assert run.status is ChainStatus.FAILED
    assert [step.error.code for step in run.steps if step.error is not None] == [code]


async def test_a_rerun_keeps_secrets(open_engine: OpenEngine, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were kept: references stay references, and what is not run again is not opened."""
    monkeypatch.setenv(NAME, CANARY)
    async with open_engine() as engine:
        run = await engine.run(steps.session, key=Secret.env(NAME))
        again = await engine.rerun(run.id, from_steps=["ask"])
        assert (await engine.store.load(again.id)).inputs == {"key": {"$secret": {"env": NAME}}}
        assert again.value == run.value
        other = await engine.rerun(run.id, inputs={"key": "short-canary"})
    assert other.value["length"] == len("session-short-canary")
    assert traces(store) == []
    assert traces(store, "short-canary") == []


@pytest.mark.parametrize("given", [lambda: CANARY, lambda: Secret(CANARY), lambda: Secret.env(NAME)])
async def test_a_known_run_is_found_again_by_the_value_of_its_secret(
    given: Any, open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sealing looks different, and a variable is a name: what counts is the value. Another one is not shown."""
    monkeypatch.setenv(NAME, CANARY)
    async with open_engine() as engine:
        run = await engine.run(steps.session, run_id="known", key=CANARY)
        again = await engine.run(steps.session, run_id="known", key=given())
        assert again.value == run.value
        with pytest.raises(RunRefused) as refused:
            await engine.run(steps.session, run_id="known", key=f"{CANARY}-other")
    assert refused.value.code == "E_RUN_INPUTS"
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("chain", "value"),
    [
        ("with_number", 73918264),
        ("with_number", 0),
        ("with_fraction", 7391.25),
        ("with_flag", True),
        ("with_list", [CANARY]),
        ("with_mapping", {"pin": 73918264}),
    ],
)
async def test_a_rerun_keeps_secrets_that_are_no_text(chain: str, value: Any, open_engine: OpenEngine) -> None:
    """What is encrypted was checked when it was given; only a variable always holds text."""
    async with open_engine() as engine:
        run = await engine.run(getattr(steps, chain), key=value)
        again = await engine.rerun(run.id, from_steps=["ask"])
        assert again.status is ChainStatus.COMPLETED, again.error
        assert again.value == run.value
        if chain in ("with_number", "with_fraction", "with_flag"):
            with pytest.raises(InputInvalid) as refused:
                await engine.run(getattr(steps, chain), key=Secret.env(NAME))
            assert refused.value.code == "E_INPUT_TYPE"


async def test_what_a_parameter_takes_as_a_secret_is_recorded_as_one(open_engine: OpenEngine) -> None:
    """Though it came as a plain input: under its name, under any name, of an item, of a chain inside, optional."""
    async with open_engine() as engine:
        run = await engine.run(steps.undeclared, text=CANARY)
        assert run.status is ChainStatus.COMPLETED, run.error
        assert run.value["input"] == [CANARY[::-1]]
        assert len(run.value["named"]) == 2
        row = await engine.store.load(run.id)
        kept = {(one.step, one.item): one.parameters for one in row.rows}
        assert CANARY not in str(kept)
        assert kept["of_input", None] == {"key": {"$secret": {}}}
        assert kept["of_names", None] == {"key": {"$secret": {}}, "other": {"$secret": {}}}
        assert kept["of_items", 1] == {"key": {"$secret": {}}}
        assert kept["of_inner", None] == {"key": {"$secret": {}}}
        assert kept["maybe", None] == {"key": {"$secret": {}}}
        for name in ("of_input.key", "of_inner.key", "maybe.key"):
            with pytest.raises(InputInvalid) as refused:
                await engine.rerun(run.id, parameters={name: "in the open"})
            assert refused.value.code == "E_SECRET_PLACE"


def test_a_missing_secret_is_an_error_of_its_own() -> None:
    """It differs from a step that failed."""
    with pytest.raises(SecretMissing) as missing:
        Secret.env("NOT_SET_ANYWHERE").reveal()
    assert missing.value.code == "E_SECRET_MISSING"
    assert "NOT_SET_ANYWHERE" in str(missing.value)
