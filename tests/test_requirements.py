"""The lists of packages: hashes that hold on any index, and bounds that were tested."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")
PLATFORMS = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("darwin", "x86_64")]
FILES = {  # groups and extras that a list is made of
    "demo": ({"build"}, {"server"}),
    "dev": ({"build", "dev"}, {"server", "comfyui", "temporal-dev", "otel"}),
}


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """Each package of a list, and the hashes of its files."""
    whole = text(name).replace("\\\n", " ")
    found = [line.split("--hash=") for line in whole.splitlines() if line and not line.lstrip().startswith("#")]
    return [(Requirement(first.strip()), [rest.strip() for rest in more]) for first, *more in found]


def installed(name: str, python: str, platform: str = "linux", machine: str = "x86_64") -> dict[str, str]:
    """What a list installs there: version by name."""
    where = {
        "python_version": python.rpartition(".")[0], "python_full_version": python,
        "sys_platform": platform, "platform_machine": machine,
        "implementation_name": "cpython", "platform_python_implementation": "CPython",
    }  # fmt: skip
    found = [r for r, _ in entries(name) if r.marker is None or r.marker.evaluate(where)]
    versions: dict[str, str] = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in found}
    assert len(versions) == len(found), "one version each"
    return versions


def required(name: str) -> list[Requirement]:
    """The requirements in pyproject.toml for a list."""
    groups, extras = FILES[name]
    lines = [*project()["project"]["dependencies"]]
    lines += [line for extra in extras for line in project()["project"]["optional-dependencies"][extra]]
    lines += [line for group in groups for line in project()["dependency-groups"][group]]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("name", FILES)
def test_a_list_names_no_host_and_no_file(name: str) -> None:
    """The list works with any mirror: files are identified by their hashes."""
    assert "://" not in text(name)
    assert not re.search(r"^\s*-(?!-hash=sha256:)", text(name), re.MULTILINE), "no option but hashes"
    assert not re.search(r"\bfile:|@ |localhost|\.(com|org|net|io)\b", text(name))


@pytest.mark.parametrize("name", FILES)
def test_every_entry_is_one_version_with_the_hashes_of_its_files(name: str) -> None:
    for requirement, hashes in entries(name):
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", FILES)
def test_a_list_is_what_the_project_asks_for(name: str, python: str) -> None:
    """`make lock` was run after the last change of a bound, and the list holds on each Python."""
    for platform, machine in PLATFORMS:
        versions = installed(name, python, platform, machine)
        for requirement in required(name):
            assert versions.get(canonicalize_name(requirement.name), "") in requirement.specifier, requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_the_list_of_the_demo_is_a_part_of_the_other(python: str) -> None:
    """One can be installed over the other, and the demo runs the tested versions."""
    assert installed("demo", python).items() <= installed("dev", python).items()


def test_what_users_install_is_bounded_on_both_sides() -> None:
    """The next major release may change an interface that is used here."""
    lines = [*project()["project"]["dependencies"]]
    for extra in project()["project"]["optional-dependencies"].values():
        lines += [line for line in extra if not line.startswith("towpath")]
    for requirement in map(Requirement, lines):
        assert {s.operator for s in requirement.specifier} == {">=", "<"}, requirement
