"""Decisions on the command line: how an approval is named, several at once, and the commands that are named next."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.test_cli import clean_environment
from tests.adapters.warm_cli import WarmCli

CHAINS = """
from towpath import chain, step

@step
def drawn(text: str) -> bytes:
    return text.encode()

@step
def each(n: int) -> int:
    return n

@chain
def poster(text: str = "hi"):
    return drawn(text).with_approval()

@chain
def three():
    return each.map([1, 2, 3]).with_approval()
"""


class Folder:
    """A folder with chains and a store of another name, and the command line in it."""

    def __init__(self, path: Path, warm: WarmCli) -> None:
        self.path = path
        self._warm = warm

    def __call__(self, *arguments: str, code: int = 0) -> str:
        words = [*arguments, "--store", "my own.db"]
        done = self._warm.run(words, self.path, clean_environment(), timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))

    def waits(self, run: str) -> list[str]:
        return [gate["id"] for gate in self.json("approvals", run)]


@pytest.fixture
def folder(tmp_path: Path, warm_cli: WarmCli) -> Folder:
    (tmp_path / "posters.py").write_text(CHAINS)
    return Folder(tmp_path, warm_cli)


def test_an_approval_is_named_by_its_run(folder: Folder) -> None:
    """The only one that waits in it: `last`, a name or an id of a run."""
    folder("run", "posters.py:poster", "--no-wait", "--name", "first", code=3)
    second = folder.json("run", "posters.py:poster", "--no-wait", code=3)["id"]
    assert "approved by kim: drawn (output v1)" in folder("approve", "last", "--by", "kim")
    assert folder.waits(second) == []
    assert f"nothing waits for a decision in run {second}" in folder("approve", "last", "--by", "kim", code=1)
    assert "rejected by kim: drawn" in folder("reject", "first", "--by", "kim", "--reason", "dull")
    assert "E_APPROVAL_MISSING" in folder("approve", "nowhere", "--by", "kim", code=1)


def test_several_that_wait_in_one_run_are_listed(folder: Folder) -> None:
    run = folder.json("run", "posters.py:three", "--no-wait", code=3)["id"]
    said = folder("approve", "last", "--by", "kim", code=1)
    assert "E_APPROVAL_AMBIGUOUS" in said
    waiting = {gate["item"]: gate["id"] for gate in folder.json("approvals", run)}
    assert ", ".join(f"{waiting[item]} (each[{item}])" for item in range(3)) in said


def test_several_approvals_are_decided_at_once(folder: Folder) -> None:
    """Each is bound to its own versions; one that fails is said, and does not stop the others."""
    run = folder.json("run", "posters.py:three", "--no-wait", code=3)["id"]
    one, two, three = folder.waits(run)
    said = folder("approve", one, "nowhere", one[-12:], two, "--by", "kim", code=1)
    assert said.count("approved by kim: each[") == 2
    assert "nowhere:" in said
    assert said.count("E_APPROVAL_") == 1
    assert said.count("continue it with: towpath resume") == 1
    assert folder.waits(run) == [three]
    answers = folder.json("reject", two, three, "--by", "kim", code=1)
    assert answers[0]["id"] == two
    assert answers[0]["errors"][0]["code"] == "E_APPROVAL_DECIDED"
    assert (answers[1]["id"], answers[1]["status"]) == (three, "rejected")
    assert "give only that one" in folder("approve", one, two, "--seen", "x", "--by", "kim", code=2)


def test_every_command_that_is_named_finds_the_store(folder: Folder) -> None:
    said = folder("run", "posters.py:poster", "--no-wait", code=3)
    at = "--store 'my own.db'"
    assert said.count(at) == 2
    assert f"towpath approve APPROVAL {at}" in folder("approvals")
    run = folder.json("show", "last")["id"]
    assert f"towpath approve {folder.waits(run)[0]} {at}" in folder("show", "last", "drawn")
    assert f"towpath resume {run} {at}" in folder("approve", "last", "--by", "kim")
    assert f"`towpath cancel {run} {at}`" in folder("rm", "last", "--yes", code=1)
    assert f"`towpath ls {at}` lists" in folder("show", "nowhere", code=1)
    folder("resume", "last")
    assert " for a decision" in folder("show", "last", "drawn")
    assert f"`towpath fsck --repair {at}` frees them" in folder("rm", "last", "--yes")


def test_an_edit_shows_the_end_of_an_id_at_80_columns(folder: Folder) -> None:
    folder("run", "posters.py:poster", "--no-wait", code=3)
    [gate] = folder.json("approvals")
    (folder.path / "new.txt").write_text("new")
    words = ["edit", gate["artifacts"][0]["id"], "new.txt", "--by", "kim", "--approve", "--store", "my own.db"]
    ours, its = pty.openpty()
    ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run(
        [sys.executable, "-m", "towpath", *words],
        cwd=folder.path,
        env={**clean_environment(), "TERM": "xterm"},
        stdout=its,
        check=True,
    )
    os.close(its)
    said = os.read(ours, 10_000).decode().strip()
    os.close(ours)
    new = folder.json("artifacts", "last")[0]["id"]
    assert done.returncode == 0
    assert said == f"output v2 is new.txt, 3 B, approved: {new[-8:]}"


@pytest.mark.parametrize("option", ["--chain", "--name"])
def test_an_empty_filter_is_refused(folder: Folder, option: str) -> None:
    assert f"the name of the {'chain' if option == '--chain' else 'run'} is empty" in folder("ls", option, "", code=2)
