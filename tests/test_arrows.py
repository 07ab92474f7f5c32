"""Nobody imports the three folders under their own names: that would make second copies of our classes."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def imported(path: Path) -> set[str]:
    """The first parts of absolute imports in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_the_folders_are_imported_as_towpath_only() -> None:
    """`import engine` works by accident from the root; nothing here does it."""
    files = [
        p for folder in ("engine", "store", "adapters", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 50
    assert [str(p) for p in files if imported(p) & {"engine", "store", "adapters"}] == []


def test_databases_has_one_owner() -> None:
    """One file of a backend imports `databases`, so that replacing it is a change of one file."""
    files = [p for folder in ("engine", "store", "adapters") for p in (ROOT / folder).rglob("*.py")]
    assert [str(p.relative_to(ROOT)) for p in files if "databases" in imported(p)] == ["store/sqlite/connection.py"]


PIPES = {"engine/step_process.py", "adapters/child_process.py", "adapters/process_pool.py"}
"""They carry arguments and results between towpath's own processes, and store nothing."""


def test_no_pickle_and_no_eval_anywhere() -> None:
    """Values are JSON; nothing that a database or a chain file holds is ever executed."""
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    for path in (p for folder in ("engine", "store", "adapters") for p in (ROOT / folder).rglob("*.py")):
        calls = {
            n.func.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        allowed = {"pickle"} if str(path.relative_to(ROOT)) in PIPES else set()
        assert not (banned - allowed) & imported(path), path
        assert not {"eval", "exec"} & calls, path


def test_every_package_is_in_the_wheel() -> None:
    """A sub-package that pyproject.toml does not list would be missing from the wheel only."""
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    names = {"engine": "towpath", "store": "towpath.store", "adapters": "towpath.adapters"}
    found = set()
    for folder, name in names.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    assert found == listed
