"""The node types that real servers have, as far as they need no model; `odd_nodes.py` has those for tests alone.

Nothing is painted: what a node makes follows from its class, its literal inputs and its sources, by `render`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread

from tests.comfyui.server.contents import (
    TILE,
    digest,
    dimensions,
    fingerprint,
    image,
    is_picture,
    movie,
    saved_bytes,
    saved_digest,
    with_metadata,
    without_metadata,
)
from tests.comfyui.server.files import file_digest, random_letters
from tests.comfyui.server.odd_nodes import ODD_NODES
from tests.comfyui.server.slots import (
    PICTURES,
    SOUNDS,
    VIDEOS,
    Call,
    Made,
    Node,
    choice,
    file,
    of,
    real,
    text,
    truth,
    whole,
)

__all__ = ["NODES", "changes_with", "render", "render_movie", "saved_bytes", "saved_digest", "with_metadata"]


def render(class_type: str, inputs: Mapping[str, Any], images: Sequence[bytes | str] = (), index: int = 0) -> bytes:
    """The PNG that a node makes.

    `inputs` are its literal inputs as the prompt has them, `images` the contents of its linked inputs in the order
    of the prompt (files with or without metadata, texts as text), `index` the place in a batch.
    """
    cause = fingerprint(class_type, inputs, [digest(each) for each in images], index)
    return image(cause, *_size(inputs, images))


def render_movie(extension: str, class_type: str, inputs: Mapping[str, Any], sources: Sequence[bytes | str]) -> bytes:
    """The video, sound or model that a node makes."""
    return movie(extension, fingerprint(class_type, inputs, [digest(each) for each in sources]))


def changes_with(call_class: str, literal: Mapping[str, Any], path_of: Any) -> str:
    """What a loader's result depends on beside its inputs: the bytes of its file. Empty for other nodes."""
    if call_class not in LOADERS:
        return ""
    path: Path = path_of(literal[LOADERS[call_class]])
    return file_digest(path) if path.is_file() else "missing"


LOADERS = {"LoadImage": "image", "LoadVideo": "video", "VHS_LoadVideo": "video", "LoadAudio": "audio"}


def _size(inputs: Mapping[str, Any], images: Sequence[bytes | str]) -> tuple[int, int]:
    width, height = inputs.get("width"), inputs.get("height")
    if isinstance(width, int) and isinstance(height, int):
        return width, height
    pictures = [each for each in images if isinstance(each, bytes)]
    return dimensions(pictures[0]) if pictures else (TILE, TILE)


# Loaders.


async def load_image(call: Call) -> Made:
    """The pixels of a file. What is no picture fails as Pillow would."""
    path = call.folders.named(call.get("image"))
    data = path.read_bytes()
    if not is_picture(data):
        raise UnidentifiedImageError(f"cannot identify image file '{path}'")
    pixels = without_metadata(data)
    return Made(((pixels,), (pixels,)))


class UnidentifiedImageError(OSError):
    """What a picture library raises for a file that is no picture."""


UnidentifiedImageError.__module__ = "PIL"


async def load_video(call: Call) -> Made:
    """One frame that depends on the bytes of the file and on what is skipped."""
    bytes_digest = await anyio.to_thread.run_sync(file_digest, call.folders.named(call.get("video")))
    literal = {name: value for name, value in call.literal.items() if name != "video"}
    frame = image(fingerprint(call.class_type, literal, [bytes_digest]), TILE, TILE)
    return Made(((frame,), max(1, call.get("frame_load_cap", 0)), b"sound of " + frame, bytes_digest))


async def load_audio(call: Call) -> Made:
    """The bytes of a file."""
    return Made((call.folders.named(call.get("audio")).read_bytes(),))


# Makers.


async def picture(call: Call) -> Made:
    """A batch of pictures; with sources one for each of them, else `batch_size`."""
    sources = call.images()
    size = _size(call.literal, sources)
    count = call.get("batch_size", len(sources) or 1)
    return Made((tuple(image(call.cause(index), *size) for index in range(count)),))


async def empty_audio(call: Call) -> Made:
    """A sound."""
    return Made((movie("wav", call.cause()),))


async def empty_latent(call: Call) -> Made:
    """A latent."""
    return Made((movie("latent", call.cause()),))


async def create_video(call: Call) -> Made:
    """A video of pictures."""
    return Made((movie("mp4", call.cause()),))


async def text_prompt(call: Call) -> Made:
    """A conditioning: all its texts."""
    words = call.get("text") or call.get("prompt") or ""
    return Made((f"conditioning of {words}",))


# Savers.


async def save_image(call: Call) -> Made:
    """Each picture of the batch under its own number, with the prompt inside."""
    return Made(ui={"images": _written_pictures(call, call.get("filename_prefix", "ComfyUI"), "output")})


