"""Ten times as much is ten times the work, for everything that is read before it is known who sends it.

Each entry is a reader and an input that grows. An input is of the kind if a reader could be made to look at the same
bytes again and again: things that never end, that fail at their end, that are counted, joined, or unquoted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import h11
import pytest
from starlette.datastructures import Headers
from starlette.requests import Request

from towpath.adapters.http import authentication, bodies, downloads, query_parameters, uploads
from towpath.adapters.http.authentication import COOKIE, SessionCookies
from towpath.adapters.http.connections import HEAD_BYTES, StrictHead
from towpath.adapters.http.errors import safe_text
from towpath.adapters.http.principals import key_digest
from towpath.chain_file import load_chain_text

from .growth import assert_linear

SIZE = 1_000


def _json(text: str) -> tuple[Callable[[Any], object], Callable[[int], Any]]:
    return bodies.strict_json, lambda n: (text * n).encode()


def _keys(n: int) -> bytes:
    """Doubled at the very end: a reader that searches for each key again is slow."""
    names = ",".join(f'"{at}":1' for at in range(n))
    return f'{{{names},"{n - 1}":2}}'.encode()


def _request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw, "query_string": b""})


def _query(text: str) -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": text.encode()})


def _fields(data: bytes) -> object:
    return bodies._fields(data, bodies.MAX_FIELDS)


def _form(data: bytes) -> object:
    """A form whose file is read to its end."""

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 1_000):
            yield data[at : at + 1_000]

    async def read() -> None:
        upload = await uploads._Form("multipart/form-data; boundary=x", chunks()).upload()
        async for _ in upload.chunks:
            pass

    try:
        return read().send(None)  # nothing in it waits: without a loop there is less to count
    except StopIteration:
        return None


def _part(head: str, body: str = "") -> bytes:
    return f"--x\r\n{head}\r\n\r\n{body}".encode()


FILE = 'Content-Disposition: form-data; name="file"; filename="a.txt"'


def _in_pieces(data: bytes) -> object:
    """A head that comes one byte after the other."""
    connection = StrictHead(HEAD_BYTES)
    for at in range(len(data)):
        connection.receive_data(data[at : at + 1])
        if connection.next_event() is not h11.NEED_DATA:
            break
    return connection


def _yaml(data: bytes) -> object:
    return load_chain_text(data, folder="/dev/null/none", source="request", imports=False)


def _cursor(text: str) -> object:
    app = SimpleNamespace(state=SimpleNamespace(secret="secret" * 12))
    return query_parameters.read_cursor(Request({"type": "http", "app": app}), "a list", text)


def _cookies(text: str) -> object:
    return SessionCookies("secret" * 12).session_of(_request(cookie=text))


READERS: dict[str, tuple[Callable[[Any], object], Callable[[int], Any]]] = {
    "a key doubled at the end": (bodies.strict_json, _keys),
    "one key doubled all the time": (bodies.strict_json, lambda n: b"{" + b'"a":1,' * n + b'"a":1}'),
    "quotes": _json('"'),
    "a text that never ends, with quotes in it": (bodies.strict_json, lambda n: b'"' + b'\\"' * n),
    "a text that ends in the middle of an escape": (bodies.strict_json, lambda n: b'"' + b"\\\\" * n + b"\\"),
    "backslashes": _json("\\"),
    "texts and brackets that never end": _json('["\\"'),
    "open brackets": _json("["),
    "closed brackets": _json("]"),
    "empty texts": (bodies.strict_json, lambda n: b"[" + b'"",' * n + b'""]'),
    "digits": _json("9"),
    "digits after the point": (bodies.strict_json, lambda n: b"1." + b"1" * n),
    "an exponent": (bodies.strict_json, lambda n: b"1e" + b"9" * n),
    "gaps": _json(" \n\t"),
    "halves of pairs": (bodies.strict_json, lambda n: b'"' + b"\\ud800" * n + b'"'),
    "lines, then a fault": (bodies.strict_json, lambda n: b"\n" * n + b"?"),
    "no UTF-8": (bodies.strict_json, lambda n: b"\xff" * n),
    "fields": (_fields, lambda n: b"a=b&" * n),
    "percent signs": (_fields, lambda n: b"a=" + b"%" * n),
    "escapes": (_fields, lambda n: b"a=" + b"%41" * n),
    "escapes of half a letter": (_fields, lambda n: b"a=" + b"%e9" * n),
    "equal signs": (_fields, lambda n: b"=" * n),
    "cookies": (_cookies, lambda n: "a=b; " * n),
    "a quoted cookie of backslashes": (_cookies, lambda n: COOKIE + '="' + "\\" * n + '"'),
    "another's quoted cookie of backslashes": (_cookies, lambda n: 'a="' + "\\" * n + '"'),
    "octal escapes in a cookie": (_cookies, lambda n: 'a="' + "\\101" * n + '"'),
    "semicolons": (_cookies, lambda n: ";" * n),
    "our cookie's name": (_cookies, lambda n: COOKIE * n + "=x"),
    "a cookie of dots": (_cookies, lambda n: COOKIE + "=" + "." * n),
    "a host of colons": (authentication._host_name, lambda n: ":" * n),
    "a host of digits": (authentication._host_name, lambda n: "a:" + "1" * n),
    "an origin of brackets": (authentication._site_of, lambda n: "http://" + "[" * n),
    "an origin of signs that have other forms": (authentication._site_of, lambda n: "http://" + "\uff0f" * n),
    "an origin of names": (authentication._site_of, lambda n: "http://" + "a@" * n),
    "a key": (key_digest, lambda n: "k" * n),
    "tags": (lambda text: downloads._known(text, '"x"'), lambda n: 'W/"",' * n),
    "ranges": (lambda text: downloads._part([text], 9), lambda n: "bytes=" + "0-1," * n),
    "a range of digits": (lambda text: downloads._part([text], 9), lambda n: "bytes=" + "1" * n),
    "a type with options": (uploads.content_type, lambda n: _request(content_type="a/b" + ";a=b" * n)),
    "a type with an open quote": (uploads.content_type, lambda n: _request(content_type='a/b; x="' + ";" * n)),
    "parts": (_form, lambda n: _part('Content-Disposition: form-data; name="a"', "\r\n") * n),
    "headers of a part": (_form, lambda n: b"--x\r\n" + b"a: b\r\n" * n),
    "one header of a part": (_form, lambda n: b"--x\r\na: " + b"b" * n),
    "a part's description with an open quote": (_form, lambda n: _part('Content-Disposition: a; b="' + ";" * n)),
    "nearly the end of a file": (_form, lambda n: _part(FILE, "\r\n--" * n)),
    "returns in a file": (_form, lambda n: _part(FILE, "\r" * n)),
    "a field": (_form, lambda n: _part('Content-Disposition: form-data; name="a"', "b" * n)),
    "parameters": (query_parameters.check_query, lambda n: _query("&".join(f"a{at}=1" for at in range(n)))),
    "one parameter": (query_parameters.check_query, lambda n: _query("a=1&" * n)),
    "a filter's name": (query_parameters._KEY.fullmatch, lambda n: "a" * n + "[" + "]" * n),
    "a cursor": (_cursor, lambda n: "W" * n),
    "a name of a file": (uploads.display_name, lambda n: "." * n + "/"),
    "folders in a sentence": (safe_text, lambda n: "/a" * n),
    "odd folders in a sentence": (safe_text, lambda n: "/- " * n),
    "starts of folders": (safe_text, lambda n: "-/" * n),
    "headers": (lambda raw: Headers(raw=raw).getlist("host"), lambda n: [(b"a", b"b")] * n),
    "a head in pieces": (_in_pieces, lambda n: b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (n // 6)),
    "a head of returns in pieces": (_in_pieces, lambda n: b"GET / HTTP/1.1\r\na: " + b"\r" * n),
    "a chain of names": (_yaml, lambda n: b"name: " + b"a" * n),
    "a chain of lines": (_yaml, lambda n: b"a: 1\n" * (n // 4)),
    "a chain with one key": (_yaml, lambda n: b"name: a\n" * (n // 8)),
    "a chain of brackets": (_yaml, lambda n: b"[" * n),
    "a chain of quotes": (_yaml, lambda n: b'a: "' + b'\\"' * n),
    "a chain of marks": (_yaml, lambda n: b"a: &a " * (n // 6)),
    "a chain of gaps": (_yaml, lambda n: b"a:" + b" " * n + b"\n" + b" " * n + b"b"),
    "a chain of steps": (
        _yaml,
        lambda n: b"name: a\nsteps:\n" + b"".join(b"- {id: s%d, python: 'm:f'}\n" % at for at in range(n // 30)),
    ),
    "a chain of one step": (_yaml, lambda n: b"name: a\nsteps:\n" + b"- {id: s, python: 'm:f'}\n" * (n // 30)),
    "a chain of expressions": (
        _yaml,
        lambda n: b"name: a\nsteps:\n- {id: s, python: 'm:f', parameters: {a: '" + b"{{ a " * (n // 5) + b"'}}\n",
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_ten_times_as_much_is_ten_times_the_work(name: str) -> None:
    reader, given = READERS[name]
    assert_linear(reader, given(SIZE), given(SIZE * 10))


def test_a_reader_that_looks_again_and_again_is_found() -> None:
    """What the others rest on: both ways to count tell quadratic work, in Python and behind it."""

    def counts(names: list[int]) -> list[int]:
        return [names.count(name) for name in names]

    def walks(names: list[int]) -> int:
        return sum(1 for _ in names for _ in names)

    for work in (counts, walks):
        with pytest.raises(AssertionError, match="became"):
            assert_linear(work, list(range(200)), list(range(2_000)))


@pytest.mark.parametrize("kind", ["json", "form"])
async def test_a_large_body_is_not_read_in_the_event_loop(kind: str, anyio_backend: str) -> None:
    """The event loop is not blocked meanwhile: runs keep their leases, and health answers."""
    import threading

    from anyio import CapacityLimiter

    class App:
        class state:  # noqa: N801
            parsers = CapacityLimiter(1)

    request, here, seen = Request({"type": "http", "app": App, "headers": []}), threading.get_ident(), []
    for size in (bodies.INLINE, bodies.INLINE + 1):
        await bodies.parsed(request, lambda data: seen.append(threading.get_ident()), b" " * size)
    assert seen[0] == here != seen[1]
    assert asyncio.get_running_loop() is not None and kind
