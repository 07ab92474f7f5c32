"""The documentation is true: its code runs, its verbs and codes exist, and none is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = re.compile(r"\bE_[A-Z][A-Z0-9_]+\b")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language in the README."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_readme_script_runs(tmp_path: Path) -> None:
    """The first thing a newcomer copies prints what it should."""
    script, _ = blocks("python")
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("completed b'TEXT 0!\\nTEXT 1!\\nTEXT 2!\\n'")


def test_the_readme_chain_is_valid(tmp_path: Path) -> None:
    """The YAML in the README loads."""
    from towpath.chain_file import load_chain

    chain = blocks("yaml")[0]
    (tmp_path / "report.yaml").write_text(chain)
    assert [len(level) for level in load_chain(tmp_path / "report.yaml", imports=False).plan.levels] == [1, 1, 1]


def towpath(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command, which unlike `python -m` does not have the current folder in `sys.path`."""
    command = [str(Path(sys.executable).parent / "towpath"), *arguments]
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("TOWPATH_", "PYTHONPATH")) and k != "DATABASE_URL"
    }
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


def test_the_readme_chain_runs_with_the_steps_shown_beside_it(tmp_path: Path) -> None:
    """newcomer F10: people look at the pages before the step that publishes them starts."""
    (tmp_path / "report.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "mysteps.py").write_text(blocks("python")[1])
    done = towpath(tmp_path, "run", "report.yaml", "--input", "title=Monthly", "--no-wait")
    assert done.returncode == 3, done.stderr
    assert "pages[0] waits for an approval" in done.stdout
    assert "publish" not in done.stdout


def test_the_readme_shows_what_validate_prints(tmp_path: Path) -> None:
    """Word by word, for the two mistakes that are named above it."""
    text = (ROOT / "README.md").read_text()
    wrong = blocks("yaml")[0].replace("    retry:", "    tiemout: 5s\n    retry:")
    (tmp_path / "report.yaml").write_text(wrong.replace("depends_on: [pages]", "depends_on: [numbers]"))
    (tmp_path / "mysteps.py").write_text(blocks("python")[1])
    done = towpath(tmp_path, "validate", "report.yaml")
    assert done.returncode == 2
    shown = re.search(r"\$ towpath validate report.yaml\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    assert done.stdout + done.stderr == shown[1]


@pytest.mark.parametrize("verb", ["run", "plan", "resume", "worker", "serve", "mysteps:c", "./mysteps.py:c"])
def test_modules_of_the_current_folder_are_found_by_name(tmp_path: Path, verb: str) -> None:
    """Modules are imported from the current folder. Each command then fails for another reason."""
    (tmp_path / "mysteps.py").write_text(
        "import sys\nfrom towpath import chain, step\nprint('imported', file=sys.stderr)\n"
        "@step\ndef f(): return 1\n@chain\ndef c(): return f()\n"
    )
    arguments = {
        "run": ["run", "nothing.yaml", "--import", "mysteps"],
        "plan": ["plan", "nothing.yaml", "--import", "mysteps"],
        "resume": ["resume", "nothing", "--import", "mysteps", "--store", "no.db"],
        "worker": ["worker", "--import", "mysteps", "--adapter", "nonsense", "--store", "no.db"],
        "serve": ["serve", "--import", "mysteps", "--store", "nonsense://x"],
    }.get(verb, ["plan", verb])
    done = towpath(tmp_path, *arguments)
    assert "imported" in done.stderr, done.stderr
    assert "E_IMPORT" not in done.stderr
    missing = towpath(tmp_path, "plan", "nothing.yaml", "--import", "mystep")
    assert (missing.returncode, "E_IMPORT" in missing.stderr, "cure: " in missing.stderr) == (2, True, True)


def test_every_verb_is_in_the_readme() -> None:
    """A verb that is not mentioned is not found."""
    from towpath.adapters.cli import _VERBS

    text = (ROOT / "README.md").read_text()
    assert [verb for verb in _VERBS if f"towpath {verb}" not in text and f"make {verb}" not in text] == []


def source_codes() -> set[str]:
    files = [p for folder in ("engine", "store", "adapters") for p in (ROOT / folder).rglob("*.py")]
    return {code for file in files for code in CODE.findall(file.read_text())}


def test_every_error_code_is_documented() -> None:
    """docs/errors.md lists exactly the codes that the source can raise."""
    documented = set(CODE.findall((ROOT / "docs/errors.md").read_text()))
    known = {code for code in source_codes() if not code.endswith("_")}
    assert known - documented == set(), "not documented"
    assert documented - known == set(), "documented, but gone"


PAGES = sorted(
    str(page.relative_to(ROOT)) for folder in (".", "docs/**", "examples") for page in ROOT.glob(f"{folder}/*.md")
)
MADE = ROOT / "docs/reference"  # pages that are made with the site; `docs/test_site.py` follows their links


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_between_documents_lead_somewhere(name: str) -> None:
    """Relative links point at files that exist."""
    page = ROOT / name
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        target = (page.parent / link).resolve()
        assert target.exists() or target.parent == MADE, link


def test_the_promises_in_the_readme_name_tests_that_exist() -> None:
    """Each line of the table of promises can be run."""
    text = (ROOT / "README.md").read_text()
    named = {
        name
        for row in re.findall(r"\| ([^|]*) \|$", text, re.MULTILINE)
        for name in re.findall(r"`([A-Z]\d+(?:_\d+)?)`", row)
    }
    tests = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))
    assert sorted(name for name in named if not re.search(rf"test_{name}(?!\d)", tests)) == []