async def preview_image(call: Call) -> Made:
    """As `save_image`, into temp and under a random name."""
    return Made(ui={"images": _written_pictures(call, f"ComfyUI_temp_{random_letters()}", "temp")})


def _written_pictures(call: Call, prefix: str, kind: str) -> list[dict[str, str]]:
    pictures = call.images()
    naming = call.folders.numbered(prefix, kind, dimensions(pictures[0]) if pictures else (0, 0))
    return [naming.save(with_metadata(each, call.graph, call.extra), "_.png") for each in pictures]


async def save_image_websocket(call: Call) -> Made:
    """Pictures that go to the client as binary frames and nowhere else."""
    for index, each in enumerate(call.images(), 1):
        await call.progress(index, len(call.images()))
        await call.show(each)
    return Made()


async def save_video(call: Call) -> Made:
    """An mp4 under `images`, as the original tells it."""
    item = call.folders.numbered(call.get("filename_prefix", "video/ComfyUI")).save(call.get("video"), "_.mp4")
    return Made(ui={"images": [item], "animated": [True]})


async def save_animated(call: Call) -> Made:
    """A webp or webm of pictures."""
    extension = "webm" if call.class_type == "SaveWEBM" else "webp"
    item = call.folders.numbered(call.get("filename_prefix", "ComfyUI")).save(
        movie(extension, call.cause()), f"_.{extension}"
    )
    return Made(ui={"images": [item], "animated": [True]})


async def combine_video(call: Call) -> Made:
    """A video with a PNG of the workflow beside it, under `gifs`."""
    kind = "output" if call.get("save_output", True) else "temp"
    naming = call.folders.numbered(call.get("filename_prefix", "AnimateDiff"), kind)
    told = call.get("format", "video/h264-mp4")
    extension = {"image/gif": "gif", "image/webp": "webp", "video/webm": "webm"}.get(told, "mp4")
    beside = naming.save(with_metadata(call.images()[0], call.graph, call.extra), ".png")
    naming.number -= 1
    item = naming.save(movie(extension, call.cause()), f".{extension}")
    path = naming.folder / item["filename"]
    more = {"format": told, "frame_rate": call.get("frame_rate"), "workflow": beside["filename"], "fullpath": str(path)}
    return Made((str(path),), {"gifs": [{**item, **more}]})


async def save_audio(call: Call) -> Made:
    """A flac or mp3."""
    extension = "mp3" if call.class_type == "SaveAudioMP3" else "flac"
    naming = call.folders.numbered(call.get("filename_prefix", "audio/ComfyUI"))
    return Made(ui={"audio": [naming.save(movie(extension, call.cause()), f"_.{extension}")]})


async def preview_audio(call: Call) -> Made:
    """A flac in temp."""
    naming = call.folders.numbered(f"ComfyUI_temp_{random_letters()}", "temp")
    return Made(ui={"audio": [naming.save(movie("flac", call.cause()), "_.flac")]})


async def save_text(call: Call) -> Made:
    """A text as `text`, and its file as `files`."""
    words = str(call.get("text", ""))
    item = call.folders.numbered(call.get("filename_prefix", "ComfyUI")).save(words.encode(), "_.txt")
    return Made((words,), {"text": [words], "files": [item]})


async def preview_any(call: Call) -> Made:
    """Any value as text; no file."""
    value = call.get("source")
    return Made(ui={"text": [value if isinstance(value, str) else json.dumps(value, default=repr)]})


async def save_model(call: Call) -> Made:
    """A glb under `3d`."""
    naming = call.folders.numbered(call.get("filename_prefix", "mesh/ComfyUI"))
    return Made(ui={"3d": [naming.save(movie("glb", call.cause()), "_.glb")]})


async def preview_model(call: Call) -> Made:
    """A path, a camera and a background under `result`: no file item at all."""
    return Made(ui={"result": [call.get("model_file", ""), None, None]})


async def save_latent(call: Call) -> Made:
    """A latent."""
    naming = call.folders.numbered(call.get("filename_prefix", "latents/ComfyUI"))
    return Made(ui={"latents": [naming.save(call.get("samples"), "_.latent")]})


PREFIX = text("ComfyUI")
SIZE = {"width": whole(16, 1, 4096), "height": whole(16, 1, 4096)}
MOVING = {"images": of("IMAGE"), "filename_prefix": PREFIX, "fps": real(6.0, 0.01, 1000.0)}
FORMATS = choice("video/h264-mp4", "image/gif", "image/webp", "video/webm")
COMBINED = {
    "images": of("IMAGE"),
    "frame_rate": real(8.0, 1.0),
    "loop_count": whole(0, 0, 100),
    "filename_prefix": text("AnimateDiff"),
    "format": FORMATS,
    "pingpong": truth(),
    "save_output": truth(True),
}
FRAMES = {
    "skip_first_frames": whole(0, 0),
    "frame_load_cap": whole(0, 0),
    "force_rate": real(),
    "select_every_nth": whole(1, 1),
}
SHAPES = {"custom_width": whole(0, 0, 8192), "custom_height": whole(0, 0, 8192)}
VIDEO_FILE = {"video": file("video_upload", VIDEOS)}

