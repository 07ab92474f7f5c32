"""One workflow on one server: sent once, followed until it is over, cancelled there when nobody wants it any more."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from towpath.adapters.comfyui.api_format import checked_graph, node_title
from towpath.adapters.comfyui.client import ComfyClient, refuse_dropped
from towpath.adapters.comfyui.execution_log import ExecutionLog
from towpath.adapters.comfyui.parameters import with_own_prefixes
from towpath.adapters.comfyui.pool import Member
from towpath.adapters.comfyui.progress_socket import Heard
from towpath.adapters.comfyui.replies import PromptState, Record, failed_prompt, outputs_of
from towpath.adapters.comfyui.tracking import follow, listening
from towpath.adapters.comfyui.workflow_run import GRACE
from towpath.errors import InputInvalid, Place, PromptFailed, ServerFailed
from towpath.retry import seconds

from .server_access import Servers, reach, server_settings

Progress = Callable[[float, float | None], None]


async def execute_and_track_workflow(
    server_address: str,
    workflow_json: Mapping[str, Any],
    workflow_name: str | None = None,
    timeout: float | str = 1800,
    *,
    prompt_id: str | None = None,
    servers: Servers | None = None,
    logs: str | os.PathLike[str] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a workflow in API format on a server and wait until it is over, for at most `timeout`.

    Returns `{status, prompt_id, server_address, outputs}` with status `completed`, or `{status, prompt_id,
    server_address, error, code, nodes, retryable}` with status `failed`: refused, failed in a node, interrupted,
    without outputs, or too slow (E_STEP_TIMEOUT; it is cancelled then). `outputs` are the server's, by node.

    With a `prompt_id` (a UUID) a repeated call goes on with what the server knows under it, and sends nothing twice.
    A call that is cancelled cancels its prompt by its id. Each saved file gets a folder of its own on the server.
    One log in JSONL is written to `<logs>/prompts`; `logs` is the store's folder unless it is given.

    Raises:
        ServerFailed: trouble with the server; trying again may help. InputInvalid: E_PROMPT_ID, E_WORKFLOW_FORMAT,
            E_SERVER_CONFIG, E_SETTING, E_URL_…, E_FIELD_RANGE.
    """
    settings = server_settings(servers)
    graph = checked_graph(dict(workflow_json), Place(file=workflow_name or ""))
    ours = _checked_id(prompt_id) if prompt_id is not None else str(uuid.uuid4())
    patience = seconds(timeout)
    async with reach(server_address, settings) as member:
        execution = _Execution(
            member=member,
            prompt_id=ours,
            graph=with_own_prefixes(graph, ours.replace("-", "")[:16]),
            name=workflow_name or "",
            log=ExecutionLog(settings.folder if logs is None else Path(logs), ours),
            partial_outputs=settings.partial_outputs,
            known_to_caller=prompt_id is not None,
            on_progress=on_progress,
        )
        with anyio.move_on_after(patience):
            return await execution.result()
        return await execution.failed(PromptFailed("E_STEP_TIMEOUT", f"it was not done after {patience:g} s"))


def _checked_id(prompt_id: str) -> str:
    """The id as servers take it; they refuse others, and it becomes part of a file name of ours."""
    try:
        return str(uuid.UUID(prompt_id))
    except (ValueError, AttributeError, TypeError):
        raise InputInvalid("E_PROMPT_ID", "not the id of a prompt", found=prompt_id, allowed="a UUID") from None


@dataclass(slots=True)
class _Execution:
    """One prompt on its way. `prompt_id` changes if an old server gives it one of its own."""

    member: Member
    prompt_id: str
    graph: dict[str, Any]
    name: str
    log: ExecutionLog
    partial_outputs: bool
    known_to_caller: bool
    on_progress: Progress | None

    @property
    def client(self) -> ComfyClient:
        return self.member.client

    async def result(self) -> dict[str, Any]:
        await self.log.write("server.selected", server=self.member.server.name, url=self.member.server.url)
        try:
            return await self._completed(await self._record())
        except PromptFailed as error:
            return await self.failed(error)
        except ServerFailed as error:
            await self.log.write("workflow.failed", code=error.code, message=error.problem.message)
            if not self.known_to_caller:  # nobody could find it again
                await self._abandon()
            raise
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.log.write("workflow.cancelled")
                await self._abandon()
            raise

    async def failed(self, error: PromptFailed) -> dict[str, Any]:
        message = error.problem.message
        await self.log.write("workflow.failed", code=error.code, message=message, nodes=error.nodes)
        told = {"error": message, "code": error.code, "nodes": list(error.nodes), "retryable": error.retryable}
        return {"status": "failed", **self._where(), **told}

    def _where(self) -> dict[str, Any]:
        return {"prompt_id": self.prompt_id, "server_address": self.member.server.url}

    async def _completed(self, record: Record) -> dict[str, Any]:
        await self.log.write("history.complete", state=record.state, messages=record.messages)
        if record.state is not PromptState.COMPLETED:
            raise failed_prompt(record, self._titles())
        made = outputs_of(record)
        if not made.files and not made.texts:
            cure = "end the workflow in a node that saves, such as SaveImage"
            raise PromptFailed("E_NO_OUTPUT", "it is done and made nothing that could be kept", cure=cure)
        await self.log.write("workflow.success", outputs=record.outputs)
        return {"status": "completed", **self._where(), "outputs": record.outputs}

    async def _record(self) -> Record:
        """What the server says of the prompt in the end, whether it is new or known there."""
        if self.known_to_caller and await self._is_known():
            await self.log.write("workflow.queued", server=self.member.server.name, earlier=True)
            return await follow(self.client, self.prompt_id, self._heard())
        await self.log.write("workflow.submitted", workflow=self.name, graph=self.graph)
        heard, client_id = self._heard(), uuid.uuid4().hex
        try:
            async with listening(self.client, client_id, heard):
                await self._submit(client_id)
                heard.prompt_id = self.prompt_id
                return await follow(self.client, self.prompt_id, heard)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _submit(self, client_id: str) -> None:
        taken = await self.client.submit(self.graph, self.prompt_id, client_id, self._titles())
        self.prompt_id = taken.prompt_id
        await self.log.write("workflow.queued", server=self.member.server.name, taken_as=taken.prompt_id)
        if self.partial_outputs:
            return
        try:
            refuse_dropped(taken)
        except PromptFailed:
            await self._abandon()
            raise

    async def _is_known(self) -> bool:
        """Does the server have the prompt? One on its way from queue to history is looked for twice."""
        if await self.client.state(self.prompt_id) is not PromptState.UNKNOWN:
            return True
        await anyio.sleep(0.2)
        return await self.client.state(self.prompt_id) is not PromptState.UNKNOWN

    async def _abandon(self) -> None:
        """Cancel the prompt by its id; back when it is gone, or after a while. Never raises."""
        with anyio.move_on_after(GRACE, shield=True), suppress(ServerFailed):
            while True:
                await self.client.cancel(self.prompt_id)
                if await self.client.state(self.prompt_id) not in (PromptState.PENDING, PromptState.RUNNING):
                    return
                await anyio.sleep(0.1)

    def _heard(self) -> Heard:
        return Heard(
            self.prompt_id,
            on_node=lambda node: self.log.note("node.executing", node=node),
            on_progress=self.on_progress,
        )

    def _titles(self) -> dict[str, str]:
        return {node_id: node_title(node) for node_id, node in self.graph.items()}
