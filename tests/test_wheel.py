"""What `python -m build` makes: all sources, the files beside them, nothing else; and it works once installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"engine": "towpath", "store": "towpath/store", "adapters": "towpath/adapters"}
IMPORT_ALL = """
import importlib, pkgutil, towpath
for module in pkgutil.walk_packages(towpath.__path__, "towpath."):
    if not module.name.endswith("__main__"):
        print(importlib.import_module(module.name).__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the source distribution, which is made from a clean copy of the sources."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(source))
    assert len(list(made.glob("*.tar.gz"))) == 1
    (found,) = made.glob("*.whl")
    return found


def run(*command: str, cwd: Path | None = None) -> str:
    """What a command prints; it has to succeed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TOWPATH_"))}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources() -> Iterator[str]:
    """Every file of the three folders, by its place in the package."""
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{package}/{path.relative_to(ROOT / folder)}"


def test_the_wheel_holds_every_source_file_and_no_other(wheel: Path) -> None:
    """A new kind of file that `package-data` does not name is found here, and so is a test that slipped in."""
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(sources())
    typed = [name for name in names if name.endswith("py.typed")]
    assert sorted(typed) == ["towpath/adapters/py.typed", "towpath/py.typed", "towpath/store/py.typed"]
    for part in ("templates/layout.html", "static/towpath.css", "chain.schema.json", "photos/LICENSES.md"):
        assert any(name.endswith(part) for name in names), part


def test_the_wheel_says_its_licence(wheel: Path) -> None:
    """The licence lies in it as a file and stands in its metadata."""
    archive = zipfile.ZipFile(wheel)
    info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"License-Expression: Apache-2.0\n" in archive.read(f"{info}/METADATA")


def test_the_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    """In a new environment, which has the other packages of this one but not its towpath."""
    new = tmp_path / "new"
    run(sys.executable, "-m", "venv", "--without-pip", str(new))
    python = str(new / "bin" / "python")
    run(sys.executable, "-m", "pip", "--quiet", "--python", python, "install", "--no-deps", "--no-index", str(wheel))
    place = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (place / "packages.pth").write_text(sysconfig.get_path("purelib"))
    files = [Path(line) for line in run(python, "-c", IMPORT_ALL, cwd=tmp_path).splitlines()]
    assert len(files) > 100
    assert all(file.is_relative_to(place) for file in files), "imported from the new environment"
    command = str(new / "bin" / "towpath")
    assert run(command, "--version", cwd=tmp_path) == f"towpath, version {wheel.name.split('-')[1]}\n"
    assert '"$schema"' in run(command, "schema", cwd=tmp_path)
