"""The life of one prompt on one server: submit it once, follow it until it ends, cancel it by its id."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio

from towpath.errors import PromptFailed, ServerFailed

from .api_format import node_title
from .client import ComfyClient, Sent, refuse_dropped
from .concurrency import one_error
from .execution_log import ExecutionLog
from .pool import Member
from .progress_socket import OnProgress, PromptEvents
from .replies import PromptRecord, PromptState, failed_prompt
from .tracking import follow, listening

CANCEL_SECONDS = 10.0  # how long a server may take to cancel a prompt
SECOND_LOOK = 0.2  # seconds; a prompt on its way from the queue to the history is in neither of them

Renamed = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class Prompt:
    """A graph and the id under which it is submitted.

    `id` changes while the prompt is submitted if an old server assigns an id of its own. All methods but `abandon`
    raise ServerFailed.
    """

    member: Member
    graph: Mapping[str, Any]
    id: str
    log: ExecutionLog
    on_progress: OnProgress | None = None

    @property
    def _client(self) -> ComfyClient:
        return self.member.client

    @property
    def _titles(self) -> dict[str, str]:
        return {node_id: node_title(node) for node_id, node in self.graph.items()}

    async def state(self) -> PromptState:
        """Where the prompt is. The server is asked twice before the answer is `unknown`."""
        state = await self._client.state(self.id)
        if state is PromptState.UNKNOWN:
            await anyio.sleep(SECOND_LOOK)
            state = await self._client.state(self.id)
        return state

    async def is_known(self) -> bool:
        """Whether the server has the prompt: waiting, running or ended."""
        async with self._logged(self._events()):
            return await self.state() is not PromptState.UNKNOWN

    async def submit(self, *, partial_outputs: bool = False, renamed: Renamed | None = None) -> PromptRecord:
        """Send the graph once, and return the server's record when the prompt has completed.

        `renamed` is awaited with the new id if the server assigns one. Without `partial_outputs` a prompt is
        cancelled if the server leaves some of its outputs out.

        Raises PromptFailed: E_PROMPT_INVALID, E_PROMPT_PARTIAL, or what stopped the prompt.
        """
        events, client_id = self._events(), uuid.uuid4().hex
        async with self._logged(events), one_error(), listening(self._client, client_id, events):
            sent = await self._client.submit(dict(self.graph), self.id, client_id, self._titles)
            if sent.prompt_id != self.id:
                self.id = events.prompt_id = sent.prompt_id
                if renamed is not None:
                    await renamed(sent.prompt_id)
            await self.log.write("workflow.queued", server=self.member.server.name, prompt=sent.prompt_id)
            if not partial_outputs:
                await self._refuse_partial(sent)
            return await self._completed(events)

    async def follow(self) -> PromptRecord:
        """Follow a prompt that the server has already, and return its record when it has completed.

        Raises PromptFailed with what stopped the prompt.
        """
        events = self._events()
        async with self._logged(events):
            return await self._completed(events)

    async def abandon(self) -> None:
        """Cancel the prompt by its id. Returns when it has ended, or after 10 seconds. Never raises ServerFailed."""
        with anyio.move_on_after(CANCEL_SECONDS, shield=True), suppress(ServerFailed):
            while True:
                await self._client.cancel(self.id)
                # Two looks: a request that was cut off while it was sent may reach the server only now.
                if await self.state() not in (PromptState.PENDING, PromptState.RUNNING):
                    return
                await anyio.sleep(0.1)

    async def _refuse_partial(self, sent: Sent) -> None:
        try:
            refuse_dropped(sent)
        except PromptFailed:
            await self.abandon()
            raise

    async def _completed(self, events: PromptEvents) -> PromptRecord:
        record = await follow(self._client, self.id, events)
        await self.log.write("history.complete", state=record.state, messages=record.messages, sockets=events.closed)
        if record.state is PromptState.COMPLETED:
            return record
        error = failed_prompt(record, self._titles)
        if error.code == "E_NODE_MEMORY":
            with suppress(ServerFailed):
                await self._client.free_memory()
        raise error

    async def log_failure(self, error: PromptFailed | ServerFailed) -> None:
        """Write into the prompt's log why it did not complete."""
        nodes = {"nodes": error.nodes} if isinstance(error, PromptFailed) else {}
        await self.log.write("workflow.failed", code=error.code, message=error.problem.message, **nodes)

    @asynccontextmanager
    async def _logged(self, events: PromptEvents) -> AsyncGenerator[None, None]:
        """Write into the prompt's log how it ended, unless it completed."""
        try:
            yield
        except (PromptFailed, ServerFailed) as error:
            await self.log_failure(error)
            raise
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.log.write("workflow.cancelled", sockets=events.closed)
            raise

    def _events(self) -> PromptEvents:
        return PromptEvents(
            self.id,
            on_node=lambda node: self.log.note("node.executing", node=node),
            on_progress=self.on_progress,
        )
