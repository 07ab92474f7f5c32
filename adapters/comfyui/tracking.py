"""Following a prompt until it has ended. Polling decides; the websocket only says when to poll."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from towpath.adapters.task_group import background_tasks
from towpath.errors import ServerFailed

from .client import ComfyClient
from .progress_socket import PromptEvents, listen
from .replies import PromptRecord, PromptState

SOON = 0.05  # seconds between two polls at least, however many events the socket sends
FAST, SLOW = 0.1, 1.0  # seconds between polls while the socket is silent: first and longest
LIVELY = 5.0  # seconds between polls while the socket sends events
HELLO = 2.0  # seconds to wait for the socket before the prompt is submitted without it


@asynccontextmanager
async def listening(client: ComfyClient, client_id: str, events: PromptEvents) -> AsyncGenerator[None, None]:
    """Listen to the prompt's socket. It is open before the block starts, unless that takes longer than `HELLO`."""
    opened = anyio.Event()
    async with background_tasks() as tasks:
        tasks.start_soon(listen, client.connection.server, client_id, events, opened)
        with anyio.move_on_after(HELLO):
            await opened.wait()
        yield


async def follow(client: ComfyClient, prompt_id: str, events: PromptEvents) -> PromptRecord:
    """The server's record of a prompt, once it has ended.

    Raises:
        ServerFailed: E_PROMPT_LOST if the server does not know it (any more); E_SERVER_… if the server fails for
            longer than its timeouts.
    """
    wait, missing = FAST, 0.0
    while True:
        events.poll_now, polled = anyio.Event(), anyio.current_time()
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
            missing = now  # between the queue and the history a prompt is in neither of them
        elif now - missing >= client.connection.timeouts.lost:
            raise lost(client, prompt_id)
        lively = missing == 0.0 and now - events.last < LIVELY
        with anyio.move_on_after(LIVELY if lively else wait) as pause:
            await events.poll_now.wait()
            await anyio.sleep(max(polled + SOON - anyio.current_time(), 0))
        wait = min(wait * 1.5, SLOW) if pause.cancelled_caught else FAST / 2


async def _record(client: ComfyClient, prompt_id: str) -> PromptRecord | None:
    """The record of a prompt that has ended; the server may write it a little later than it reports the end."""
    wait, until = 0.02, anyio.current_time() + client.connection.timeouts.lost
    while anyio.current_time() < until:
        record = await client.record(prompt_id)
        if record is not None:
            return record
        await anyio.sleep(wait)
        wait = min(wait * 2, 0.5)
    return await client.job_record_of(prompt_id)


def lost(client: ComfyClient, prompt_id: str) -> ServerFailed:
    """The error for a prompt that the server does not know: it restarted, or the prompt was removed."""
    return client.connection.error(
        "E_PROMPT_LOST",
        f"it does not know prompt {prompt_id}: it was restarted, or the prompt was removed",
        cure="the prompt is submitted again if the step has tries left",
    )
