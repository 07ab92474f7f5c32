"""Secrets on the local adapter: the promises of all adapters, keys, resuming elsewhere, and the command line
(python-trial 23).
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.adapters.warm_cli import WarmCli
from tests.conformance import secret_steps as steps
from tests.conformance.secrets import *  # noqa: F403
from tests.conformance.secrets import CANARY, NAME, traces
from towpath import (
    ChainInvalid,
    ChainStatus,
    FeatureMissing,
    InputInvalid,
    Secret,
    SecretMissing,
    StoreFailed,
    chain,
    step,
)
from towpath.chain_file import load_chain_from_dict
from towpath.secrets import secret_names
from towpath.values import check_replacement

from .conftest import OpenEngine

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]


def test_a_secret_is_never_shown() -> None:
    """However a text is made of it; and it cannot be copied out by accident."""
    secret = Secret(CANARY)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret:>10}", f"{secret!r}", "%s" % secret, f"{[secret]}"]  # noqa: UP031
    assert {text.strip(" []") for text in shown} == {"***"}
    assert copy.deepcopy(secret).reveal() == CANARY
    assert CANARY not in str(vars(type(secret)))
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


async def test_a_run_waits_for_a_variable_that_is_not_set(
    open_engine: OpenEngine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming is refused before anything starts, the run stays as it was, and goes on when the variable is there."""
    monkeypatch.setenv(NAME, CANARY)
    async with open_engine() as engine:
        run = await engine.run(steps.waiting, key=Secret.env(NAME))
        assert run.status is ChainStatus.PAUSED
        (gate,) = await engine.approvals(run.id)
        await engine.approve(gate, by="bob")
    monkeypatch.delenv(NAME)
    async with open_engine() as engine:
        before = await engine.store.load(run.id)
        with pytest.raises(SecretMissing) as missing:
            await engine.resume(run.id)
        assert missing.value.code == "E_SECRET_MISSING"
        assert NAME in str(missing.value)
        after = await engine.store.load(run.id)
        assert after.rows == before.rows
        assert not after.status.final
    monkeypatch.setenv(NAME, "changed-since")
    async with open_engine() as engine:
        run = await engine.resume(run.id)
    assert run.value["length"] == len("session-changed-since")
    assert traces(store) == []


