"""The routes of a ComfyUI server that towpath uses. Every prompt has an id that towpath chooses."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import anyio

from towpath.errors import PromptFailed, ServerFailed

from .connection import Connection
from .file_names import folder_type, subfolder
from .replies import (
    PromptRecord,
    PromptState,
    history_record,
    job_record,
    job_state,
    node_problems,
    queue_state,
    refused_prompt,
)

_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?")
_PROMPT_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")  # it becomes part of addresses and of a file name
JOBS_SINCE = (0, 6, 0)
CANCEL_SINCE = (0, 26, 0)
AIMED_INTERRUPT_SINCE = (0, 3, 57)
_ROUTES_UNKNOWN = (0, 0, 0)
SLOWEST = 64 * 1024  # bytes per second: the upload timeout allows for this speed


@dataclass(frozen=True, slots=True)
class Sent:
    """A prompt that a server accepted. `dropped` are the outputs it left out, one line per problem."""

    prompt_id: str
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """A server's health. `queue` counts waiting and running prompts; memory is in bytes."""

    version: str
    queue: int
    devices: tuple[str, ...] = ()
    vram_free: int | None = None
    vram_total: int | None = None


class ComfyClient:
    """One server's prompts and files. All methods raise ServerFailed; see `Connection.json`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._version: tuple[int, int, int] | None = None
        self._largest_upload: int | None = None
        self._no_jobs = False

    # ---- prompts

    async def submit(
        self, graph: dict[str, Any], prompt_id: str, client_id: str, titles: dict[str, str] | None = None
    ) -> Sent:
        """Queue a graph once under `prompt_id`. If no clear reply came, the id is looked up before the next request.

        Raises:
            PromptFailed: E_PROMPT_INVALID with what the server found in it.
        """
        body = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
        began = anyio.current_time()
        while True:
            try:
                status, reply = await self.connection.answer(
                    "POST", "/prompt", body=body, accept=frozenset({200, 400}), retry=False
                )
            except ServerFailed as error:
                waited = anyio.current_time() - began
                if not error.retryable or waited >= self.connection.retry_seconds(error):
                    raise
                if await self.state(prompt_id) is not PromptState.UNKNOWN:
                    return Sent(prompt_id)
                continue
            if status == 400:
                raise self._refused(reply, titles or {})
            return self._accepted(reply, prompt_id, titles or {})

    def _accepted(self, reply: Any, prompt_id: str, titles: dict[str, str]) -> Sent:
        errors = reply.get("node_errors") if isinstance(reply, dict) else None
        given = reply.get("prompt_id") if isinstance(reply, dict) else None
        fits = isinstance(given, str) and _PROMPT_ID.fullmatch(given)
        lines = node_problems(errors, titles)
        return Sent(str(given) if fits else prompt_id, tuple(map(self.connection.without_secrets, lines)))

    def _refused(self, reply: Any, titles: dict[str, str]) -> PromptFailed:
        refusal, redacted = refused_prompt(reply, titles), self.connection.without_secrets
        return PromptFailed(refusal.code, redacted(refusal.problem.message), nodes=tuple(map(redacted, refusal.nodes)))

    async def state(self, prompt_id: str) -> PromptState:
        """Where a prompt is. Without the jobs route, the queue is read before the history: prompts move that way."""
        if await self._has_jobs():
            status, reply = await self.connection.answer(
                "GET", f"/api/jobs/{prompt_id}", accept=frozenset({200, 404, 405})
            )
            if status == 200:
                return job_state(reply, prompt_id)
            if isinstance(reply, dict):
                return PromptState.UNKNOWN
            self._no_jobs = True  # its version should have this route, and it has not
        queued = queue_state(await self.connection.json("GET", "/queue"), prompt_id)
        if queued is not PromptState.UNKNOWN:
            return queued
        record = history_record(await self.connection.json("GET", f"/history/{prompt_id}"), prompt_id)
        return PromptState.UNKNOWN if record is None else record.state

    async def record(self, prompt_id: str) -> PromptRecord | None:
        """The history of a prompt that has ended; None if the server has no record (yet)."""
        return history_record(await self.connection.json("GET", f"/history/{prompt_id}"), prompt_id)

    async def job_record_of(self, prompt_id: str) -> PromptRecord | None:
        """The record of an ended prompt from the jobs route, which keeps it longer than the history does."""
        if not await self._has_jobs():
            return None
        status, reply = await self.connection.answer("GET", f"/api/jobs/{prompt_id}", accept=frozenset({200, 404, 405}))
        return job_record(reply) if status == 200 and job_state(reply, prompt_id).over else None

    async def cancel(self, prompt_id: str) -> None:
        """Remove a prompt from the queue or interrupt it, by its id. Other prompts are not touched."""
        version = await self.version()
        if version >= CANCEL_SINCE:
            status, _ = await self.connection.answer(
                "POST", f"/api/jobs/{prompt_id}/cancel", accept=frozenset({200, 404, 405})
            )
            if status == 200:
                return
        await self.connection.json("POST", "/queue", body={"delete": [prompt_id]})
        if queue_state(await self.connection.json("GET", "/queue"), prompt_id) is not PromptState.RUNNING:
            return
        if version != _ROUTES_UNKNOWN and version < AIMED_INTERRUPT_SINCE:
            return  # its interrupt takes no id and would stop another prompt
        await self.connection.json("POST", "/interrupt", body={"prompt_id": prompt_id})

    # ---- files

    async def upload(
        self,
        filename: str,
        folder: str,
        chunks: Callable[[], AsyncIterator[bytes]],
        size: int,
    ) -> str:
        """Send a file into the server's input folder and return the name that the server gave it.

        Raises:
            ServerFailed: E_UPLOAD_TOO_LARGE before anything is sent, E_UPLOAD_ANSWER for an answer without a name.
        """
        await self._refuse_large(filename, size)
        boundary = secrets.token_hex(16)
        head, tail = _form(boundary, filename, {"subfolder": folder, "type": "input"})
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + size + len(tail)),
        }
        await self.connection.backoff.wait()
        content = _framed(head, chunks(), tail)
        seconds = self.connection.timeouts.reply + size / SLOWEST
        try:
            with anyio.fail_after(seconds):
                async with self.connection.open("POST", "/upload/image", content=content, headers=headers) as response:
                    raw = await self.connection.whole(response)
        except TimeoutError:
            raise self.connection.too_late(seconds) from None
        return self._given_name(self.connection.decoded(raw, response))

    def _given_name(self, reply: Any) -> str:
        name = reply.get("name") if isinstance(reply, dict) else None
        if not isinstance(name, str) or not name or not name.isprintable():
            raise self.connection.error("E_UPLOAD_ANSWER", "it does not return the name of the file", found=name or "")
        below = subfolder(reply.get("subfolder", ""))
        kind = folder_type(reply.get("type", "input"))
        path = f"{below}/{name}" if below else name
        return path if kind == "input" else f"{path} [{kind}]"

    async def _refuse_large(self, filename: str, size: int) -> None:
        if self._largest_upload is None:
            status, reply = await self.connection.answer("GET", "/features", accept=frozenset({200, 404}))
            limit = reply.get("max_upload_size") if status == 200 and isinstance(reply, dict) else None
            self._largest_upload = limit if isinstance(limit, int) and limit > 0 else 1 << 62
        if size > self._largest_upload:
            raise self.connection.error(
                "E_UPLOAD_TOO_LARGE",
                f"{filename} is larger than it accepts",
                found=f"{size} bytes",
                allowed=f"{self._largest_upload} bytes",
                cure="start that server with a larger --max-upload-size (MB)",
                retryable=False,
            )

    async def has_input(self, name: str, size: int) -> bool:
        """Whether a file of that name and size is in the server's input folder; False if the reply is unclear."""
        below, _, filename = name.rpartition("/")
        params = {"filename": filename, "subfolder": below, "type": "input"}
        await self.connection.backoff.wait()
        try:
            with anyio.fail_after(self.connection.timeouts.reply):
                async with self.connection.open("HEAD", "/view", params=params) as response:
                    return response.status_code == 200 and response.headers.get("content-length") == str(size)
        except TimeoutError:
            self.connection.backoff.failed()
        except ServerFailed as error:
            if not error.retryable:
                raise
        return False

    # ---- the server itself

    async def version(self) -> tuple[int, int, int]:
        """The server's version; (0, 0, 0) if it does not return one."""
        if self._version is None:
            status, reply = await self.connection.answer("GET", "/system_stats", accept=frozenset({200, 404}))
            self._version = _version(reply) if status == 200 else _ROUTES_UNKNOWN
        return self._version

    async def health(self) -> Health:
        """Version, queue and memory, without retries."""
        stats = await self.connection.json("GET", "/system_stats", retry=False)
        queue = await self.connection.json("GET", "/prompt", retry=False)
        self._version = _version(stats)
        found = stats.get("devices") if isinstance(stats, dict) else None
        devices = [d for d in found if isinstance(d, dict)] if isinstance(found, list) else []
        free = [d["vram_free"] for d in devices if isinstance(d.get("vram_free"), int)]
        total = [d["vram_total"] for d in devices if isinstance(d.get("vram_total"), int)]
        return Health(
            version=".".join(map(str, self._version)),
            queue=_waiting(queue),
            devices=tuple(str(d.get("name", "")) for d in devices),
            vram_free=sum(free) if free else None,
            vram_total=sum(total) if total else None,
        )

    async def object_info(self, class_types: frozenset[str]) -> dict[str, Any]:
        """The server's descriptions of these node types; types it does not have are left out."""
        found: dict[str, Any] = {}
        for name in sorted(class_types):
            reply = await self.connection.json("GET", f"/object_info/{quote(name, safe='')}")
            if isinstance(reply, dict):
                found.update(reply)
        return found

    async def free_memory(self) -> None:
        """Make the server unload its models and clear its cache after the current prompt."""
        await self.connection.json("POST", "/free", body={"unload_models": True, "free_memory": True}, retry=False)

    async def _has_jobs(self) -> bool:
        return not self._no_jobs and await self.version() >= JOBS_SINCE


