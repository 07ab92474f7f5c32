"""The corpus group `http_body`: malformed bodies, forms, files and parameters."""

from __future__ import annotations

import io
import sys
import zipfile
import zlib
from typing import Any

import pytest

from tests.corpus import Case

from .conftest import OpenSite, RawAnswer, Site, raw
from .corpus_cases import fits, ids, of_corpus, played
from .steps import gallery, plain, story

pytestmark = pytest.mark.anyio

CHAINS = "/api/v1/chains"
JSON = (b"content-type", b"application/json")


async def posted(site: Site, body: bytes, path: str = CHAINS, *headers: tuple[bytes, bytes]) -> RawAnswer:
    key = (b"authorization", f"Bearer {site.keys['admin']}".encode())
    size = (b"content-length", str(len(body)).encode())
    return await raw(site.app, "POST", path, [key, size, *(headers or (JSON,))], [body])


@of_corpus(("http_body-001", b"11811160064"), ("http_body-003", b"-1"), names="size")
async def test_sizes_are_looked_at_before_a_byte_is_read(site: Site, wanted: Case, size: bytes) -> None:
    """11 GB are refused by what they say of themselves; a size below zero is no size."""
    key = (b"authorization", f"Bearer {site.keys['admin']}".encode())
    fits(await raw(site.app, "POST", CHAINS, [key, JSON, (b"content-length", size)], []), wanted)


@of_corpus(("http_body-002", [b" " * 300] * 10), ("http_body-002", []), names="chunks")
async def test_a_body_without_an_end(open_site: OpenSite, wanted: Case, chunks: list[bytes]) -> None:
    """Chunks for ever end at the limit, silence ends after a while."""
    async with open_site(max_json=1_000, body_seconds=0.2) as site:
        key = (b"authorization", f"Bearer {site.keys['admin']}".encode())
        fits(await raw(site.app, "POST", CHAINS, [key, JSON], chunks), wanted)


async def test_forms_of_nobody_are_small(site: Site) -> None:
    """At the login and at a link the caller has no key yet, so the limits of bodies are stricter."""
    kind = (b"content-type", b"application/x-www-form-urlencoded")
    large = await raw(site.app, "POST", "/login", [kind], [b"key=", *[b"x" * 100_000] * 4])
    assert (large.status, large.code) == (413, "E_BODY_SIZE")
    many = await raw(site.app, "POST", "/login", [kind], [b"a=1&" * 100])
    assert (many.status, many.code) == (400, "E_BODY")


async def test_a_form_of_nobody_does_not_take_for_ever(open_site: OpenSite) -> None:
    async with open_site(body_seconds=0.2) as site:
        kind = (b"content-type", b"application/x-www-form-urlencoded")
        answer = await raw(site.app, "POST", "/login", [kind], [])
        assert (answer.status, answer.code) == (408, "E_BODY_TIME")


@of_corpus(
    ("http_body-005", b"[" * 100_000),
    ("http_body-006", b'{"yaml": "a", "yaml": "b"}'),
    ("http_body-007", b'{"inputs": {"a": NaN}}'),
    ("http_body-008", b'{"inputs": {"a": ' + b"9" * 5_000 + b"}}"),
    ("http_body-010", b'{"yaml": "\\ud800"}'),
    ("http_body-011", b'{"yaml": "a\\u0000b"}'),
    names="body",
)
async def test_json_that_is_none(site: Site, wanted: Case, body: bytes) -> None:
    """Refused with a code of its own, and the server is alive after it."""
    fits(await posted(site, body), wanted)
    assert (await site.get("/api/v1/health", None)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b'"' + b"\\" * 3,
        b'{"a": 1}',
        b"[]",
        b'{"yaml": 3}',
        b"1e999",
        b'{"inputs": {"a": 1e999}}',
        b"null",
    ],
)
async def test_other_bodies_that_are_none(site: Site, body: bytes) -> None:
    """Never a 5xx, always a code."""
    answer = await posted(site, body)
    assert answer.status in (400, 422), answer
    assert answer.code.startswith("E_")


async def note(site: Site) -> str:
    """The id of an artifact that waits at a gate."""
    await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    return str(gate["artifacts"][0]["id"])


def form(*parts: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"--edge\r\n" + head + b"\r\n\r\n" + body + b"\r\n" for head, body in parts) + b"--edge--\r\n"


MULTIPART = (b"content-type", b"multipart/form-data; boundary=edge")


@of_corpus(
    ("http_body-012", form(*[(b'Content-Disposition: form-data; name="f"', b"x")] * 100_000)),
    ("http_body-013", form((b'Content-Disposition: form-data; name="f"\r\nX-Long: ' + b"h" * 1_000_000, b"x"))),
    ("http_body-013", form((b'Content-Disposition: form-data; name="f"\r\n' + b"X: \r\n" * 100_000, b"x"))),
    ("http_body-013", form((b"\r\n".join(b"X-%d:" % n for n in range(20_000)), b"x"))),
    ("http_body-015", form((b'Content-Disposition: form-data; name="file"; filename="../../x"', b"x"))),
    names="body",
)
async def test_forms_that_hurt(site: Site, wanted: Case, body: bytes) -> None:
    """Too many parts, endless headers (one that is long, many that are empty), names that are paths."""
    fits(await posted(site, body, f"/api/v1/artifacts/{await note(site)}/versions", MULTIPART), wanted)


