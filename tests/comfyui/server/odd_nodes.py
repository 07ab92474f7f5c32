"""Node types that no real server has: they make a prompt slow, big, hostile or broken, as a test wants it."""

from __future__ import annotations

import json
import time

import anyio
import anyio.to_thread

from tests.comfyui.server.contents import dimensions, image, saved_bytes
from tests.comfyui.server.slots import Blocker, Call, Made, Node, OutOfMemory, of, real, text, whole

TICK = 0.01  # seconds between two looks for an interrupt


async def sleep(call: Call) -> Made:
    """Take `seconds`, tell progress, look for an interrupt all the time, pass the image on."""
    seconds: float = call.get("seconds")
    steps = int(call.get("steps", 10))
    began = time.monotonic()
    for step in range(1, steps + 1):
        while time.monotonic() - began < seconds * step / steps:
            call.check()
            await anyio.sleep(min(TICK, seconds))
        await call.progress(step, steps)
    return _passed_on(call)


async def hold_lock(call: Call) -> Made:
    """Take `seconds` in which the server answers nothing at all: the event loop stands still."""
    await anyio.sleep(2 * TICK)  # what was said before gets out
    time.sleep(call.get("seconds"))  # noqa: ASYNC251 - that is the point
    return _passed_on(call)


async def fail(call: Call) -> Made:
    """Raise what `error` says; with `times` only so often for one `key`, then pass the image on."""
    if _still_failing(call):
        raise NODE_ERRORS.get(call.get("error", "ValueError"), ValueError)(call.get("message", "the node failed"))
    return _passed_on(call)


async def out_of_memory(call: Call) -> Made:
    """Fail as a GPU that is full does; with `times` only so often for one `key`."""
    if _still_failing(call):
        raise OutOfMemory("Allocation on device 0 would exceed allowed memory. (out of memory)")
    return _passed_on(call)


NODE_ERRORS: dict[str, type[Exception]] = {
    each.__name__: each for each in (ValueError, RuntimeError, FileNotFoundError, KeyError, TypeError)
}


def _still_failing(call: Call) -> bool:
    name = f"{call.class_type} {call.get('key', '')}"
    call.tries[name] += 1
    times: int = call.get("times", 0)
    return times == 0 or call.tries[name] <= times


def _passed_on(call: Call) -> Made:
    return Made((call.images() or (image(call.cause(), 8, 8),),))


async def blocked(call: Call) -> Made:
    """Keep what is behind it from running: with a message, or silently if it is empty."""
    return Made((Blocker(call.get("message") or None),))


async def merge(call: Call) -> Made:
    """One picture of any number of pictures."""
    first = next((value[0] for value in call.linked.values() if isinstance(value, tuple)), b"")
    return Made(((image(call.cause(), *dimensions(first)),),))


async def save_bytes(call: Call) -> Made:
    """A file of any size: `contents.saved_bytes` tells what is in it."""
    size, extension = call.get("size"), call.get("extension", "mp4")
    naming = call.folders.numbered(call.get("filename_prefix", "bytes"))
    pieces = saved_bytes(size, call.get("seed", 0), extension)
    item = await anyio.to_thread.run_sync(naming.save_pieces, pieces, size, f"_.{extension}")
    return Made(ui={"images": [item]})


async def save_odd(call: Call) -> Made:
    """Tell of outputs that a test made up: `items` is a JSON list, told verbatim under `key`."""
    return Made(ui={call.get("key", "images"): json.loads(call.get("items"))})


IMAGE = {"image": of("IMAGE")}
TIMES = {"times": whole(0, 0), "key": text()}

ODD_NODES: dict[str, Node] = {
    "Sleep": Node(
        run=sleep,
        required={"seconds": real(1.0)},
        optional={**IMAGE, "steps": whole(10, 1, 100000), "seed": whole(0, 0)},
        gives=("IMAGE",),
    ),
    "HoldLock": Node(
        run=hold_lock, required={"seconds": real(1.0)}, optional={**IMAGE, "seed": whole(0, 0)}, gives=("IMAGE",)
    ),
    "Fail": Node(
        run=fail, optional={**IMAGE, **TIMES, "message": text(), "error": text("ValueError")}, gives=("IMAGE",)
    ),
    "OutOfMemory": Node(run=out_of_memory, optional={**IMAGE, **TIMES}, gives=("IMAGE",)),
    "Blocked": Node(run=blocked, optional={**IMAGE, "message": text()}, gives=("IMAGE",)),
    "Merge": Node(run=merge, gives=("IMAGE",), any_inputs=True),
    "SaveBytes": Node(
        run=save_bytes,
        required={"size": whole(1024, 0)},
        optional={"seed": whole(0, 0), "filename_prefix": text("bytes"), "extension": text("mp4")},
        output=True,
    ),
    "SaveOdd": Node(run=save_odd, required={"items": text("[]")}, optional={"key": text("images")}, output=True),
}
