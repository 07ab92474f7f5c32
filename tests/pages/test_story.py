"""What a person does, in a real browser: from the inbox to a finished chain."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.pages.conftest import Person, Site
from tests.pages.steps import gated, pictures, png
from towpath import Run


def waiting(site: Site, out: Path, **inputs: str) -> Run:
    """A run that waits at its gate."""
    run = site.do(site.engine.run, pictures, out=str(out), **inputs)
    assert run.reason == "approval"
    return run


def ended(person: Person, site: Site, run: Run, word: str) -> None:
    """The run page says so by itself."""
    person.go(f"/runs/{run.id}")
    person.page.locator("#run-status", has_text=word).wait_for()
    assert site.do(site.engine.snapshot, run.id).status == word


def versions(site: Site, run: Run, name: str) -> list[tuple[int, str, str | None]]:
    row = next(r for r in site.do(site.engine.get_workflows_by_chain, run.id) if r.step_id == "paint")
    kept = site.do(site.engine.get_artifacts_by_workflow, row.id, include_old_versions=True)
    return sorted((a.version, a.approval_status, a.created_by) for a in kept if a.name == name)


def test_F3_H2_from_the_inbox_to_an_edit_to_the_finished_chain(person: Person, site: Site, tmp_path: Path) -> None:
    """The bytes of the uploaded edit are what the next step gets."""
    run = waiting(site, tmp_path)
    edited = tmp_path / "in other colours.png"
    edited.write_bytes(png("orange"))

    page = person.go("/")
    page.get_by_role("link", name="paint", exact=True).click()
    page.get_by_role("heading", level=1, name="paint").wait_for()
    replace = page.locator("section", has=page.get_by_role("heading", name="picture.png"))
    replace.get_by_text("Replace it by an edited version").click()
    replace.get_by_label("New file").set_input_files(edited)
    replace.get_by_label("What did you change?").fill("warmer")
    replace.get_by_role("button", name="Approve with this edit").click()

    page.get_by_text("New version kept and approved.").wait_for()
    page.get_by_role("link", name="To the run").click()
    page.locator("#run-status", has_text="completed").wait_for()
    assert Path(tmp_path, "picture").read_bytes() == png("orange")
    assert Path(tmp_path, "note").read_text() == "a boat in teal\nsecond line\n"
    assert versions(site, run, "picture") == [(1, "pending", None), (2, "approved", "local")]
    new = site.do(site.engine.snapshot, run.id)["paint"].artifacts
    kept = site.do(site.engine.get_artifact, next(a.id for a in new if a.name == "picture"))
    assert (kept.filename, kept.extra_metadata) == ("in other colours.png", {"reason": "warmer"})


def test_approving_in_the_inbox(person: Person, site: Site, tmp_path: Path) -> None:
    run = waiting(site, tmp_path)
    page = person.go("/")
    page.get_by_role("button", name="Approve").click()
    page.get_by_text("Approved. The chain continues with these versions.").wait_for()
    assert page.url == f"{site.url}/"  # what was said is not said again to whoever gets this address
    page.get_by_text("Nothing waits for you").wait_for()
    ended(person, site, run, "completed")
    assert Path(tmp_path, "picture").read_bytes() == png("teal")


def test_rejecting_with_a_reason_and_other_parameters_makes_it_again(
    person: Person, site: Site, tmp_path: Path
) -> None:
    """The step runs again with the changed parameters, and waits for a new decision."""
    run = waiting(site, tmp_path)
    page = person.go("/")
    page.get_by_role("link", name="Look closer").click()
    decision = page.get_by_role("complementary", name="Decision")
    decision.get_by_text("Reject…").click()
    decision.get_by_label("Why?").fill("too cold")
    assert decision.get_by_label("run the step again (2 left)").is_checked()
    decision.get_by_text("Change the parameters").click()
    decision.get_by_label("colour").fill("red")
    decision.get_by_role("button", name="Reject").click()
    page.get_by_text("The step runs again, and then waits for a new decision.").wait_for()
    page.get_by_text("too cold").wait_for()

    page.get_by_role("link", name="Inbox").first.click()
    while not page.get_by_role("link", name="Look closer").count():
        page.reload()
    page.get_by_role("link", name="Look closer").click()
    page.get_by_text("too cold").wait_for()  # the round before
    page.get_by_role("textbox", name="Note").fill("warm enough")
    page.get_by_role("complementary").get_by_role("button", name="Approve").click()
    page.get_by_text("Approved.").wait_for()
    ended(person, site, run, "completed")
    assert Path(tmp_path, "picture").read_bytes() == png("red")


def test_N4_the_pages_say_who_decided_when_and_why(person: Person, site: Site, tmp_path: Path) -> None:
    """List, approve, and the audit of it: on the gate, on its step and in the history."""
    run = waiting(site, tmp_path)
    page = person.go("/")
    page.get_by_text("1 waiting for a decision").wait_for()
    page.get_by_role("link", name="Look closer").click()
    gate = page.url
    page.get_by_role("textbox", name="Note").fill("as it should be")
    page.get_by_role("complementary").get_by_role("button", name="Approve").click()
    page.get_by_text("Approved.").wait_for()
    site.finished(run.id)
    for path in (gate.removeprefix(site.url), f"/runs/{run.id}/steps/paint", f"/runs/{run.id}/history"):
        page = person.go(path)
        page.get_by_text("as it should be").first.wait_for()
        page.get_by_text(re.compile(r"\blocal\b")).nth(1).wait_for()
        assert page.locator("main time").count() > 0


def test_a_text_is_edited_on_the_page(person: Person, site: Site, tmp_path: Path) -> None:
    run = waiting(site, tmp_path)
    page = person.go("/")
    page.get_by_role("link", name="Look closer").click()
    note = page.locator("section", has=page.get_by_role("heading", name="note.txt"))
    note.get_by_text("Replace it by an edited version").click()
    note.get_by_label("or edit the text here").fill("a ship in teal\nsecond line\n")
    note.get_by_role("button", name="Keep as a version only").click()
    page.get_by_text("New version kept.").wait_for()
    page.get_by_text("a ship in teal").first.wait_for()
    page.get_by_role("link", name="Compare v1 with v2").click()
    assert page.locator("del").all_inner_texts() == ["boat"]
    assert page.locator("ins").all_inner_texts() == ["ship"]
    page.go_back()
    page.get_by_role("complementary").get_by_role("button", name="Approve").click()
    page.get_by_text("Approved.").wait_for()
    ended(person, site, run, "completed")
    assert Path(tmp_path, "note").read_text() == "a ship in teal\nsecond line\n"


def test_H5_what_changed_meanwhile_is_shown_again_and_not_decided(
    people: Callable[..., Person], site: Site, tmp_path: Path
) -> None:
    """Two people look; one replaces a file; the other's approval is about the old version and does not count."""
    run = waiting(site, tmp_path)
    one, other = people(), people()
    for who in (one, other):
        who.go("/").get_by_role("link", name="Look closer").click()
    edited = tmp_path / "edited.png"
    edited.write_bytes(png("orange"))
    section = one.page.locator("section", has=one.page.get_by_role("heading", name="picture.png"))
    section.get_by_text("Replace it by an edited version").click()
    section.get_by_label("New file").set_input_files(edited)
    section.get_by_role("button", name="Keep as a version only").click()
    one.page.get_by_text("New version kept.").wait_for()

    other.expect("status of 409")
    other.page.get_by_role("complementary").get_by_role("button", name="Approve").click()
    other.page.get_by_text("A file changed while you looked at it.").wait_for()
    assert len(site.do(site.engine.approvals)) == 1
    other.page.get_by_text("edited.png").first.wait_for()
    other.page.get_by_role("complementary").get_by_role("button", name="Approve").click()
    other.page.get_by_text("Approved.").wait_for()

    one.expect("status of 409")
    one.page.get_by_role("complementary").get_by_role("button", name="Approve").click()
    one.page.get_by_text("Another person decided first.").wait_for()
    ended(one, site, run, "completed")
    assert Path(tmp_path, "picture").read_bytes() == png("orange")


