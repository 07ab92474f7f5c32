"""Following a prompt until it is over. Polling decides; the websocket only says when to ask."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from towpath.adapters.task_group import background_tasks
from towpath.errors import ServerFailed

from .client import ComfyClient
from .progress_socket import PromptEvents, listen
from .replies import PromptRecord, PromptState

SOON = 0.05  # seconds between two questions at least, however often the socket asks for one
FAST, SLOW = 0.1, 1.0  # seconds between questions while the socket is silent
LIVELY = 5.0  # seconds between questions while the socket tells something
HELLO = 2.0  # seconds to wait for the socket before the prompt is sent without it


@asynccontextmanager
async def listening(client: ComfyClient, client_id: str, events: PromptEvents) -> AsyncGenerator[None, None]:
    """The prompt's socket, open before the prompt is sent if the server opens it in time."""
    opened = anyio.Event()
    async with background_tasks() as tasks:
        tasks.start_soon(listen, client.connection.server, client_id, events, opened)
        with anyio.move_on_after(HELLO):
            await opened.wait()
        yield


async def follow(client: ComfyClient, prompt_id: str, events: PromptEvents) -> PromptRecord:
    """What the server's history says of a prompt, once it is over.

    Raises:
        ServerFailed: E_PROMPT_LOST if the server knows nothing of it (any more); E_SERVER_… if the server
            stays in trouble for longer than timeouts allows.
    """
    wait, missing = FAST, 0.0
    while True:
        events.nudge, asked = anyio.Event(), anyio.current_time()
        state = await client.state(prompt_id)
        now = anyio.current_time()
        if state.over:
            record = await _record(client, prompt_id)
            if record is not None:
                return record
            state = PromptState.UNKNOWN
        if state is not PromptState.UNKNOWN:
            missing = 0.0
        elif not missing:
            missing = now  # a prompt may be neither in the queue nor yet in the history
        elif now - missing >= client.connection.timeouts.lost:
            raise lost(client, prompt_id)
        lively = missing == 0.0 and now - events.last < LIVELY
        with anyio.move_on_after(LIVELY if lively else wait) as pause:
            await events.nudge.wait()
            await anyio.sleep(max(asked + SOON - anyio.current_time(), 0))
        wait = min(wait * 1.5, SLOW) if pause.cancelled_caught else FAST / 2


async def _record(client: ComfyClient, prompt_id: str) -> PromptRecord | None:
    """The history of a prompt that is over; the server may write it a little later than it says so."""
    wait, until = 0.02, anyio.current_time() + client.connection.timeouts.lost
    while anyio.current_time() < until:
        record = await client.record(prompt_id)
        if record is not None:
            return record
        await anyio.sleep(wait)
        wait = min(wait * 2, 0.5)
    return await client.last_word(prompt_id)


def lost(client: ComfyClient, prompt_id: str) -> ServerFailed:
    """The server has forgotten a prompt: restarted, or somebody removed it. It may be sent again."""
    return client.connection.error(
        "E_PROMPT_LOST",
        f"it knows nothing of prompt {prompt_id} any more; it was restarted, or somebody removed it",
        cure="the prompt is sent again if the step has tries left",
    )
