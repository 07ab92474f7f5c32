"""What `import towpath` gives, and what it costs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import get_type_hints

import pytest

import towpath

HEAVY = (
    "sqlalchemy databases aiosqlite sqlite3 networkx temporalio aiofiles jsonschema_rs rich click yaml httpx "
    "starlette PIL numpy towpath.store towpath.adapters towpath.service"
).split()


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_all_is_sorted_and_there() -> None:
    assert towpath.__all__ == sorted(towpath.__all__)
    assert len(set(towpath.__all__)) == len(towpath.__all__)
    for name in towpath.__all__:
        assert getattr(towpath, name) is not None
    assert dir(towpath) == towpath.__all__


def test_nothing_public_is_missing_from_all() -> None:
    """Every name without an underscore that is no module of ours is in `__all__`."""
    public = {n for n, v in vars(towpath).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert public - {"annotations", "TYPE_CHECKING"} <= set(towpath.__all__)


def test_the_version_is_that_of_the_package() -> None:
    """It is read when somebody asks for it."""
    assert towpath.__version__ == version("towpath")
    assert python("import sys, towpath; print('importlib.metadata' in sys.modules)") == "False"


@pytest.mark.parametrize("kind", [towpath.Engine, towpath.RunHandle, towpath.Step, towpath.Chain], ids=str)
def test_the_hints_of_public_methods_can_be_read(kind: type) -> None:
    """`typing.get_type_hints` needs the names that annotations use."""
    methods = [value for name, value in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
    assert methods
    for method in methods:
        assert isinstance(get_type_hints(method), dict)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = towpath.nope  # type: ignore[attr-defined]


def test_D4_importing_towpath_loads_nothing_heavy() -> None:
    """S8.2: neither database nor graph library nor Temporal nor a door; those come with `open_engine`."""
    code = f"import sys, towpath; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    assert python(code) == ""


def test_opening_an_engine_needs_no_temporal() -> None:
    code = "import sys, towpath; towpath.open_engine; print(*[m for m in sys.modules if m.startswith('temporalio')])"
    assert python(code) == ""


def test_importing_towpath_is_quick() -> None:
    """Under 0.3 s on a quiet machine, which is what four times some modules of the standard library cost anywhere."""
    measure = "import time; t = time.process_time(); import {}; print(time.process_time() - t)"
    known = "asyncio, sqlite3, json, http.client, xml.dom.minidom, unittest.mock"
    ours, theirs = (min(float(python(measure.format(names))) for _ in range(3)) for names in ("towpath", known))
    assert ours < 4 * theirs


def test_the_base_install_is_small() -> None:
    """At most 24 packages, with all that they require in turn (without extras)."""
    found: set[str] = set()
    todo = ["towpath"]
    while todo:
        name = todo.pop()
        try:
            wanted = requires(name) or []
        except PackageNotFoundError:
            continue  # for another system or Python
        for text in wanted:
            requirement, _, marker = text.partition(";")
            other = re.split(r"[\s<>=!~\[;(]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")
            if "extra" not in marker and "win" not in marker and other not in found:
                found.add(other)
                todo.append(other)
    assert 14 <= len(found) <= 24, sorted(found)
