"""The chain that an argument of the command line names: a chain file, a Python file, or a module."""

from __future__ import annotations

import importlib.util
import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from towpath.chain_file import ChainFile, load_chain
from towpath.chains import Chain
from towpath.errors import ChainInvalid, InputInvalid, Place, Problem, TowpathError, similar
from towpath.tracing import user_frame

from .options import import_modules, search_here

Runnable = ChainFile | Chain[..., Any]

_YAML = (".yaml", ".yml")
_CHAIN_FILES = (*_YAML, ".py")
_ALLOWED = "a chain file (.yaml), file.py, file.py:chain, or module:chain"
_FEW = 5  # neighbours that an error lists
_RAISED_CURE = "the body of a chain describes it, before any step runs: what may fail belongs into a step"


def load_runnable(text: str, *, imports: bool = True) -> Runnable:
    """The chain that `text` names: a YAML file, `module:chain`, `file.py:chain`, or a file or module with one chain.

    A chain in Python is compiled here. Without `imports` only chain files are read, and none of their functions.
    Raises ChainInvalid, InputInvalid (E_CHAIN_NAME, E_CHAIN_FILE, E_IMPORT).
    """
    head, separator, name = text.rpartition(":")
    path = Path(text)
    if text.endswith(_YAML) or (path.is_file() and path.suffix not in (".py", ".ipynb")):
        return _read(text, imports)
    if separator and not path.exists():
        found = _named(head, name, imports)
    elif path.suffix == ".ipynb":
        raise _refused("E_CHAIN_NAME", f"{text} is a notebook", "run the chain there, or move it into a .py file")
    elif path.suffix == ".py" or _is_module(text):
        found = _only_one(text, _module(text, imports))
    else:
        raise _nothing_there(text)
    return _compiled(found)


def _read(text: str, imports: bool) -> ChainFile:
    if not Path(text).exists():
        raise _nothing_there(text)
    return load_chain(text, imports=imports)


def _module(text: str, imports: bool) -> ModuleType:
    if not imports:
        cure = "leave out --no-import"
        raise _refused("E_CHAIN_NAME", f"the chains of {text} are known only after it is imported", cure)
    if text.endswith(".py") and not Path(text).exists():
        raise _nothing_there(text)
    return import_modules((text,))[0]


def _is_module(text: str) -> bool:
    """Can the name be imported? Of a dotted name only the first part is looked for."""
    top = text.partition(".")[0]
    if not all(part.isidentifier() for part in text.split(".")):
        return False
    search_here()
    spec = importlib.util.find_spec(top)
    return spec is not None and spec.origin is not None  # a folder without __init__.py is no module with chains


# ---- chains of a module


def _named(head: str, name: str, imports: bool) -> Chain[..., Any]:
    if head.endswith(_YAML):
        raise _refused("E_CHAIN_NAME", f"a chain file holds one chain: {head}", f"towpath run {head}")
    module = _module(head, imports)
    found = getattr(module, name, None)
    if isinstance(found, Chain):
        return found
    chains = _chains_of(module)
    cure = similar(name, chains) or ("name one of these" if chains else "")
    raise InputInvalid(
        "E_CHAIN_NAME",
        f"{head} has no @chain called {name}",
        found=f"{name} is {_kind(found)}" if hasattr(module, name) else "",
        allowed=" ".join(f"{head}:{known}" for known in chains),
        cure=cure or "decorate the function with @chain",
    )


def _only_one(text: str, module: ModuleType) -> Chain[..., Any]:
    chains = _chains_of(module)
    if len(chains) == 1:
        return next(iter(chains.values()))
    if not chains:
        raise _refused("E_CHAIN_NAME", f"{text} has no @chain", "decorate a function with @chain")
    raise InputInvalid(
        "E_CHAIN_NAME",
        f"{text} has {len(chains)} chains: name one",
        allowed=" ".join(f"{text}:{name}" for name in chains),
        cure=f"towpath run {text}:{next(iter(chains))}",
    )


def _chains_of(module: ModuleType) -> dict[str, Chain[..., Any]]:
    """The chains of a module by name, without those that it imported, unless it has no other."""
    every = {name: value for name, value in vars(module).items() if isinstance(value, Chain)}
    own = {name: value for name, value in every.items() if value.function.__module__ == module.__name__}
    return own or every


def _kind(value: object) -> str:
    kind = type(value).__name__.lower()
    return f"a {kind}" if kind in ("step", "function", "module") else "no chain"


def _compiled(found: Chain[..., Any]) -> Chain[..., Any]:
    """The chain, after its body was executed once. Raises ChainInvalid (E_CHAIN_RAISED) with the user's line."""
    try:
        found.compile()
    except TowpathError:
        raise
    except Exception as error:
        frame = user_frame(error.__traceback__)
        place = Place() if frame is None else Place(frame.tb_frame.f_code.co_filename, frame.tb_lineno, 1)
        lines = traceback.format_exception_only(error)  # then its notes; of a SyntaxError the sentence is the last
        sentence = lines[-1 if isinstance(error, SyntaxError) else 0].strip()
        message = f"the chain {found.name} raised {sentence}"
        raise ChainInvalid([Problem("E_CHAIN_RAISED", message, place, cure=_RAISED_CURE)]) from error
    return found


# ---- nothing of that name


def _nothing_there(text: str) -> InputInvalid:
    path = Path(text)
    if path.is_dir():
        inside = _listed(path)
        cure = f"name a file in it: {' '.join(inside[:_FEW])}" if inside else "name a chain file, or a Python file"
        return _refused("E_CHAIN_FILE", f"{text} is a folder", cure)
    cure = similar(text, _listed(path.parent)) or "look at the name, and at the folder that you are in"
    return _refused("E_CHAIN_FILE", f"there is no file and no module {text}", cure)


def _listed(folder: Path) -> list[str]:
    """The paths of possible chain files of a folder, as the user would write them."""
    try:
        names: Iterable[str] = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return []
    return [str(folder / name) for name in names if name.endswith(_CHAIN_FILES) and not name.startswith("_")]


def _refused(code: str, message: str, cure: str) -> InputInvalid:
    return InputInvalid(code, message, allowed=_ALLOWED, cure=cure)
