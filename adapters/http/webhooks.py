"""Webhooks: messages about new approvals and ended chains. Signed, retried, delivered at least once.

The cursor of each receiver is a row (`webhook_cursors`), so that events are delivered later if this server or the
receiver is down. Receivers are independent: one that is down does not delay the others. Signatures follow Standard
Webhooks: `webhook-signature: v1,` and base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.abc
import httpx
import msgspec

from towpath.adapters.comfyui.addresses import server_url
from towpath.errors import InputInvalid, TowpathError
from towpath.logs import guarded_logger
from towpath.store import Record, event_log

from .access import ServerRecords
from .responses import redacted_data
from .settings import SIGNING, HttpSettings, Webhook

_log = guarded_logger("towpath.http")

TYPES = {"ApprovalRequested": "approval.requested", "ChainEnded": "chain.ended"}
FIRST_WAIT = 1.0  # seconds until the first retry; doubles up to the longest
LONGEST_WAIT = 300.0
MOST_AGE = 3 * 24 * 3600  # seconds; an older event is not retried
TIMEOUT = 10.0
_GONE = 410


def checked(hook: Webhook) -> Webhook:
    """The receiver, if its address is allowed. Raises InputInvalid (E_URL_…)."""
    parts = urlsplit(hook.url)
    try:
        server_url(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")))
    except InputInvalid as error:
        raise InputInvalid(
            error.code, "this address cannot be used for a webhook", cure="use an http(s) address"
        ) from None
    return hook


def signature(secret: str, message_id: str, at: int, body: bytes) -> str:
    """The signature that proves to the receiver that this server sent the message."""
    key = base64.b64decode(secret.removeprefix(SIGNING)) if secret.startswith(SIGNING) else secret.encode()
    signed = b".".join((message_id.encode(), str(at).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Webhooks:
    """Sends events to all receivers. `run` lasts until it is cancelled."""

    def __init__(
        self, records: ServerRecords, settings: HttpSettings, *, first_wait: float = FIRST_WAIT, poll: float = 1.0
    ) -> None:
        self._records = records
        self._url = settings.url.rstrip("/")
        self._hooks = [checked(hook) for hook in settings.webhooks]
        self._first_wait = first_wait
        self._poll = poll

    async def run(self) -> None:
        if not self._hooks:
            return
        limits = httpx.Limits(max_connections=len(self._hooks) + 2)
        client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, follow_redirects=False, limits=limits)
        async with client, anyio.create_task_group() as tasks:
            for hook in self._hooks:
                tasks.start_soon(self._serve, hook, client)

    async def _serve(self, hook: Webhook, client: httpx.AsyncClient) -> None:
        target = hashlib.sha256(hook.url.encode()).hexdigest()
        while True:
            try:
                async with self._records.session() as session:
                    seq = await event_log.cursor_of(session, target)
                lines = await self._records.events_after(seq, types=tuple(TYPES), limit=100)
                for line in lines:
                    if not await self._deliver(hook, client, line):
                        return
                    async with self._records.session() as session:
                        await event_log.move_cursor(session, target, line["seq"])
            except TowpathError as error:
                _log.warning("webhooks: the store does not answer, retrying: %s", error.code)
                lines = []
            if not lines:
                await anyio.sleep(self._poll)

    async def _deliver(self, hook: Webhook, client: httpx.AsyncClient, line: Record) -> bool:
        """Send an event until the receiver accepts it, or the event is too old. False if the receiver is gone (410).

        An event that is too old already, because no server ran, is tried once.
        """
        body = await self._body(hook, line)
        if body is None:
            return True
        message_id, wait = f"evt_{line['seq']}", self._first_wait
        while True:
            status = await _post(client, hook, message_id, body)
            if status is not None and 200 <= status < 300:
                return True
            if status == _GONE:
                _log.warning("webhook %s answers 410: nothing more is sent to it until the next start", _host(hook))
                return False
            if time.time() - line["at"] / 1e6 >= MOST_AGE:
                break
            what = "is unreachable" if status is None else f"answers {status}"
            _log.warning("webhook %s %s; retrying in %.0f s", _host(hook), what, wait)
            await anyio.sleep(wait * random.uniform(0.75, 1.0))  # noqa: S311 - only spreads load
            wait = min(LONGEST_WAIT, wait * 2)
        _log.error("webhook %s did not get event %s: the event is too old to retry", _host(hook), line["seq"])
        return True

    async def _body(self, hook: Webhook, line: Record) -> bytes | None:
        kind = TYPES[line["type"]]
        if kind not in hook.events or line["chain_id"] is None:
            return None
        async with self._records.session() as session:
            if kind == "chain.ended" and not await event_log.outermost(session, line["chain_id"]):
                return None
        data = line["data"] if isinstance(line["data"], Mapping) else {}
        message: dict[str, Any] = {"chain_id": line["chain_id"], **redacted_data(dict(data))}
        if self._url:
            page = (
                f"approvals/{data.get('approval', '')}" if kind == "approval.requested" else f"runs/{line['chain_id']}"
            )
            message["url"] = f"{self._url}/{page}"
        return msgspec.json.encode({"type": kind, "id": f"evt_{line['seq']}", "at": line["at"], "data": message})


async def _post(client: httpx.AsyncClient, hook: Webhook, message_id: str, body: bytes) -> int | None:
    """The status of the response, or None without one. Its body is not read."""
    at = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "towpath",
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": signature(hook.secret, message_id, at, body),
    }
    try:
        with anyio.fail_after(TIMEOUT * 2):
            async with client.stream("POST", hook.url, content=body, headers=headers) as answer:
                return answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError):
        return None


def _host(hook: Webhook) -> str:
    """The host of a receiver. Logs name no more, because an address may hold a secret."""
    return urlsplit(hook.url).hostname or "?"