NODES: dict[str, Node] = {
    "LoadImage": Node(run=load_image, required={"image": file("image_upload", PICTURES)}, gives=("IMAGE", "MASK")),
    "LoadVideo": Node(run=load_video, required=VIDEO_FILE, optional=FRAMES, gives=("IMAGE", "INT")),
    "VHS_LoadVideo": Node(
        run=load_video,
        required=VIDEO_FILE,
        optional={**FRAMES, **SHAPES},
        gives=("IMAGE", "INT", "AUDIO", "VHS_VIDEOINFO"),
    ),
    "LoadAudio": Node(run=load_audio, required={"audio": file("audio_upload", SOUNDS)}, gives=("AUDIO",)),
    "EmptyImage": Node(
        run=picture,
        required={**SIZE, "batch_size": whole(1, 1, 4096), "color": whole(0, 0, 0xFFFFFF)},
        gives=("IMAGE",),
    ),
    "ImageInvert": Node(run=picture, required={"image": of("IMAGE")}, gives=("IMAGE",)),
    "EmptyAudio": Node(
        run=empty_audio,
        required={"duration": real(60.0)},
        optional={"sample_rate": whole(44100, 1), "channels": whole(2, 1, 2)},
        gives=("AUDIO",),
    ),
    "EmptyLatentImage": Node(run=empty_latent, required={**SIZE, "batch_size": whole(1, 1, 4096)}, gives=("LATENT",)),
    "CreateVideo": Node(
        run=create_video,
        required={"images": of("IMAGE"), "fps": real(30.0, 1.0, 120.0)},
        optional={"audio": of("AUDIO")},
        gives=("VIDEO",),
    ),
    "TextPrompt": Node(
        run=text_prompt,
        optional={"text": text(multiline=True), "prompt": text(multiline=True)},
        gives=("CONDITIONING",),
    ),
    "Painter": Node(
        run=picture,
        required={"seed": whole(0, 0)},
        optional={
            **SIZE,
            "positive": of("CONDITIONING"),
            "negative": of("CONDITIONING"),
            "image": of("IMAGE"),
            "steps": whole(20, 1, 10000),
            "sampler_name": choice("euler", "heun", "dpmpp_2m", old=True),
        },
        gives=("IMAGE",),
    ),
    "SaveImage": Node(run=save_image, required={"images": of("IMAGE"), "filename_prefix": PREFIX}, output=True),
    "PreviewImage": Node(run=preview_image, required={"images": of("IMAGE")}, output=True),
    "SaveImageWebsocket": Node(run=save_image_websocket, required={"images": of("IMAGE")}, output=True),
    "SaveVideo": Node(
        run=save_video,
        required={
            "video": of("VIDEO"),
            "filename_prefix": text("video/ComfyUI"),
            "format": choice("auto", "mp4"),
            "codec": choice("auto", "h264"),
        },
        output=True,
    ),
    "SaveAnimatedWEBP": Node(
        run=save_animated,
        required={
            **MOVING,
            "lossless": truth(True),
            "quality": whole(80, 0, 100),
            "method": choice("default", "fastest", "slowest", old=True),
        },
        output=True,
    ),
    "SaveWEBM": Node(
        run=save_animated,
        required={**MOVING, "codec": choice("vp9", "av1"), "crf": real(32.0, 0.0, 63.0)},
        output=True,
    ),
    "VHS_VideoCombine": Node(run=combine_video, required=COMBINED, gives=("VHS_FILENAMES",), output=True),
    "SaveAudio": Node(
        run=save_audio, required={"audio": of("AUDIO"), "filename_prefix": text("audio/ComfyUI")}, output=True
    ),
    "SaveAudioMP3": Node(
        run=save_audio, required={"audio": of("AUDIO"), "filename_prefix": text("audio/ComfyUI")}, output=True
    ),
    "PreviewAudio": Node(run=preview_audio, required={"audio": of("AUDIO")}, output=True),
    "SaveText": Node(
        run=save_text,
        required={"text": text(multiline=True), "filename_prefix": PREFIX},
        gives=("STRING",),
        output=True,
    ),
    "PreviewAny": Node(run=preview_any, required={"source": of("*")}, output=True),
    "Save3D": Node(
        run=save_model,
        required={"filename_prefix": text("mesh/ComfyUI")},
        optional={"mesh": of("*")},
        output=True,
    ),
    "Preview3D": Node(run=preview_model, required={"model_file": text()}, output=True),
    "SaveLatent": Node(
        run=save_latent,
        required={"samples": of("LATENT"), "filename_prefix": text("latents/ComfyUI")},
        output=True,
    ),
    **ODD_NODES,
}
