"""Every example runs by the one command in its first lines, in a folder of its own, without a network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

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


def test_F17_a_notebook(folder: Path) -> None:
    """Executed by jupyter's own kernel; it shows what is kept in the file, in the same form."""
    kept = nbformat.read(folder / "examples/notebook.ipynb", as_version=4)
    executed = nbformat.read(folder / "examples/notebook.ipynb", as_version=4)
    client = NotebookClient(executed, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    assert shapes(executed) == shapes(kept)
    assert [shape for shape in shapes(kept).values() if "text/html" in shape]
    total, again, failed = (text_of(executed, at) for at in ("[47, 90, 27]", "cached", "KeyError"))
    assert "[47, 90, 27]" in total
    assert "data:image/png;base64," in again
    assert "&#x27;moon&#x27;" in failed


def shapes(notebook: Any) -> dict[str, list[str]]:
    """What each cell puts out: the kinds of data."""
    return {
        c.id: [kind for o in c.outputs for kind in sorted(o.get("data", {}))] for c in notebook.cells if "outputs" in c
    }


def text_of(notebook: Any, part: str) -> str:
    """The output that has this part in it."""
    outputs = (str(o.get("data", {})) for cell in notebook.cells for o in cell.get("outputs", ()))
    return next(text for text in outputs if part in text)


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
