"""Every example runs by the one command in its first lines, in a folder of its own, without a network."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.temporal.dev_server import needs_server

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
COMMAND = re.compile(r"Run it: ((?:python|towpath) .+)")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the examples, and what they find beside them in the repository."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    for name in [name for name in os.environ if name.startswith("TOWPATH_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output(file: str) -> str:
    """What an example prints, run as its first lines say."""
    found = COMMAND.search("\n".join(Path("examples", file).read_text().splitlines()[:3]))
    assert found is not None, f"{file} does not say how it is run"
    done = subprocess.run(shlex.split(found[1]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_script(folder: Path) -> None:
    shown = output("script.py")
    assert "| harbour | 11.2 | 12.4 | 13.4 |" in shown
    assert " completed; the report is " in shown


def test_a_chain_in_yaml(folder: Path) -> None:
    shown = output("report/chain.yaml")
    assert re.search(r"✓ totals +3/3", shown)
    assert re.search(r"✓ warning", shown), "west made a loss"


def test_a_gate(folder: Path) -> None:
    assert output("approval.py") == "completed - printed 50 copies of poster.svg version 2\n"


def test_comfyui_on_the_stand_in(folder: Path) -> None:
    shown = output("comfyui/run.py").splitlines()
    assert [line.split()[:2] for line in shown] == [[step, "completed"] for step in ("canvas", "negative", "page")]


def test_the_same_script_on_temporal(folder: Path) -> None:
    needs_server()
    shown = output("on_temporal.py")
    assert "| valley | 8.3 | 10.2 | 12.8 |" in shown
    assert " completed on temporal://127.0.0.1:" in shown


def test_a_notebook(folder: Path) -> None:
    """Its code cells, one after the other in one event loop, as a kernel runs them."""
    cells = json.loads(Path("examples/notebook.ipynb").read_text())["cells"]
    shown = asyncio.run(run_cells(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]))
    assert {"the": 8, "barge": 3, "horse": 2} in shown
    steps, value = shown[1]
    assert (steps["count"], steps["top"], len(value)) == ("cached", "completed", 5)


async def run_cells(sources: list[str]) -> list[Any]:
    """The values of the last lines, where these are expressions."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for source in sources:
        tree = ast.parse(source)
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            await executed(ast.Module(tree.body[:-1], []), names)
            shown.append(await executed(ast.Expression(last.value), names))
        else:
            await executed(tree, names)
    return shown


async def executed(tree: ast.Module | ast.Expression, names: dict[str, Any]) -> Any:
    """Run code that may `await` outside of a function."""
    mode = "eval" if isinstance(tree, ast.Expression) else "exec"
    value = eval(compile(tree, "<cell>", mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    return await value if asyncio.iscoroutine(value) else value


def test_the_list_names_every_example() -> None:
    """examples/README.md has one line for each, and its links lead somewhere."""
    listed = set(re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text()))
    assert all((EXAMPLES / link).is_file() for link in listed)
    runnable = {
        str(file.relative_to(EXAMPLES))
        for file in EXAMPLES.rglob("*")
        if file.suffix in (".py", ".yaml", ".ipynb") and COMMAND.search(file.read_text())
    }
    assert runnable - listed == set()
