"""Files and names that would like to run: no dialog, no request, no markup of theirs in a page."""

from __future__ import annotations

from tests.pages.conftest import Person, Site
from tests.pages.steps import attack


def test_hostile_files_and_names_do_nothing(person: Person, site: Site) -> None:
    """On every page that shows them, enlarged and unfolded. The witness fails on a dialog or a foreign request."""
    person.expect("Failed to load resource", "net::ERR")
    run = site.do(site.engine.run, attack)
    gate = site.do(site.engine.approvals)[0]
    paths = [
        "/",
        f"/approvals/{gate['id']}",
        f"/runs/{run.id}",
        f"/runs/{run.id}/artifacts",
        f"/runs/{run.id}/steps/hostile",
        "/artifacts",
    ]
    for artifact in gate["artifacts"]:
        paths += [f"/artifacts/{artifact['id']}", f"/artifacts/{artifact['id']}/compare/{gate['artifacts'][0]['id']}"]
    site.do(site.engine.approve, gate, by="<script>alert(13)</script>", reason="<img src=/hostile onerror=alert(14)>")
    site.do(site.engine.resume, run.id, check=False)
    paths += [f"/runs/{run.id}/steps/angry", f"/runs/{run.id}/history", "/runs"]
    for path in paths:
        page = person.go(path)
        for summary in page.locator("details > summary").all():
            if summary.is_visible():
                summary.click()
        page.wait_for_timeout(50)
        assert (
            page.locator("main script, main iframe, main object, main embed, main [onerror], main [onload]").count()
            == 0
        )
    page = person.go(f"/runs/{run.id}/artifacts")
    for _ in page.locator(".tile").all():
        page.keyboard.press("j") if page.locator("dialog[open]").count() else page.locator(".tile").first.click()
        page.wait_for_timeout(100)
        assert page.locator("dialog script, dialog iframe").count() == 0
    assert [url for url in person.witness.requests if "hostile" in url.replace("/steps/hostile", "")] == []


def test_opened_directly_a_hostile_file_is_only_downloaded(person: Person, site: Site) -> None:
    """Whatever it says it is: an attachment, or bytes that the browser does not take for a page."""
    person.expect("Failed to load resource")
    site.do(site.engine.run, attack)
    for artifact in site.do(site.engine.approvals)[0]["artifacts"]:
        answer = person.page.request.get(f"{site.url}/api/v1/artifacts/{artifact['id']}/raw")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        if artifact["name"] in ("svg", "html", "liar", "film"):
            assert answer.headers["content-disposition"].startswith("attachment")
            assert answer.headers["content-type"] == "application/octet-stream"
