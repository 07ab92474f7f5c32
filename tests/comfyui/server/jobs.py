"""What /api/jobs tells of a prompt: the only route that tells waiting, running, over and unknown apart."""

from __future__ import annotations

from typing import Any

from tests.comfyui.server.queue import Ended, Prompt, Queue

Job = dict[str, Any]
STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
MEDIA = ("images", "gifs", "audio", "video", "3d", "files")


def find(queue: Queue, prompt_id: str) -> Job | None:
    """One job with everything that is known; None if there is no such job."""
    ended = queue.found(prompt_id)
    if ended is not None:
        return {**_over(ended), **_details(ended)}
    if queue.running is not None and queue.running.prompt_id == prompt_id:
        return _open(queue.running, "in_progress")
    waiting = [prompt for prompt in queue.pending() if prompt.prompt_id == prompt_id]
    return _open(waiting[0], "pending") if waiting else None


def listed(queue: Queue) -> list[Job]:
    """All jobs, in short."""
    running = [] if queue.running is None else [_open(queue.running, "in_progress")]
    waiting = [_open(prompt, "pending") for prompt in queue.pending()]
    return [*running, *waiting, *(_over(ended) for ended in queue.history().values())]


def _open(prompt: Prompt, status: str) -> Job:
    return _pruned(
        {
            "id": prompt.prompt_id,
            "status": status,
            "priority": prompt.number,
            "create_time": prompt.extra_data.get("create_time"),
            "outputs_count": 0,
            "workflow_id": _workflow_id(prompt),
        }
    )


def _over(ended: Ended) -> Job:
    messages = dict(ended.status["messages"])
    last, data = ended.status["messages"][-1]
    status = {"execution_success": "completed", "execution_interrupted": "cancelled"}.get(last, "failed")
    items = [
        {**item, "nodeId": node_id, "mediaType": kind}
        for node_id, output in ended.outputs.items()
        for kind, found in output.items()
        if kind in MEDIA and isinstance(found, list)
        for item in found
        if isinstance(item, dict)
    ]
    return _pruned(
        {
            **_open(ended.prompt, status),
            "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
            "execution_end_time": data["timestamp"],
            "execution_error": data if status == "failed" else None,
            "outputs_count": len(items),
            "preview_output": items[0] if items else None,
        }
    )


def _details(ended: Ended) -> Job:
    workflow = {"prompt": ended.prompt.graph, "extra_data": ended.prompt.extra_data}
    return {"outputs": ended.outputs, "execution_status": ended.status, "workflow": workflow}


def _workflow_id(prompt: Prompt) -> Any:
    extra = prompt.extra_data.get("extra_pnginfo")
    workflow = extra.get("workflow") if isinstance(extra, dict) else None
    return workflow.get("id") if isinstance(workflow, dict) else None


def _pruned(job: Job) -> Job:
    return {key: value for key, value in job.items() if value is not None}
