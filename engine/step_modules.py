"""Modules with steps: imported by name, or from the file or program that the user names.

A recorded run names each function `module:function`. Python's own import finds most of these modules. It does not find
the program `etl.v2.py`, because of the dot, nor the `__main__` of a folder or an archive (`python app.pyz`): these are
looked for on `sys.path` as files.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import zipimport
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from .errors import InputInvalid, shown
from .tracing import user_frame

_MAIN = "__main__"
_IMPORT_CURE = "the name of a module in this folder or an installed one, or the path of its .py file"
_PROGRAM_SUFFIXES = (".pyz", ".zip")

_inside_packages: dict[str, str] = {}  # `flow` -> `pkg.flow`: what `python pkg/flow.py` calls a file of a package


def import_module(name_or_path: str) -> ModuleType:
    """Import a module by name, a `.py` file, or a program: a `.pyz`, or a folder with a `__main__.py`.

    A file of a package is imported as its module, `pkg/flow.py` as `pkg.flow`; another file under its stem. The
    `__main__` of a program is not executed before one of its steps is needed: it may start the program.

    Raises:
        InputInvalid: E_IMPORT naming what could not be imported and why.
    """
    try:
        if name_or_path.endswith(".py"):
            return _import_file(Path(name_or_path).resolve(strict=True))
        if _is_program(Path(name_or_path)):
            return _enter_program(Path(name_or_path).resolve())
        return importlib.import_module(name_or_path)
    except InputInvalid:
        raise
    except (Exception, SystemExit) as error:  # any error of the user's module
        message = f"cannot import {shown(name_or_path)}: {_raised(error)}"
        raise InputInvalid("E_IMPORT", message, cure=_cure_of(error, name_or_path)) from error


def load_module(name: str) -> ModuleType:
    """The module of that name, imported if necessary. Raises what the import raises."""
    name = _inside_packages.get(name, name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        spec = _spec_of_file(name) if missing.name and f"{name}.".startswith(f"{missing.name}.") else None
        if spec is None:
            raise
        return _executed(spec)


def loaded_module(name: str) -> ModuleType | None:
    """The module of that name, if this process has it. Imports nothing."""
    return sys.modules.get(_inside_packages.get(name, name))


def program_name(file: str) -> str:
    """The module of the steps of a script: the stem of its file; for a program's `__main__.py` `program.__main__`."""
    path = Path(file)
    return path.stem if path.stem != _MAIN else f"{path.absolute().parent.stem}.{_MAIN}"


# ---- files


def _import_file(path: Path) -> ModuleType:
    package = _package_of(path.parent)
    if package:
        name = package if path.stem == "__init__" else f"{package}.{path.stem}"
        _search_first(path.parents[package.count(".") + 1])
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name is not None and missing.name.partition(".")[0] == package.partition(".")[0]:
                raise
            # It imports a neighbour as scripts do: `import neighbour`.
        else:
            _inside_packages.setdefault(path.stem, name)
            return _checked(module, path)
    _search_first(path.parent)
    if "." in path.stem:
        module = sys.modules.get(path.stem) or _executed(_spec(path.stem, path))
    else:
        module = importlib.import_module(path.stem)
    return _checked(module, path)


def _package_of(folder: Path) -> str:
    """The dotted name of the package in a folder; empty without an `__init__.py`, or if no import can name it."""
    names: list[str] = []
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names)


def _checked(module: ModuleType, path: Path) -> ModuleType:
    """Refuse a file whose name another module of this process has. Raises InputInvalid (E_IMPORT)."""
    there = getattr(module, "__file__", None)
    if there is not None and os.path.realpath(there) == str(path):
        return module
    message = f"cannot import {shown(str(path))}: another module {module.__name__} is loaded"
    raise InputInvalid("E_IMPORT", message, found=there or "a built-in module", cure="give the file another name")


# ---- programs


def _is_program(path: Path) -> bool:
    if path.suffix in _PROGRAM_SUFFIXES:
        return path.exists()
    return (path / f"{_MAIN}.py").is_file() and not (path / "__init__.py").exists()


def _enter_program(path: Path) -> ModuleType:
    _search_first(path)
    found = sys.modules.get(f"{path.stem}.{_MAIN}")
    return found if found is not None else ModuleType(path.stem)


def _spec_of_file(name: str) -> ModuleSpec | None:
    """The spec of a module whose name Python's import takes for a package and what is inside."""
    if "." not in name:
        return None
    folders = [Path(entry or os.curdir) for entry in sys.path]
    if name.endswith(f".{_MAIN}"):
        program = name.removesuffix(f".{_MAIN}")
        archives = [folder / f"{program}{suffix}" for folder in folders for suffix in _PROGRAM_SUFFIXES]
        found = [path for path in (*folders, *archives) if path.absolute().stem == program and _is_program(path)]
        return _spec_of_program(name, found[0].resolve()) if found else None
    files = [folder / f"{name}.py" for folder in folders]
    return next((_spec(name, file.resolve()) for file in files if file.is_file()), None)


def _spec_of_program(name: str, path: Path) -> ModuleSpec | None:
    _search_first(path)
    if path.is_dir():
        return _spec(name, path / f"{_MAIN}.py")
    return importlib.util.spec_from_loader(name, zipimport.zipimporter(str(path)))


def _spec(name: str, path: Path) -> ModuleSpec:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "Python has a loader for .py files"
    return spec


def _executed(spec: ModuleSpec) -> ModuleType:
    """A new module, which is in `sys.modules` while its code is executed, as with any import."""
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        assert spec.loader is not None
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise
    return module


def _search_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


# ---- what an import raised


def _raised(error: BaseException) -> str:
    """`NameError: name 'x' is not defined (media.py:7)`: the error, and the line of the user's code."""
    frame = None if isinstance(error, SyntaxError) else user_frame(error.__traceback__)
    at = f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})" if frame is not None else ""
    return f"{type(error).__name__}: {error}{at}"


def _cure_of(error: BaseException, asked: str) -> str:
    if isinstance(error, SystemExit):
        return 'put the call that starts the program below `if __name__ == "__main__":`'
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "give its name in its package, --import package.module, from the folder that holds the package"
    if isinstance(error, FileNotFoundError):
        return _IMPORT_CURE
    if isinstance(error, ModuleNotFoundError):
        own = error.name and f"{asked.removesuffix('.py')}.".startswith(f"{error.name}.")
        return _IMPORT_CURE if own else f"install {error.name}, or start where it can be imported"
    return "mend the module, which is run when imported"
