"""Workflow files for tests, and override files as the system before towpath wrote them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from towpath.adapters.comfyui.workflow_files import Workflow, read_workflow
from towpath.errors import InputInvalid

Graph = dict[str, Any]


def image_save() -> Graph:
    """Two nodes as ComfyUI exports them: frames of a video, saved."""
    return {
        "1": {
            "inputs": {
                "video": "input.mp4",
                "force_rate": 0,
                "custom_width": 0,
                "custom_height": 0,
                "frame_load_cap": 1,
                "skip_first_frames": 0,
                "select_every_nth": 1,
                "format": "AnimateDiff",
            },
            "class_type": "VHS_LoadVideo",
            "_meta": {"title": "Load Video (Upload) 🎥"},
        },
        "2": {
            "inputs": {"filename_prefix": "ComfyUI", "images": ["1", 0]},
            "class_type": "SaveImage",
            "_meta": {"title": "Save Image"},
        },
    }


def generated_elsewhere(graph: Graph, separators: tuple[str, str] | None = None) -> dict[str, Any]:
    """An override file as the system before towpath wrote it: no `workflow_values`, Python's names of types."""
    canonical = json.dumps(graph, sort_keys=True, ensure_ascii=False, separators=separators)
    parameters = [
        {
            "key": f"{node_id}.{input_key}",
            "node_id": node_id,
            "input_key": input_key,
            "default_value": value,
            "type": type(value).__name__,
            "node_class": node["class_type"],
            "node_title": node["_meta"]["title"],
            "description": f"{input_key} parameter for {node['class_type']}",
            "category": "other",
        }
        for node_id, node in graph.items()
        for input_key, value in node["inputs"].items()
        if not isinstance(value, list)
    ]
    return {
        "workflow_hash": f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}",
        "generated_at": "2025-12-30T03:04:50.123456Z",
        "workflow_name": "imageSave",
        "description": "Auto-generated parameter overrides.",
        "parameters": parameters,
    }


def save(folder: Path, content: object, name: str = "imageSave.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def with_overrides(folder: Path, graph: Graph, overrides: object) -> Workflow:
    save(folder, overrides, "imageSave_overrides.json")
    return read_workflow(save(folder, graph), "imageSave")


def outcome(path: Path) -> str:
    """`read`, or the code of the refusal."""
    try:
        read_workflow(path, "x")
    except InputInvalid as error:
        return error.code
    return "read"


def entry(overrides: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in overrides["parameters"] if p["key"] == key)
    return found


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["1", "2", "class_type", "inputs", "nodes", "prompt", "parameters", "workflow_hash", "key"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
