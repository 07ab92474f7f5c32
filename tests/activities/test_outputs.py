"""S4.4: everything that a prompt made is found, and what is not understood is reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.activities.made import outputs
from tests.comfyui.graphs import EMPTY, Graph, node, painted
from tests.comfyui.running import ComfyServer
from tests.comfyui.talking import Client
from towpath.adapters.activities import download_and_store_images, get_server_output_files

pytestmark = pytest.mark.anyio

EVERYTHING: Graph = {
    "1": node("EmptyImage", **EMPTY),
    "2": node("SaveImage", images=["1", 0], filename_prefix="a"),
    "3": node("VHS_VideoCombine", images=["1", 0], filename_prefix="b", format="video/h264-mp4", frame_rate=8.0)
    | {"inputs": {"images": ["1", 0], "frame_rate": 8.0, "loop_count": 0, "filename_prefix": "b"}},
    "4": node("EmptyAudio", duration=1.0),
    "5": node("SaveAudio", audio=["4", 0], filename_prefix="c"),
    "6": node("CreateVideo", images=["1", 0], fps=8.0),
    "7": node("SaveVideo", video=["6", 0], filename_prefix="d", format="auto", codec="auto"),
    "8": node("Save3D", filename_prefix="e"),
    "9": node("PreviewAny", source=["1", 0]),
    "10": node("PreviewImage", images=["1", 0]),
    "11": node("SaveOdd", key="clouds", items=json.dumps([{"points": 3}, 7])),
}
EVERYTHING["3"]["inputs"] |= {"format": "video/h264-mp4", "pingpong": False, "save_output": True}


async def test_S4_4_images_gifs_audio_video_3d_and_text_are_all_found(one: ComfyServer) -> None:
    found = await outputs(one, EVERYTHING)
    told = {(entry["node_id"], entry["key"], entry["kind"]) for entry in found if entry["kind"] != "unknown"}
    assert told == {
        ("2", "images", "image"),
        ("3", "gifs", "video"),
        ("5", "audio", "audio"),
        ("7", "images", "video"),
        ("8", "3d", "model"),
        ("9", "text", "text"),
    }
    assert [entry["node_id"] for entry in found if "text" in entry] == ["9"]


async def test_S4_4_unknown_shapes_are_reported_not_dropped(one: ComfyServer) -> None:
    found = await outputs(one, EVERYTHING)
    odd = [entry for entry in found if entry["kind"] == "unknown"]
    assert [(entry["node_id"], entry["code"]) for entry in odd] == [("11", "E_REPLY_TYPE")] * 2
    assert all("clouds" in entry["error"] for entry in odd)
    brought = await download_and_store_images(one.url, found)
    assert len(brought) == len(found)
    assert [entry["code"] for entry in brought if "error" in entry] == ["E_REPLY_TYPE"] * 2


@pytest.mark.parametrize("form", ["answer", "entry", "outputs", "by node"])
async def test_S4_4_every_form_of_a_history_is_taken(one: ComfyServer, form: str) -> None:
    with Client(one) as client:
        prompt_id = client.queue(painted())
        client.ended(prompt_id)
        answer: dict[str, Any] = client.get(f"/history/{prompt_id}").json()
    entry = answer[prompt_id]
    given = {"answer": answer, "entry": entry, "outputs": {"outputs": entry["outputs"]}, "by node": entry["outputs"]}
    (found,) = await get_server_output_files(one.url, given[form])
    assert found == {
        "filename": "ComfyUI_00001_.png",
        "subfolder": "",
        "type": "output",
        "node_id": "2",
        "kind": "image",
        "key": "images",
    }


async def test_no_outputs_are_none(one: ComfyServer) -> None:
    assert await get_server_output_files(one.url, {"outputs": {}}) == []
    assert await get_server_output_files(one.url, {"status": "failed", "outputs": None}) == []
