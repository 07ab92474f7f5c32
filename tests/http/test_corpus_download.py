"""The corpus group `artifact_download`, and downloads as they should be: parts, tags, HEAD, damaged bytes."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import httpx
import pytest

from tests.corpus import Case

from .conftest import OpenSite, Site, raw
from .corpus_cases import fits, ids, of_corpus, played
from .steps import gallery, heavy, plain

pytestmark = pytest.mark.anyio


@of_corpus(
    ("artifact_download-001", "/artifacts/../../etc/passwd"),
    ("artifact_download-002", "/artifacts/..%2f..%2fetc%2fpasswd"),
    ("artifact_download-003", "/artifacts/%252e%252e%252fetc"),
    ("artifact_download-005", "/artifacts//etc/passwd"),
    ("artifact_download-006", "/artifacts/%00"),
    ("artifact_download-008", "/artifacts/01a20000-0000-7000-8000-000000000000"),
    names="path",
)
async def test_paths_that_lead_nowhere(site: Site, wanted: Case, path: str) -> None:
    """404, and for an id that is not there the same body as for one that never was."""
    key = (b"authorization", f"Bearer {site.keys['admin']}".encode())
    for suffix in ("", "/raw"):
        answer = await raw(site.app, "GET", f"/api/v1{path}{suffix}", [key])
        fits(answer, wanted)
        assert b"passwd" not in answer.body
    unknown = await raw(site.app, "GET", "/api/v1/artifacts/nothing", [key])
    assert answer.body == unknown.body or b"E_NOT_FOUND" in answer.body


@of_corpus("artifact_download-007")
async def test_a_parameter_that_names_a_file(site: Site, wanted: Case) -> None:
    """Ignored: paths come from the store, never from people."""
    run = await site.engine.run(plain, text="abc")
    answer = await site.get(f"/api/v1/artifacts/{run['write'].artifact.id}/raw?path=/etc/passwd")
    assert (answer.status_code, answer.content) == (200, b"abc"), wanted.expect


def blob(store: Path, digest: str) -> Path:
    (found,) = store.parent.rglob(digest)
    return found


@of_corpus(
    *(
        (f"artifact_download-{number}", size, part)
        for number in ("010", "011", "012")
        for size in (20_000, 9_000_000)
        for part in (None, "bytes=0-9")
    ),
    names="size part",
)
async def test_damaged_bytes_never_arrive_whole(
    open_site: OpenSite, store: Path, caplog: pytest.LogCaptureFixture, wanted: Case, size: int, part: str | None
) -> None:
    """One bit, a missing end, a missing file: a code, or a connection that is cut, and no thousand good bytes."""
    number = wanted.id[-3:]
    async with open_site() as site:
        run = await site.engine.run(heavy, size=size)
        artifact = run["large"].artifact
        path = blob(store, artifact.digest)
        good = path.read_bytes()
        os.chmod(path, 0o644)
        if number == "012":
            path.unlink()
        else:
            path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]) if number == "010" else good[:-5])
        try:
            headers = {"Range": part} if part else {}
            try:
                answer = await site.get(f"/api/v1/artifacts/{artifact.id}/raw", headers=headers)
            except httpx.TransportError:
                cut = True  # after most of it was sent
            else:
                cut = False
            if number != "012":
                assert f"artifact {artifact.id} is damaged: {wanted.codes[0]}" in caplog.text
            assert not cut or (number == "010" and size > 8_000_000)
            if cut:
                return
            if answer.status_code == 200:
                assert number == "010" and len(answer.content) < size, "cut off before its end"
            else:
                assert answer.status_code == 500
                assert answer.json()["error"]["code"] in wanted.codes
                assert str(store.parent) not in answer.text
        finally:
            path.write_bytes(good)


@of_corpus("artifact_download-013")
async def test_a_name_with_another_name_in_it(site: Site, wanted: Case) -> None:
    """The header holds the name percent-encoded only."""
    run = await site.engine.run(gallery)
    old = run["picture"].artifact
    name = 'a"; filename=evil.html\u202e; é'
    new = await site.engine.create_artifact(
        old.row.workflow_id, name, data=b"x", media_type="image/png", parent_artifact_id=old.id
    )
    header = (await site.get(f"/api/v1/artifacts/{new.id}/raw")).headers["content-disposition"]
    assert header.startswith("attachment; filename*=UTF-8''"), wanted.expect
    assert '"' not in header
    assert header.count("filename") == header.count("filename*=") + header.count("filename%3Devil")


@of_corpus(
    ("artifact_download-015", "text/html", "?inline=1"),
    ("artifact_download-016", "image/svg+xml", ""),
    ("artifact_download-016", "application/xhtml+xml", ""),
    names="media query",
)
async def test_documents_are_attachments(site: Site, wanted: Case, media: str, query: str) -> None:
    """Whatever is asked for: what could be a document is a download."""
    run = await site.engine.run(gallery)
    old = run["picture"].artifact
    data = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    new = await site.engine.create_artifact(old.row.workflow_id, "x", data=data, media_type=media, name="other")
    headers = (await site.get(f"/api/v1/artifacts/{new.id}/raw{query}")).headers
    assert headers["content-disposition"].startswith("attachment"), wanted.expect
    assert headers["content-type"] == "application/octet-stream"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "sandbox" in headers["content-security-policy"]


@pytest.mark.parametrize("size", [0, 1, 300, 20_000, 9_000_000])
async def test_N1_parts_of_a_file(site: Site, size: int) -> None:
    """Range, If-Range, HEAD and ETag, for bytes in the database, small files and large ones."""
    run = await site.engine.run(heavy, size=size)
    artifact = run["large"].artifact
    data = await artifact.read_bytes()
    path = f"/api/v1/artifacts/{artifact.id}/raw"
    async with site.client("viewer") as client:
        whole = await client.get(path)
        assert hashlib.sha256(whole.content).hexdigest() == artifact.digest == whole.headers["etag"].strip('"')
        assert whole.headers["accept-ranges"] == "bytes"
        head = await client.head(path)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")
        head = await client.head(path, headers={"Range": "bytes=0-0"})
        assert (head.status_code, head.headers["content-length"]) == (200, str(size)), "only GET knows parts"
        assert (await client.get(path, headers={"If-None-Match": whole.headers["etag"]})).status_code == 304
        for asked, first, last in (
            ("0-0", 0, 0),
            ("5-99", 5, 99),
            (f"{max(size - 1, 0)}-", size - 1, size - 1),
            ("-7", size - 7, size - 1),
        ):
            part = await client.get(path, headers={"Range": f"bytes={asked}"})
            if size == 0 or first >= size:
                assert part.status_code == 416, asked
                continue
            begin, end = max(first, 0), min(last, size - 1)
            assert (part.status_code, part.content) == (206, data[begin : end + 1]), asked
            assert part.headers["content-range"] == f"bytes {begin}-{end}/{size}"
        changed = await client.get(path, headers={"Range": "bytes=0-0", "If-Range": '"other"'})
        assert (changed.status_code, len(changed.content)) == (200, size)
        several = await client.get(path, headers={"Range": "bytes=0-0,2-2"})
        assert (several.status_code, len(several.content)) == (200, size)


def test_every_case_of_the_group_is_played() -> None:
    """No case was left out: each is the parameter of a test, which is named by it."""
    assert ids("artifact_download") - played(sys.modules[__name__]) == set()
