"""The things outside of a chain file that it names: files in its folder, and step functions.

The author of a chain file may be a stranger. So a path in it never leads out of the folder of the chain, by `..` or
by a link. Only plain files are read: reading a FIFO or a device would block. Importing a function runs code of
its author, so import only what you trust; `imports=False` imports nothing.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import ChainInvalid, InputInvalid, Place, Problem, StepNotRegistered, shown
from .steps import Step, find_step
from .yaml_source import MAX_BYTES

MAX_NAME = 1_000  # characters of a name of a file
MAX_PART = 240  # bytes between two /; Linux allows 255, and `.json` may be added
_ALLOWED = "a name, or a relative path below the chain's folder with / between its parts"


def find_workflow(name: str, folder: Path) -> Path | None:
    """The file of a ComfyUI workflow: `name`, `name.json` or `workflows/name.json`. None if there is none.

    Raises:
        InputInvalid: E_REF_PATH for a path that is not safe, or not of a plain file.
    """
    return _found(name, folder, [name, f"{name}.json", f"workflows/{name}.json"])


def find_chain(name: str, folder: Path, *, any_name: bool = True) -> Path | None:
    """The file of another chain: `name`, or `name.yaml`, `name.yml` for a bare one. None if there is none.

    Without `any_name` only a file with a YAML ending is found. The problems of a chain file are shown to the user, and
    the text of other files in the folder must not be.

    Raises:
        InputInvalid: E_REF_PATH, as for a workflow.
    """
    suffixed = PurePosixPath(name).suffix in (".yaml", ".yml")
    bare = [name] if any_name else []
    return _found(name, folder, [name] if suffixed else [f"{name}.yaml", f"{name}.yml", *bare])


def find_function(name: str, folder: Path) -> Step[..., Any]:
    """The step function `module:function`; modules beside the chain file come first.

    Raises:
        InputInvalid: E_STEP_KIND with the reason: not there, not importable, or not decorated with @step.
            E_STEP_NAME_TWICE if two functions have the name.
    """
    beside = os.path.abspath(folder)
    if beside not in sys.path:
        sys.path.insert(0, beside)
        importlib.invalidate_caches()
    try:
        found = find_step(name)
    except StepNotRegistered as error:
        if error.code == "E_STEP_NAME_TWICE":
            raise InputInvalid(error.code, error.problem.message, found=name, cure=error.problem.cure) from None
        reason = error.problem.message.partition(": ")[2]
    else:
        _refuse_another_beside(name, beside)
        return found
    module, _, function = name.partition(":")
    raise InputInvalid(
        "E_STEP_KIND",
        f"no step function {name}: {reason}",
        found=name,
        allowed="module:function of a function decorated with @step",
        cure=f"decorate {function} with @step, and put {module}.py beside the chain file or on the Python path",
    )


def _refuse_another_beside(name: str, folder: str) -> None:
    """Refuse a module of the same name from elsewhere: the author meant the one beside the chain file."""
    top = name.partition(":")[0].partition(".")[0]
    there = importlib.machinery.PathFinder.find_spec(top, [folder])
    loaded = getattr(sys.modules.get(top, sys.modules["__main__"]), "__file__", None)
    if there is None or there.origin is None or loaded is None:
        return
    if os.path.realpath(there.origin) != os.path.realpath(loaded):
        message = f"there are two modules {top}: {shown(loaded)} is loaded, {shown(there.origin)} is beside the chain"
        cure = "give one of the modules another name"
        raise InputInvalid("E_STEP_NAME_TWICE", message, found=name, allowed="one function for each name", cure=cure)


def read_chain(path: str | os.PathLike[str], source: str) -> bytes:
    """The bytes of a chain file, of a plain file only, and never more than a chain file may have.

    Raises:
        ChainInvalid: E_CHAIN_FILE if there is no such file or it cannot be read, E_YAML_SIZE.
    """
    place = Place(source)
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            content = _content(number, place)
        finally:
            os.close(number)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ChainInvalid([_unreadable(reason[:1].lower() + reason[1:], place)]) from None
    return content


def _content(number: int, place: Place) -> bytes:
    state = os.fstat(number)
    if not stat.S_ISREG(state.st_mode):
        raise ChainInvalid([_unreadable(f"it is {_kind(state.st_mode)}", place)])
    if state.st_size > MAX_BYTES:
        raise ChainInvalid([_too_large(state.st_size, place)])
    with open(number, "rb", closefd=False) as file:
        content = file.read(MAX_BYTES + 1)  # it may have grown, and files of /proc have no size
    if len(content) > MAX_BYTES:
        raise ChainInvalid([_too_large(len(content), place)])
    return content


def _unreadable(reason: str, place: Place) -> Problem:
    message = f"the chain file cannot be read: {reason}"
    return Problem("E_CHAIN_FILE", message, place, shown(place.file), "a plain YAML file")


def _too_large(size: int, place: Place) -> Problem:
    return Problem(
        "E_YAML_SIZE", "the file is too large", place, f"{size:,} bytes", f"{MAX_BYTES:,} bytes",
        "split it into chains that call each other",
    )  # fmt: skip


def _found(name: str, folder: Path, candidates: Iterable[str]) -> Path | None:
    """The first candidate that exists. All of them must be in the folder."""
    _check_words(name)
    root = os.path.realpath(folder)
    passed_folder = False
    for candidate in candidates:
        path = os.path.realpath(os.path.join(root, candidate))
        if os.path.commonpath([root, path]) != root:
            raise _refused(name, "it leads out of the chain's folder through a link")
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _refused(name, (error.strerror or str(error)).lower()) from None
        if stat.S_ISREG(mode):
            return Path(path)
        if not stat.S_ISDIR(mode):
            raise _refused(name, f"it is {_kind(mode)}, not a plain file")
        passed_folder = True  # a folder may have the name of a workflow: name.json beside it counts
    if passed_folder:
        raise _refused(name, "it is a folder, not a plain file")
    return None


def _check_words(name: str) -> None:
    """Refuse what is not a plain relative path, before the disk is read."""
    if not name.strip():
        raise _refused(name, "it is empty")
    if not name.isprintable():
        raise _refused(name, "it holds characters that cannot be printed")
    if len(name) > MAX_NAME or any(len(part.encode()) > MAX_PART for part in name.split("/")):
        raise _refused(name, "it is too long")
    if "\\" in name:
        raise _refused(name, "it holds a backslash")
    path = PurePosixPath(name)
    if path.is_absolute():
        raise _refused(name, "it is absolute")
    if ".." in path.parts or not path.parts:
        raise _refused(name, "it leads out of the chain's folder")


def _refused(name: str, reason: str) -> InputInvalid:
    cure = "put the file into the chain's folder and write its name"
    return InputInvalid("E_REF_PATH", f"this file cannot be used: {reason}", found=name, allowed=_ALLOWED, cure=cure)


def _kind(mode: int) -> str:
    """What a thing on the disk is, in words."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "no plain file")
