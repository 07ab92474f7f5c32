"""Small workflows in API format for the stand-in; the builders give new dicts, to be changed at will."""

from __future__ import annotations

from typing import Any

Graph = dict[str, Any]
EMPTY = {"width": 16, "height": 16, "batch_size": 1, "color": 0}


def node(class_type: str, /, **inputs: Any) -> dict[str, Any]:
    """One node."""
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": class_type}}


def painted(prefix: str = "ComfyUI", **empty: int) -> Graph:
    """A made picture, saved: nodes 1 EmptyImage and 2 SaveImage."""
    return {
        "1": node("EmptyImage", **{**EMPTY, **empty}),
        "2": node("SaveImage", images=["1", 0], filename_prefix=prefix),
    }


def inverted(image: str, prefix: str = "ComfyUI") -> Graph:
    """An uploaded picture, inverted and saved: nodes 1 LoadImage, 2 ImageInvert and 3 SaveImage."""
    return {
        "1": node("LoadImage", image=image),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("SaveImage", images=["2", 0], filename_prefix=prefix),
    }


def through(class_type: str, /, **inputs: Any) -> Graph:
    """A made picture that passes a node (Sleep, Fail, Blocked, …) before it is saved: nodes 1, 2 and 3."""
    return {
        "1": node("EmptyImage", **EMPTY),
        "2": node(class_type, image=["1", 0], **inputs),
        "3": node("SaveImage", images=["2", 0], filename_prefix="through"),
    }


def slow(seconds: float = 30.0, seed: int = 0) -> Graph:
    """A prompt that takes its time, can be interrupted and tells progress."""
    return through("Sleep", seconds=seconds, seed=seed)
