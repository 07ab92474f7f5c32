"""Addresses of ComfyUI servers: one spelling for each; dangerous ones are refused. Pure, no DNS.

Loopback and private networks are allowed. Refused are the addresses at which clouds serve credentials, unspecified,
broadcast and multicast addresses, and every spelling that two programs could read differently. A name is judged as
it is written and is not resolved.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import quote, unquote, urljoin

from towpath.errors import InputInvalid, ServerFailed

MAX_URL = 2_000  # characters
_PORTS = {"http": 80, "https": 443}

# Metadata services of clouds, which serve credentials; unspecified, link-local, broadcast and multicast addresses.
_BLOCKED_4 = tuple(
    IPv4Network(n)
    for n in "0.0.0.0/8 100.100.100.200 168.63.129.16 169.254.0.0/16 192.0.0.192 224.0.0.0/4 255.255.255.255".split()
)
_BLOCKED_6 = tuple(IPv6Network(n) for n in ("::", "fe80::/10", "fd00:ec2::/32", "fd20:ce::254", "ff00::/8"))
_BLOCKED_NAMES = frozenset(
    "metadata metadata.google.internal metadata.goog metadata.azure.internal metadata.tencentyun.com "
    "instance-data instance-data.ec2.internal".split()
)
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")  # an old way to write an IPv4 address

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):", re.ASCII)
_PARTS = re.compile(r"//([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\\u2028\u2029]")
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]|-]|%[0-9A-Fa-f]{2})*")
_ALLOWED = "http(s)://host[:port][/path]"


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of an address. `query` begins with `?` and `fragment` with `#`."""

    scheme: str
    host: str
    port: int
    path: str
    query: str
    fragment: str

    @property
    def base(self) -> str:
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path.rstrip('/')}"

    def under(self, other: _Parts) -> bool:
        if (self.scheme, self.host, self.port) != (other.scheme, other.host, other.port):
            return False
        return f"{self.path.rstrip('/')}/".startswith(f"{other.path.rstrip('/')}/")


def server_url(text: str, *, listed: Collection[str] | None = None) -> str:
    """A server's base URL in one spelling: `http(s)://host[:port][/path]` without a slash at its end.

    With `listed` (base URLs) it must be one of them or lie under one: same scheme, host and port, and its path.

    Raises:
        InputInvalid: E_URL_SCHEME, E_URL_HOST (no host, a host, port or path of an odd spelling, a query or a
            fragment), E_URL_USERINFO, E_URL_BLOCKED (a dangerous address, or one that is not listed).
    """
    parts = _parts(text)
    if parts.query or parts.fragment:
        cure = "give the server's `query` apart from its address"
        raise _invalid("E_URL_HOST", "the address of a server has a query or a fragment", text, cure=cure)
    if listed is not None:
        _refuse_unlisted(parts, text, [_parts(base) for base in listed])
    return parts.base


def redirect_target(base: str, location: str, listed: Collection[str]) -> str:
    """Where a redirect leads: `location` read relative to `base`, the URL that answered, without its fragment.

    Raises:
        ServerFailed: the codes of `server_url`. A retry does not help.
    """
    bases = [_parts(known) for known in listed]
    try:
        # Checked before it is resolved: `urljoin` silently drops some control characters.
        if not location or _UNSAFE.search(location):
            raise _invalid("E_URL_HOST", "a redirect without a readable address", location)
        target = _resolved(base, location)
        parts = _parts(target)
        _refuse_unlisted(parts, target, bases)
    except InputInvalid as error:
        problem = error.problem
        raise ServerFailed(
            problem.code,
            f"the server redirects: {problem.message}",
            found=problem.found,
            allowed=problem.allowed,
            cure=problem.cure,
            retryable=False,
        ) from None
    kept = "/" * (parts.path.endswith("/") and not parts.base.endswith("/"))
    return f"{parts.base}{kept}{parts.query}"


def _resolved(base: str, location: str) -> str:
    try:
        return urljoin(base, quote(location, safe=string.printable))  # some servers send letters beyond ASCII
    except ValueError as error:  # half an IPv6 address, a lone surrogate
        raise _invalid("E_URL_HOST", "a redirect without a readable address", location) from error


