"""Who somebody is and what they may do. Pure; keys are made and recognised here, and kept as digests only."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum

from towpath.errors import InputInvalid

KEY_PREFIX = "tp_"
KEY_BYTES = 32
MAX_NAME = 100
MAX_KEY = 200  # characters; longer ones are not even hashed


class Role(StrEnum):
    """What a key is good for. Everybody reads; operators start and steer runs, approvers decide and edit."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


ANYONE = "anyone"
"""The role of the few routes that need no key: health, login, and links that carry their own proof."""

_ACTION = {Role.VIEWER: "view", Role.OPERATOR: "operate", Role.APPROVER: "approve", Role.ADMIN: "admin"}
_MAY = {
    Role.VIEWER: frozenset({"view"}),
    Role.OPERATOR: frozenset({"view", "operate"}),
    Role.APPROVER: frozenset({"view", "approve"}),
    Role.ADMIN: frozenset({"view", "operate", "approve", "admin"}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was let in. `way` is key, session (a cookie), local (this machine, no keys made yet) or link.

    `session` tells one session from another, for the tokens in forms.
    """

    name: str
    role: Role
    way: str = "key"
    session: str = ""

    def may(self, what: str) -> bool:
        """May they `view`, `operate`, `approve` or `admin`? The name of a role means what that role adds."""
        return _ACTION.get(what, what) in _MAY[self.role]  # type: ignore[call-overload]

    def signed(self, by: str | None) -> str:
        """The name under which a decision is recorded: who they say they are, never without whose key it was."""
        said = (by or "").strip()
        if self.way == "local":
            return said or self.name
        return self.name if said in ("", self.name) else f"{said} (key {self.name})"


LINK = "link"


def link_visitor() -> Principal:
    """Whoever holds an approval link: sees what it shows, and decides that one gate through the link's own address."""
    return Principal(LINK, Role.VIEWER, LINK)


def local_visitor() -> Principal:
    """Whoever sits at this machine while there is no key."""
    return Principal("local", Role.ADMIN, "local")


def key_name(name: str) -> str:
    """The name of a key, as it is: shown as the name of whoever decides. Raises InputInvalid (E_KEY_NAME)."""
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME:
        raise InputInvalid("E_KEY_NAME", "that is no name for a key", found=name, allowed="printable characters")
    return name


def new_key() -> str:
    """A new key: 32 random bytes. It is shown once and kept nowhere."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def key_digest(key: str) -> str:
    """What is kept of a key. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
