"""A run page that is open while things happen."""

from __future__ import annotations

from pathlib import Path

from tests.pages.conftest import Person, Site
from tests.pages.steps import holding, pictures, training


def test_a_run_page_follows_its_run(person: Person, site: Site, tmp_path: Path) -> None:
    """Status, drawing and table change without a reload, and the focus stays where it is."""
    handle = site.do(site.engine.start, holding, folder=str(tmp_path))
    page = person.go(f"/runs/{handle.id}")
    page.locator("#run-status", has_text="running").wait_for()
    page.evaluate("window.stays = true")
    link = page.locator("#run-steps").get_by_role("link", name="after")
    link.focus()
    page.locator("#run-graph .node.run", has_text="hold").wait_for()
    Path(tmp_path, "go").touch()
    page.locator("#run-status", has_text="completed").wait_for()
    page.locator("#run-graph .node.ok", has_text="after").wait_for()
    page.locator("#run-steps tr", has_text="after").filter(has_text="completed").wait_for()
    assert page.evaluate("window.stays")
    assert page.evaluate("document.activeElement.textContent") == "after"
    page.get_by_text("The run is completed").wait_for(state="attached")


def test_a_gate_and_its_decision_show_up(person: Person, site: Site, tmp_path: Path) -> None:
    run = site.do(site.engine.run, pictures, out=str(tmp_path))
    page = person.go(f"/runs/{run.id}")
    page.get_by_text("waits for your decision").wait_for()
    page.locator("#run-graph .node.wait", has_text="paint").wait_for()
    site.do(site.engine.approve, site.do(site.engine.approvals)[0], by="Jo")
    site.app.state.unattended.wake()
    page.locator("#run-status", has_text="completed").wait_for()
    assert page.get_by_text("waits for your decision").count() == 0


def test_cancelling_asks_first(person: Person, site: Site, tmp_path: Path) -> None:
    handle = site.do(site.engine.start, holding, folder=str(tmp_path))
    page = person.go(f"/runs/{handle.id}")
    page.get_by_role("button", name="Cancel").click()  # the witness dismisses the question
    assert [text[:16] for text in person.witness.dialogs] == ["Cancel this run?"]
    person.witness.dialogs.clear()
    assert site.do(handle.status) == "running"
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("Pausing.").wait_for()
    Path(tmp_path, "go").touch()
    page.locator("#run-status", has_text="paused").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.locator("#run-status", has_text="completed").wait_for()
    page.get_by_role("button", name="Run again").click()  # where Cancel was: it asks too
    assert person.witness.dialogs == ["Start a new run of this chain?"]
    person.witness.dialogs.clear()
    person.witness.agrees = True
    page.get_by_role("button", name="Run again").click()
    page.get_by_text("This is the new run").wait_for()
    person.witness.dialogs.clear()
    page.locator("#run-status", has_text="completed").wait_for()
    assert handle.id not in page.url


def test_buttons_stay_as_they_are_while_a_run_goes_on(person: Person, site: Site, tmp_path: Path) -> None:
    """A button that is exchanged between press and release does nothing, and one with the focus loses it."""
    handle = site.do(site.engine.start, holding, folder=str(tmp_path))
    page = person.go(f"/runs/{handle.id}")
    page.get_by_role("button", name="Cancel").focus()
    page.evaluate("window.pressed = document.activeElement")
    page.wait_for_timeout(1_100)  # tokens of forms change with the second
    with page.expect_response(lambda answer: answer.url == page.url):
        site.do(site.engine.pause, handle.id)
    page.wait_for_timeout(200)
    assert page.evaluate("window.pressed.isConnected && window.pressed === document.activeElement")
    Path(tmp_path, "go").touch()
    page.locator("#run-status", has_text="paused").wait_for()


def test_an_inbox_shows_what_comes_and_what_others_decide(person: Person, site: Site, tmp_path: Path) -> None:
    """A person who writes is not disturbed, and nothing moves: a click hits the button it was aimed at."""
    page = person.go("/")
    page.get_by_text("Nothing waits for you").wait_for()
    page.evaluate("window.stays = true")
    site.do(site.engine.run, pictures, out=str(tmp_path))
    page.get_by_role("link", name="paint", exact=True).wait_for()
    assert page.locator(".nav .count").inner_text() == "1"
    page.get_by_text("Reject…").click()
    page.get_by_label("Why?").fill("half a sen")
    site.do(site.engine.run, pictures, out=str(tmp_path))
    page.locator(".nav .count", has_text="2").wait_for()
    page.locator("#main .facts", has_text="2 waiting for a decision").wait_for()
    assert page.get_by_label("Why?").first.input_value() == "half a sen"
    page.get_by_text("Reject…").first.click()
    before = page.get_by_role("button", name="Approve").nth(1).bounding_box()
    site.do(site.engine.approve, site.do(site.engine.approvals)[0], by="Jo")
    page.locator(".nav .count", has_text="1").wait_for()
    page.get_by_text("No decision is needed any more.").wait_for()
    assert page.get_by_role("button", name="Approve").bounding_box() == before
    assert page.evaluate("window.stays")


def test_a_step_page_grows_its_log_and_its_progress(person: Person, site: Site, tmp_path: Path) -> None:
    """F3, F4: without a reload, and what the reader looks at stays where it is."""
    handle = site.do(site.engine.start, training, folder=str(tmp_path))
    page = person.go(f"/runs/{handle.id}/steps/train")
    page.evaluate("window.stays = true")
    log = page.locator("#log pre")
    log.filter(has_text="stdout: epoch 45: loss").wait_for()
    log.filter(has_text="plotting: a checkpoint after epoch 45").wait_for()
    page.locator("#step-progress progress").wait_for()
    share = page.locator("#step-progress progress").get_attribute("value")
    assert log.evaluate("pre => pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8")  # it is read from its end
    log.evaluate("pre => { pre.scrollTop = 40; window.node = pre.firstChild; }")
    log.filter(has_text="epoch 75: loss").wait_for()
    assert log.evaluate("pre => pre.scrollTop === 40 && window.node === pre.firstChild")
    assert page.locator("#step-progress progress").get_attribute("value") != share
    assert page.locator("#step-progress").inner_text().strip().endswith("%")
    assert page.evaluate("window.stays")
    Path(tmp_path, "go").touch()
    page.locator("#step-status", has_text="completed").wait_for()
    page.locator("#step-progress progress").wait_for(state="detached")
    assert log.evaluate("pre => pre.scrollTop") == 40


def test_a_run_page_shows_progress_and_the_last_line(person: Person, site: Site, tmp_path: Path) -> None:
    handle = site.do(site.engine.start, training, folder=str(tmp_path))
    page = person.go(f"/runs/{handle.id}")
    row = page.locator("#run-steps tr", has_text="train")
    row.locator("progress").wait_for()
    row.get_by_role("link", name="a checkpoint after epoch").wait_for()
    first = row.inner_text()
    page.wait_for_function("text => document.querySelector('#run-steps tr').innerText !== text", arg=first)
    page.locator("#run-graph .share").wait_for(state="attached")
    items = person.go(f"/runs/{handle.id}/steps/try_out")
    items.locator("#item-1", has_text="2 / 10 · 20 %").wait_for()
    Path(tmp_path, "go").touch()
    items.locator("#step-status", has_text="completed").wait_for()