def _parts(text: str) -> _Parts:
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else ""
    if not found or scheme not in _PORTS:
        raise _invalid("E_URL_SCHEME", "the address of a server starts with http:// or https://", text)
    split = _PARTS.fullmatch(text, found.end())
    if not split or len(text) > MAX_URL or _UNSAFE.search(text):
        raise _invalid("E_URL_HOST", "the address of a server cannot be read", text)
    authority, path, query, fragment = split[1], split[2], split[3] or "", split[4] or ""
    if "@" in authority:
        cure = "give a user and password as a header of the server, with ${NAME} for the secret"
        raise _invalid("E_URL_USERINFO", "the address of a server contains a user or a password", text, cure=cure)
    if "@" in fragment:
        raise _invalid("E_URL_HOST", "a fragment that could be read as a host", text)
    host, port = _host_port(authority, scheme, text)
    _refuse_path(path, query, text)
    return _Parts(scheme, host, port, path, query, fragment)


def _host_port(authority: str, scheme: str, text: str) -> tuple[str, int]:
    split = _HOST_PORT.fullmatch(authority)
    port = int(split[3]) if split and split[3] else _PORTS[scheme]
    if not split or not 1 <= port <= 65_535:
        cure = "write names beyond ASCII in their xn-- form" if not authority.isascii() else ""
        raise _invalid("E_URL_HOST", "the address of a server has no valid host and port", text, cure=cure)
    host = _ipv6(split[1], text) if split[1] else _named(split[2].lower().removesuffix("."), text)
    return host, port


def _ipv6(written: str, text: str) -> str:
    try:
        address = IPv6Address(written)
    except ValueError:
        raise _invalid("E_URL_HOST", "not an IPv6 address", text) from None
    inside = _embedded(address)
    if any(address in network for network in _BLOCKED_6) or (inside and _is_blocked(inside)):
        raise _blocked(text)
    return str(address.ipv4_mapped or f"[{address.compressed}]")


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside an IPv6 address, if there is one."""
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def _named(host: str, text: str) -> str:
    """A host that is a name or an IPv4 address, in lower case."""
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(host, text)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) and _honest(label) for label in labels):
        raise _invalid("E_URL_HOST", "not a valid host name", text)
    if host in _BLOCKED_NAMES:
        raise _blocked(text)
    return host


def _ipv4(host: str, text: str) -> str:
    try:
        address = IPv4Address(host)
    except ValueError:
        message = "an IPv4 address of an odd spelling"
        raise _invalid("E_URL_HOST", message, text, allowed="four decimal numbers, as in 127.0.0.1") from None
    if _is_blocked(address):
        raise _blocked(text)
    return str(address)


def _is_blocked(address: IPv4Address) -> bool:
    return any(address in network for network in _BLOCKED_4)


def _honest(label: str) -> bool:
    """Whether a label in `xn--` form encodes letters beyond ASCII; one that encodes only ASCII is a disguise."""
    if not label.startswith("xn--"):
        return True
    try:
        meant = label[4:].encode().decode("punycode")
    except UnicodeError:
        return False
    return not meant.isascii() and unicodedata.normalize("NFKC", meant) == meant


def _refuse_path(path: str, query: str, text: str) -> None:
    if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        raise _invalid("E_URL_HOST", "the address of a server has characters that must be percent-encoded", text)
    if any(part in (".", "..") for part in re.split(r"[/\\]", unquote(path))):
        raise _invalid("E_URL_HOST", "the path of a server's address has a part . or ..", text)


def _refuse_unlisted(parts: _Parts, text: str, bases: Collection[_Parts]) -> None:
    if not any(parts.under(base) for base in bases):
        cure = "add the server to [[servers]] in towpath.toml"
        raise _invalid("E_URL_BLOCKED", "no server is listed under this address", text, cure=cure)


def _invalid(code: str, message: str, text: str, *, allowed: str = _ALLOWED, cure: str = "") -> InputInvalid:
    return InputInvalid(code, message, found=_redacted(text), allowed=allowed, cure=cure)


def _blocked(text: str) -> InputInvalid:
    return _invalid("E_URL_BLOCKED", "this address is never a ComfyUI server's", text)


def _redacted(text: str) -> str:
    """An address without the parts that may be secret: everything around an `@`, and the query."""
    found = _SCHEME.match(text)
    if "@" in text:
        return f"{found[1]}://…@…" if found and found[1].lower() in _PORTS else "…@…"
    end = re.search(r"[?#]", text)
    return f"{text[: end.end()]}…" if end else text
