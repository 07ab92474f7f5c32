"""How tests talk to the stand-in themselves: HTTP, and the websocket as it is."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.comfyui.graphs import Graph
from tests.comfyui.running import ComfyServer
from tests.comfyui.server.contents import image

PATIENCE = 20.0  # seconds that anything may take on a busy machine
PNG = image("an upload", 8, 8)


class Client(httpx.Client):
    """HTTP to one server, with the few things that every test does."""

    def __init__(self, server: ComfyServer, **more: Any) -> None:
        super().__init__(base_url=server.url, trust_env=False, verify=False, timeout=PATIENCE, **more)

    def queue(self, graph: Graph, **more: Any) -> str:
        """Queue a prompt; its id."""
        answer = self.post("/prompt", json={"prompt": graph, "prompt_id": str(uuid.uuid4()), **more})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["prompt_id"])

    def ended(self, prompt_id: str) -> dict[str, Any]:
        """The history of a prompt, when there is one."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.get(f"/history/{prompt_id}").json()):
            assert time.monotonic() < deadline, f"{prompt_id} is not over"
            time.sleep(0.01)
        entry: dict[str, Any] = found[prompt_id]
        return entry

    def run(self, graph: Graph, **more: Any) -> dict[str, Any]:
        """Queue a prompt and wait for its history."""
        return self.ended(self.queue(graph, **more))

    def starts(self, prompt_id: str) -> None:
        """Wait until a prompt runs."""
        deadline = time.monotonic() + PATIENCE
        while prompt_id not in [each[1] for each in self.get("/queue").json()["queue_running"]]:
            assert time.monotonic() < deadline, f"{prompt_id} does not run"
            time.sleep(0.01)

    def idle(self) -> None:
        """Wait until nothing runs or waits."""
        deadline = time.monotonic() + PATIENCE
        while self.get("/prompt").json()["exec_info"]["queue_remaining"]:
            assert time.monotonic() < deadline, "the server is still busy"
            time.sleep(0.01)

    def upload(self, name: str, data: bytes = PNG, **fields: str) -> httpx.Response:
        """Send a file."""
        return self.post("/upload/image", files={"image": (name, data)}, data=fields)

    def view(self, item: dict[str, str], **headers: str) -> httpx.Response:
        """Fetch an item of a history."""
        return self.get("/view", params={key: item[key] for key in ("filename", "subfolder", "type")}, headers=headers)


def listen(server: ComfyServer, client_id: str, **more: Any) -> ClientConnection:
    """A websocket."""
    address = server.url.replace("http:", "ws:") + f"/ws?clientId={client_id}"
    socket: ClientConnection = connect(address, max_size=None, proxy=None, **more)
    return socket


def events(socket: ClientConnection) -> list[tuple[str, dict[str, Any]]]:
    """All text messages up to the end of a prompt."""
    found: list[tuple[str, dict[str, Any]]] = []
    while not (found and found[-1][0] == "executing" and found[-1][1].get("node", "") is None):
        said = socket.recv(PATIENCE)
        if isinstance(said, str):
            message = json.loads(said)
            found.append((message["type"], message["data"]))
    return found


def kinds(messages: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The types of messages."""
    return [kind for kind, _ in messages]
