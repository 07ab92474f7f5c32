"""Principals (who calls, with which role) and keys. Pure; only the digest of a key is kept."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum

from towpath.errors import InputInvalid

KEY_PREFIX = "tp_"
KEY_BYTES = 32
MAX_NAME = 100
MAX_KEY = 200  # characters; a longer key is refused without hashing it


class Role(StrEnum):
    """What a key allows. Every role reads; operators start and steer runs, approvers decide and edit files."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


ANYONE = "anyone"
"""The role of the few routes that need no key: health, login, and approval links, which are signed."""

_ACTION = {Role.VIEWER: "view", Role.OPERATOR: "operate", Role.APPROVER: "approve", Role.ADMIN: "admin"}
_MAY = {
    Role.VIEWER: frozenset({"view"}),
    Role.OPERATOR: frozenset({"view", "operate"}),
    Role.APPROVER: frozenset({"view", "approve"}),
    Role.ADMIN: frozenset({"view", "operate", "approve", "admin"}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `way` is key, session (a cookie), local (this machine, before the first key is made) or link.

    `session` is the id of the browser session; the tokens in forms are bound to it.
    """

    name: str
    role: Role
    way: str = "key"
    session: str = ""

    def may(self, what: str) -> bool:
        """Is `view`, `operate`, `approve` or `admin` allowed? The name of a role stands for what that role adds."""
        return _ACTION.get(what, what) in _MAY[self.role]  # type: ignore[call-overload]

    def signed(self, by: str | None) -> str:
        """The name that is recorded with a decision: the given name, and the name of the key where they differ."""
        given = (by or "").strip()
        if self.way == "local":
            return given or self.name
        return self.name if given in ("", self.name) else f"{given} (key {self.name})"


class Anonymous:
    """A visitor without a key or session: sees the login page and errors, and may do nothing."""

    name = ""
    role = ""

    def may(self, _what: str) -> bool:
        return False


ANONYMOUS = Anonymous()


LINK = "link"


def link_visitor() -> Principal:
    """The holder of an approval link: sees what the link shows, and may decide that one gate."""
    return Principal(LINK, Role.VIEWER, LINK)


def local_visitor() -> Principal:
    """A caller from this machine, before the first key is made."""
    return Principal("local", Role.ADMIN, "local")


def key_name(name: str) -> str:
    """The checked name of a key, which is recorded with decisions. Raises InputInvalid (E_KEY_NAME)."""
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME:
        raise InputInvalid(
            "E_KEY_NAME", "this is not a valid name for a key", found=name, allowed="printable characters"
        )
    return name


def new_key() -> str:
    """A new key: 32 random bytes. It is shown once; only its digest is kept."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def key_digest(key: str) -> str:
    """The digest that is kept of a key. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
