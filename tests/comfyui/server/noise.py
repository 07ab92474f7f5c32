"""What a hostile or broken server sends over the websocket when a prompt starts (faults `websocket_…`)."""

from __future__ import annotations

import json
import struct
import uuid

import anyio
from anyio.abc import TaskGroup

from tests.comfyui.server.faults import Faults
from tests.comfyui.server.queue import Prompt
from tests.comfyui.server.sockets import PNG, PREVIEW, TEXT, Sockets

GARBAGE: tuple[str | bytes, ...] = (
    "no JSON at all",
    "",
    "null",
    "7",
    '{"type": "progress"}',
    '{"type": "progress", "data": null}',
    '{"type": ["executing"], "data": {"node": {}}}',
    '{"type": "executing", "data": "node"}',
    '{"type": "crystools.monitor", "data": {"cpu_utilization": 3}}',
    '{"type": "progress_state", "data": {"nodes": [1, 2]}}',
    '{"type": "status", "data": {"status": {"exec_info": null}}}',
    '{"data": {}}',
    "[" * 5000,
    b"",
    b"\x00\x00",
    struct.pack(">I", 99) + b"an unknown kind",
    struct.pack(">II", TEXT, 4_000_000_000) + b"a length that is not true",
)
TICK = 0.01  # seconds between two bursts of a flood


def noise(faults: Faults, sockets: Sockets, prompt: Prompt, tasks: TaskGroup) -> None:
    """Send what the faults say to the client of a prompt that starts."""
    client, prompt_id = prompt.client_id, prompt.prompt_id
    if faults.websocket_big_frame:
        sockets.send_frame(struct.pack(">II", PREVIEW, PNG) + bytes(faults.websocket_big_frame), client)
    if faults.websocket_json_list:
        sockets.send_frame(json.dumps(["executing", {"node": None, "prompt_id": prompt_id}]), client)
    if faults.websocket_garbage:
        for frame in GARBAGE:
            sockets.send_frame(frame, client)
    if faults.websocket_wrong_ids:
        _ends_of(sockets, str(uuid.uuid4()), client)
    if faults.websocket_error_then_success:
        sockets.send("execution_error", _failure(prompt_id), client)
    if faults.websocket_absurd_progress:
        sockets.send("progress", {"value": 1e308, "max": 0, "prompt_id": prompt_id, "node": "1"}, client)
    if faults.websocket_invalid_utf8:
        sockets.send_invalid_text(client)
    if faults.websocket_flood:
        tasks.start_soon(_flood, faults, sockets, prompt)


def _ends_of(sockets: Sockets, prompt_id: str, client: str | None) -> None:
    sockets.send("execution_success", {"prompt_id": prompt_id, "timestamp": 0}, client)
    sockets.send("execution_error", _failure(prompt_id), client)
    sockets.send("execution_interrupted", {"prompt_id": prompt_id, "node_id": "1", "executed": []}, client)
    sockets.send("executing", {"node": None, "prompt_id": prompt_id}, client)


def _failure(prompt_id: str) -> dict[str, object]:
    error = {"exception_message": "not the end\n", "exception_type": "ExecutionBlocked", "traceback": []}
    return {"prompt_id": prompt_id, "node_id": "1", "node_type": "SaveImage", "executed": [], **error}


async def _flood(faults: Faults, sockets: Sockets, prompt: Prompt) -> None:
    value = 0
    while faults.websocket_flood:
        for _ in range(max(1, int(faults.websocket_flood * TICK))):
            value += 1
            data = {"value": value % 100, "max": 100, "prompt_id": prompt.prompt_id, "node": "1"}
            sockets.send("progress", data, prompt.client_id)
        await anyio.sleep(TICK)
