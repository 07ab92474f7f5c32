"""What type checkers say of a user's script: nothing about the right lines, and something about every wrong one
(newcomer F18).
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import towpath

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = ["accepted.py", "refused.py"]


def marked(checker: str) -> set[tuple[str, int]]:
    """The lines that a checker has to refuse."""
    lines = {(name, n, line) for name in FILES for n, line in enumerate((HERE / name).read_text().splitlines(), 1)}
    return {(name, n) for name, n, line in lines if checker in line.partition("# refused:")[2].split()}


def test_mypy_strict_refuses_the_marked_lines_and_no_other(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={tmp_path}",
        "-p",
        "tests.typing",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.findall(r"(?m)^tests/typing/(\w+\.py):(\d+): error:", done.stdout)
    assert {(name, int(line)) for name, line in found} == marked("mypy"), done.stdout + done.stderr


def test_pyright_refuses_the_marked_lines_and_no_other() -> None:
    command = [sys.executable, "-m", "pyright", "--outputjson", *(str(HERE / name) for name in FILES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [d for d in json.loads(done.stdout)["generalDiagnostics"] if d["severity"] == "error"]
    found = {(Path(error["file"]).name, error["range"]["start"]["line"] + 1) for error in errors}
    assert found == marked("pyright"), done.stdout


# ---- how much of the public interface is `Any`

ANY = {
    "Run.value": "a chain returns whatever its author wants",
    "chain": "its overloads have types; this is their common implementation",
    "step": "its overloads have types; this is their common implementation",
}
"""Public functions that return `Any`, each with the reason. At most 10."""


def public_functions() -> Iterator[tuple[str, Any]]:
    """Every function of `towpath`, and every public method of its classes."""
    for name in towpath.__all__:
        value = getattr(towpath, name)
        if inspect.isfunction(value):
            yield name, value
        if not inspect.isclass(value):
            continue
        for attribute in dir(value):
            found = inspect.getattr_static(value, attribute)
            function = getattr(found, "__wrapped__", None) or getattr(found, "fget", None) or found
            function = getattr(function, "__func__", function)
            ours = str(getattr(function, "__module__", "")).startswith("towpath")
            if inspect.isfunction(function) and ours and not attribute.startswith("_"):
                yield f"{name}.{attribute}", function


def test_few_public_functions_return_any() -> None:
    functions = dict(public_functions())
    assert len(functions) > 90
    hints = {name: inspect.get_annotations(function).get("return") for name, function in functions.items()}
    untyped = {name for name, hint in hints.items() if hint in ("Any", "list[Any]", None)}
    assert untyped == set(ANY)
    assert len(ANY) <= 10


def test_the_public_methods_of_an_engine_say_what_they_take() -> None:
    """`Any` is left for the inputs of a chain, where its function cannot be known, and for columns of a row."""
    loose = {
        f"{name}({parameter})"
        for name, function in public_functions()
        if name.startswith("Engine.")
        for parameter, hint in inspect.get_annotations(function).items()
        if hint == "Any" and parameter != "return"
    }
    assert loose == {"Engine.run(named)", "Engine.start(named)", "Engine.create_chain(columns)"}


@pytest.mark.parametrize("kind", ["Engine", "RunHandle"])
def test_no_public_object_answers_to_any_name(kind: str) -> None:
    assert "__getattr__" not in vars(getattr(towpath, kind))
    assert not any("__getattr__" in vars(base) for base in getattr(towpath, kind).__mro__)
