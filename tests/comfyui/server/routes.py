"""The routes of the server, as a client meets them. Each exists with and without /api, jobs only with it."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from tests.comfyui.server import jobs
from tests.comfyui.server.answers import Json
from tests.comfyui.server.checking import check, problem
from tests.comfyui.server.contents import fingerprint, image
from tests.comfyui.server.faults import Faults
from tests.comfyui.server.files import Folders, Refused, annotation, file_digest
from tests.comfyui.server.nodes import NODES
from tests.comfyui.server.queue import Prompt, Queue
from tests.comfyui.server.sockets import Sockets
from tests.comfyui.server.views import view
from tests.comfyui.server.visits import ConnectionCut
from tests.comfyui.server.worker import Worker

SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")  # never in queue and history
STRICT_IDS, TARGETED_INTERRUPT, JOBS, CANCEL, FEATURES = (0, 25), (0, 3, 57), (0, 6), (0, 26), (0, 3, 45)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Endpoint = Callable[[Request], Awaitable[Response]]
GB = 1 << 30


@dataclass(frozen=True, slots=True)
class Routes:
    """Everything that a request may need."""

    queue: Queue
    worker: Worker
    sockets: Sockets
    folders: Folders
    faults: Faults
    version: str
    max_upload: int

    def all(self) -> list[BaseRoute]:
        """The routes that a server of this version has."""
        age = self.worker.version
        both: list[tuple[str, str, Endpoint]] = [
            ("GET", "/prompt", self.get_prompt),
            ("POST", "/prompt", self.post_prompt),
            ("GET", "/queue", self.get_queue),
            ("POST", "/queue", self.post_queue),
            ("POST", "/interrupt", self.interrupt),
            ("GET", "/history", self.history),
            ("GET", "/history/{prompt_id}", self.history_of),
            ("POST", "/history", self.post_history),
            ("POST", "/upload/image", self.upload_image),
            ("POST", "/upload/mask", self.upload_mask),
            ("GET", "/view", self.view),
            ("GET", "/object_info", self.object_info),
            ("GET", "/object_info/{name}", self.object_info),
            ("GET", "/system_stats", self.system_stats),
            ("POST", "/free", self.free),
        ]
        if age >= FEATURES:
            both.append(("GET", "/features", self.features))
        found = [Route(f"{start}{path}", run, methods=[how]) for how, path, run in both for start in ("", "/api")]
        sockets = [WebSocketRoute(f"{start}/ws", self.sockets.serve) for start in ("", "/api")]
        if age >= JOBS:
            found += [Route("/api/jobs", self.jobs), Route("/api/jobs/{prompt_id}", self.job)]
        if age >= CANCEL:
            found += [
                Route("/api/jobs/cancel", self.cancel_some, methods=["POST"]),
                Route("/api/jobs/{prompt_id}/cancel", self.cancel, methods=["POST"]),
            ]
        return [*sockets, *found]

    # Prompts.

    async def get_prompt(self, request: Request) -> Response:
        """How many wait or run."""
        return Json(self.queue.status()["status"])

    async def post_prompt(self, request: Request) -> Response:
        """Judge a prompt and queue it. What has the wrong shape is a crash, as in the original."""
        if self.faults.take("refuse_prompt"):
            raise ConnectionCut
        body = await request.json()
        number = self._number(body)
        if "prompt" not in body:
            return self._refusal(problem("no_prompt", "No prompt provided", "No prompt provided"))
        prompt_id = body.get("prompt_id")
        if prompt_id is not None and self.worker.version >= STRICT_IDS and not _is_uuid(prompt_id):
            return self._refusal(problem("invalid_prompt_id", "prompt_id must be a valid UUID", str(prompt_id)))
        prompt_id = str(uuid.uuid4()) if prompt_id is None or self.faults.take("prompt_other_id") else str(prompt_id)
        graph = body["prompt"]
        verdict = check(graph, self.folders, body.get("partial_execution_targets"))
        extra_data = body.get("extra_data", {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        extra_data = {key: value for key, value in extra_data.items() if key not in SECRETS}
        extra_data["create_time"] = int(time.time() * 1000)
        if verdict.error is not None:
            return self._refusal(verdict.error, verdict.node_errors)
        self.queue.put(Prompt(number, prompt_id, graph, extra_data, verdict.outputs))
        if self.faults.take("drop_prompt_answer"):
            raise ConnectionCut
        await anyio.sleep(self.faults.prompt_delay)
        errors = dict(verdict.node_errors)
        if self.faults.take("prompt_node_errors"):
            node_id = next(iter(graph))
            reasons = [problem("value_not_in_list", "Value not in list", "a fault of the stand-in")]
            told = {"errors": reasons, "dependent_outputs": [], "class_type": graph[node_id]["class_type"]}
            errors[node_id] = told
        return Json({"prompt_id": prompt_id, "number": number, "node_errors": errors})

    def _number(self, body: Any) -> float:
        if "number" in body:
            return float(body["number"])
        number = -self.queue.number if body.get("front") else self.queue.number
        self.queue.number += 1
        return number

    def _refusal(self, error: dict[str, Any], node_errors: dict[str, Any] | None = None) -> Response:
        return Json({"error": error, "node_errors": node_errors or {}}, status_code=400)

    # Queue and history.

    async def get_queue(self, request: Request) -> Response:
        """Everything that runs or waits, with the whole graphs."""
        running = [] if self.queue.running is None else [self.queue.running.told()]
        waiting = [prompt.told() for prompt in self.queue.pending()]
        return Json({"queue_running": running, "queue_pending": waiting})

    async def post_queue(self, request: Request) -> Response:
        """Take out what waits: 200 whether it was there or not."""
        body = await request.json()
        if body.get("clear"):
            self.queue.clear()
        self.queue.remove(body.get("delete", ()))
        return Response()

    async def interrupt(self, request: Request) -> Response:
        """Stop what runs; without an id, whoever's it is."""
        try:
            body = await request.json()
        except ValueError:
            body = {}
        self.worker.interrupt(body.get("prompt_id") if self.worker.version >= TARGETED_INTERRUPT else None)
        return Response()

    async def history(self, request: Request) -> Response:
        """What is over: without an offset the newest."""
        ended = list(self.queue.history().items())
        most = int(request.query_params.get("max_items", len(ended)))
        offset = int(request.query_params.get("offset", -1))
        start = offset if offset >= 0 else max(0, len(ended) - most)
        return Json({key: each.told() for key, each in ended[start : start + most]})

    async def history_of(self, request: Request) -> Response:
        """One prompt that is over; {} for all others."""
        prompt_id = request.path_params["prompt_id"]
        ended = self.queue.found(prompt_id)
        return Json({} if ended is None else {prompt_id: ended.told()})

    async def post_history(self, request: Request) -> Response:
        """Forget."""
        body = await request.json()
        if body.get("clear"):
            self.queue.ended.clear()
        for prompt_id in body.get("delete", ()):
            self.queue.ended.pop(prompt_id, None)
        return Response()

    async def free(self, request: Request) -> Response:
        """Drop the cache, when the prompt that runs is over."""
        if (await request.json()).get("free_memory"):
            self.worker.free()
        return Response()

    # Jobs.

    async def jobs(self, request: Request) -> Response:
        """A page of all jobs."""
        query = request.query_params
        wanted = [each.strip().lower() for each in query.get("status", ",".join(jobs.STATUSES)).split(",")]
        if unknown := [each for each in wanted if each not in jobs.STATUSES]:
            return Json({"error": f"Invalid status value(s): {', '.join(unknown)}"}, status_code=400)
        sort_by = {"created_at": "create_time", "execution_duration": "duration"}.get(
            query.get("sort_by", "created_at")
        )
        try:
            offset, limit = max(0, int(query.get("offset", 0))), int(query.get("limit", 2**31))
        except ValueError:
            limit = 0
        if sort_by is None or limit <= 0 or query.get("sort_order", "desc") not in {"asc", "desc"}:
            return Json({"error": "Invalid sort_by, sort_order, offset or limit"}, status_code=400)
        found = [job for job in jobs.listed(self.queue) if job["status"] in wanted]
        if "workflow_id" in query:
            found = [job for job in found if job.get("workflow_id") == query["workflow_id"]]
        newest_first = query.get("sort_order", "desc") == "desc"
        found.sort(key=lambda job: _sorted_by(job, sort_by), reverse=newest_first)
        page = found[offset : offset + limit]
        more = {"offset": offset, "limit": int(query["limit"]) if "limit" in query else None, "total": len(found)}
        return Json({"jobs": page, "pagination": {**more, "has_more": offset + len(page) < len(found)}})

    async def job(self, request: Request) -> Response:
        """One job, wherever it is."""
        found = jobs.find(self.queue, request.path_params["prompt_id"])
        return Json({"error": "Job not found"}, status_code=404) if found is None else Json(found)

    async def cancel(self, request: Request) -> Response:
        """Stop one job, wherever it is; false if there is nothing to stop."""
        return Json({"cancelled": self._cancelled(request.path_params["prompt_id"])})

    async def cancel_some(self, request: Request) -> Response:
        """Stop jobs; true if any was there to be stopped."""
        ids = (await request.json()).get("job_ids")
        if not isinstance(ids, list) or not all(_is_uuid(each) for each in ids):
            return Json({"error": "Invalid job_ids", "invalid_ids": ids}, status_code=400)
        cancelled = [self._cancelled(each) for each in ids]
        return Json({"cancelled": any(cancelled)})

    def _cancelled(self, prompt_id: str) -> bool:
        return self.worker.interrupt(prompt_id) or self.queue.remove({prompt_id})

    # Files.

    async def view(self, request: Request) -> Response:
        """A file."""
        return view(request, self.folders, self.faults)

    async def upload_image(self, request: Request) -> Response:
        """Take a file in. The name of the answer counts, not the one sent."""
        if self.faults.take("upload_status_times"):
            return Response("the disk is full" if self.faults.upload_status != 413 else "", self.faults.upload_status)
        async with request.form() as form:
            upload = form.get("image")
            if not isinstance(upload, UploadFile) or not upload.filename:
                return Response(status_code=400)
            subfolder, kind = str(form.get("subfolder", "")), str(form.get("type") or "input")
            overwrite = form.get("overwrite") in {"true", "1"}
            try:
                within = self.folders.place_for(upload.filename, subfolder, kind)
            except Refused as refused:
                return Response(status_code=refused.status)
            filename = f"renamed_{upload.filename}" if self.faults.upload_rename else upload.filename
            name = self.folders.keep(upload.file, within, filename, overwrite)
        return Json({"name": name, "subfolder": subfolder, "type": kind})

    async def upload_mask(self, request: Request) -> Response:
        """A picture made of an upload and of the original that it names; without the original there is no file."""
        async with request.form() as form:
            upload = form["image"]
            assert isinstance(upload, UploadFile)
            original = _reference(str(form["original_ref"]), self.folders)
            name = annotation(upload.filename or "")[0]
            subfolder, kind = str(form.get("subfolder", "")), str(form.get("type") or "input")
            target = self.folders.place_for(name, subfolder, kind) / name
            if original is not None and original.is_file():
                sources = [file_digest(original), fingerprint("mask", {}, [str(len(await upload.read()))])]
                target.write_bytes(image(fingerprint("upload mask", {}, sources), 16, 16))
        return Json({"name": name, "subfolder": subfolder, "type": kind})

    # The server itself.

    async def object_info(self, request: Request) -> Response:
        """The node types, or one; {} for one that is not there."""
        name = request.path_params.get("name")
        known = NODES if name is None else {name: NODES[name]} if name in NODES else {}
        return Json({key: node.told(key, self.folders) for key, node in known.items()})

    async def features(self, request: Request) -> Response:
        """What the server can do."""
        return Json(self.sockets.features)

    async def system_stats(self, request: Request) -> Response:
        """Version and memory."""
        system = {
            "os": "linux",
            "ram_total": 64 * GB,
            "ram_free": 48 * GB,
            "comfyui_version": self.version,
            "python_version": "3.11",
            "pytorch_version": "2.9.0+cpu",
            "embedded_python": False,
            "argv": ["main.py", "--cpu"],
        }
        memory = {"vram_total": 24 * GB, "vram_free": 20 * GB, "torch_vram_total": 0, "torch_vram_free": 0}
        return Json({"system": system, "devices": [{"name": "cpu", "type": "cpu", "index": 0, **memory}]})


def _is_uuid(value: Any) -> bool:
    return isinstance(value, str) and UUID.fullmatch(value) is not None


def _sorted_by(job: dict[str, Any], field: str) -> float:
    if field == "duration":
        return float(job.get("execution_end_time", 0) - job.get("execution_start_time", 0))
    return float(job.get(field, 0))


def _reference(words: str, folders: Folders) -> Any:
    said = json.loads(words)
    folder = folders.of(said.get("type", "output"))
    return None if folder is None else folder / said.get("subfolder", "") / said["filename"]
