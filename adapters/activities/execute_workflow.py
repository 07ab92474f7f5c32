"""One workflow on one server: submitted once, followed until it ends, cancelled there when the caller is cancelled."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio

from towpath.adapters.comfyui.api_format import checked_graph
from towpath.adapters.comfyui.execution_log import ExecutionLog
from towpath.adapters.comfyui.parameters import with_own_prefixes
from towpath.adapters.comfyui.progress_socket import OnProgress
from towpath.adapters.comfyui.prompt import Prompt
from towpath.adapters.comfyui.replies import outputs_of
from towpath.errors import InputInvalid, Place, PromptFailed, ServerFailed
from towpath.retry import seconds

from .server_access import Servers, known_servers, reach


async def execute_and_track_workflow(
    server_address: str,
    workflow_json: Mapping[str, Any],
    workflow_name: str | None = None,
    timeout: float | str = 1800,
    *,
    prompt_id: str | None = None,
    servers: Servers | None = None,
    logs: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Run a workflow in API format on a server and wait until it has ended, for at most `timeout`.

    Returns `{status, prompt_id, server_address, outputs}` with status `completed`, or `{status, prompt_id,
    server_address, error, code, nodes, retryable}` with status `failed`: refused, failed in a node, interrupted,
    without outputs, or too slow (E_STEP_TIMEOUT; it is cancelled then). `outputs` are the server's, by node.

    With a `prompt_id` (a UUID) a repeated call follows the prompt that the server has under this id, and submits
    nothing twice. If the call is cancelled, its prompt is cancelled by its id. Each saved file gets a folder of its
    own on the server. One log in JSONL is written to `<logs>/prompts`; `logs` is the store's folder unless it is given.

    Raises:
        ServerFailed: trouble with the server; a retry may help. InputInvalid: E_PROMPT_ID, E_WORKFLOW_FORMAT,
            E_SERVER_CONFIG, E_SETTING, E_STRATEGY, E_URL_…, E_FIELD_RANGE.
    """
    known = known_servers(servers)
    graph = checked_graph(dict(workflow_json), Place(file=workflow_name or ""))
    own_id = str(uuid.uuid4()) if prompt_id is None else _checked_id(prompt_id)
    limit = seconds(timeout)
    log = ExecutionLog(known.folder if logs is None else Path(logs), own_id)
    async with reach(server_address, known) as member:
        prompt = Prompt(member, with_own_prefixes(graph, own_id), own_id, log, on_progress)
        await log.write("server.selected", server=member.server.name, url=member.server.url)
        with anyio.move_on_after(limit):
            return await _result(
                prompt, workflow_name or "", repeatable=prompt_id is not None, partial=known.comfy.rules.partial_outputs
            )
        return await _failed(prompt, PromptFailed("E_STEP_TIMEOUT", f"it had not ended after {limit:g} s"))


def _checked_id(prompt_id: str) -> str:
    """The id in the form that servers take. It also becomes part of a file name."""
    try:
        return str(uuid.UUID(prompt_id))
    except (ValueError, AttributeError, TypeError):
        raise InputInvalid("E_PROMPT_ID", "not the id of a prompt", found=prompt_id, allowed="a UUID") from None


async def _result(prompt: Prompt, name: str, *, repeatable: bool, partial: bool) -> dict[str, Any]:
    """Submit the prompt, or follow it if the caller chose its id and the server has it already."""
    try:
        if repeatable and await prompt.is_known():
            await prompt.log.write("workflow.queued", server=prompt.member.server.name, earlier=True)
            record = await prompt.follow()
        else:
            await prompt.log.write("workflow.submitted", workflow=name, graph=prompt.graph)
            record = await prompt.submit(partial_outputs=partial)
    except PromptFailed as error:
        return _failure(prompt, error)
    except ServerFailed:
        if not repeatable:  # no later call could find the prompt
            await prompt.abandon()
        raise
    except anyio.get_cancelled_exc_class():
        await prompt.abandon()
        raise
    made = outputs_of(record)
    if not made.files and not made.texts:
        cure = "end the workflow in a node that saves, such as SaveImage"
        message = "it completed without a file or text to keep"
        return await _failed(prompt, PromptFailed("E_NO_OUTPUT", message, cure=cure))
    await prompt.log.write("workflow.success", outputs=record.outputs)
    return {"status": "completed", **_where(prompt), "outputs": record.outputs}


async def _failed(prompt: Prompt, error: PromptFailed) -> dict[str, Any]:
    await prompt.log_failure(error)
    return _failure(prompt, error)


def _failure(prompt: Prompt, error: PromptFailed) -> dict[str, Any]:
    about = {"error": error.problem.message, "code": error.code, "nodes": list(error.nodes)}
    return {"status": "failed", **_where(prompt), **about, "retryable": error.retryable}


def _where(prompt: Prompt) -> dict[str, Any]:
    return {"prompt_id": prompt.id, "server_address": prompt.member.server.url}