def test_an_edit_of_what_another_one_replaced_is_not_approved(
    people: Callable[..., Person], site: Site, tmp_path: Path
) -> None:
    waiting(site, tmp_path)
    one, other = people(), people()
    for who in (one, other):
        who.go("/").get_by_role("link", name="Look closer").click()
        section = who.page.locator("section", has=who.page.get_by_role("heading", name="picture.png"))
        section.get_by_text("Replace it by an edited version").click()
        file = tmp_path / f"{id(who)}.png"
        file.write_bytes(png("orange" if who is one else "black"))
        section.get_by_label("New file").set_input_files(file)
    one.page.get_by_role("button", name="Keep as a version only").first.click()
    one.page.get_by_text("New version kept.").wait_for()
    other.expect("status of 409")
    other.page.get_by_role("button", name="Approve with this edit").first.click()
    other.page.get_by_text("A file changed while you looked at it.").first.wait_for()
    assert len(site.do(site.engine.approvals)) == 1
    other.page.get_by_role("link", name="Look at the latest versions").click()
    other.page.get_by_role("link", name="Compare v1 with v2").wait_for()


def test_a_viewer_sees_but_does_not_decide(people: Callable[..., Person], site: Site) -> None:
    """Signed in with a key; the page has no buttons, and the door holds without them too."""
    site.do(site.engine.run, gated)
    viewer = people()
    key = site.key("viewer")
    page = viewer.go("/")
    page.wait_for_url(re.compile("/login"))
    page.get_by_label("Key").fill("tp_wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("This key is unknown or revoked").wait_for()
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Look closer").click()
    page.get_by_text("Your key can view, but not decide.").wait_for()
    assert page.get_by_role("button", name="Approve").count() == 0
    answer = page.request.post(page.url + "/approve", form={"seen": "x"}, headers={"Origin": site.url})
    assert answer.status == 403
    assert len(site.do(site.engine.approvals)) == 1
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()


def test_H6_a_link_decides_without_a_key(people: Callable[..., Person], site: Site, tmp_path: Path) -> None:
    """The holder of a link sees the gate and its files, decides once, and sees nothing else."""
    from towpath.adapters.http.links import make_link

    run = waiting(site, tmp_path)
    site.key("admin")
    gate = site.do(site.engine.approvals)[0]
    token, _ = site.do(make_link, site.app.state.records, site.app.state.secret, gate["id"], 1.0)
    guest = people()
    page = guest.go(f"/a/{token}")
    page.get_by_role("heading", level=1, name="paint").wait_for()
    picture = page.get_by_role("img", name="picture.png")
    assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") == 64
    assert page.get_by_role("navigation").count() == 0
    page.get_by_label("Your name").first.fill("Jo")
    page.get_by_role("button", name="Approve").click()
    page.get_by_text("by Jo").first.wait_for()
    guest.expect("status of 409")
    guest.go(f"/a/{token}")
    page.get_by_text("approved by Jo").first.wait_for()
    assert page.get_by_role("button").count() == 0
    assert site.finished(run.id).status == "completed"


def test_forms_work_without_scripts(people: Callable[..., Person], site: Site, tmp_path: Path) -> None:
    run = waiting(site, tmp_path)
    person = people(java_script_enabled=False)
    edited = tmp_path / "edited.png"
    edited.write_bytes(png("orange"))
    page = person.go("/")
    page.get_by_role("link", name="Look closer").click()
    replace = page.locator("section", has=page.get_by_role("heading", name="picture.png"))
    replace.locator("summary").first.click()
    replace.get_by_label("New file").set_input_files(edited)
    replace.get_by_role("button", name="Approve with this edit").click()
    page.get_by_text("New version kept and approved.").wait_for()
    assert site.finished(run.id).status == "completed"
    assert Path(tmp_path, "picture").read_bytes() == png("orange")
