"""The site builds, its generated pages are complete, and reading it needs no network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import towpath
from towpath.chain_schema import schema

from .following import Reader, chain_faults
from .pages import DOCS, ROOT, blocks

SITE = DOCS / "site"


def reference() -> ModuleType:
    """The module that makes pages of the code; MkDocs loads it from its file, too."""
    spec = importlib.util.spec_from_file_location("towpath_docs_reference", SITE / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = reference()


def test_the_site_builds(tmp_path: Path) -> None:
    """No link leads nowhere, no page is missing in the navigation, and no page loads anything from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--config-file", "mkdocs.yml"]
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path)], cwd=SITE, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loaded = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["']?(?:https?:)?//""")
    assert [page.name for page in tmp_path.rglob("*.html") if loaded.search(page.read_text(encoding="utf-8"))] == []
    assert 'id="E_CHAIN_CYCLE"' in (tmp_path / "errors.html").read_text(encoding="utf-8")
    index = (tmp_path / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "towpath.toml" in index
    # Pages that are opened as files search too: the index is a script, and the frame for it is there before the theme.
    assert (tmp_path / "search" / "search_index.js").read_text(encoding="utf-8") == f"var __index = {index}"
    scripts = re.findall(r'<script src="([^"]+)"', (tmp_path / "cookbook" / "cron.html").read_text(encoding="utf-8"))
    assert [Path(script).name.partition(".")[0] for script in scripts] == ["towpath", "bundle"]
    python = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert "doc-symbol-module" not in python, "a module stands in the place of a function of the same name"


def test_the_chain_with_every_key_is_valid_and_has_every_key() -> None:
    """The YAML reference takes its examples from it."""
    assert chain_faults(SITE / "every_key.yaml") == []
    chain = yaml.safe_load((SITE / "every_key.yaml").read_text(encoding="utf-8"))
    steps = chain["steps"]
    used = {
        None: set(chain),
        "input": {key for value in chain["inputs"].values() for key in value},
        "step": {key for step in steps for key in step},
        "approval": {key for step in steps for key in step.get("approval", ())},
        "retry": {key for step in steps for key in step.get("retry", ())},
    }
    for name, keys in used.items():
        assert keys == set(REFERENCE.definition(name)["properties"]), name
    assert set(schema()["definitions"]) == {name for name in used if name} | {"wait", "duration"}


@pytest.mark.parametrize("page", REFERENCE.PAGES)
def test_generated_pages_have_valid_examples(page: str, tmp_path: Path) -> None:
    """As for written pages: what is shown as a part of a chain or as settings is accepted."""
    text = REFERENCE.PAGES[page]()
    reader = Reader(page, tmp_path)
    for block in blocks(text):
        if block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)
            reader._block(block, "")
    assert "None" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_the_python_reference_has_every_public_name() -> None:
    """Each name of `towpath.__all__` once."""
    listed = re.findall(r"^::: towpath\.(?:[\w.]+\.)?(\w+)$", REFERENCE.python_page(), re.MULTILINE)
    assert sorted(listed) == sorted(
        name for name in towpath.__all__ if not isinstance(getattr(towpath, name), ModuleType)
    )


def test_settings_have_a_meaning() -> None:
    """Each key of `towpath.toml` is explained."""
    page = REFERENCE.settings_page()
    sections = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    assert len(sections) == len(REFERENCE.settings._KEYS)
    for section in sections:
        assert len(section.splitlines()[2]) > 20, section
    for row in re.findall(r"^\| `\w+` \|.*$", page, re.MULTILINE):
        assert len(row.split("|")[3].strip()) > 5, row


def test_the_makefile_builds_the_site() -> None:
    """`make docs` is the way that the test above goes."""
    assert "mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml" in (ROOT / "Makefile").read_text()
