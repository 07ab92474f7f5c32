"""The ComfyUI servers that a run may use, as `[[servers]]` of `towpath.toml` describes them.

    [[servers]]
    name = "gpu-1"
    url = "https://gpu.example/comfy"
    tags = ["a100"]
    headers = { Authorization = "Bearer ${COMFY_TOKEN}" }
    slots = 2

A secret stays in the environment: `${NAME}` in a header or a query parameter is read from there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from towpath.errors import InputInvalid, Place, shown, similar

from .addresses import server_url

MAX_SLOTS = 64
MAX_TEXT = 100  # characters of a name or a tag
MAX_DESCRIPTION = 1_000  # characters
KEYS = ("name", "url", "tags", "headers", "query", "slots", "verify", "description")

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~](?:[\t -~]*[!-~])?|")
# Set for each request by the HTTP client or by towpath, so they cannot be set for all requests.
_OWN_HEADERS = frozenset("connection content-length content-type host transfer-encoding upgrade".split())
_OWN_QUERY = frozenset("clientId filename subfolder type preview channel".split())


@dataclass(frozen=True, slots=True)
class Server:
    """One ComfyUI server and how to talk to it.

    Attributes:
        name: unique among the servers; shown to people, kept in rows, and used by `server:` of a step.
        url: the base URL, without a slash at its end.
        tags: what a step's `requires` may ask for.
        headers: sent with every request and when the websocket opens. Secret: not in the repr.
        query: parameters added to every request and to the websocket's address, for instance a token. Secret as well.
        slots: prompts of this process that may wait or run there at the same time.
        verify: whether the TLS certificate is checked, or the CA file to check it with.
        description: for people.
    """

    name: str
    url: str
    tags: frozenset[str] = frozenset()
    headers: dict[str, str] = field(default_factory=dict, repr=False, hash=False)
    query: dict[str, str] = field(default_factory=dict, repr=False, hash=False)
    slots: int = 1
    verify: bool | str = True
    description: str = ""


def given_server(address: str) -> Server:
    """A server with this address and no other setting. `http://` may be left out; its name is `host:port`.

    Raises:
        InputInvalid: E_URL_SCHEME, E_URL_HOST, E_URL_USERINFO, E_URL_BLOCKED.
    """
    url = server_url(address if "://" in address else f"http://{address}")
    parts = urlsplit(url)
    port = "" if parts.port else ":443" if parts.scheme == "https" else ":80"
    return Server(name=f"{parts.netloc}{port}{parts.path}", url=url)


def read_servers(
    entries: Sequence[Mapping[str, Any]], source: str, *, environment: Mapping[str, str] | None = None
) -> tuple[Server, ...]:
    """The servers of a configuration file, in its order. `source` is the file's name, for messages.

    Raises:
        InputInvalid: E_SERVER_CONFIG with the place of the first problem.
    """
    env = os.environ if environment is None else environment
    servers: list[Server] = []
    for index, entry in enumerate(entries):
        server = _Entry(source, f"servers[{index}]", entry).server(env)
        _refuse_twice(servers, server, Place(file=source, field=f"servers[{index}]"))
        servers.append(server)
    return tuple(servers)


def _refuse_twice(known: Iterable[Server], server: Server, place: Place) -> None:
    for other in known:
        if other.name == server.name:
            message, found, key = "two servers have this name", server.name, "name"
        elif other.url == server.url:
            message, found, key = f"the server {other.name} has this address too", server.url, "url"
        else:
            continue
        at = Place(file=place.file, field=f"{place.field}.{key}")
        raise InputInvalid("E_SERVER_CONFIG", message, place=at, found=found, allowed=f"a {key} of its own")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One table of `[[servers]]`, read key by key."""

    source: str
    path: str
    table: Mapping[str, Any]

    def server(self, environment: Mapping[str, str]) -> Server:
        if not isinstance(self.table, Mapping):
            raise self._wrong("", "a server is a table", self.table, "[[servers]]")
        for key in self.table:
            if key not in KEYS:
                raise self._wrong(key, "a server has no such key", key, " ".join(KEYS), similar(str(key), KEYS))
        return Server(
            name=self._name(),
            url=self._url(),
            tags=self._tags(),
            headers=self._headers(environment),
            query=self._query(environment),
            slots=self._slots(),
            verify=self._verify(),
            description=self._description(),
        )

    def _name(self) -> str:
        name = self.table.get("name")
        if not _is_label(name):
            raise self._wrong("name", "the name of a server", name, f"1 to {MAX_TEXT} printable characters")
        return str(name)

    def _url(self) -> str:
        url = self.table.get("url")
        if not isinstance(url, str):
            raise self._wrong("url", "the address of a server", url, 'text, as in "http://127.0.0.1:8188"')
        try:
            return server_url(url)
        except InputInvalid as error:
            problem = error.problem
            raise InputInvalid(
                "E_SERVER_CONFIG",
                f"{problem.message} ({problem.code})",
                place=self._place("url"),
                found=problem.found,
                allowed=problem.allowed,
                cure=problem.cure,
            ) from error

    def _tags(self) -> frozenset[str]:
        tags = self.table.get("tags", [])
        if not isinstance(tags, list) or not all(_is_label(tag) for tag in tags):
            raise self._wrong("tags", "the tags of a server", tags, f"a list of texts of 1 to {MAX_TEXT} characters")
        return frozenset(tags)

    def _slots(self) -> int:
        slots = self.table.get("slots", 1)
        if not isinstance(slots, int) or isinstance(slots, bool) or not 1 <= slots <= MAX_SLOTS:
            raise self._wrong("slots", "the number of slots", slots, f"1 to {MAX_SLOTS}")
        return slots

    def _verify(self) -> bool | str:
        verify = self.table.get("verify", True)
        if not isinstance(verify, bool) and not (isinstance(verify, str) and verify and verify.isprintable()):
            raise self._wrong("verify", "whether certificates are checked", verify, "true, false, or a CA file")
        return verify

    def _description(self) -> str:
        text = self.table.get("description", "")
        if not isinstance(text, str) or len(text) > MAX_DESCRIPTION or not text.replace("\n", "").isprintable():
            raise self._wrong("description", "the description", text, f"at most {MAX_DESCRIPTION} printable characters")
        return text

    def _headers(self, environment: Mapping[str, str]) -> dict[str, str]:
        headers = self._texts("headers", environment, _is_header_value, "printable ASCII on one line")
        seen: set[str] = set()
        for name in headers:
            low = name.lower()
            if not _HEADER_NAME.fullmatch(name):
                raise self._wrong("headers", "not the name of a header", name, "letters, digits and -")
            if low in _OWN_HEADERS or low.startswith("sec-websocket-"):
                raise self._wrong("headers", "this header is set for each request by towpath", name, "other headers")
            if low in seen:
                raise self._wrong("headers", "a header is given twice", name, "each name once, in upper or lower case")
            seen.add(low)
        return headers

    def _query(self, environment: Mapping[str, str]) -> dict[str, str]:
        query = self._texts("query", environment, str.isprintable, "printable text")
        for name in query:
            if not name or not name.isprintable():
                raise self._wrong("query", "not the name of a query parameter", name, "printable text")
            if name in _OWN_QUERY:
                raise self._wrong(
                    "query", "this parameter is set for each request by towpath", name, "other parameters"
                )
        return query

    def _texts(
        self, key: str, environment: Mapping[str, str], fits: Callable[[str], bool], allowed: str
    ) -> dict[str, str]:
        """A table of texts with environment variables filled in. Errors name a value's key, never the value."""
        table = self.table.get(key, {})
        if not isinstance(table, Mapping):
            raise self._wrong(key, f"{key} is not a table", type(table).__name__, "a table of texts")
        filled = {}
        for name, value in table.items():
            at = f"{key}.{name}"
            if not isinstance(value, str):
                raise self._wrong(at, "a value is not text", type(value).__name__, "text")
            filled[name] = self._filled(at, value, environment)
            if not fits(filled[name]):
                raise self._wrong(at, "a value that cannot be sent", "", allowed)
        return filled

    def _filled(self, key: str, value: str, environment: Mapping[str, str]) -> str:
        missing = [name for name in _VARIABLE.findall(value) if name not in environment]
        if missing:
            cure = f"set {missing[0]} before starting towpath"
            raise self._wrong(key, "an environment variable is not set", missing[0], "", cure)
        if "${" in _VARIABLE.sub("", value):
            raise self._wrong(key, "a ${ without a variable name and a }", "", "${NAME}")
        return _VARIABLE.sub(lambda named: environment[named[1]], value)

    def _place(self, key: str) -> Place:
        return Place(file=self.source, field=f"{self.path}.{shown(key)}" if key else self.path)

    def _wrong(self, key: str, message: str, found: Any, allowed: str, cure: str = "") -> InputInvalid:
        return InputInvalid(
            "E_SERVER_CONFIG",
            message,
            place=self._place(key),
            found="nothing" if found is None else found,
            allowed=allowed,
            cure=cure,
        )


def _is_label(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_TEXT and value.isprintable() and value == value.strip()


def _is_header_value(text: str) -> bool:
    return _HEADER_VALUE.fullmatch(text) is not None
