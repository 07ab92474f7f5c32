"""An environment of its own for each peer, made on demand and kept; and the towpath of another commit."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

from .systems import HERE, ROOT, TOWPATH, System

FOLDERS = {"engine": ".", "store": "store", "adapters": "adapters"}


class NotInstalled(Exception):
    """A peer's environment could not be made: no network, no package, no program."""


def cache() -> Path:
    """Where environments are kept: `TOWPATH_BENCH_CACHE`, or a folder of the user's cache."""
    given = os.environ.get("TOWPATH_BENCH_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "towpath-bench"


def environment_of(peer: str) -> Path:
    """The virtual environment of a peer, made if it is not there. Raises NotInstalled."""
    needs = [path for path in sorted((HERE / "peers" / peer).iterdir()) if path.suffix in (".txt", ".json")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in needs)).hexdigest()[:12]
    folder = cache() / f"{peer}-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _install(folder, needs)
        (folder / "complete").touch()
    return folder


def _install(folder: Path, needs: list[Path]) -> None:
    _call([sys.executable, "-m", "venv", str(folder)], folder.parent)
    for path in needs:
        if path.suffix == ".txt":
            _call([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(path)], folder)
        else:  # a server that comes as a package of npm
            shutil.copy(path, folder)
            _call(["npm", "install", "--silent"], folder)


def _call(command: list[str], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotInstalled(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        told = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or [
            f"exit {done.returncode}"
        ]
        errors = [line for line in told if line.startswith("ERROR")]
        raise NotInstalled(f"{Path(command[0]).name} {command[1]}: {(errors or told)[-1]}")


def towpath_of(commit: str) -> System:
    """The towpath of another commit of this repository, to be measured beside this one. Raises NotInstalled."""
    try:
        name = _git("rev-parse", "--short", f"{commit}^{{commit}}").decode().strip()
        folder = cache() / f"towpath-{name}"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            with tarfile.open(fileobj=io.BytesIO(_git("archive", name, *FOLDERS))) as archive:
                archive.extractall(folder / "files", filter="data")
            _lay_out(folder)
            (folder / "complete").touch()
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotInstalled(f"there is no commit {commit} here") from error
    return replace(TOWPATH, name=f"towpath {name}", source=folder)


def _lay_out(folder: Path) -> None:
    """As a wheel has them: engine is the package, the other folders are inside."""
    package = folder / "towpath"
    for source, target in FOLDERS.items():
        shutil.copytree(folder / "files" / source, package / target, dirs_exist_ok=True)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
