"""Override files: what they allow, how people's edits live on when the workflow changes, how they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.comfyui.workflows import entry, generated_elsewhere, image_save, junk, outcome, save, with_overrides
from towpath.adapters.comfyui.workflow_files import (
    Workflow,
    overrides_of,
    read_workflow,
    workflow_hash,
    write_overrides,
)
from towpath.errors import InputInvalid

# ---- what they allow


@pytest.mark.parametrize("separators", [None, (",", ":")])
def test_S4_7_an_override_file_of_the_older_system_works_unchanged(tmp_path: Path, separators: Any) -> None:
    overrides = generated_elsewhere(image_save(), separators)
    overrides["parameters"] = [p for p in overrides["parameters"] if p["key"] != "1.video"]
    overrides["validated_servers"] = ["gpu-1"]
    entry(overrides, "1.format").update(type="NoneType", io_type="COMBO")
    workflow = with_overrides(tmp_path, image_save(), overrides)
    assert not workflow.stale
    assert "1.video" not in workflow.parameters
    assert len(workflow.parameters) == 8
    assert workflow.parameters["1.format"].type == "any"
    assert workflow.parameters["1.frame_load_cap"].type == "int"
    assert workflow.parameters["1.force_rate"].type == "float", "the older system took 0 for an int everywhere"
    assert write_overrides(tmp_path / "imageSave.json") is None


def test_S4_7_types_descriptions_and_defaults_are_the_users(tmp_path: Path) -> None:
    overrides = overrides_of(read_workflow(save(tmp_path, image_save()), "imageSave"))
    edit = {"type": "str", "description": "how many", "default_value": "3", "category": "mine"}
    entry(overrides, "1.frame_load_cap").update(edit)
    parameter = with_overrides(tmp_path, image_save(), overrides).parameters["1.frame_load_cap"]
    assert (parameter.type, parameter.description, parameter.default) == ("str", "how many", "3")
    assert parameter.category == "mine"


def test_S4_7_an_int_in_a_file_of_ours_is_meant(tmp_path: Path) -> None:
    overrides = overrides_of(read_workflow(save(tmp_path, image_save()), "imageSave"))
    assert entry(overrides, "1.force_rate")["type"] == "float"
    entry(overrides, "1.force_rate")["type"] = "int"
    assert with_overrides(tmp_path, image_save(), overrides).parameters["1.force_rate"].type == "int"


def test_S4_7_a_parameter_may_have_a_name_of_its_own(tmp_path: Path) -> None:
    overrides = generated_elsewhere(image_save())
    entry(overrides, "1.video")["key"] = "input_video"
    parameter = with_overrides(tmp_path, image_save(), overrides).parameters["input_video"]
    assert (parameter.node_id, parameter.input_key) == ("1", "video")


@pytest.mark.parametrize("ours", [True, False])
def test_S4_7_edits_survive_a_changed_workflow(tmp_path: Path, ours: bool) -> None:
    path = save(tmp_path, image_save())
    overrides = overrides_of(read_workflow(path, "imageSave")) if ours else generated_elsewhere(image_save())
    overrides["parameters"] = [p for p in overrides["parameters"] if p["key"] != "1.format"]
    entry(overrides, "1.video")["description"] = "the clip"
    entry(overrides, "1.frame_load_cap").update(type="str", default_value=7)
    graph = image_save()
    del graph["1"]["inputs"]["custom_width"]
    graph["1"]["inputs"]["custom_height"] = ["3", 0]
    graph["3"] = {"class_type": "ImageScale", "inputs": {"width": 640, "image": ["1", 0]}}
    workflow = with_overrides(tmp_path, graph, overrides)
    assert workflow.stale
    assert "1.format" not in workflow.parameters, "removed by the user: it stays frozen"
    assert workflow.parameters["1.video"].description == "the clip"
    assert workflow.parameters["1.frame_load_cap"].type == "str"
    assert workflow.parameters["1.frame_load_cap"].default == 7
    assert not {"1.custom_width", "1.custom_height"} & workflow.parameters.keys(), "gone"
    assert workflow.parameters["3.width"].type == "int"
    assert "3.image" not in workflow.parameters


def test_S4_7_a_node_frozen_as_a_whole_stays_frozen_and_unedited_defaults_follow(tmp_path: Path) -> None:
    """What only `workflow_values` can tell."""
    overrides = overrides_of(read_workflow(save(tmp_path, image_save()), "imageSave"))
    overrides["parameters"] = [p for p in overrides["parameters"] if p["node_id"] != "2"]
    graph = image_save()
    graph["1"]["inputs"].update(video="other.mp4", fresh="new", format=5)
    workflow = with_overrides(tmp_path, graph, overrides)
    assert "2.filename_prefix" not in workflow.parameters
    assert workflow.parameters["1.video"].default == "other.mp4"
    assert workflow.parameters["1.fresh"].default == "new"
    assert (workflow.parameters["1.format"].type, workflow.parameters["1.format"].default) == ("int", 5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"workflow_hash": None}, "workflow_hash"),
        ({"parameters": {}}, "list"),
        ({"parameters": ["1.video"]}, "list"),
        ({"parameters": [{"node_id": "1"}]}, "key"),
        ({"parameters": [{"key": "1.video"}, {"key": "1.video"}]}, "twice"),
        ({"parameters": [{"key": "video"}]}, "which input"),
        ({"parameters": [{"key": "1.video", "type": "flaot"}]}, "type"),
        ({"parameters": [{"key": "1.video", "description": 5}]}, "text"),
        ({"parameters": [{"key": "1.video", "choices": "a"}]}, "list"),
        ({"parameters": [{"key": "9.video"}]}, "no such node"),
        ({"parameters": [{"key": "2.images"}]}, "linked"),
        ({"workflow_values": []}, "workflow_values"),
    ],
)
def test_S4_7_a_wrong_override_file_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        with_overrides(tmp_path, image_save(), generated_elsewhere(image_save()) | change)
    assert caught.value.code == "E_WORKFLOW_OVERRIDES"
    assert says in caught.value.problem.message
    assert caught.value.problem.place.file.endswith("imageSave_overrides.json")


def test_S4_7_an_override_file_that_cannot_be_read_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "imageSave_overrides.json").symlink_to("nowhere")
    assert outcome(save(tmp_path, image_save())) == "E_WORKFLOW_OVERRIDES"


@given(content=junk)
def test_any_override_file_is_read_or_refused(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("junk")
    save(folder, json.dumps(content), "imageSave_overrides.json")
    assert outcome(save(folder, image_save())) in ("read", "E_WORKFLOW_OVERRIDES")


def test_a_workflow_survives_json(tmp_path: Path) -> None:
    overrides = generated_elsewhere(image_save())
    entry(overrides, "1.format")["choices"] = ["AnimateDiff", "Wan"]
    workflow = with_overrides(tmp_path, image_save(), overrides)
    assert Workflow.from_json(json.loads(json.dumps(workflow.to_json()))) == workflow
    assert workflow.parameters["1.format"].choices == ("AnimateDiff", "Wan")


# ---- writing


def test_S4_7_an_override_file_is_written_once(tmp_path: Path) -> None:
    path = save(tmp_path, image_save())
    before = read_workflow(path, "imageSave")
    assert write_overrides(path) == tmp_path / "imageSave_overrides.json"
    written = json.loads((tmp_path / "imageSave_overrides.json").read_text())
    assert written["workflow_hash"] == workflow_hash(image_save())
    assert entry(written, "1.video").keys() == entry(generated_elsewhere(image_save()), "1.video").keys()
    assert read_workflow(path, "imageSave") == before
    assert write_overrides(path) is None
    assert sorted(os.listdir(tmp_path)) == ["imageSave.json", "imageSave_overrides.json"]


def test_S4_7_a_changed_workflow_keeps_the_old_override_file_and_all_that_people_wrote(tmp_path: Path) -> None:
    overrides = generated_elsewhere(image_save()) | {"description": "our frames", "validated_servers": ["gpu-1"]}
    entry(overrides, "1.video").update(description="the clip", io_type="COMBO")
    graph = image_save()
    for prefix in ("first", "second"):
        graph["2"]["inputs"]["filename_prefix"] = prefix
        adapted = with_overrides(tmp_path, graph, overrides)
        assert write_overrides(tmp_path / "imageSave.json") is not None
        read = read_workflow(tmp_path / "imageSave.json", "imageSave")
        assert (read.stale, read.parameters) == (False, adapted.parameters)
    written = json.loads((tmp_path / "imageSave_overrides.json").read_text())
    assert (written["description"], written["validated_servers"]) == ("our frames", ["gpu-1"])
    assert (entry(written, "1.video")["description"], entry(written, "1.video")["io_type"]) == ("the clip", "COMBO")
    assert json.loads((tmp_path / "imageSave_overrides.json.bak1").read_text()) == overrides
    assert (tmp_path / "imageSave_overrides.json.bak2").exists()
    assert len(os.listdir(tmp_path)) == 4, "no temporary file is left"


def test_S4_7_a_wrong_override_file_is_never_written_over(tmp_path: Path) -> None:
    path = save(tmp_path, image_save())
    beside = save(tmp_path, '{"workflow_hash": ', "imageSave_overrides.json")
    with pytest.raises(InputInvalid, match="E_WORKFLOW_OVERRIDES"):
        write_overrides(path)
    assert beside.read_text() == '{"workflow_hash": '


def test_S4_7_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    overrides = generated_elsewhere(image_save()) | {"workflow_hash": "sha256:old"}
    with_overrides(tmp_path, image_save(), overrides)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputInvalid, match="no space left"):
        write_overrides(tmp_path / "imageSave.json")
    assert json.loads((tmp_path / "imageSave_overrides.json").read_text()) == overrides
    assert not list(tmp_path.glob(".*"))
