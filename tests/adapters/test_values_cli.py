"""No silent wrong value, on the command line: one short message with the line and the cure, and nothing has started."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from tests.adapters.test_cli import Cli, cli, folder

__all__ = ["cli", "folder"]

CHAINS = """
from __future__ import annotations

import pathlib
from typing import Literal, Optional

from towpath import Artifact, chain, step

@step
def kind(x): return type(x).__name__

@step
def each(x): return x

def make(k):
    @step
    def times(x): return x * k
    return times

double, triple = make(2), make(3)

@chain
def twice(x: int): return double(x), triple(x)

@chain
def text(name: str): return kind(f"Hello {name}")

@chain
def compares(n: int):
    if n > 3:
        return kind(n)
    return each(n)

@chain
def doubled(x): return each(x)

@chain
def depths(depths: list[int]): return each.map(depths)

@chain
def one(f: Optional[Artifact] = None, p: pathlib.Path | None = None, mode: Literal["a", "b"] = "a"):
    return kind(f).named("f"), kind(p).named("p"), each(mode)
"""


@pytest.fixture
def chains(folder: Path) -> Path:
    Path(folder, "wrong.py").write_text(textwrap.dedent(CHAINS))
    return folder


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["wrong.py:twice", "--input", "x=5"], "E_STEP_NAME_TWICE"),
        (["wrong.py:text", "--input", "name=kim"], "E_CHAIN_TRACE"),
        (["wrong.py:compares", "--input", "n=5"], "E_CHAIN_TRACE"),
        (["wrong.py:depths", "--input", "depths=2,4"], "E_INPUT_TYPE"),
        (["wrong.py:one", "--input", "mode=c"], "E_INPUT_TYPE"),
    ],
)
def test_wrong_chains_and_inputs_are_refused_in_few_words(
    cli: Cli, chains: Path, arguments: list[str], code: str
) -> None:
    """Thirty lines of towpath's own frames hid what was wrong; a list that was a text ran once for each character."""
    done = cli("run", *arguments, code=2)
    assert code in done.stderr
    assert len(done.stderr.splitlines()) < 8
    if code != "E_INPUT_TYPE":
        assert "wrong.py:" in done.stderr
    assert json.loads(cli("ls", "--json").stdout) == []


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("run", ["wrong.py:one", "--input", "mode=a", "--input", "mode=b"]),
        ("run", ["wrong.py:one", "--input", "mode=a", "--input", "f=@a", "--input", "mode=a"]),
        ("run", ["wrong.py:doubled", "--input", 'x={"a": 1, "a": 2}']),
        ("rerun", ["done", "--input", "mode=a", "--input", "mode=b"]),
        ("rerun", ["done", "--set", "each.x=1", "--set", "each.x=2"]),
        ("rerun", ["done", "--set", 'each.x={"a": 1, "a": 2}']),
        ("reject", ["gate", "--set", "x=1", "--set", "x=2"]),
        ("reject", ["gate", "--set", 'x=[{"a": 1, "a": 2}]']),
    ],
)
def test_what_is_given_twice_is_refused(cli: Cli, chains: Path, verb: str, arguments: list[str]) -> None:
    """The last one counted, in silence."""
    if verb == "rerun":
        cli("run", "wrong.py:one", "--run-id", "done")
    done = cli(verb, *arguments, code=2)
    assert "E_INPUT_FORM" in done.stderr
    assert "twice" in done.stderr
    assert len(json.loads(cli("ls", "--json").stdout)) == (verb == "rerun")


def test_files_reach_optional_inputs_and_lists_are_lists(cli: Cli, chains: Path) -> None:
    Path(chains, "a.txt").write_text("a")
    given = ("--input", "f=@a.txt", "--input", "p=@a.txt", "--input", "mode=b")
    made = json.loads(cli("run", "wrong.py:one", *given, "--json").stdout)
    assert [step["value"] for step in made["steps"]] == ["Artifact", "Artifact", "b"]
    cli("run", "wrong.py:depths", "--input", "depths=[2, 4]", "--run-id", "list")
    assert json.loads(cli("show", "list", "each[1]", "--json").stdout)["value"] == 4
    refused = cli("run", "wrong.py:depths", "--input", "depths=[2, 5]", "--run-id", "list", code=None)
    assert refused.returncode != 0
    assert "E_RUN_INPUTS" in refused.stderr
    assert "[2,4]" in refused.stderr
    assert "[2,5]" in refused.stderr
