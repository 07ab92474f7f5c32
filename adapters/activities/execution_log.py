"""The execution log of a prompt, written after its end from the server's history."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio

from towpath.adapters.comfyui import execution_log
from towpath.adapters.comfyui.replies import PromptRecord, PromptState, failed_prompt, history_record
from towpath.adapters.settings import settle
from towpath.errors import StoreFailed
from towpath.media import safe_filename

from .server_access import store_folder

Line = tuple[str, dict[str, Any]]


async def create_execution_log(
    prompt_id: str,
    server_address: str,
    workflow_definition: Mapping[str, Any],
    history: Mapping[str, Any],
    *,
    folder: str | os.PathLike[str] | None = None,
) -> str:
    """Write one JSONL file about a prompt that has ended, and return its path: `<folder>/prompts/<time>_<id>.jsonl`.

    `history` is a reply of `/history/<id>` or the entry in it. Lines have `at event prompt_id` and the data of the
    event: `workflow.submitted`, `node.executed` for each node (`cached` if its result was reused),
    `execution.complete` or `execution.error`, `workflow.success` or `workflow.failed`, `history.complete`. `folder`
    is the store's unless it is given.

    Raises StoreFailed (E_DISK_IO) if it cannot be written.
    """
    home = store_folder(settle()) if folder is None else Path(folder)
    log = execution_log.ExecutionLog(home, safe_filename(prompt_id))
    log.prompt_id = prompt_id
    log.note("workflow.submitted", server=server_address, graph=dict(workflow_definition))
    entry = history[prompt_id] if isinstance(history.get(prompt_id), Mapping) else history
    record = history_record({prompt_id: dict(entry)}, prompt_id)
    assert record is not None
    for event, data in _lines(record):
        log.note(event, **data)
    await log.write("history.complete", state=record.state, messages=record.messages)
    if not await anyio.Path(log.path).exists():
        raise StoreFailed("E_DISK_IO", f"the execution log cannot be written in {log.path.parent}")
    return str(log.path)


def _lines(record: PromptRecord) -> Iterator[Line]:
    for kind, data in record.messages:
        if kind == "execution_cached":
            for node in data.get("nodes") or ():
                yield "node.executed", {"node": node, "cached": True}
    for node, outputs in record.outputs.items():
        yield "node.executed", {"node": node, "outputs": outputs}
    if record.state is PromptState.COMPLETED:
        yield "execution.complete", {}
        yield "workflow.success", {"outputs": record.outputs}
        return
    error = failed_prompt(record, {})
    yield "execution.error", {"code": error.code, "message": error.problem.message, "nodes": error.nodes}
    yield "workflow.failed", {"code": error.code, "message": error.problem.message}
