"""Names and tags of runs on the command line, the filters of `ls`, and `rm` (newcomer F13, python-trial 25)."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.test_cli import clean_environment
from tests.adapters.warm_cli import WarmCli
from towpath import open_engine
from towpath.adapters.cli import control

CHAINS = """
from towpath import chain, step

@step
def written(text: str) -> bytes:
    return (text * 5000).encode()

@step
def asked(n: int) -> int:
    return n

@chain
def letter(text: str = "hi", name: str = "nobody"):
    return written(text)

@chain
def question(n: int = 1):
    return asked(n).with_approval()
"""


class Folder:
    """A folder with chains and a store, and the command line in it."""

    def __init__(self, path: Path, warm: WarmCli) -> None:
        self.path = path
        self._warm = warm

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = self._warm.run([*arguments], self.path, clean_environment(), timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def names(self, *arguments: str) -> list[str]:
        return [row["run_name"] for row in self.json("ls", *arguments)]


@pytest.fixture
def folder(tmp_path: Path, warm_cli: WarmCli) -> Folder:
    (tmp_path / "letters.py").write_text(CHAINS)
    return Folder(tmp_path, warm_cli)


def test_a_run_is_named_found_and_run_again(folder: Folder) -> None:
    made = folder.json("run", "letters.py:letter", "--name", "media-12", "--tag", "client=x", "--tag", "urgent")
    assert (made["name"], made["tags"]) == ("media-12", {"client": "x", "urgent": ""})
    assert folder.json("show", "media-12")["id"] == made["id"]
    assert "media-12  client=x urgent" in folder("show", "media-12")
    assert "media-12  client=x urgent" in folder("ls")
    again = folder.json("rerun", "media-12", "--from", "written")
    assert (again["name"], again["tags"]) == (made["name"], made["tags"])
    assert folder.json("show", "media-12")["id"] == again["id"], "the newest run of that name"
    other = folder.json("rerun", "media-12", "--name", "media-13", "--tag", "draft")
    assert (other["name"], other["tags"]) == ("media-13", {"draft": ""})


def test_the_name_of_a_run_is_never_taken_for_an_input(folder: Folder) -> None:
    made = folder.json("run", "letters.py:letter", "--name", "media-12")
    assert made["name"] == "media-12"
    made = folder.json("run", "letters.py:letter", "--input", "name=Ana")
    assert made["name"] is None


@pytest.mark.parametrize(
    "wrong", [["--name", "last"], ["--name", ""], ["--tag", "a b"], ["--tag", "a=1", "--tag", "a=2"]], ids=str
)
def test_a_wrong_name_or_tag_starts_nothing(folder: Folder, wrong: list[str]) -> None:
    assert "E_RUN_" in folder("run", "letters.py:letter", *wrong, code=2)
    assert not (folder.path / "towpath.db").exists()


def test_the_filters_of_ls(folder: Folder) -> None:
    folder("run", "letters.py:letter", "--name", "a1", "--tag", "client=x")
    folder("run", "letters.py:question", "--no-wait", "--name", "a2", "--tag", "client=y", code=3)
    folder("run", "letters.py:letter", "--name", "b1")
    assert folder.names() == ["b1", "a2", "a1"]
    assert folder.names("--name", "A") == ["a2", "a1"]
    assert folder.names("--chain", "letter") == ["b1", "a1"]
    assert folder.names("--tag", "client") == ["a2", "a1"]
    assert folder.names("--tag", "client=y", "--name", "a") == ["a2"]
    assert folder.names("--status", "paused", "--status", "failed") == ["a2"]
    assert folder.names("--since", "1h", "--until", "2100-01-01") == ["b1", "a2", "a1"]
    assert folder.names("--until", "2d") == []
    assert folder.names("--since", "2000-01-01T10:00", "--limit", "1") == ["b1"]
    assert folder.names("--since", "2000-01-01T10:00:00+02:00", "--limit", "1") == ["b1"]
    assert "no run matches" in folder("ls", "--name", "c")
    for wrong in ("yesterday", "2026-13-01", "-1d", "", "9999999d", "2026-11-01T99:00"):
        assert "E_TIME" in folder("ls", "--since", wrong, code=2), wrong


def test_runs_are_removed(folder: Folder) -> None:
    folder("run", "letters.py:letter", "--name", "a1")
    folder("run", "letters.py:question", "--no-wait", "--name", "a2", code=3)
    folder("run", "letters.py:letter", "--name", "b1")
    assert "nobody can be asked" in folder("rm", "a1", code=2)
    assert "E_RUN_ACTIVE" in folder("rm", "a1", "a2", "--yes", code=1)
    assert "E_RUN_MISSING" in folder("rm", "a1", "c1", "--yes", code=1)
    assert folder.names() == ["b1", "a2", "a1"], "nothing is removed if one cannot be"
    text = folder("rm", "a1", "a1", "--yes")
    assert "(a1) of letter: 1 step, 1 file" in text
    assert "in no other run" not in text
    (gone,) = folder.json("rm", "b1", "--yes")
    assert (gone["steps"], gone["files"], gone["bytes"]) == (1, 1, 10_000)
    folder("cancel", "a2")
    folder("rm", "a2", "--yes")
    assert folder.names() == []
    folder("fsck")


@pytest.mark.anyio
async def test_a_run_that_somebody_else_removes_meanwhile(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are removed all the same."""
    for name in ("a", "b", "c"):
        folder("run", "letters.py:letter", "--name", name)
    store = str(folder.path / "towpath.db")
    rows = await control._removable(("a", "b", "c"), store)
    async with open_engine(store) as engine:
        await engine.remove(rows[1]["id"])
    assert await control._remove(rows, store, as_json=False) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"removed run {rows[0]['id']}")
    assert second == f"run {rows[1]['id']} (b) of letter is gone already"
    assert third.startswith(f"removed run {rows[2]['id']}")
    assert folder.names() == []


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", []), (b"n\n", ["a1"]), (b"\n", ["a1"]), (b"\x04", ["a1"])])
def test_a_person_is_asked(folder: Folder, answer: bytes, left: list[str]) -> None:
    folder("run", "letters.py:letter", "--name", "a1")
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    command = [sys.executable, "-m", "towpath", "rm", "a1"]
    done = subprocess.run(
        command, check=False, cwd=folder.path, env=clean_environment(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "Remove this run for good?" in text
    assert "(a1) of letter, completed" in text
    assert done.returncode == (0 if not left else 130)
    assert folder.names() == left
