"""Workflow files: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.comfyui.workflows import Graph, image_save, junk, outcome, save
from towpath.adapters.comfyui.json_files import MAX_BYTES, MAX_DEPTH, unfit
from towpath.adapters.comfyui.workflow_files import Workflow, discover, read_workflow, write_overrides
from towpath.errors import InputInvalid


def refused(path: Path) -> InputInvalid:
    with pytest.raises(InputInvalid) as caught:
        read_workflow(path, "x")
    return caught.value


# ---- what is read


def test_S4_7_without_an_override_file_every_value_may_be_set_and_no_link(tmp_path: Path) -> None:
    workflow = read_workflow(save(tmp_path, image_save()), "imageSave")
    assert len(workflow.parameters) == 9
    assert "2.images" not in workflow.parameters
    video = workflow.parameters["1.video"]
    assert (video.type, video.default, video.node_class) == ("str", "input.mp4", "VHS_LoadVideo")
    assert (video.node_title, video.category) == ("Load Video (Upload) 🎥", "media")
    assert workflow.graph == image_save()
    assert not workflow.stale


@pytest.mark.parametrize(
    ("input_key", "value", "expected"),
    [
        ("seed", 18446744073709551615, "int"),
        ("steps", 20, "int"),
        ("cfg", 8, "float"),  # 8.0 as JavaScript writes it
        ("denoise", 1, "float"),
        ("cfg", 7.5, "float"),
        ("add_noise", True, "bool"),
        ("text", "007", "str"),
        ("extra", None, "any"),
        ("points", {"__value__": [1, 2]}, "any"),
    ],
)
def test_S4_7_types_follow_the_value(tmp_path: Path, input_key: str, value: Any, expected: str) -> None:
    graph = {"5": {"class_type": "KSampler", "inputs": {input_key: value}}}
    parameter = read_workflow(save(tmp_path, graph), "x").parameters[f"5.{input_key}"]
    assert (parameter.type, parameter.default) == (expected, value)


@pytest.mark.parametrize(
    ("input_key", "category"),
    [
        ("text", "prompts"),
        ("negative_prompt", "prompts"),
        ("width", "dimensions"),
        ("batch_size", "dimensions"),
        ("noise_seed", "generation"),
        ("cfg", "sampling"),
        ("fps", "video"),
        ("skip_first_frames", "video"),
        ("image", "media"),
        ("lora_name", "models"),
        ("ckpt_name", "models"),
        ("crop", "other"),
    ],
)
def test_S4_7_categories(tmp_path: Path, input_key: str, category: str) -> None:
    graph = {"5": {"class_type": "Any", "inputs": {input_key: "x"}}}
    assert read_workflow(save(tmp_path, graph), "x").parameters[f"5.{input_key}"].category == category


def test_a_graph_inside_of_a_request_is_taken_out(tmp_path: Path) -> None:
    body = {"prompt": image_save(), "client_id": "c", "workflow": {"nodes": [], "links": []}}
    assert read_workflow(save(tmp_path, body), "x").graph == image_save()


def test_a_byte_order_mark_and_colons_in_ids_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"57:8": {"class_type": "A", "inputs": {"a.b": 1}}}).encode())
    assert list(read_workflow(path, "x").parameters) == ["57:8.a.b"]


@pytest.mark.parametrize("data", [None, [], {}, {"name": 1, "graph": {}, "parameters": {}}])
def test_what_is_no_stored_workflow_is_refused(data: object) -> None:
    with pytest.raises(InputInvalid, match="E_WORKFLOW_FORMAT"):
        Workflow.from_json(data)


# ---- what is refused


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    error = refused(tmp_path / "no.json")
    assert error.code == "E_WORKFLOW_FILE"
    assert error.problem.place.file == str(tmp_path / "no.json")


def test_a_folder_a_fifo_and_a_name_with_a_nul_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path, tmp_path / "pipe.json", tmp_path / "a\0b.json"):
        assert refused(path).code == "E_WORKFLOW_FILE"


def test_a_file_over_32_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert refused(path).code == "E_WORKFLOW_FILE"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"1": {\n  "class_type": "A",\n  "inputs" {}}\n}', 3, 12),
        ("", 1, 1),
        ('{"1": {"class_type": "NaN", "inputs":\n {"x": NaN}}}', 2, 8),
        ('{"1": {"class_type": "A \\" Infinity", "inputs": {"x": -Infinity}}}', 1, 55),
        ('{"1": 1e999}', 0, 0),
        ('{"1": ' + "9" * 25 + "}", 0, 0),
        pytest.param('{"1": ' + "9" * 5000 + "}", 0, 0, id="5000 digits"),
        pytest.param('{"1": "\\ud800"}', 0, 0, id="surrogate"),
        pytest.param("[" * 100_000, 0, 0, id="100,000 brackets"),
        pytest.param("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), 0, 0, id="too deep"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(tmp_path: Path, text: str, line: int, column: int) -> None:
    error = refused(save(tmp_path, text))
    assert error.code == "E_WORKFLOW_JSON"
    assert (error.problem.place.line, error.problem.place.column) == (line, column)


def test_what_is_no_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes('{\n"ä": "'.encode() + b'\xff"}')
    error = refused(path)
    assert (error.code, error.problem.place.line, error.problem.place.column) == ("E_WORKFLOW_JSON", 2, 7)


@pytest.mark.parametrize(
    "content",
    [
        {"nodes": [], "links": [], "version": 0.4},
        {"workflow": {"nodes": [], "links": []}},
        {"prompt": {"nodes": [], "links": []}},
    ],
)
def test_the_format_of_the_editor_is_refused_with_the_way_to_the_other(tmp_path: Path, content: Graph) -> None:
    error = refused(save(tmp_path, content))
    assert error.code == "E_WORKFLOW_FORMAT"
    assert "Export (API)" in error.problem.cure


@pytest.mark.parametrize(
    ("content", "field", "says"),
    [
        ({}, "", "no nodes"),
        ({"prompt": {}}, "", "no nodes"),
        ([], "", "object of nodes"),
        ("text", "", "object of nodes"),
        ({"1": []}, "1", "not an object"),
        ({"1": {"inputs": {}}}, "1", "no class_type"),
        ({"1": {"class_type": 5, "inputs": {}}}, "1", "no class_type"),
        ({"1": {"class_type": "A"}}, "1", "inputs"),
        ({"1": {"class_type": "A", "inputs": []}}, "1", "inputs"),
        ({"1": {"class_type": "A", "inputs": {"x": ["9", 0]}}}, "1.x", "does not exist"),
        ({"1": {"class_type": "A", "inputs": {"x": [1, 0]}}}, "1.x", "number"),
    ],
)
def test_what_is_no_graph_is_refused_with_the_node(tmp_path: Path, content: object, field: str, says: str) -> None:
    error = refused(save(tmp_path, json.dumps(content)))
    assert error.code == "E_WORKFLOW_FORMAT"
    assert error.problem.place.field == field
    assert says in error.problem.message


@given(content=junk)
def test_any_content_is_read_or_refused(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("junk")
    assert outcome(save(folder, json.dumps(content))) in ("read", "E_WORKFLOW_JSON", "E_WORKFLOW_FORMAT")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), "not finite"),
        (2**64, "64 bits"),
        ({1: 2}, "not text"),
        (b"", "not JSON"),
        ([{"a": (1,)}], "not JSON"),
        pytest.param({"a": "\ud800"}, "surrogate", id="surrogate"),
    ],
)
def test_what_is_no_plain_json_is_named(value: object, why: str) -> None:
    assert why in unfit(value)


def test_discover_lists_workflows_by_name_and_says_what_is_wrong(tmp_path: Path) -> None:
    save(tmp_path, image_save(), "b.json")
    save(tmp_path, image_save(), "a-b.json")
    save(tmp_path, {"nodes": [], "links": []}, "c.json")
    save(tmp_path, "a: 1", "chain.yaml")
    (tmp_path / "folder.json").mkdir()
    write_overrides(tmp_path / "b.json")
    save(tmp_path, "old", "b_overrides.json.bak1")
    first, second, third = discover(tmp_path)
    assert isinstance(first, Workflow)
    assert isinstance(second, Workflow)
    assert (first.name, second.name) == ("a-b", "b")
    assert isinstance(third, InputInvalid)
    assert third.problem.place.file == str(tmp_path / "c.json")
    with pytest.raises(InputInvalid, match="E_WORKFLOW_FILE"):
        discover(tmp_path / "nowhere")
