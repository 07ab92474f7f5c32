"""How the server behaves, and the secret that its tokens and cookies are signed with."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from towpath.errors import InputInvalid, Place, StoreFailed

SECRET_FILE = "server.secret"  # noqa: S105 - a file's name
EVENTS = ("approval.requested", "chain.ended")
SIGNING = "whsec_"  # what a webhook's secret begins with if base64 follows
_KEYS: dict[str, tuple[type, ...]] = {
    "webhooks": (list,),
    "hosts": (list,),
    "chains": (str,),
    "url": (str,),
    "max_upload": (int,),
    "keep_free": (int,),
    "changes_a_minute": (int,),
    "link_hours": (int, float),
}


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of events: its address, the secret that signs what it gets, and which events it wants."""

    url: str
    secret: str
    events: tuple[str, ...] = EVENTS


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of the server.

    Args:
        hosts: names and addresses that it may be called by, besides those of this machine.
        url: where people reach it, for links in webhooks.
        chains: folder of the chain files that may be started by name; without it only YAML that is sent.
        execute: does this process work on runs?
        max_upload: bytes of a file that is uploaded. max_json: bytes of any other body.
        keep_free: bytes of the disk that uploads leave to runs.
        changes_a_minute: requests a minute that change something, of one key.
        body_seconds: how long a body without a file may take. idle_seconds: how long an upload may stand still.
        link_hours: how long an approval link is good for.
        heartbeat: seconds between signs of life on an event stream. poll: seconds between looks for events.
        failed_keys: wrong keys a minute from one address before it has to wait.
    """

    hosts: tuple[str, ...] = ()
    url: str = ""
    chains: Path | None = None
    execute: bool = False
    webhooks: tuple[Webhook, ...] = ()
    max_upload: int = 16 * 1024**3
    keep_free: int = 1024**3
    changes_a_minute: int = 1_200
    max_json: int = 4 * 1024 * 1024
    body_seconds: float = 30.0
    idle_seconds: float = 60.0
    link_hours: float = 168.0
    heartbeat: float = 15.0
    poll: float = 0.25
    failed_keys: int = 20


def settings_from(table: Mapping[str, Any], *, more_hosts: Sequence[str] = (), **given: Any) -> ServerSettings:
    """Settings from the table `[server]` of towpath.toml; what is `given` and not None counts more.

    Raises InputInvalid (E_SETTING).
    """
    for key, value in table.items():
        _check(key, value)
    merged: dict[str, Any] = {**table, **{key: value for key, value in given.items() if value is not None}}
    if "webhooks" in merged:
        merged["webhooks"] = _webhooks(merged["webhooks"])
    merged["hosts"] = tuple(str(host).lower() for host in (*merged.get("hosts", ()), *more_hosts))
    if "chains" in merged:
        merged["chains"] = Path(merged["chains"])
    return ServerSettings(**merged)


def _check(key: str, value: Any) -> None:
    place = Place(field=f"server.{key}")
    fits = key in _KEYS and isinstance(value, _KEYS[key]) and not isinstance(value, bool)
    if not fits:
        allowed = " ".join(_KEYS) if key not in _KEYS else _KEYS[key][-1].__name__
        raise InputInvalid("E_SETTING", f"{key} in [server]", place=place, allowed=allowed)
    if key in ("max_upload", "link_hours", "changes_a_minute") and not 0 < value < 2**53:
        raise InputInvalid("E_SETTING", f"{key} in [server]", place=place, found=value, allowed="more than 0")
    if key == "url" and not str(value).startswith(("http://", "https://")):
        raise InputInvalid("E_SETTING", "url in [server]", place=place, found=value, allowed="http(s)://…")


def _webhooks(entries: list[Any]) -> tuple[Webhook, ...]:
    """How far a receiver was told is kept by its address: two entries of one would hide events from each other."""
    hooks = tuple(_webhook(entry, number) for number, entry in enumerate(entries))
    for number, hook in enumerate(hooks):
        if hook.url in [other.url for other in hooks[:number]]:
            place, cure = Place(field=f"server.webhooks[{number}]"), "name all `events` in one entry"
            raise InputInvalid("E_SETTING", "two webhooks of one address", place=place, cure=cure)
    return hooks


def _webhook(entry: Any, number: int) -> Webhook:
    place = Place(field=f"server.webhooks[{number}]")
    if isinstance(entry, Webhook):
        return entry
    if not isinstance(entry, dict) or not {"url", "secret"} <= entry.keys() <= {"url", "secret", "events"}:
        raise InputInvalid("E_SETTING", "a webhook", place=place, allowed="url, secret, events")
    if not isinstance(entry["url"], str) or not isinstance(entry["secret"], str) or len(entry["secret"]) < 16:
        raise InputInvalid("E_SETTING", "a webhook", place=place, allowed="texts; a secret of 16 characters or more")
    if not _signs(entry["secret"]):
        raise InputInvalid("E_SETTING", "the secret of a webhook", place=place, allowed=f"base64 after {SIGNING}")
    events = entry.get("events", EVENTS)
    if not isinstance(events, list | tuple) or any(event not in EVENTS for event in events):
        raise InputInvalid("E_SETTING", "events of a webhook", place=place, found=events, allowed=" ".join(EVENTS))
    return Webhook(entry["url"], entry["secret"], tuple(events))


def _signs(secret: str) -> bool:
    """Can it be used? What begins like a key of Standard Webhooks has to be one."""
    try:
        return not secret.startswith(SIGNING) or len(base64.b64decode(secret[len(SIGNING) :], validate=True)) > 0
    except (binascii.Error, ValueError):
        return False


def server_secret(folder: Path) -> str:
    """The secret of the server, kept beside the store, readable by its owner only; made on first use.

    Raises StoreFailed (E_SERVER_SECRET) if others may read it, or if it cannot be made.
    """
    path = folder / SECRET_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temp = folder / f".{SECRET_FILE}-{secrets.token_hex(8)}"
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(temp, path)  # whole or not at all, and the first one stays
        except FileExistsError:
            pass
        finally:
            temp.unlink()
        found = path.read_text(encoding="ascii").strip()
        shared = path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError) as error:
        raise StoreFailed("E_SERVER_SECRET", f"{SECRET_FILE} cannot be made or read beside the store") from error
    if shared or len(found) < 64:
        cure = f"chmod 600 {SECRET_FILE}, or delete it: links and sessions signed with it end"
        raise StoreFailed("E_SERVER_SECRET", f"{SECRET_FILE} is damaged, or others may read it", cure=cure)
    return found
