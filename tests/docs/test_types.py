"""The Python of the documentation is typed as strictly as a reader's own checker may be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .pages import page_names, programs

# Without type information of their own: what comes from them is unknown, and no mistake of a page.
UNTYPED = ("sklearn", "joblib", "matplotlib", "pandas", "nbclient", "starlette.testclient")
UNKNOWN = ("MemberType", "VariableType", "ArgumentType", "ParameterType", "LambdaType")


def written(folder: Path) -> None:
    """Write the programs of each page into a folder of its own, as `pyright` reads them."""
    for page in page_names():
        for name, text in programs(page):
            path = folder / page.replace("/", "-").removesuffix(".md") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rules = "".join(f"# pyright: reportUnknown{kind}=false\n" for kind in UNKNOWN) if _untyped(text) else ""
            path.write_text(rules + _in_a_function(text), encoding="utf-8")


def _untyped(text: str) -> bool:
    return any(f"import {name}" in text or f"from {name}" in text for name in UNTYPED)


def _in_a_function(text: str) -> str:
    """A notebook's cells await outside of functions, which is a mistake in a file."""
    try:
        compile(text, "program", "exec")
    except SyntaxError:
        body = "".join(f"    {line}\n" if line else "\n" for line in text.splitlines())
        return f"async def cells() -> None:\n{body}"
    return text


def _fault(found: dict[str, Any], folder: Path) -> str:
    place = f"{Path(found['file']).relative_to(folder)}:{found['range']['start']['line'] + 1}"
    return f"{place} {found['message']} ({found.get('rule', '')})"


def test_the_programs_pass_pyright_strict(tmp_path: Path) -> None:
    """One call for all. A page's programs find each other, as files of one folder do."""
    written(tmp_path)
    folders = sorted(str(p) for p in tmp_path.iterdir() if p.is_dir())
    settings = {
        "include": folders,
        "executionEnvironments": [{"root": folder} for folder in folders],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "reportMissingTypeStubs": False,
        "reportUnusedFunction": False,  # steps inside of a notebook's function
        "reportUnusedExpression": False,  # the last line of a cell is shown
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("pyright")),
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "-p",
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    faults = [_fault(found, tmp_path) for found in report["generalDiagnostics"] if found["severity"] == "error"]
    assert faults == [], "\n".join(faults)
    assert report["summary"]["filesAnalyzed"] > 10
