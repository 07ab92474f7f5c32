"""Many files: pages of them, by keyboard, never all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.pages.conftest import Person, Site
from tests.pages.steps import gated, png, tiles
from towpath import File
from towpath.adapters.http.pages.gallery import TILES

if TYPE_CHECKING:
    from playwright.sync_api import Page


def focus_is_on(page: Page, name: str | None) -> None:
    """Wait until the focus is on the tile of this name, or on any other than the first two."""
    page.wait_for_function(
        """name => {
            const tile = document.activeElement.closest(".tile");
            const all = [...document.querySelectorAll(".tile")];
            return tile && (name === null ? all.indexOf(tile) > 1 : tile.querySelector(".name").textContent === name);
        }""",
        arg=name,
    )


def test_a_gallery_pages_and_is_walked_by_keyboard(person: Person, site: Site) -> None:
    count = TILES * 2 + 5
    run = site.do(site.engine.run, tiles, n=count)
    page = person.go(f"/runs/{run.id}/artifacts")
    assert page.locator(".tile").count() == TILES
    first, second, *_ = page.locator(".tile .name").all_inner_texts()
    for key, tile in (("j", first), ("ArrowRight", second), ("ArrowDown", None), ("ArrowUp", second)):
        page.keyboard.press(key)
        focus_is_on(page, tile)
    page.keyboard.press("Enter")
    page.locator("#lightbox-name", has_text=second).wait_for()
    page.locator("#lightbox .frame", has_text="tile").wait_for()
    page.keyboard.press("k")
    page.locator("#lightbox-name", has_text=first).wait_for()
    page.keyboard.press("Escape")
    focus_is_on(page, first)  # the file that was shown last, not the one that was opened

    for shown in (TILES * 2, count):
        page.get_by_role("link", name="More files").click()
        page.wait_for_function("n => document.querySelectorAll('.tile').length === n", arg=shown)
    names = page.locator(".tile .name").all_inner_texts()
    assert sorted(names) == [f"tile-{n:04}.txt" for n in range(count)]
    assert page.get_by_role("link", name="More files").count() == 0


def test_a_lightbox_fetches_the_next_page_when_it_gets_there(person: Person, site: Site) -> None:
    run = site.do(site.engine.run, tiles, n=TILES + 2)
    page = person.go(f"/runs/{run.id}/artifacts")
    page.locator(".tile").last.click()
    page.locator("dialog[open]").wait_for()
    page.get_by_role("button", name="Next file").click()
    page.wait_for_function("n => document.querySelectorAll('.tile').length === n", arg=TILES + 2)
    page.get_by_role("button", name="Next file").click()
    assert page.get_by_role("button", name="Next file").is_disabled()


def test_a_picture_that_cannot_be_shown_has_words_in_its_place(people: Callable[..., Person], site: Site) -> None:
    """A tile shows its kind, the enlargement says why; a tall picture is seen whole."""
    person, other = people(), people()
    other.expect("Failed to load resource")
    site.do(site.engine.run, gated)
    gate = site.do(site.engine.approvals)[0]
    picture = next(a["id"] for a in gate["artifacts"] if a["name"] == "picture")
    row = site.do(
        site.engine.edit, picture, File(png("teal", (60, 6_000)) + bytes(40_000), filename="tall.png"), by="Jo"
    )
    page = person.go("/artifacts")
    tile = page.locator(".tile", has_text="tall.png")
    box, inside = tile.locator(".thumb").bounding_box(), tile.locator("img").bounding_box()
    assert box is not None and inside is not None and inside["height"] <= box["height"]
    blob = Path(row["local_path"])
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(whole[:-1] + b"X")
    page = other.go("/artifacts")
    tile = page.locator(".tile", has_text="tall.png")
    tile.locator(".thumb svg.icon").wait_for()
    assert tile.locator("img").count() == 0
    tile.click()
    page.locator("dialog .blank", has_text="E_BLOB_CORRUPT").wait_for()
    blob.write_bytes(whole)


def test_filters_of_a_gallery(person: Person, site: Site) -> None:
    site.do(site.engine.run, tiles, n=3)
    page = person.go("/artifacts")
    page.get_by_label("Kind").select_option("image")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("No files of that kind").wait_for()
    page.go_back()
    assert page.locator(".tile").count() == 3


def test_a_cursor_that_is_none(person: Person, site: Site) -> None:
    """Refused as a page, never a fault of the server."""
    person.expect("status of 4")
    for path in ("/artifacts?after=%00", "/artifacts?after=W10", "/runs?after=e30", "/runs?status='--"):
        assert person.page.request.get(site.url + path).status < 500