async def test_another_key_is_refused_and_the_right_one_goes_on(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the environment is used in place of the file; several keys open, the first one seals."""
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    monkeypatch.setenv("TOWPATH_SECRET_KEY", old)
    async with open_engine() as engine:
        run = await engine.run(steps.waiting, key=CANARY)
        (gate,) = await engine.approvals(run.id)
        await engine.approve(gate, by="bob")
        for wrong in (new, ""):
            monkeypatch.setenv("TOWPATH_SECRET_KEY", wrong)
            with pytest.raises(SecretMissing) as refused:
                await engine.resume(run.id)
            assert refused.value.code == "E_SECRET_KEY"
        monkeypatch.setenv("TOWPATH_SECRET_KEY", f"{new}, {old}")
        assert (await engine.resume(run.id)).status is ChainStatus.COMPLETED


async def test_a_key_that_is_none_is_refused(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the run is recorded, and without telling the key."""
    monkeypatch.setenv("TOWPATH_SECRET_KEY", "not-a-key-at-all")
    async with open_engine() as engine:
        with pytest.raises(StoreFailed) as refused:
            await engine.run(steps.session, key=CANARY)
        assert await engine.list_chains() == []
    assert refused.value.code == "E_SECRET_KEY"
    assert "not-a-key" not in str(refused.value)


async def test_the_key_beside_the_store_is_for_its_owner_only(open_engine: OpenEngine, store: Path) -> None:
    """Made on first use; one that others may read is refused."""
    async with open_engine() as engine:
        assert list(store.parent.rglob("secrets.key")) == []
        await engine.run(steps.session, key=CANARY)
    (key,) = store.parent.rglob("secrets.key")
    assert key.stat().st_mode & 0o777 == 0o600


async def test_references_need_no_more_packages(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encrypting does, and says so."""
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    monkeypatch.setenv(NAME, CANARY)

    @chain
    def plain(key: Secret[str]):
        return steps.ask(key)

    async with open_engine() as engine:
        assert (await engine.run(plain, key=Secret.env(NAME))).status is ChainStatus.COMPLETED
        with pytest.raises(FeatureMissing) as missing:
            await engine.run(plain, key="another-canary")
    assert "towpath[secrets]" in str(missing.value)


@pytest.mark.parametrize("value", [12345678, {"$secret": {"env": "HOME"}}, ["x"]])
async def test_a_wrong_secret_is_refused_without_its_value(value: object, open_engine: OpenEngine) -> None:
    """It is of the wrong type, and may be a secret all the same. A mark is no way to another variable."""
    async with open_engine() as engine:
        with pytest.raises(InputInvalid) as wrong:
            await engine.run(steps.session, key=value)
    assert wrong.value.code == "E_INPUT_TYPE"
    assert "12345678" not in str(wrong.value)
    assert wrong.value.problem.found == type(value).__name__


def test_a_secret_is_not_written_into_a_chain() -> None:
    """A chain is kept with every run and shown to everybody: neither as an argument nor as a default."""

    @chain
    def literal():
        return steps.ask(Secret(CANARY))

    @chain
    def default(key: Secret[str] = CANARY):  # type: ignore[assignment]
        return steps.ask(key)

    for wrong, code in ((literal, "E_SECRET_PLACE"), (default, "E_SECRET_INPUT")):
        with pytest.raises(ChainInvalid) as refused:
            _ = wrong.plan
        assert refused.value.code == code
        assert CANARY not in str(refused.value)


async def test_a_default_may_name_a_variable(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python, where code can read the environment anyway."""

    @chain
    def default(key: Secret[str] = Secret.env(NAME)):  # noqa: B008
        return steps.ask(key)

    monkeypatch.setenv(NAME, CANARY)
    async with open_engine() as engine:
        assert (await engine.run(default)).value["length"] == len(CANARY)


STEP = {"id": "a", "python": "tests.conformance.secret_steps:ask", "parameters": {"token": "Bearer {{ inputs.key }}"}}


async def test_chain_files(open_engine: OpenEngine, store: Path) -> None:
    """`secret: true` at an input and at a step; a text that a secret is put into is secret as a whole."""
    whole = {"id": "b", "python": "tests.conformance.secret_steps:ask", "parameters": {"token": "{{ inputs.key }}"}}
    secret = {**STEP, "id": "c", "secret": True}
    chain = load_chain_from_dict(
        {"inputs": {"key": {"type": "string", "secret": True}}, "steps": [STEP, whole, secret]}
    )
    async with open_engine() as engine:
        run = await engine.run(chain, inputs={"key": CANARY})
        rows = {row.step: row for row in (await engine.store.load(run.id)).rows}
    assert run.status is ChainStatus.COMPLETED, run.error
    assert run["a"].value["length"] == len(CANARY) + 7
    assert rows["a"].parameters == {"token": {"$secret": {}}}
    assert list(rows["b"].parameters["token"]["$secret"]) == ["sealed"]
    assert list(rows["c"].value["$secret"]) == ["sealed"]
    assert run["c"].value.reveal()["length"] == len(CANARY) + 7
    assert traces(store) == []


@pytest.mark.parametrize(
    ("inputs", "step", "code"),
    [
        ({"key": {"secret": True, "default": CANARY}}, {}, "E_SECRET_INPUT"),
        ({"key": {"secret": True, "default": {"$secret": {"env": NAME}}}}, {}, None),
        ({"key": {"secret": True, "type": "file"}}, {}, "E_SECRET_INPUT"),
        ({"key": {"secret": True, "source": "a.png"}}, {}, "E_SECRET_INPUT"),
        ({"key": {}}, {"python": None, "workflow": "w", "parameters": {}, "secret": True}, "E_SECRET_PLACE"),
    ],
)
def test_chain_files_that_are_refused(inputs: dict[str, object], step: dict[str, object], code: str | None) -> None:
    """A value in a file that everybody reads, and files, which are kept as they are. A mark is just data there."""
    written = {key: value for key, value in {**STEP, **step}.items() if value is not None}
    with pytest.raises(ChainInvalid) as refused:
        load_chain_from_dict({"inputs": inputs, "steps": [written]})
    codes = {problem.code for problem in refused.value.problems}
    assert (code or "E_SECRET_INPUT") in codes
    assert CANARY not in str(refused.value)


def test_an_edited_value_names_no_other_secret() -> None:
    """A person who edits a value can keep its secrets, and cannot get at another variable."""
    from towpath.errors import Place, ValueRefused

    before = {"token": {"$secret": {"env": NAME}}}
    kept = b'{"token": {"$secret": {"env": "UPSTREAM_KEY"}}, "n": 1}'
    assert check_replacement(kept, Place(), before).value["n"] == 1
    with pytest.raises(ValueRefused):
        check_replacement(b'{"token": {"$secret": {"env": "HOME"}}}', Place(), before)


@pytest.mark.parametrize(
    ("annotation", "secret", "future"),
    [
        (annotation, secret, future)
        for annotation, secret in [
            ("Secret[str]", True),
            ("Secret", True),
            ("Secret[str] | None", True),
            ("Optional[Secret[str]]", True),
            ("'Secret[dict[str, int]]'", True),
            ("towpath.Secret[str]", True),
            ("Annotated[Secret[str], 'note']", True),
            ("list[Secret[str]]", False),
            ("str", False),
            ("Secretary", False),
            ("Missing", False),
        ]
        for future in (True, False)
        if future or annotation != "Missing"  # else Python itself refuses the definition
    ],
)
def test_annotations_that_ask_for_a_secret(annotation: str, secret: bool, future: bool) -> None:
    """As types and as text, and although another name of the function cannot be resolved."""
    names = "import towpath\nfrom towpath import Secret\nfrom typing import Annotated, Optional\nclass Secretary: ...\n"
    head = "from __future__ import annotations\n" if future else ""
    space: dict[str, object] = {}
    exec(f"{head}{names}def f(a: {annotation}): ...", space)
    found = secret_names(space["f"])
    assert found == ({"a"} if secret else set())


@pytest.mark.parametrize(
    "annotation",
    [
        "list[Secret[str]]",
        "dict[str, Secret[str]]",
        "tuple[Secret[int], ...]",
        "list[dict[str, Secret]]",
        "list[Secret[str]] | None",
        "Optional[list[Secret[str]]]",
        "Annotated[list[Secret[str]], 'note']",
        "list[towpath.Secret[str]]",
    ],
)
@pytest.mark.parametrize("future", [True, False])
def test_data_with_secrets_inside_is_no_parameter(annotation: str, future: bool) -> None:
    """Nothing would say of the data which parts are to be kept as secrets: the whole is one, or none of it."""
    names = "import towpath\nfrom towpath import Secret, chain, step\nfrom typing import Annotated, Optional\n"
    head = "from __future__ import annotations\n" if future else ""
    for body in (
        f"@step\ndef f(a: {annotation}): ...",
        f"@step\ndef f(x): ...\n@chain\ndef c(a: {annotation}): return f(a)\nc.compile()",
    ):
        with pytest.raises(ChainInvalid) as refused:
            exec(f"{head}{names}{body}", {"__name__": "declared"})
        assert refused.value.code == "E_SECRET_INPUT"
        assert "Secret[list[str]]" in str(refused.value)


@step
async def takes(key: Secret[Any], plain: Any = None, **more: Secret[str]) -> None:
    """Takes secrets."""


@chain
def written_text():
    return takes("in the open")


@chain
def written_data():
    return takes({"deep": ["in the open"]})


@chain
def written_among_others(key: Secret[str]):
    return takes(key, other="in the open")


@chain
def written_items():
    return takes.map(["in the open"])


@chain
def written_number():
    return takes(7, plain=1)


@chain
def takes_inside(key: Secret[str]):
    return takes(key)


@chain
def written_for_a_chain():
    return takes_inside("in the open")


@pytest.mark.parametrize(
    "described",
    [written_text, written_data, written_among_others, written_items, written_number, written_for_a_chain],
)
def test_no_argument_for_a_secret_is_written_into_a_chain(described: Any) -> None:
    """A plan is shown to everybody: as text, inside of data, under any name, as an item, for a chain inside."""
    with pytest.raises(ChainInvalid) as refused:
        described.compile()
    assert refused.value.code == "E_SECRET_PLACE"


@chain
def nothing_written(key: Secret[str], plain: str):
    takes(key, plain="in the open").named("a")
    takes(None).named("b")
    takes({"part": plain}).named("c")
    return takes.map([plain, key]).named("e")


def test_arguments_for_a_secret_that_are_known_later_are_taken() -> None:
    """And nothing, which is no secret."""
    assert [step.secrets for step in nothing_written.compile().plan.steps] == [("key",)] * 4


@pytest.mark.parametrize("value", ["in the open", ["in the open"], {"a": "in the open"}, 7])
def test_no_argument_for_a_secret_is_written_into_a_chain_file(value: object) -> None:
    """As in Python."""
    described = {"id": "a", "python": f"{__name__}:takes", "parameters": {"key": value}}
    with pytest.raises(ChainInvalid) as refused:
        load_chain_from_dict({"name": "written", "steps": [described]})
    assert [problem.code for problem in refused.value.problems] == ["E_SECRET_PLACE"]
    assert "in the open" not in str(refused.value)


# ---- the command line


def verb(cli: WarmCli, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOWPATH_", "DATABASE_URL"))}
    return cli.run(arguments, folder, {**kept, "PYTHONPATH": str(ROOT), **variables}, timeout=60)


def test_the_command_line_shows_no_secret_and_resumes_elsewhere(warm_cli: WarmCli, store: Path) -> None:
    """A variable by name, what `--json`, `show` and `logs` print, and another process without and with it."""

    def on_store(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return verb(warm_cli, store.parent, *arguments, "--store", str(store), **variables)

    module = "tests.conformance.secret_steps"
    begun = on_store("run", f"{module}:waiting", "--input", f"key=env:{NAME}", "--json", "--no-wait", **{NAME: CANARY})
    assert begun.returncode == 3, begun.stderr
    run = json.loads(begun.stdout)["id"]
    gate = json.loads(on_store("approvals", "--json").stdout)[0]["id"]
    assert on_store("approve", gate, "--by", "bob").returncode == 0
    missing = on_store("resume", run, "--import", module, "--json")
    assert missing.returncode == 2, missing.stderr
    assert json.loads(missing.stdout)["errors"][0]["code"] == "E_SECRET_MISSING"
    ended = on_store("resume", run, "--import", module, "--json", **{NAME: CANARY})
    assert ended.returncode == 0, ended.stderr
    shown = [on_store(*words, **{NAME: CANARY}) for words in (("show", run), ("show", run, "login"), ("logs", run))]
    told = "".join(done.stdout + done.stderr for done in (begun, missing, ended, *shown))
    assert "logging in with ***" in told
    assert CANARY not in told
    assert traces(store) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", "--store", "mysql://u:{}@h/db"),
        ("run", "x.yaml", "--input", "{}"),
        ("show", "{}"),
        ("ls", "--limit", "{}"),
        ("resume", "--{}"),
        ("{}",),
    ],
)
def test_errors_of_the_command_line(warm_cli: WarmCli, arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Our own, those of the parser of options, and those of addresses."""
    given = [word.format(CANARY) for word in arguments]
    done = verb(warm_cli, tmp_path, *given, **{NAME: CANARY})
    assert done.returncode not in (0, None)
    assert done.stderr
    assert CANARY not in done.stdout + done.stderr
