"""Pages and their forms over plain HTTP: what is refused, and how it is said."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import anyio.from_thread
import httpx
import pytest

from tests.pages.conftest import PATIENCE, Site, served
from tests.pages.steps import gated, png, tiles, worth
from towpath import File
from towpath.adapters.http.links import make_link
from towpath.adapters.http.pages import PAGES
from towpath.adapters.http.pages.previews import SMALL_IMAGE
from towpath.adapters.http.pages.thumbnails import MOST_PIXELS


@pytest.fixture
def client(site: Site) -> Any:
    """A client on this machine with a browser's Accept header."""
    with httpx.Client(base_url=site.url, headers={"Accept": "text/html"}, timeout=PATIENCE / 1000) as opened:
        yield opened


def token(html: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', html)
    assert found is not None
    return found[1]


def waiting(site: Site) -> Any:
    site.do(site.engine.run, gated)
    return site.do(site.engine.approvals)[0]


def test_a_form_without_its_token_does_nothing(site: Site, client: httpx.Client) -> None:
    """Also with the token of another session (http_auth-017)."""
    gate = waiting(site)
    mine = token(client.get(f"/approvals/{gate['id']}").text)
    key = site.key("approver")
    with httpx.Client(base_url=site.url, headers={"Accept": "text/html"}) as other:
        login = other.get("/login")
        other.post("/login", data={"key": key, "csrf": token(login.text), "next": "/"})
        for data in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": mine}):
            for verb in ("approve", "reject", "edit"):
                answer = other.post(f"/approvals/{gate['id']}/{verb}", data={**data, "seen": gate["artifact_ids"]})
                assert answer.status_code == 403
                assert "E_CSRF" in answer.text and answer.headers["content-type"].startswith("text/html")
        assert len(site.do(site.engine.approvals)) == 1
        right = token(other.get(f"/approvals/{gate['id']}").text)
        answer = other.post(f"/approvals/{gate['id']}/approve", data={"csrf": right, "seen": gate["artifact_ids"]})
        assert answer.status_code == 303
    decided = site.do(site.engine.get_approval, gate["id"])
    assert decided.decided_by.startswith("approver-")


def test_what_is_not_there_is_a_page_of_its_own(client: httpx.Client) -> None:
    """404 for every page with an id, in the same style, and nothing breaks on odd ids."""
    paths = {page.path for page in PAGES if page.method == "GET" and "{id}" in page.path}
    for path in paths:
        for odd in ("nothing", "%00", "..%2f..%2fetc", "'--", "a" * 3_000, "%F0%9F%98%80", "%ff"):
            answer = client.get(re.sub(r"\{(id|other|step)\}", odd, path).replace("{item:int}", "0"))
            assert answer.status_code == 404, (path, odd)
            assert answer.headers["content-type"].startswith("text/html") or path.endswith("thumbnail")
    for path in ("/nothing", "/runs/a/b/c/d"):
        assert client.get(path).status_code == 404


def test_odd_numbers_and_words_in_an_address(site: Site, client: httpx.Client) -> None:
    run = site.do(site.engine.run, tiles, n=3)
    for odd in ("-1", "9" * 30, "x", "", "%00", "1.5", "²"):
        for name in ("page", "from", "level", "status", "q", "after"):
            assert client.get(f"/runs/{run.id}?{name}={odd}").status_code == 200
            assert client.get(f"/runs/{run.id}/steps/tile?{name}={odd}").status_code == 200
        assert client.get(f"/runs/{run.id}/history?after={odd}").status_code == 200


def test_runs_are_found_by_a_part_of_their_name(site: Site, client: httpx.Client) -> None:
    site.do(site.engine.run, tiles, n=1)
    site.do(site.engine.run, gated)
    page = client.get("/runs?q=til").text
    assert ">tiles</a>" in page and ">gated</a>" not in page and "?status=failed&amp;q=til" in page
    assert "No run matches" in client.get("/runs?q=%25%3Cscript%3E").text
    assert ">gated</a>" in client.get("/runs?q=ate&status=paused").text
    assert ">gated</a>" not in client.get("/runs?q=ate&status=failed").text


def test_runs_are_found_by_every_filter(site: Site, client: httpx.Client) -> None:
    """The filters stay in the address: in links to other statuses, to older runs, and in the form."""
    site.do(site.engine.run, tiles, n=1, name="media-12", tags={"client": "x & y", "urgent": ""})
    site.do(site.engine.run, gated, name="media-13", tags={"client": "z"})
    for query, found in (
        ("q=media", ["media-13", "media-12"]),
        ("chain=TIL", ["media-12"]),
        ("tag=client", ["media-13", "media-12"]),
        ("tag=client%3Dx+%26+y&tag=urgent", ["media-12"]),
        ("status=paused&status=completed", ["media-13", "media-12"]),
        ("status=paused", ["media-13"]),
        ("since=2020-01-01&until=2100-01-01", ["media-13", "media-12"]),
        ("until=2020-01-01", []),
        ("tag=nothing", []),
        ("tag=&q=&chain=&since=&until=", ["media-13", "media-12"]),
    ):
        page = client.get(f"/runs?{query}").text
        assert re.findall(r">(media-\d+)</a>", page) == found, query
        assert found or "No run matches" in page
    page = client.get("/runs?q=media&tag=client%3Dx+%26+y&since=2020-01-01&status=completed").text
    assert (
        'href="/runs?status=completed&amp;status=failed&amp;q=media&amp;tag=client%3Dx+%26+y&amp;since=2020-01-01"'
        in page
    )
    assert 'name="tag" value="client=x &amp; y"' in page
    assert 'href="/runs?status=completed&amp;q=media&amp;since=2020-01-01"' in page, "without the tag"
    assert 'href="/runs?tag=client%3Dx+%26+y"' in page, "the tag of a run leads to all runs with it"


def test_older_runs_keep_the_filter(site: Site, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.adapters.http.pages.runs.RUNS", 2)
    for n in range(5):
        site.do(site.engine.run, tiles, n=1, name=f"media-{n}", tags=["odd"] if n % 2 else ["even"])
    seen, path = [], "/runs?tag=even"
    while path:
        page = client.get(path).text
        seen += re.findall(r">(media-\d+)</a>", page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        path = following[1].replace("&amp;", "&") if following else ""
    assert seen == ["media-4", "media-2", "media-0"]


@pytest.mark.parametrize("query", ["since=yesterday", "until=2026-13-01", "tag=a%20b", "tag=%3Dx"])
def test_a_filter_that_means_nothing_says_what_is_allowed(client: httpx.Client, query: str) -> None:
    page = client.get(f"/runs?{query}")
    assert page.status_code == 422
    assert "E_TIME" in page.text or "E_RUN_TAGS" in page.text


def test_a_run_is_removed_after_a_question(site: Site, client: httpx.Client) -> None:
    """The question is a page of its own, which needs no script."""
    run = site.do(site.engine.run, tiles, n=1, name="media-12")
    assert f'href="/runs/{run.id}/remove"' in client.get(f"/runs/{run.id}").text
    question = client.get(f"/runs/{run.id}/remove").text
    assert "Remove this run?" in question
    assert "media-12" in question
    done = client.post(f"/runs/{run.id}/remove", data={"csrf": token(question)}, follow_redirects=True)
    assert "The run is gone" in done.text
    assert client.get(f"/runs/{run.id}").status_code == 404
    open_run = waiting(site)["run"]
    assert "/remove" not in client.get(f"/runs/{open_run}").text
    form = {"csrf": token(client.get(f"/runs/{open_run}/remove").text)}
    assert client.post(f"/runs/{open_run}/remove", data=form).status_code == 409


def test_a_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(tmp_path / "towpath.db", max_upload=20_000)) as (url, _, engine),
        httpx.Client(base_url=url, headers={"Accept": "text/html"}) as client,
    ):
        portal.call(engine.run, gated)
        gate = portal.call(engine.approvals)[0]
        data = {"csrf": token(client.get(f"/approvals/{gate['id']}").text), "artifact": gate["artifact_ids"][0]}
        answer = client.post(f"/approvals/{gate['id']}/edit", data=data, files={"file": ("x.png", b"x" * 30_000)})
        assert answer.status_code == 413
        answer = client.post(f"/approvals/{gate['id']}/edit", data=data, files={"file": ("x.png", b"x" * 10_000)})
        assert answer.status_code == 303
        assert portal.call(engine.approvals)[0]["artifact_ids"] != gate["artifact_ids"]


def test_nothing_chosen_and_nothing_changed(site: Site, client: httpx.Client) -> None:
    gate = waiting(site)
    note = next(a["id"] for a in gate["artifacts"] if a["name"] == "note")
    page = client.get(f"/approvals/{gate['id']}").text
    shown = re.search(r'<textarea id="text-\d"[^>]*>\n(.*?)</textarea>', page, re.DOTALL)
    assert shown is not None
    for text in (None, shown[1], shown[1].replace("\n", "\r\n")):
        data = {"csrf": token(page), "artifact": note, **({} if text is None else {"text": text})}
        answer = client.post(f"/approvals/{gate['id']}/edit", data=data)
        assert answer.status_code == 422
    assert site.do(site.engine.approvals)[0]["artifact_ids"] == gate["artifact_ids"]


def test_a_value_at_a_gate_is_looked_at_and_edited_as_json(site: Site, client: httpx.Client) -> None:
    """What is no JSON is refused, and what was typed stays out of the store."""
    run = site.do(site.engine.run, worth)
    gate = site.do(site.engine.approvals)[0]
    page = client.get(f"/approvals/{gate['id']}").text
    assert "price" in page
    data = {"csrf": token(page), "artifact": gate["artifact_ids"][0], "seen": gate["artifact_ids"], "approve": "yes"}
    answer = client.post(f"/approvals/{gate['id']}/edit", data={**data, "text": "{no json"})
    assert answer.status_code == 422 and "JSON" in answer.text
    answer = client.post(f"/approvals/{gate['id']}/edit", data={**data, "text": '{"price": 7}'})
    assert answer.status_code == 303
    assert site.finished(run.id).value == {"price": 7}


def test_a_changed_parameter_that_is_no_json(site: Site, client: httpx.Client) -> None:
    site.do(site.engine.run, worth)
    gate = site.do(site.engine.approvals)[0]
    page = client.get(f"/approvals/{gate['id']}").text
    data = {"csrf": token(page), "action": "regenerate", "p.price": "cheap"}
    answer = client.post(f"/approvals/{gate['id']}/reject", data=data)
    assert answer.status_code == 422 and "must be JSON, like the old one: price" in answer.text
    assert len(site.do(site.engine.approvals)) == 1
    answer = client.post(f"/approvals/{gate['id']}/reject", data={**data, "action": "explode"})
    assert answer.status_code == 422


def test_replacing_a_file_that_no_gate_waits_for(site: Site, client: httpx.Client) -> None:
    run = site.do(site.engine.run, tiles, n=1)
    old = site.do(site.engine.snapshot, run.id)["tile"].artifacts[0]
    page = client.get(f"/artifacts/{old.id}").text
    answer = client.post(
        f"/artifacts/{old.id}/edit",
        data={"csrf": token(page), "reason": "better"},
        files={"file": ("new.txt", b"NEW")},
    )
    assert answer.status_code == 303
    page = client.get(answer.headers["location"]).text
    assert "New version kept" in page and "better" in page and "version 1" in page


def test_a_damaged_file_says_so(site: Site, client: httpx.Client) -> None:
    """The page is there, without the bytes and without the place where they lie."""
    gate = waiting(site)
    note = next(a["id"] for a in gate["artifacts"] if a["name"] == "note")
    large = site.do(site.engine.edit, note, File(b"word\n" * 20_000, filename="note.txt"), by="Jo")
    blob = Path(large["local_path"])
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(whole[:-1] + b"X")
    for path in (f"/artifacts/{large['id']}", f"/approvals/{gate['id']}"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "This file cannot be read." in answer.text and "E_BLOB_CORRUPT" in answer.text
        assert str(blob.parent.parent) not in answer.text
    blob.write_bytes(whole)


def test_thumbnails(site: Site, client: httpx.Client) -> None:
    """Small, kept by the browser, and only of pictures."""
    from PIL import Image

    gate = waiting(site)
    picture = next(a["id"] for a in gate["artifacts"] if a["name"] == "picture")
    noise = Image.effect_noise((900, 700), 90).convert("RGB")
    out = io.BytesIO()
    noise.save(out, "PNG")
    assert len(out.getvalue()) > SMALL_IMAGE
    large = site.do(site.engine.edit, picture, File(out.getvalue(), filename="large.png"), by="Jo")
    assert f"/artifacts/{large['id']}/thumbnail" in client.get("/").text
    answer = client.get(f"/artifacts/{large['id']}/thumbnail")
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as small:
        assert max(small.size) == 480
    again = client.get(f"/artifacts/{large['id']}/thumbnail", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    note = next(a["id"] for a in gate["artifacts"] if a["name"] == "note")
    assert client.get(f"/artifacts/{note}/thumbnail").status_code == 404
    broken = site.do(site.engine.edit, large["id"], File(png("red")[:50], filename="x.png"), by="Jo")
    assert client.get(f"/artifacts/{broken['id']}/thumbnail").status_code == 404


def test_http_body_017_no_thumbnail_is_made_of_too_many_pixels(site: Site, client: httpx.Client) -> None:
    """Its header alone is read; the answer has the code, and so has one just above the limit."""
    gate = waiting(site)
    for width, height in ((65_535, 65_535), (MOST_PIXELS // 8_000 + 1, 8_000)):
        row = site.do(
            site.engine.create_artifact,
            gate["workflow_id"],
            "huge.png",
            data=picture_of(width, height),
            media_type="image/png",
            name=f"huge-{width}",
        )
        answer = client.get(f"/artifacts/{row['id']}/thumbnail", headers={"Accept": "image/webp,*/*"})
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "E_IMAGE_PIXELS"
        assert client.get(f"/artifacts/{row['id']}").status_code == 200


def picture_of(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size."""
    parts = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(bytes(500)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )


def test_a_damaged_picture_says_so_everywhere(site: Site, client: httpx.Client) -> None:
    """Also where it is large, cut, or gone; and on the page of a link."""
    gate = waiting(site)
    picture = next(a["id"] for a in gate["artifacts"] if a["name"] == "picture")
    whole = noise()
    row = site.do(site.engine.edit, picture, File(whole, filename="noise.png"), by="Jo")
    token_, _ = site.do(make_link, site.app.state.records, site.app.state.secret, gate["id"], 1.0)
    blob = Path(row["local_path"])
    blob.chmod(0o644)
    for damaged, code in ((whole[:-1] + b"X", "E_BLOB_CORRUPT"), (None, "E_BLOB_MISSING")):
        if damaged is None:
            blob.unlink()
        else:
            blob.write_bytes(damaged)
        for path in (
            f"/artifacts/{row['id']}",
            f"/approvals/{gate['id']}",
            f"/artifacts/{picture}/compare/{row['id']}",
            f"/a/{token_}",
        ):
            page = client.get(path).text
            assert "This file cannot be read." in page and code in page, (path, code)
            assert f'src="/api/v1/artifacts/{row["id"]}/raw"' not in page
    blob.write_bytes(whole)


def test_a_large_damaged_file_is_seen_by_its_size(
    site: Site, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("towpath.adapters.http.pages.contents.CHECKED", 1_000)
    gate = waiting(site)
    picture = next(a["id"] for a in gate["artifacts"] if a["name"] == "picture")
    whole = noise()
    row = site.do(site.engine.edit, picture, File(whole, filename="noise.png"), by="Jo")
    assert "cannot be read" not in client.get(f"/artifacts/{row['id']}").text
    blob = Path(row["local_path"])
    blob.chmod(0o644)
    blob.write_bytes(whole[:-1])
    assert "E_BLOB_CORRUPT" in client.get(f"/artifacts/{row['id']}").text
    blob.write_bytes(whole)


def noise() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.effect_noise((400, 400), 90).convert("RGB").save(out, "PNG")
    return out.getvalue()


def test_a_model_and_a_file_of_no_kind_have_clear_tiles(site: Site, client: httpx.Client) -> None:
    gate = waiting(site)
    for name, icon in (("chair.glb", "model"), ("part.stl", "model"), ("weights.safetensors", "file")):
        row = site.do(site.engine.create_artifact, gate["workflow_id"], name, data=b"glTF\2\0\0", name=name)
        page = client.get(f"/artifacts/{row['id']}").text
        assert f'href="#i-{icon}"' in page and f">Download {name}</a>" in page
        assert ("three-dimensional" in page) is (icon == "model")
    gallery = client.get("/artifacts").text
    assert all(f'<span class="ending">{word}</span>' in gallery for word in ("GLB", "STL", "SAFETENSORS"))


def test_players_and_downloads_are_compared(site: Site, client: httpx.Client) -> None:
    gate = waiting(site)
    first, second = (
        site.do(
            site.engine.create_artifact, gate["workflow_id"], "film.mp4", data=data, media_type="video/mp4", name="film"
        )["id"]
        for data in (b"\0\0\0\x18ftypmp42", b"\0\0\0\x18ftypmp42x")
    )
    page = client.get(f"/artifacts/{first}/compare/{second}").text
    assert page.count("<video") == 2 and "Play both" in page
    page = client.get(f"/artifacts/{first}/compare/{gate['artifact_ids'][0]}").text
    assert "SHA-256" in page and "<video" in page


def test_secrets_among_arguments_are_not_shown(site: Site, client: httpx.Client) -> None:
    run = site.do(site.engine.run, worth, api_key="hunter22")
    gate = site.do(site.engine.approvals)[0]
    for path in (f"/runs/{run.id}", f"/runs/{run.id}/steps/price_of", f"/approvals/{gate['id']}"):
        answer = client.get(path)
        assert "hunter22" not in answer.text and "api_key" in answer.text