def refuse_dropped(sent: Sent) -> None:
    """Raise PromptFailed (E_PROMPT_PARTIAL) if the server left some of a prompt's outputs out."""
    if sent.dropped:
        raise PromptFailed(
            "E_PROMPT_PARTIAL",
            f"the server leaves outputs out: {'; '.join(sent.dropped)}",
            nodes=sent.dropped,
            cure="correct those nodes, or allow it with partial_outputs = true under [comfyui] in towpath.toml",
        )


def _version(stats: Any) -> tuple[int, int, int]:
    system = stats.get("system") if isinstance(stats, dict) else None
    text = system.get("comfyui_version") if isinstance(system, dict) else None
    found = _VERSION.search(text) if isinstance(text, str) else None
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else _ROUTES_UNKNOWN


def _waiting(reply: Any) -> int:
    info = reply.get("exec_info") if isinstance(reply, dict) else None
    waiting = info.get("queue_remaining") if isinstance(info, dict) else None
    return waiting if isinstance(waiting, int) and waiting >= 0 else 0


def _form(boundary: str, filename: str, fields: dict[str, str]) -> tuple[bytes, bytes]:
    """The bytes before and after a file in a multipart form. `filename` is ASCII."""
    lines = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    lines += f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{filename}"\r\n'
    lines += "Content-Type: application/octet-stream\r\n\r\n"
    return lines.encode("ascii"), f"\r\n--{boundary}--\r\n".encode("ascii")


async def _framed(head: bytes, chunks: AsyncIterator[bytes], tail: bytes) -> AsyncIterator[bytes]:
    yield head
    async for chunk in chunks:
        yield chunk
    yield tail
