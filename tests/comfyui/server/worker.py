"""The one worker: takes prompts from the queue, runs their nodes one after another, tells clients and history.

The order of the messages is that of the original: execution_start, execution_cached, then for each node
progress_state, executing, progress, executed; at the end execution_success (or _error, _interrupted), status,
and `executing` without a node, which comes after history was written.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread

from tests.comfyui.server.faults import Faults
from tests.comfyui.server.files import Folders
from tests.comfyui.server.nodes import NODES, changes_with
from tests.comfyui.server.noise import noise
from tests.comfyui.server.queue import Ended, Prompt, Queue
from tests.comfyui.server.slots import Blocker, Call, Interrupted, Made, OutOfMemory
from tests.comfyui.server.sockets import Sockets

FULL = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have"
    " accidentally set the batch_size to a large number."
)
CACHE_WITHOUT_CLIENT = (0, 28, 0)  # since then cached outputs are in history, also when nobody listens


@dataclass(slots=True)
class Worker:
    """What lasts from prompt to prompt: the cache of node results above all."""

    queue: Queue
    sockets: Sockets
    folders: Folders
    faults: Faults
    version: tuple[int, ...]
    keep_cache: bool = False  # as --cache-lru: results stay although the next prompt does not use them
    cache: dict[str, Made] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False
    free_after: bool = False
    hurry: anyio.Event = field(default_factory=anyio.Event)  # ends a wait that a fault makes

    async def work(self) -> None:
        """Run prompts for ever."""
        while True:
            prompt = await self.queue.get()
            self.interrupted = False
            execution = Execution(self, prompt)
            async with anyio.create_task_group() as tasks:
                noise(self.faults, self.sockets, prompt, tasks)
                await execution.run()
                tasks.cancel_scope.cancel()
            with anyio.move_on_after(self.faults.history_late):
                await self.hurry.wait()
            self.queue.done(execution.ended())
            if prompt.client_id is not None:
                self.sockets.send("executing", {"node": None, "prompt_id": prompt.prompt_id}, prompt.client_id)
            if self.free_after:
                self.free()

    def check(self) -> None:
        """Raise if somebody wants the prompt to stop."""
        if self.interrupted:
            raise Interrupted

    def interrupt(self, prompt_id: str | None) -> bool:
        """Stop what runs; with an id only if that is it."""
        running = self.queue.running
        if running is None or (prompt_id is not None and running.prompt_id != prompt_id):
            return False
        self.interrupted = True
        return True

    def free(self) -> None:
        """Drop the cache: at once if nothing runs, else when the prompt is over."""
        self.free_after = self.queue.running is not None
        if not self.free_after:
            self.cache.clear()

    async def forget(self) -> None:
        """Stop what runs, drop what is remembered."""
        self.queue.clear()
        self.interrupt(None)
        self.hurry.set()
        await self.queue.idle()
        self.hurry = anyio.Event()
        self.queue.ended.clear()
        self.queue.number = 0
        self.cache.clear()
        self.tries.clear()

    def signatures(self, graph: Mapping[str, Any], outputs: list[str]) -> dict[str, str]:
        """What each node needed counts as in the cache: its class, inputs and file, and all nodes before it."""
        keys: dict[str, str] = {}

        def key(node_id: str) -> str:
            if node_id not in keys:
                node = graph[node_id]
                literal, links = split(node["inputs"])
                causes = {name: [key(source), slot] for name, (source, slot) in links.items()}
                changes = changes_with(node["class_type"], literal, self.folders.named)
                cause = json.dumps([node["class_type"], literal, changes, causes], sort_keys=True)
                keys[node_id] = hashlib.sha256(cause.encode()).hexdigest()
            return keys[node_id]

        for output in outputs:
            key(output)
        return keys


class Execution:
    """One prompt while it runs."""

    def __init__(self, worker: Worker, prompt: Prompt) -> None:
        self.worker = worker
        self.prompt = prompt
        self.client = prompt.client_id
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.outputs: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        self.values: dict[str, tuple[Any, ...]] = {}
        self.executed: list[str] = []
        self.states: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}

    def ended(self) -> Ended:
        """The record for the history."""
        success = self.messages[-1][0] == "execution_success"
        status = {"status_str": "success" if success else "error", "completed": success, "messages": self.messages}
        return Ended(self.prompt, self.outputs, self.meta, status)

    async def run(self) -> None:
        """Run every node that is needed, to the end or to the first error."""
        self.tell("execution_start")
        outputs = self.prompt.outputs
        self.keys = await anyio.to_thread.run_sync(self.worker.signatures, self.prompt.graph, outputs)
        cache = self.worker.cache
        if not self.worker.keep_cache:
            for key in cache.keys() - set(self.keys.values()):
                del cache[key]
        self.tell("execution_cached", nodes=[node_id for node_id, key in self.keys.items() if key in cache])
        for node_id in self.order():
            if not await self.visit(node_id):
                return
        self.tell("execution_success")

    def order(self) -> list[str]:
        """Outputs and what they need; an output comes as soon as it can."""
        order: list[str] = []

        def add(node_id: str) -> None:
            if node_id in order:
                return
            if self.keys[node_id] not in self.worker.cache:
                for source, _ in split(self.prompt.graph[node_id]["inputs"])[1].values():
                    add(source)
            order.append(node_id)

        for output in self.prompt.outputs:
            add(output)
        return order

    async def visit(self, node_id: str) -> bool:
        """Run a node or take its result from the cache; false ends the prompt."""
        cached = self.worker.cache.get(self.keys[node_id])
        if cached is not None:
            self.values[node_id] = cached.values
            if self.client is not None or self.worker.version >= CACHE_WITHOUT_CLIENT:
                self.show(node_id, cached)
            return True
        call = self.call(node_id)
        try:
            self.worker.check()
            self.start(node_id)
            made = self.blocked(node_id, call) or await NODES[call.class_type].run(call)
        except Interrupted:
            place = {"node_id": node_id, "node_type": call.class_type, "executed": self.executed}
            self.tell("execution_interrupted", broadcast=True, **place)
            return False
        except Exception as error:
            self.tell("execution_error", **self.failure(node_id, call, error))
            return False
        self.values[node_id] = made.values
        self.worker.cache[self.keys[node_id]] = made
        self.show(node_id, made)
        self.state(node_id, state="finished", value=self.states[node_id]["max"])
        self.executed.append(node_id)
        return True

    def call(self, node_id: str) -> Call:
        """Everything a node may know."""
        node = self.prompt.graph[node_id]
        literal, links = split(node["inputs"])
        extra = self.prompt.extra_data.get("extra_pnginfo")

        async def progress(value: float, most: float) -> None:
            await self.progress(node_id, value, most)

        async def show(picture: bytes) -> None:
            self.worker.sockets.send_preview(picture, self.place(node_id), self.client)

        return Call(
            class_type=node["class_type"],
            literal=literal,
            linked={name: self.values[source][slot] for name, (source, slot) in links.items()},
            folders=self.worker.folders,
            graph=self.prompt.graph,
            extra=extra if isinstance(extra, dict) else {},
            tries=self.worker.tries,
            check=self.worker.check,
            progress=progress,
            show=show,
        )

    def blocked(self, node_id: str, call: Call) -> Made | None:
        """What a node behind a blocker gives. Its execution_error is not the end, and history does not hold it."""
        blockers = [value for value in call.linked.values() if isinstance(value, Blocker)]
        if not blockers:
            return None
        if blockers[0].message is not None:
            self.worker.sockets.send(
                "execution_error",
                {
                    "prompt_id": self.prompt.prompt_id,
                    "node_id": node_id,
                    "node_type": call.class_type,
                    "executed": self.executed,
                    "exception_message": f"Execution Blocked: {blockers[0].message}",
                    "exception_type": "ExecutionBlocked",
                    "traceback": [],
                    "current_inputs": [],
                    "current_outputs": [],
                    "timestamp": now(),
                },
                self.client,
            )
        return Made(tuple(Blocker() for _ in NODES[call.class_type].gives))

    def failure(self, node_id: str, call: Call, error: Exception) -> dict[str, Any]:
        """The data of execution_error; it holds paths of the server, as the original does."""
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        full = isinstance(error, OutOfMemory)
        return {
            "node_id": node_id,
            "node_type": call.class_type,
            "executed": self.executed,
            "exception_message": f"{error}\n{FULL if full else ''}",
            "exception_type": "torch.OutOfMemoryError" if full else name,
            "traceback": traceback.format_tb(error.__traceback__),
            "current_inputs": {key: [str(value)[:200]] for key, value in call.literal.items()},
            "current_outputs": list(self.values),
        }

    # What clients get to know.

    def tell(self, kind: str, *, broadcast: bool = False, **data: Any) -> None:
        """Send a message of the whole prompt; history keeps it."""
        message = {"prompt_id": self.prompt.prompt_id, **data, "timestamp": now()}
        self.messages.append((kind, message))
        if self.client is not None or broadcast:
            self.worker.sockets.send(kind, message, self.client)

    def start(self, node_id: str) -> None:
        """Say that a node runs."""
        self.worker.queue.node = node_id
        self.states[node_id] = {"value": 0, "max": 1, "state": "running", **self.place(node_id)}
        self.state(node_id)
        if self.client is not None:
            data = {"node": node_id, "display_node": node_id, "prompt_id": self.prompt.prompt_id}
            self.worker.sockets.send("executing", data, self.client)

    def state(self, node_id: str, **changes: Any) -> None:
        """Tell the state of all nodes."""
        self.states[node_id] |= changes
        self.worker.sockets.send(
            "progress_state", {"prompt_id": self.prompt.prompt_id, "nodes": self.states}, self.client
        )

    def place(self, node_id: str) -> dict[str, Any]:
        """The names of a node; they differ in graphs that grow while they run."""
        same = dict.fromkeys(("node_id", "display_node_id", "real_node_id"), node_id)
        return {**same, "prompt_id": self.prompt.prompt_id, "parent_node_id": None}

    async def progress(self, node_id: str, value: float, most: float) -> None:
        """Tell how far a node is."""
        faults, sockets = self.worker.faults, self.worker.sockets
        self.state(node_id, value=value, max=most)
        data = {"value": value, "max": most, "prompt_id": self.prompt.prompt_id, "node": node_id}
        sockets.send("progress", data, self.client)
        if faults.websocket_previews:
            sockets.send_preview(b"\x89PNG\r\n\x1a\n a preview", self.place(node_id), self.client)
        if value * 2 >= most and faults.take("websocket_close_half_way"):
            sockets.cut(self.client)

    def show(self, node_id: str, made: Made) -> None:
        """Tell what a node shows, and note it for the history."""
        if made.ui is None:
            return
        names = {"display_node": node_id, "parent_node": None, "real_node_id": node_id}
        self.outputs[node_id] = made.ui
        self.meta[node_id] = {"node_id": node_id, **names}
        if self.client is not None:
            data = {"node": node_id, "display_node": node_id, "output": made.ui, "prompt_id": self.prompt.prompt_id}
            self.worker.sockets.send("executed", data, self.client)


def split(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[str, int]]]:
    """Literal inputs, and links."""
    links = {
        name: (value[0], value[1]) for name, value in inputs.items() if isinstance(value, list) and len(value) == 2
    }
    return {name: value for name, value in inputs.items() if name not in links}, links


def now() -> int:
    """Milliseconds, as messages have them."""
    return int(time.time() * 1000)
