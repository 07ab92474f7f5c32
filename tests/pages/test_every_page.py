"""Every page: no error on the console, nothing from elsewhere, no serious violation of accessibility rules, small
screens, and a policy that lets nothing inline run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pages.conftest import Person, Site
from tests.pages.steps import broken, gated, pictures, png, tiles
from towpath import File
from towpath.adapters.http.pages import PAGES

AXE = Path(__file__).with_name("axe.min.js")


def addresses(site: Site, out: Path) -> dict[str, str]:
    """One address for every kind of page, by its path in the table; some more for other states of it."""
    run = site.do(site.engine.run, pictures, out=str(out))
    gate = site.do(site.engine.approvals)[0]
    old = gate["artifacts"][0]["id"]
    new = site.do(site.engine.edit, old, File(png("orange"), filename="picture.png"), by="Jo", reason="warmer")
    failed = site.do(site.engine.run, broken, check=False)
    many = site.do(site.engine.run, tiles, n=70)
    done = site.do(site.engine.run, gated)
    decided = next(g for g in site.do(site.engine.approvals) if g["run"] == done.id)
    text = next(a for a in decided["artifacts"] if a["name"] == "note")
    other = site.do(site.engine.edit, text["id"], File(b"a ship\n", filename="note.txt"), by="Jo", approve=True)
    site.do(site.engine.resume, done.id)
    return {
        "/": "/",
        "/login": "/login",
        "/approvals/{id}": f"/approvals/{gate['id']}",
        "a decided gate": f"/approvals/{decided['id']}",
        "/runs": "/runs",
        "/runs/{id}": f"/runs/{run.id}",
        "a failed run": f"/runs/{failed.id}",
        "/runs/{id}/remove": f"/runs/{failed.id}/remove",
        "/runs/{id}/history": f"/runs/{run.id}/history",
        "/runs/{id}/artifacts": f"/runs/{many.id}/artifacts",
        "/runs/{id}/steps/{step}": f"/runs/{failed.id}/steps/divide",
        "/runs/{id}/steps/{step}/{item:int}": f"/runs/{failed.id}/steps/divide/0",
        "/artifacts": "/artifacts",
        "/artifacts/{id}": f"/artifacts/{new['id']}",
        "/artifacts/{id}/compare/{other}": f"/artifacts/{old}/compare/{new['id']}",
        "two texts": f"/artifacts/{text['id']}/compare/{other['id']}",
        "nothing there": "/runs/nothing",
    }


def violations(page: Any) -> list[str]:
    """What axe finds that is serious or critical."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    return [f"{v['id']}: {node['html'][:200]} {node['failureSummary'][:200]}" for v in grave for node in v["nodes"][:3]]


def opened(person: Person, path: str) -> Any:
    page = person.go(path)
    for summary in page.locator("details > summary").all():
        if summary.is_visible():
            summary.click()
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_violation_or_an_error(
    people: Callable[..., Person], site: Site, tmp_path: Path, scheme: str
) -> None:
    """axe-core, with everything unfolded; the witness fails on a console error and on a request to elsewhere."""
    person = people(color_scheme=scheme)
    person.expect("status of 404")
    every = addresses(site, tmp_path)
    for name, path in every.items():
        page = opened(person, path)
        assert violations(page) == [], name
        assert page.locator("h1").count() == 1, name
    for mode in ("Side by side", "Difference"):
        page = person.go(every["/artifacts/{id}/compare/{other}"])
        page.get_by_role("button", name=mode).click()
        assert violations(page) == []
    page = person.go(every["/runs/{id}/artifacts"])
    page.locator(".tile").first.click()
    page.locator("dialog[open]").wait_for()
    assert violations(page) == []


def test_the_pages_looked_at_are_all_there_are(site: Site, tmp_path: Path) -> None:
    shown = {page.path for page in PAGES if page.method == "GET"} - {
        "/static/{version}/{name}",
        "/artifacts/{id}/thumbnail",
    }
    assert shown <= set(addresses(site, tmp_path))


def test_no_page_scrolls_sideways_on_a_phone(people: Callable[..., Person], site: Site, tmp_path: Path) -> None:
    """320 pixels, everything unfolded."""
    person = people()
    person.expect("status of 404")
    person.page.set_viewport_size({"width": 320, "height": 640})
    for name, path in addresses(site, tmp_path).items():
        page = opened(person, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, name


def test_the_policy_of_every_page(person: Person, site: Site, tmp_path: Path) -> None:
    """Nothing inline, nothing from elsewhere, in no frame; and the markup needs nothing of it."""
    person.expect("status of 404")
    for name, path in addresses(site, tmp_path).items():
        answer = person.page.request.get(site.url + path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy, name
        assert "unsafe" not in policy and "*" not in policy, name
        html = answer.text()
        assert not re.search(
            r"<script(?![^>]*\ssrc=)|\sstyle=|<style|\son\w+=|javascript:|//cdn|https?://(?!www.w3)", html
        )


def test_everything_is_reached_by_keyboard(person: Person, site: Site, tmp_path: Path) -> None:
    """From the top of the inbox to an approval with Tab and Enter only; the focus is always seen."""
    run = site.do(site.engine.run, pictures, out=str(tmp_path))
    page = person.go("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    for _ in range(12):
        page.keyboard.press("Tab")
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style != "none"
        if page.evaluate("document.activeElement.textContent.trim()") == "Approve":
            break
    page.keyboard.press("Enter")
    page.get_by_text("Approved.").wait_for()
    assert site.finished(run.id).status == "completed"


def test_static_files_may_be_kept_for_ever(person: Person, site: Site) -> None:
    page = person.go("/")
    sheet = page.locator("link[rel=stylesheet]").get_attribute("href") or ""
    answer = page.request.get(site.url + sheet)
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert "immutable" in answer.headers["cache-control"]
    for path in ("/static/x/..%2f__init__.py", "/static/x/nothing.css", "/static/x/towpath.py"):
        assert page.request.get(site.url + path).status == 404
