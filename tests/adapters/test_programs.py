"""Runs of programs that were started in every usual way are continued by the command line; chains are found by file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from tests.adapters.warm_cli import WarmCli

PROGRAM = """
import asyncio, os
from towpath import chain, open_engine, step
NEIGHBOUR

@step
def one() -> int:
    return X

@step
def two(v: int) -> int:
    if os.environ.get("DIE"):
        os._exit(9)
    return v + 1

@chain
def flow():
    return two(one())

async def main():
    async with open_engine() as engine:
        print((await engine.run(flow)).value)

if __name__ == "__main__":
    asyncio.run(main())
"""
WAYS = {  # how it was started: files, arguments of Python
    "a module of a package": ({"pkg/__init__.py": "", "pkg/flow.py": "from .side import X"}, ["-m", "pkg.flow"]),
    "a module of a folder": ({"pkg/flow.py": "from .side import X"}, ["-m", "pkg.flow"]),
    "a package": ({"pkg/__init__.py": "", "pkg/__main__.py": "from .side import X"}, ["-m", "pkg"]),
    "a script": ({"flow.py": "X = 5"}, ["flow.py"]),
    "a script with a dot": ({"etl.v2.py": "X = 5"}, ["etl.v2.py"]),
    "a script with a space": ({"my flow-2.py": "X = 5"}, ["my flow-2.py"]),
    "a script in a package": ({"pkg/__init__.py": "", "pkg/flow.py": "from side import X"}, ["pkg/flow.py"]),
    "a folder": ({"app/__main__.py": "from side import X"}, ["app"]),
    "an archive": ({"app/__main__.py": "from side import X"}, ["app.pyz"]),
    "a profiled script": ({"flow.py": "X = 5"}, ["-m", "cProfile", "-o", "profile", "flow.py"]),
}


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, neighbour in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(PROGRAM.replace("NEIGHBOUR", neighbour) if neighbour else "")
        (path.parent / "side.py").write_text("X = 5")
    if (folder / "app").is_dir():
        zipapp.create_archive(folder / "app", folder / "app.pyz")
    return folder


def settings(folder: Path) -> dict[str, str]:
    left = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("TOWPATH_")}
    return left | {"TOWPATH_STORE": f"sqlite:///{folder}/towpath.db"}


def killed(folder: Path, arguments: list[str]) -> None:
    """Start the program; it dies in its second step."""
    environment = settings(folder) | {"DIE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, timeout=120, check=False)
    assert done.returncode == 9


@pytest.mark.parametrize("way", WAYS)
def test_a_program_that_died_is_resumed(way: str, tmp_path: Path, warm_cli: WarmCli) -> None:
    """python-trial 21: `towpath resume last`, in the same folder or with --import from another one."""
    files, arguments = WAYS[way]
    folder = written(tmp_path, files)
    if way == "an archive":
        shutil.rmtree(folder / "app")
    killed(folder, arguments)
    extra = ["--import", "pkg/flow.py"] if way == "a script in a package" else []
    resumed = warm_cli.run(["resume", "last", *extra], folder, settings(folder), 120)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr


@pytest.mark.parametrize(
    ("way", "named"),
    [
        ("a module of a package", "pkg/flow.py"),
        ("a script with a dot", "etl.v2.py"),
        ("a script in a package", "pkg/flow.py"),
        ("a folder", "app"),
        ("an archive", "app.pyz"),
    ],
)
def test_a_program_is_found_by_its_path(way: str, named: str, tmp_path: Path, warm_cli: WarmCli) -> None:
    """python-trial 21: `--import` takes the path of what was started, from any folder."""
    folder = written(tmp_path, WAYS[way][0])
    killed(folder, WAYS[way][1])
    (tmp_path / "elsewhere").mkdir()
    arguments = ["resume", "last", "--import", str(folder / named)]
    resumed = warm_cli.run(arguments, tmp_path / "elsewhere", settings(folder), 120)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr


def test_a_program_without_a_file_cannot_be_imported(tmp_path: Path, warm_cli: WarmCli) -> None:
    """python-trial 21, `python -c`: the cure is one that works."""
    killed(tmp_path, ["-c", PROGRAM.replace("NEIGHBOUR", "X = 5")])
    refused = warm_cli.run(["resume", "last"], tmp_path, settings(tmp_path), 120)
    assert refused.returncode == 2
    assert "engine.resume(run_id)" in refused.stderr
    assert "--import __main__" not in refused.stderr


def test_two_files_of_one_name_are_not_mixed_up(tmp_path: Path, warm_cli: WarmCli) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "steps.py").write_text("")
    refused = warm_cli.run(["run", "b/steps.py:c", "--import", "a/steps.py"], tmp_path, settings(tmp_path), 120)
    assert refused.returncode == 2
    assert "E_IMPORT" in refused.stderr
    assert "another module steps is loaded" in refused.stderr


CHAINS = {
    "one.py": PROGRAM.replace("NEIGHBOUR", "X = 5"),
    "several.py": "from towpath import chain\nfrom one import one\n@chain\ndef a(): return one()\n"
    "@chain\ndef b(): return one()\n@chain\ndef raises():\n    return one(1 / 0)\n",
    "none.py": "x = 1",
    "ends.py": "import sys; sys.exit(3)",
    "needs.py": "import no_such_thing",
    "broken.py": "\n\nx = y",
    "book.ipynb": "{}",
    "chain.yml": "steps: 3",
    "deep/other.py": "",
    "pkg/__init__.py": "",
    "pkg/flow.py": PROGRAM.replace("NEIGHBOUR", "X = 5"),
}
REFUSED = {  # what is asked for: code, and words of the message and the cure
    "several.py": ("E_CHAIN_NAME", "several.py:a several.py:b"),
    "several": ("E_CHAIN_NAME", "towpath run several:a"),
    "severl.py": ("E_CHAIN_FILE", "did you mean several.py?"),
    "severl.py:a": ("E_CHAIN_FILE", "did you mean several.py?"),
    "several.py:c": ("E_CHAIN_NAME", "several.py:a"),
    "several.py:one": ("E_CHAIN_NAME", "one is a step"),
    "several.py:raises": ("E_CHAIN_RAISED", "several.py:9:1: the chain raises raised ZeroDivisionError"),
    "none.py": ("E_CHAIN_NAME", "@chain"),
    "ends.py": ("E_IMPORT", '__name__ == "__main__"'),
    "needs.py": ("E_IMPORT", "install no_such_thing"),
    "broken.py": ("E_IMPORT", "broken.py:3"),
    "book.ipynb": ("E_CHAIN_NAME", "notebook"),
    "chain.yml": ("E_FIELD_MISSING", "name is missing"),
    "chains.yml": ("E_CHAIN_FILE", "did you mean chain.yml?"),
    "chain.yml:a": ("E_CHAIN_NAME", "towpath run chain.yml"),
    "deep": ("E_CHAIN_FILE", "deep/other.py"),
    "json": ("E_CHAIN_NAME", "no @chain"),
    "no.such": ("E_CHAIN_FILE", "no module no.such"),
}


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chains")
    for name, text in CHAINS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("named", REFUSED)
def test_what_is_no_chain_says_what_is_there(named: str, chains: Path, warm_cli: WarmCli) -> None:
    """newcomer F20, F15: one clear error with the cure, and no line of our own code."""
    refused = warm_cli.run(["run", named], chains, settings(chains), 120)
    code, words = REFUSED[named]
    assert (refused.returncode, refused.stdout) == (2, "")
    assert code in refused.stderr
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("named", ["one.py", "one", "pkg.flow", "one:flow", "pkg/flow.py"])
def test_a_file_with_one_chain_needs_no_name(named: str, chains: Path, warm_cli: WarmCli) -> None:
    """newcomer F12, F20: the current folder is searched, and `towpath run media.py` runs."""
    ran = warm_cli.run(["run", named], chains, settings(chains), 120)
    assert ran.returncode == 0, ran.stderr
    assert warm_cli.run(["validate", named], chains, settings(chains), 120).returncode == 0
