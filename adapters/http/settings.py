"""Settings of the server, and the secret that signs its tokens and cookies."""

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
SIGNING = "whsec_"  # prefix of a webhook's secret in base64
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
    """A receiver of events: its address, the secret that signs its messages, and the events it wants."""

    url: str
    secret: str
    events: tuple[str, ...] = EVENTS


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Settings of the server.

    Args:
        hosts: names and addresses of the server, besides those of this machine.
        url: the public address, for links in webhooks.
        chains: folder of the chain files that can be started by name; without it, only YAML can be sent.
        execute: does this process execute runs?
        max_upload: bytes of an uploaded file. max_json: bytes of any other body.
        keep_free: bytes of the disk that uploads leave free for runs.
        changes_a_minute: changing requests a minute of one key.
        body_seconds: time for a body without a file. idle_seconds: time without a byte of an upload.
        link_hours: how long an approval link is valid.
        heartbeat: seconds between heartbeats on an event stream. poll: seconds between two reads of new events.
        failed_keys: wrong keys a minute from one address; more are refused.
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


def settings_from(table: Mapping[str, Any], *, more_hosts: Sequence[str] = (), **given: Any) -> HttpSettings:
    """Settings from the table `[server]` of towpath.toml. A value in `given` that is not None replaces them.

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
    return HttpSettings(**merged)


def _check(key: str, value: Any) -> None:
    place = Place(field=f"server.{key}")
    fits = key in _KEYS and isinstance(value, _KEYS[key]) and not isinstance(value, bool)
    if not fits:
        allowed = " ".join(_KEYS) if key not in _KEYS else _KEYS[key][-1].__name__
        raise _invalid(f"{key} in [server]", place, allowed=allowed)
    if key in ("max_upload", "link_hours", "changes_a_minute") and not 0 < value < 2**53:
        raise _invalid(f"{key} in [server]", place, found=value, allowed="more than 0")
    if key == "url" and not str(value).startswith(("http://", "https://")):
        raise _invalid("url in [server]", place, found=value, allowed="http(s)://…")


def _invalid(what: str, place: Place, *, found: object = "", allowed: str) -> InputInvalid:
    return InputInvalid("E_SETTING", f"{what} is not valid", place=place, found=found, allowed=allowed)


def _webhooks(entries: list[Any]) -> tuple[Webhook, ...]:
    """Each address may occur once: the cursor of a receiver is kept by its address."""
    hooks = tuple(_webhook(entry, number) for number, entry in enumerate(entries))
    for number, hook in enumerate(hooks):
        if hook.url in [other.url for other in hooks[:number]]:
            place, cure = Place(field=f"server.webhooks[{number}]"), "name all `events` in one entry"
            raise InputInvalid("E_SETTING", "two webhooks have the same address", place=place, cure=cure)
    return hooks


def _webhook(entry: Any, number: int) -> Webhook:
    place = Place(field=f"server.webhooks[{number}]")
    if isinstance(entry, Webhook):
        return entry
    if not isinstance(entry, dict) or not {"url", "secret"} <= entry.keys() <= {"url", "secret", "events"}:
        raise _invalid("a webhook", place, allowed="url, secret, events")
    if not isinstance(entry["url"], str) or not isinstance(entry["secret"], str) or len(entry["secret"]) < 16:
        raise _invalid("a webhook", place, allowed="texts; a secret of 16 characters or more")
    if not _signs(entry["secret"]):
        raise _invalid("the secret of a webhook", place, allowed=f"base64 after {SIGNING}")
    events = entry.get("events", EVENTS)
    if not isinstance(events, list | tuple) or any(event not in EVENTS for event in events):
        raise _invalid("`events` of a webhook", place, found=events, allowed=" ".join(EVENTS))
    return Webhook(entry["url"], entry["secret"], tuple(events))


def _signs(secret: str) -> bool:
    """Can the secret sign? One with the prefix of Standard Webhooks must be base64."""
    try:
        return not secret.startswith(SIGNING) or len(base64.b64decode(secret[len(SIGNING) :], validate=True)) > 0
    except (binascii.Error, ValueError):
        return False


def server_secret(folder: Path) -> str:
    """The secret of the server: a file beside the store that only its owner can read, made on first use.

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
            os.link(temp, path)  # atomic, and the first one wins
        except FileExistsError:
            pass
        finally:
            temp.unlink()
        found = path.read_text(encoding="ascii").strip()
        shared = path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError) as error:
        raise StoreFailed("E_SERVER_SECRET", f"{SECRET_FILE} beside the store cannot be made or read") from error
    if shared or len(found) < 64:
        cure = f"chmod 600 {SECRET_FILE}; or delete it, which ends all links and sessions"
        raise StoreFailed("E_SERVER_SECRET", f"{SECRET_FILE} is damaged, or others can read it", cure=cure)
    return found
