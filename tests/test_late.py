"""Names and modules that are imported when they are first used."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import towpath
from towpath import store
from towpath.late import Late, LateName, LateNames, meant

PACKAGE = """
from towpath.late import names_of
__all__ = ["broken", "gone", "late", "one", "wrong"]
__getattr__ = names_of(__name__, {
    "package.late": "late", "package.other": "one gone", "package.broken": "broken", "package.wrong": "wrong",
})
"""
FILES = {
    "__init__.py": PACKAGE,
    "late.py": "def late(): return 'the function'\n",
    "other.py": "one = 1\n",
    "broken.py": "import nothing_of_that_name\n",
    "wrong.py": "import sys\nsys.nothing\n",
}


def python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    for name, text in FILES.items():
        (tmp_path / "package" / name).write_text(text)
    return tmp_path


def test_a_name_is_imported_when_it_is_asked_for(folder: Path) -> None:
    code = "import sys, package; print('package.other' in sys.modules, package.one, 'package.other' in sys.modules)"
    assert python(code, folder) == "False 1 True"
    assert python("from package import one; print(one)", folder) == "1"


@pytest.mark.parametrize(
    "first",
    ["from package import late", "import package.late; from package import late", "from package.late import late"],
)
def test_a_name_hides_the_module_of_the_same_name(folder: Path, first: str) -> None:
    assert python(f"{first}; import package; print(late(), package.late())", folder) == "the function the function"


def test_a_broken_import_fails_with_its_own_error(folder: Path) -> None:
    for code in (
        "from package import broken",
        "import package; package.broken",
        "import package; hasattr(package, 'broken')",
    ):
        assert python(code, folder).endswith("ModuleNotFoundError: No module named 'nothing_of_that_name'"), code


def test_an_attribute_error_inside_a_module_is_not_a_missing_name(folder: Path) -> None:
    for code in (
        "from package import wrong",
        "import package; package.wrong",
        "import package; hasattr(package, 'wrong')",
    ):
        assert "ImportError: package.wrong cannot be imported: module 'sys' has no attribute" in python(code, folder), (
            code
        )


def test_an_unknown_name_is_an_attribute_error(folder: Path) -> None:
    code = "import package; print(hasattr(package, 'nothing')); from package import nothing"
    assert python(code, folder).startswith("False")
    assert "ImportError: cannot import name 'nothing'" in python(code, folder)


@pytest.mark.parametrize("package", [towpath, store])
def test_every_public_name_is_there(package: ModuleType) -> None:
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        assert not isinstance(getattr(package, name), ModuleType | LateName), name


def test_a_late_module() -> None:
    late = Late("towpath.media")
    assert late.HEAD == __import__("towpath.media").media.HEAD
    assert "HEAD" in vars(late)  # the next look is a plain one
    with pytest.raises(AttributeError, match="nothing"):
        _ = late.nothing
    with pytest.raises(ModuleNotFoundError):
        _ = Late("towpath.no_such_module").anything


def test_looking_at_a_late_object_imports_nothing() -> None:
    late = Late("towpath.no_such_module")
    assert not hasattr(late, "__wrapped__")
    assert repr(LateNames("towpath.no_such_module").one)


def test_a_late_name_stands_for_what_it_names() -> None:
    name = LateNames("towpath.store.chains").list_chains
    assert isinstance(name, LateName)
    assert meant(name) is store.list_chains
    assert meant(3) == 3
    assert name.__name__ == "list_chains"


def test_methods_of_the_engine_show_the_functions_that_they_call() -> None:
    method = inspect.getattr_static(towpath.Engine, "list_chains")
    assert method.__name__ == "list_chains"
    assert method.__doc__ == store.list_chains.__doc__
    assert inspect.unwrap(method) is inspect.unwrap(store.list_chains)