@pytest.mark.parametrize("name", [b"..\\\\x", b"", b"/etc/passwd", b"a\x00b", b"."])
async def test_names_that_are_none(site: Site, name: bytes) -> None:
    head = b'Content-Disposition: form-data; name="file"; filename="' + name + b'"'
    answer = await posted(site, form((head, b"x")), f"/api/v1/artifacts/{await note(site)}/versions", MULTIPART)
    assert answer.status == 400, answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--edge",
        form(),
        form((b'Content-Disposition: form-data; name="by"', b"x")),
        form((b'Content-Disposition: form-data; name="file"; filename="a"', b"x"))[:-30],
        form((b'Content-Disposition: form-data; name="file"; filename="a"', b"x"), (b"Content-Disposition: x", b"y")),
        form(
            (b'Content-Disposition: form-data; name="other"', b"x"),
            (b'Content-Disposition: form-data; name="f"; filename="a"', b"x"),
        ),
        form((b'Content-Disposition: form-data; name="by"', b"x" * 70_000)),
    ],
    ids=["nothing", "begun", "no parts", "no file", "cut", "file first", "unknown field", "long field"],
)
async def test_forms_that_are_none(site: Site, body: bytes) -> None:
    """Cut, empty, in the wrong order: refused, and no version comes of it."""
    artifact = await note(site)
    answer = await posted(site, body, f"/api/v1/artifacts/{artifact}/versions", MULTIPART)
    assert answer.status in (400, 413, 422), answer
    assert len(await site.engine.get_artifact_versions(artifact)) == 1


async def upload(site: Site, data: bytes, filename: str) -> dict[str, Any]:
    """Replace the artifact of a new gate by a file, and return the new version."""
    path = f"/api/v1/artifacts/{await note(site)}/versions"
    answer = await site.post(path, "approver", files={"file": (filename, data)}, data={"reason": "why"})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def png(width: int, height: int) -> bytes:
    """The head of a picture of that size, and hardly any pixels."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", head) + piece(b"IDAT", zlib.compress(b"\0" * 900)) + piece(b"IEND", b"")
    )


def bomb() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * 10_000_000)
    return made.getvalue()


@of_corpus(
    ("http_body-016", "bomb.zip", bomb(), ""),
    ("http_body-018", "dot.png", png(1, 1) + b"<script>alert(1)</script>", "image/png"),
    ("http_body-020", "x.svg", b'<!DOCTYPE svg [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>', ""),
    ("http_body-021", "x.png", b"<!doctype html><script>alert(1)</script>", ""),
    ("http_body-022", "x.pdf", b"%PDF-1.7 /JavaScript (app.alert(1))", ""),
    ("http_body-023", "x.gif", b"GIF89a/*" + b"\0" * 20 + b"*/=1;alert(1)", "image/gif"),
    names="filename data shown",
)
async def test_files_that_would_like_to_run(site: Site, wanted: Case, filename: str, data: bytes, shown: str) -> None:
    """Kept byte for byte, and served under headers with which no browser runs them."""
    made = await upload(site, data, filename)
    answer = await site.get(f"/api/v1/artifacts/{made['id']}/raw")
    assert answer.content == data
    headers = answer.headers
    assert headers["content-type"] == (shown or "application/octet-stream"), wanted.expect
    assert headers["content-disposition"].startswith("inline" if shown else "attachment")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert "script-src 'none'" in headers["content-security-policy"]


@of_corpus("http_body-017")
async def test_a_picture_of_four_thousand_million_pixels(site: Site, wanted: Case) -> None:
    """Kept byte for byte and never decoded: there is no thumbnail of it."""
    data = png(65_535, 65_535)
    made = await upload(site, data, "huge.png")
    assert (await site.get(f"/artifacts/{made['id']}/thumbnail")).status_code >= 400, wanted.expect
    assert (await site.get(f"/api/v1/artifacts/{made['id']}/raw")).content == data


@of_corpus(("http_body-025", "bytes=-0"), ("http_body-026", "bytes=9999999999999-"), names="part")
async def test_parts_that_are_not_there(site: Site, wanted: Case, part: str) -> None:
    run = await site.engine.run(plain, text="abc")
    fits(await site.get(f"/api/v1/artifacts/{run['write'].artifact.id}/raw", headers={"Range": part}), wanted)


@of_corpus("http_body-027")
async def test_a_tag_of_a_megabyte(site: Site, wanted: Case) -> None:
    """Ignored: the file comes."""
    run = await site.engine.run(gallery)
    path = f"/api/v1/artifacts/{run['picture'].artifact.id}/raw"
    answer = await site.get(path, headers={"If-None-Match": "x" * 1_000_000})
    assert answer.status_code == 200, wanted.expect


@of_corpus(
    ("http_body-028", "limit=-1"),
    ("http_body-030", "offset=1e309"),
    ("http_body-031", "after=forged"),
    ("http_body-032", "parent_run_id=%27%20OR%201%3D1"),
    names="query",
)
async def test_parameters_that_are_none(site: Site, wanted: Case, query: str) -> None:
    fits(await site.get(f"{CHAINS}?{query}"), wanted)


async def test_a_cursor_is_good_for_the_list_that_gave_it(site: Site) -> None:
    """Neither of another list, nor of another order, nor changed by one character."""
    for n in range(3):
        await site.engine.run(plain, text=str(n))
    cursor = (await site.get(f"{CHAINS}?limit=1")).json()["next"]
    for query in (f"/artifacts?after={cursor}", f"/chains?sort=name&after={cursor}", f"/chains?after={cursor[:-1]}"):
        answer = await site.get(f"/api/v1{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E_CURSOR")


def test_every_case_of_the_group_is_played() -> None:
    """No case was left out: each is the parameter of a test, which is named by it."""
    assert ids("http_body") - played(sys.modules[__name__]) == set()
