"""The corpus group `http_body`: bodies, forms, files and parameters that nobody should send."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.corpus import cases

from .conftest import OpenSite, RawAnswer, Site, raw
from .steps import gallery, plain, story

pytestmark = pytest.mark.anyio

CASES = {case.id: case for case in cases("http_body")}
CHAINS = "/api/v1/chains"
JSON = (b"content-type", b"application/json")


def fits(answer: RawAnswer | httpx.Response, number: str) -> None:
    """Status and code are those of the corpus."""
    wanted = CASES[f"http_body-{number}"]
    status = answer.status if isinstance(answer, RawAnswer) else answer.status_code
    body = answer.body if isinstance(answer, RawAnswer) else answer.content
    allowed = re.findall(r"\b[1-5]\d\d\b", wanted.expect)
    assert str(status) in (allowed or ["400", "422"]), (status, body[:300], wanted.expect)
    if wanted.codes:
        assert json.loads(body)["error"]["code"] in wanted.codes


async def posted(site: Site, body: bytes, path: str = CHAINS, *headers: tuple[bytes, bytes]) -> RawAnswer:
    key = (b"authorization", f"Bearer {site.keys['admin']}".encode())
    size = (b"content-length", str(len(body)).encode())
    return await raw(site.app, "POST", path, [key, size, *(headers or (JSON,))], [body])


async def test_sizes_are_looked_at_before_a_byte_is_read(site: Site) -> None:
    """11 GB are refused by what they say of themselves; a size below zero is no size."""
    key = (b"authorization", f"Bearer {site.keys['admin']}".encode())
    for number, size in (("001", b"11811160064"), ("003", b"-1")):
        fits(await raw(site.app, "POST", CHAINS, [key, JSON, (b"content-length", size)], []), number)


async def test_a_body_without_an_end(open_site: OpenSite) -> None:
    """Chunks for ever end at the limit, silence ends after a while."""
    async with open_site(max_json=1_000, body_seconds=0.2) as site:
        key = (b"authorization", f"Bearer {site.keys['admin']}".encode())
        fits(await raw(site.app, "POST", CHAINS, [key, JSON], [b" " * 300] * 10), "002")
        fits(await raw(site.app, "POST", CHAINS, [key, JSON], []), "002")


@pytest.mark.parametrize(
    ("number", "body"),
    [
        ("005", b"[" * 100_000),
        ("006", b'{"yaml": "a", "yaml": "b"}'),
        ("007", b'{"inputs": {"a": NaN}}'),
        ("008", b'{"inputs": {"a": ' + b"9" * 5_000 + b"}}"),
        ("010", b'{"yaml": "\\ud800"}'),
        ("011", b'{"yaml": "a\\u0000b"}'),
    ],
    ids=["005", "006", "007", "008", "010", "011"],
)
async def test_json_that_is_none(site: Site, number: str, body: bytes) -> None:
    """Refused with a code of its own, and the server is alive after it."""
    fits(await posted(site, body), number)
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


@pytest.mark.parametrize(
    ("number", "body"),
    [
        ("012", form(*[(b'Content-Disposition: form-data; name="f"', b"x")] * 100_000)),
        ("013", form((b'Content-Disposition: form-data; name="f"\r\nX-Long: ' + b"h" * 1_000_000, b"x"))),
        ("015", form((b'Content-Disposition: form-data; name="file"; filename="../../x"', b"x"))),
    ],
    ids=["012", "013", "015"],
)
async def test_forms_that_hurt(site: Site, number: str, body: bytes) -> None:
    """Too many parts, endless headers, names that are paths."""
    fits(await posted(site, body, f"/api/v1/artifacts/{await note(site)}/versions", MULTIPART), number)


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


@pytest.mark.parametrize(
    ("number", "filename", "data", "shown"),
    [
        ("016", "bomb.zip", bomb(), ""),
        ("018", "dot.png", png(1, 1) + b"<script>alert(1)</script>", "image/png"),
        ("020", "x.svg", b'<!DOCTYPE svg [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>', ""),
        ("021", "x.png", b"<!doctype html><script>alert(1)</script>", ""),
        ("022", "x.pdf", b"%PDF-1.7 /JavaScript (app.alert(1))", ""),
        ("023", "x.gif", b"GIF89a/*" + b"\0" * 20 + b"*/=1;alert(1)", "image/gif"),
    ],
    ids=["016", "018", "020", "021", "022", "023"],
)
async def test_files_that_would_like_to_run(site: Site, number: str, filename: str, data: bytes, shown: str) -> None:
    """Kept byte for byte, and served under headers with which no browser runs them."""
    made = await upload(site, data, filename)
    answer = await site.get(f"/api/v1/artifacts/{made['id']}/raw")
    assert answer.content == data
    headers = answer.headers
    assert headers["content-type"] == (shown or "application/octet-stream"), CASES[f"http_body-{number}"].expect
    assert headers["content-disposition"].startswith("inline" if shown else "attachment")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert "script-src 'none'" in headers["content-security-policy"]


async def test_a_picture_of_four_thousand_million_pixels(site: Site) -> None:
    """Kept, never decoded: there is no thumbnail of it. The pages answer as for every picture without one."""
    made = await upload(site, png(65_535, 65_535), "huge.png")
    assert (await site.get(f"/artifacts/{made['id']}/thumbnail")).status_code == 404
    assert "thumbnail refused" in CASES["http_body-017"].expect


@pytest.mark.parametrize(("number", "part"), [("025", "bytes=-0"), ("026", "bytes=9999999999999-")])
async def test_parts_that_are_not_there(site: Site, number: str, part: str) -> None:
    run = await site.engine.run(plain, text="abc")
    fits(await site.get(f"/api/v1/artifacts/{run['write'].artifact.id}/raw", headers={"Range": part}), number)


async def test_a_tag_of_a_megabyte(site: Site) -> None:
    """Ignored: the file comes."""
    run = await site.engine.run(gallery)
    path = f"/api/v1/artifacts/{run['picture'].artifact.id}/raw"
    assert (await site.get(path, headers={"If-None-Match": "x" * 1_000_000})).status_code == 200
    assert "ignored" in CASES["http_body-027"].expect


@pytest.mark.parametrize(
    ("number", "query"),
    [
        ("028", "limit=-1"),
        ("030", "offset=1e309"),
        ("031", "after=forged"),
        ("032", "parent_run_id=%27%20OR%201%3D1"),
    ],
)
async def test_parameters_that_are_none(site: Site, number: str, query: str) -> None:
    fits(await site.get(f"{CHAINS}?{query}"), number)


async def test_a_cursor_is_good_for_the_list_that_gave_it(site: Site) -> None:
    """Neither of another list, nor of another order, nor changed by one character."""
    for n in range(3):
        await site.engine.run(plain, text=str(n))
    cursor = (await site.get(f"{CHAINS}?limit=1")).json()["next"]
    for query in (f"/artifacts?after={cursor}", f"/chains?sort=name&after={cursor}", f"/chains?after={cursor[:-1]}"):
        answer = await site.get(f"/api/v1{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E_CURSOR")


def test_every_case_of_the_group_is_tested() -> None:
    """No case was left out."""
    source = Path(__file__).read_text()
    assert [i for i in CASES if f'"{i.removeprefix("http_body-")}"' not in source and i not in source] == []
