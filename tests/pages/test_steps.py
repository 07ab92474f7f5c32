"""Pages of steps and their items, and the origin of files."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import anyio.from_thread
import httpx
import pytest

from tests.comfyui.graphs import inverted, painted
from tests.comfyui.running import comfy_server
from tests.pages.conftest import PATIENCE, Person, Site, served
from tests.pages.steps import broken, gated, paint, tiles
from towpath import File, open_engine
from towpath.adapters.http.pages.run_picture import PAGE
from towpath.chain_file import load_chain_from_dict


@pytest.fixture
def client(site: Site) -> Any:
    """A client on this machine with a browser's Accept header."""
    with httpx.Client(base_url=site.url, headers={"Accept": "text/html"}, timeout=PATIENCE / 1000) as opened:
        yield opened


def items(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'<tr id="item-(\d+)"', page)]


def link(page: str, relation: str) -> str:
    found = re.search(rf'rel="{relation}" href="([^"]+)"', page)
    return unescape(found[1]).partition("#")[0] if found else ""


def test_items_come_a_page_at_a_time(site: Site, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards and back, every item once, and the run is never read as a whole."""
    count = PAGE * 2 + 5
    run = site.do(site.engine.run, tiles, n=count)

    def whole(run_id: str) -> Any:
        raise AssertionError("the page reads all rows of the run")

    monkeypatch.setattr(site.engine.store, "load", whole)
    here = f"/runs/{run.id}/steps/tile"
    page = client.get(here).text
    assert f"{count} items" in page and f"{count} completed" in page
    seen = items(page)
    while onward := link(page, "next"):
        page = client.get(here + onward).text
        seen += items(page)
    assert seen == list(range(count))
    back = client.get(here + link(page, "prev")).text
    assert items(back) == list(range(PAGE, PAGE * 2))
    assert client.get(f"{here}/7").status_code == 200


def test_items_of_one_status_and_the_ones_beside(site: Site, client: httpx.Client) -> None:
    run = site.do(site.engine.run, broken, n=4, check=False)
    here = f"/runs/{run.id}/steps/divide"
    assert items(client.get(f"{here}?status=failed").text) == [0]
    assert items(client.get(f"{here}?status=completed").text) == [1, 2, 3]
    assert items(client.get(f"{here}?status=completed&from=2").text) == [2, 3]
    first, last = client.get(f"{here}/0").text, client.get(f"{here}/3").text
    assert (link(first, "prev"), link(first, "next")) == ("", f"{here}/1")
    assert (link(last, "prev"), link(last, "next")) == (f"{here}/2", "")
    assert "dividing by 0" in first and "dividing by 3" not in first
    assert client.get(f"{here}/4").status_code == 404
    assert client.get(f"{here}/{2**70}").status_code == 404


def test_a_step_is_run_again_from_its_page(person: Person, site: Site) -> None:
    run = site.do(site.engine.run, broken, check=False)
    page = person.go(f"/runs/{run.id}/steps/divide")
    page.get_by_role("button", name="Run again from here").click()
    page.get_by_text("This is the new run").wait_for()
    page.locator("#run-steps tr", has_text="numbers").filter(has_text="reused").wait_for()
    assert run.id not in page.url


@pytest.mark.parametrize("run_id", ["50% done?", "a#b & c", 'it\'s "so"', "über 100 %41"])
def test_run_ids_that_people_chose(site: Site, client: httpx.Client, run_id: str) -> None:
    """Every link on the run's pages leads somewhere."""
    run = site.do(site.engine.run, gated, run_id=run_id)
    assert run.id == run_id
    known, left = set(), ["/runs"]
    while left:
        path = left.pop()
        answer = client.get(path)
        assert answer.status_code == 200, path
        for found in map(unescape, re.findall(r'href="(/[^"#]*)', answer.text)):
            if found not in known and not found.startswith("/static"):
                known.add(found)
                left.append(found)
    assert len([path for path in known if path.startswith("/runs/")]) >= 4


def test_what_made_a_file_of_a_workflow(tmp_path: Path) -> None:
    """Server, prompt, node, the workflow as it was sent, the files sent ahead, and the parameters."""
    chain = load_chain_from_dict(
        {
            "name": "pair",
            "steps": [
                {"id": "picture", "workflow": "painted"},
                {
                    "id": "edit",
                    "workflow": "inverted",
                    "depends_on": ["picture"],
                    "parameters": {"1.image": "{{ picture.output.image }}", "3.filename_prefix": "dusk"},
                },
            ],
        }
    )
    graphs = tmp_path / "workflows"
    graphs.mkdir()
    (graphs / "painted.json").write_text(json.dumps(painted()))
    (graphs / "inverted.json").write_text(json.dumps(inverted("none.png")))

    async def made(url: str) -> tuple[str, str, str, str]:
        servers = [{"name": "studio", "url": url}]
        async with open_engine(tmp_path / "towpath.db", servers=servers, workflows=graphs) as engine:
            run = await engine.run(chain)
            run.raise_for_status()
            row = await engine.get_workflow_by_step(run.id, "edit")
            return run["edit"].artifact.id, run["picture"].artifact.id, str(row.prompt_id), run.id

    with comfy_server(tmp_path / "comfy") as comfy, anyio.from_thread.start_blocking_portal() as portal:
        edited, source, prompt, run_id = portal.call(made, comfy.url)
        with (
            portal.wrap_async_context_manager(served(tmp_path / "towpath.db")) as (url, _, _engine),
            httpx.Client(base_url=url, headers={"Accept": "text/html"}) as client,
        ):
            page = client.get(f"/artifacts/{edited}").text
            for text in ("<dd>studio</dd>", ">inverted</dd>", prompt, "3 (SaveImage)", "dusk", "Uploaded for it"):
                assert text in page, text
            assert f'href="/artifacts/{source}"' in page and f'href="/runs/{run_id}/steps/edit"' in page
            sent = page[page.index("The workflow as it was sent") :]
            assert "LoadImage" in sent and "ImageInvert" in sent and "towpath/" in sent
            history = client.get(f"/runs/{run_id}/history").text
            assert "file arrived" in history and f'<a href="/artifacts/{source}">the file</a>' in history
            before = client.get(f"/artifacts/{source}").text
            assert "edit</a>" in before[before.index("Where it went") :]


def test_what_made_an_edited_version(site: Site, client: httpx.Client) -> None:
    """The person, when and why; and what the step had made it from."""
    run = site.do(site.engine.run, gated, colour="plum")
    gate = site.do(site.engine.approvals)[0]
    old = next(a["id"] for a in gate["artifacts"] if a["name"] == "note")
    new = site.do(site.engine.edit, old, File(b"a ship\n", filename="note.txt"), by="Jo", reason="truer")
    page = client.get(f"/artifacts/{new['id']}").text
    made = page[page.index("What made it") : page.index("Where it went")]
    for text in ("Edited by", "Jo, <time", "truer", "version 1</a>", paint.name, "plum", f"/runs/{run.id}/steps/paint"):
        assert text in made, text
