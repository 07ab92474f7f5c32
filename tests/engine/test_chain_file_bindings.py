"""Chain files: templates, conditions, arguments, functions and paths."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_chain_file import SHEET, WORK, clean_path, dict_codes, dict_problems, planned, step
from tests.machine import needs, without_the_power_of_root
from towpath.chain_file import load_chain, load_chain_from_dict
from towpath.errors import ChainInvalid
from towpath.yaml_source import MAX_BYTES

__all__ = ["clean_path"]


def three(**last: Any) -> dict[str, Any]:
    """a <- b <- c, and d beside them."""
    return {
        "inputs": {"width": {}},
        "steps": [
            {"id": "c", "python": WORK, "depends_on": ["b"], **last},
            {"id": "b", "python": WORK, "depends_on": ["a"]},
            {"id": "a", "python": WORK},
            {"id": "d-d", "python": WORK},
        ],
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{{ a.output }} {{ b.status }} {{ inputs.width }}", None),
        ("plain { text }", None),
        ("${jndi:x} #{7*7}", None),
        ('{{ steps["d-d"].output }}', "E_TEMPLATE_NOT_UPSTREAM"),
        ("{{ c.output }}", "E_TEMPLATE_NOT_UPSTREAM"),
        ("{{ steps.zz.output }}", "E_TEMPLATE_UNKNOWN"),
        ("{{ inputs.height }}", "E_TEMPLATE_UNKNOWN"),
        ("{{ item }}", "E_TEMPLATE_NAME"),
        ("{% include 'x' %}", "E_TEMPLATE_STATEMENT"),
        ("{{ 7*7 }}", "E_TEMPLATE_EXPR"),
    ],
)
def test_names_in_templates(text: str, code: str | None) -> None:
    data = three(parameters={"x": {"deep": ["before", text]}})
    if code is None:
        binding = load_chain_from_dict(data).plan.step("c").parameters["x"]["deep"][1]
        assert binding == ({"$template": text} if "{{" in text else text)
    else:
        [problem] = dict_problems(data)
        assert (problem.code, problem.place.field) == (code, "parameters.x.deep[1]")


def test_a_text_that_is_wrong_in_two_ways_does_not_blame_ancestors() -> None:
    found = dict_codes(three(parameters={"x": "{{ a.output }} {{ 7*7 }}"}))
    assert set(found) == {"E_TEMPLATE_EXPR"}


def test_the_cure_names_the_edge_to_add() -> None:
    [problem] = dict_problems(three(parameters={"x": '{{ steps["d-d"].output }}'}))
    assert problem.cure == "depends_on: [d-d]"


def test_templates_see_item_and_index_in_a_mapped_step_only() -> None:
    data = three(foreach="{{ a.output.names }}", parameters={"x": "{{ item.size }}-{{ index }}"})
    assert load_chain_from_dict(data).plan.step("c").mapped
    assert "E_TEMPLATE_NAME" in dict_codes(three(foreach="{{ item }}"))


def test_conditions() -> None:
    found = load_chain_from_dict(three(condition="a.output.ok and b.status == 'failed' or a.error"))
    assert found.plan.step("c").watches == ("b", "a")
    assert load_chain_from_dict(three(condition="{{ a.output.ok }}")).plan.step("c").watches == ()
    assert "E_COND_NAME" in dict_codes(three(condition="c.output"))
    assert dict_codes(three(condition="7")) == ["E_COND_TYPE"]
    assert dict_codes(three(condition="")) == ["E_COND_EMPTY"]


@pytest.mark.parametrize(
    ("value", "binding"),
    [
        ("{{ b.output }}", {"$ref": {"step": "b", "keys": []}}),
        ("{{ steps.b.output }}", {"$ref": {"step": "b", "keys": []}}),
        ("{{ b.output.files }}", {"$template": "{{ b.output.files }}"}),
        ("{{ b.output.names }}", {"$template": "{{ b.output.names }}"}),
        ("{{ b.output | default([]) }}", {"$template": "{{ b.output | default([]) }}"}),
        ("{{ inputs.width }}", {"$template": "{{ inputs.width }}"}),
        ([1, "{{ a.output }}"], [1, {"$template": "{{ a.output }}"}]),
    ],
)
def test_foreach(value: Any, binding: Any) -> None:
    assert load_chain_from_dict(three(foreach=value)).plan.step("c").foreach == binding


def test_maps_over_maps_are_paired() -> None:
    data = three(foreach="{{ b.output }}")
    data["steps"][1]["foreach"] = [1, 2]
    assert load_chain_from_dict(data).plan.step("c").pairs_with == "b"


def test_data_that_looks_like_a_binding_is_kept_as_data() -> None:
    assert planned(parameters={"x": {"$ref": "me"}}).parameters == {"x": {"$literal": {"$ref": "me"}}}
    assert planned(parameters={"$item": 1}).parameters == {"$item": 1}
    assert dict_codes(step(parameters={"x": {"$ref": ["{{ 1 }}"]}})) == ["E_FIELD_TYPE"]


# -- Python steps


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({"photo": 1, "title": "t"}, []),
        ({"photo": 1, "title": "t", "size": 4}, []),
        ({"photo": 1, "titel": "t"}, ["parameters", "parameters.titel"]),
        ({}, ["", ""]),
    ],
)
def test_arguments(parameters: dict[str, Any], fields: list[str]) -> None:
    data = step(python=SHEET, parameters=parameters)
    if not fields:
        assert load_chain_from_dict(data).steps[SHEET].name == SHEET
        return
    found = dict_problems(data)
    assert {p.code for p in found} == {"E_STEP_ARGUMENTS"}
    assert sorted(p.place.field for p in found) == fields
    assert all("title: str" in p.allowed for p in found)
    if "titel" in parameters:
        assert "did you mean title?" in [p.cure for p in found]


def test_the_item_is_passed_by_name() -> None:
    found = dict_problems(step(python=SHEET, foreach=[1], parameters={"title": "t"}))
    assert [p.cure for p in found] == ['parameters: {photo: "{{ item }}"}']


@pytest.mark.parametrize("name", ["os:system", "no.such:thing", "os:nothing", "tests.engine.chain_steps:undecorated"])
def test_functions_that_are_no_steps(name: str) -> None:
    [problem] = dict_problems(step(python=name))
    assert problem.code == "E_STEP_KIND"
    assert "@step" in problem.cure


@pytest.mark.parametrize("code", ["raise RuntimeError('boom')", "import sys; sys.exit(3)", "def ("])
def test_a_module_that_cannot_be_imported(code: str, tmp_path: Path) -> None:
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    [problem] = dict_problems(step(python=f"{name}:f"), tmp_path)
    assert problem.code == "E_STEP_KIND"
    assert re.search("RuntimeError: boom|SystemExit: 3|SyntaxError", problem.message)


def test_nothing_is_imported_if_it_must_not_be(tmp_path: Path) -> None:
    (tmp_path / "never_imported.py").write_text("raise AssertionError")
    before = list(sys.path)
    file = load_chain_from_dict(step(python="never_imported:f"), folder=tmp_path, imports=False)
    assert (file.plan.steps[0].target, file.steps) == ("never_imported:f", {})
    assert sys.path == before
    assert "never_imported" not in sys.modules


# -- files


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "a\\b", "a\0b", "", " ", ".", "x" * 300, "a/" * 900, "loop", "out/x", "socket",
     "fifo.json", "\u202egnp", "folder", "\ud800"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["workflow", "chain"])
def test_unsafe_paths(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "out").symlink_to("/")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo.json")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(tmp_path, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    expected = "E_YAML_CHAR" if name == "\ud800" else "E_REF_PATH"
    assert dict_codes(step(**{kind: name}), tmp_path) == [expected]


@pytest.mark.parametrize("name", ["missing", "flow", "flow.json", "./flow", "sub/flow", "inside", "both", "wild[*]?"])
def test_safe_workflows(name: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "workflows").mkdir()
    (tmp_path / "both").mkdir()
    for file in ("flow.json", "sub/flow.json", "workflows/both.json"):
        (tmp_path / file).write_text("{}")
    (tmp_path / "inside.json").symlink_to("flow.json")
    plan = load_chain_from_dict(step(workflow=name), folder=tmp_path).plan
    assert (plan.steps[0].kind, plan.steps[0].target) == ("workflow", name)


def test_a_chain_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "flow.json").write_text("{}")
    (tmp_path / "link").symlink_to("real")
    assert load_chain_from_dict(step(workflow="flow"), folder=tmp_path / "link").plan.steps


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "/dev/zero", "nul\0"])
def test_files_that_cannot_be_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind if kind[0] != "/" else Path(kind)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    result: list[ChainInvalid] = []

    def load() -> None:
        with pytest.raises(ChainInvalid) as caught:
            load_chain(path)
        result.append(caught.value)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for a writer"
    assert (result[0].code, result[0].problems[0].place.file) == ("E_CHAIN_FILE", str(path))


def test_a_file_that_this_user_may_not_read(tmp_path: Path) -> None:
    needs("permissions")
    path = tmp_path / "secret.yaml"
    path.write_text("name: x")
    path.chmod(0)
    program = f"""
from pathlib import Path
from towpath.chain_file import load_chain
from towpath.errors import ChainInvalid
try:
    load_chain(Path({str(path)!r}))
except ChainInvalid as error:
    print(error.code, error.problems[0].place.file)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=without_the_power_of_root)
    assert done.stdout.split() == ["E_CHAIN_FILE", str(path)]


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(10 * 2**30)
    start = time.process_time()
    with pytest.raises(ChainInvalid) as caught:
        load_chain(path)
    assert caught.value.code == "E_YAML_SIZE"
    assert f"{10 * 2**30:,}" in caught.value.problems[0].found
    assert time.process_time() - start < 1
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ChainInvalid, match="E_YAML_SIZE"):
        load_chain(path)
