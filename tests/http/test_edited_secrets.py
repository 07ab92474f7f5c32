"""What a person puts in the place of a kept value: it names no secret of others, and a secret stays one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import secret_steps as steps
from tests.conformance.secrets import CANARY, recorded, traces
from towpath import ValueRefused

from .conftest import Site

pytestmark = pytest.mark.anyio

NEW = "the/new+one-Zq8"


async def at_the_gate(site: Site, chain: Any, **inputs: Any) -> tuple[str, str]:
    """A run that waits, and the artifact that its gate lists."""
    run = await site.engine.run(chain, **inputs)
    (gate,) = await site.engine.approvals()
    return run.id, gate["artifact_ids"][0]


async def sealed_elsewhere(site: Site) -> Any:
    """The mark that another run keeps of its secret."""
    other = await site.engine.run(steps.session, key=CANARY)
    return (await site.engine.store.load(other.id)).inputs["key"]


async def edit(site: Site, door: str, artifact: str, data: bytes) -> str | None:
    """Replace the artifact through one of the doors; the code of the refusal, if it is refused."""
    if door == "http":
        answer = await site.post(
            f"/api/v1/artifacts/{artifact}/versions?filename=value.json&reason=x",
            "approver",
            content=data,
            headers={"Content-Type": "application/octet-stream"},
        )
        assert answer.status_code in (201, 422), answer.text
        return None if answer.status_code == 201 else str(answer.json()["error"]["code"])
    try:
        if door == "engine.edit":
            await site.engine.edit(artifact, data, by="Ann")
        elif door == "edit_artifact":
            await site.engine.edit_artifact(artifact, data, "Ann")
        else:
            old = await site.engine.get_artifact(artifact)
            await site.engine.create_artifact(
                old.workflow_id, "value.json", data=data, parent_artifact_id=artifact, created_by="Ann"
            )
    except ValueRefused as refused:
        return refused.code
    return None


MARKS: dict[str, Any] = {
    "a variable at the top": {"$secret": {"env": "HTTP_CANARY_NAME"}},
    "a variable inside of data": {"a": [{"b": {"$secret": {"env": "HTTP_CANARY_NAME"}}}]},
    "a variable that is not set": {"$secret": {"env": "HTTP_NOT_SET"}},
    "a mark of another form": {"$secret": "HTTP_CANARY_NAME"},
    "a mark that keeps nothing": {"$secret": {}},
    "a mark beside other data": {"$secret": {"env": "HTTP_CANARY_NAME"}, "more": 1},
    "what another run keeps": None,
    "in the name of a file": {"$artifact": {"$secret": {"env": "HTTP_CANARY_NAME"}}},
}


@pytest.mark.parametrize("door", ["http", "engine.edit", "edit_artifact", "create_artifact"])
@pytest.mark.parametrize("kind", MARKS)
async def test_an_edit_opens_no_secret(kind: str, door: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an approver could read any variable of the server, and values of other runs."""
    monkeypatch.setenv("HTTP_CANARY_NAME", CANARY)
    mark = MARKS[kind] or await sealed_elsewhere(site)
    run, artifact = await at_the_gate(site, steps.offering, found={"a": 1})
    assert await edit(site, door, artifact, json.dumps(mark).encode()) == "E_VALUE_TYPE"
    assert CANARY[::-1] not in await recorded(site.engine, run)


@pytest.mark.parametrize("door", ["http", "engine.edit"])
@pytest.mark.parametrize("between", [b"null", b'{"a": 1}', b'"text"', b"[]"])
async def test_a_secret_that_an_edit_took_away_does_not_come_back(between: bytes, door: str, site: Site) -> None:
    """Nor any other: of a value that names none, not even `null`, nothing can be named."""
    run, artifact = await at_the_gate(site, steps.offering_part, key=CANARY)
    (row,) = [one for one in (await site.engine.store.load(run)).rows if one.step == "offered_part"]
    mark = json.loads(await site.engine.store.files.read_bytes(row.artifacts[0]))["token"]
    assert list(mark["$secret"]) == ["sealed"]
    assert await edit(site, door, artifact, between) is None
    assert await edit(site, door, artifact, json.dumps({"token": mark}).encode()) == "E_VALUE_TYPE"
    assert await edit(site, door, artifact, json.dumps({"$secret": {"env": "PATH"}}).encode()) == "E_VALUE_TYPE"


@pytest.mark.parametrize("found", [lambda: CANARY, lambda: {"user": CANARY}, lambda: [CANARY], lambda: 7, lambda: None])
@pytest.mark.parametrize("new", [NEW, {"token": NEW}, [NEW], {"deep": [{"er": NEW}]}])
async def test_what_replaces_a_secret_value_is_secret(found: Any, new: Any, site: Site, store: Path) -> None:
    """Of a step that was declared so, also where it had returned nothing."""
    run, artifact = await at_the_gate(site, steps.offering_secret, found=found())
    assert await edit(site, "http", artifact, json.dumps(new).encode()) is None
    (gate,) = await site.engine.approvals()
    await site.engine.approve(gate["id"], by="Ann", seen=gate["artifact_ids"])
    over = await site.engine.resume(run)
    assert over.value == {"got": str(new)[::-1]}, "the next step gets it"
    assert NEW not in await recorded(site.engine, run)
    raw = await site.get(f"/api/v1/artifacts/{gate['artifact_ids'][0]}/raw")
    assert raw.json() == "***"
    assert traces(store, NEW) == []


async def test_only_the_part_that_was_secret_stays_secret(site: Site, store: Path) -> None:
    """`***` stands for what is there, so that a form which shows it can be sent back."""
    run, artifact = await at_the_gate(site, steps.offering_part, key=CANARY)
    shown = (await site.get(f"/api/v1/artifacts/{artifact}/raw")).json()
    assert shown == {"name": "bob", "token": "***"}
    assert await edit(site, "http", artifact, json.dumps({**shown, "name": "eve"}).encode()) is None
    (gate,) = await site.engine.approvals()
    assert (await site.get(f"/api/v1/artifacts/{gate['artifact_ids'][0]}/raw")).json() == {**shown, "name": "eve"}
    await site.engine.approve(gate["id"], by="Ann", seen=gate["artifact_ids"])
    over = await site.engine.resume(run)
    assert over.value == {"got": str({"name": "eve", "token": CANARY})[::-1]}
    assert traces(store) == []


async def test_a_viewer_sees_nothing_of_what_is_kept_of_a_secret(site: Site) -> None:
    """Neither the cipher text nor the name of a variable: on pages, through links, in parts, as an attachment."""
    _, artifact = await at_the_gate(site, steps.offering_secret, found=CANARY)
    (gate,) = await site.engine.approvals()
    link = (await site.post(f"/api/v1/approvals/{gate['id']}/link", "approver", json={})).json()["url"]
    path = "/a/" + link.partition("/a/")[2]
    for address in (
        f"/api/v1/artifacts/{artifact}/raw",
        f"/api/v1/artifacts/{artifact}/raw?download=true",
        f"/artifacts/{artifact}",
        f"/approvals/{gate['id']}",
        path,
        f"{path}/files/{artifact}",
        "/",
    ):
        for headers in ({"Accept": "text/html"}, {"Range": "bytes=0-30"}):
            answer = await site.get(address, None if address.startswith(path) else "approver", headers=headers)
            assert answer.status_code < 400, (address, answer.text)
            assert "gAAAA" not in answer.text and "$secret" not in answer.text, address
            assert "sealed" not in answer.text, address


@pytest.mark.parametrize("mark", [{"$secret": {"env": "PATH"}}, [{"$secret": {}}], {"x": {"$secret": 1}}])
async def test_arguments_of_a_rejection_name_no_secret(mark: Any, site: Site) -> None:
    """They are data for the next try, and a mark is none."""
    await at_the_gate(site, steps.offering, found={"a": 1})
    (gate,) = await site.engine.approvals()
    body = {"action": "regenerate", "parameters": {"found": mark}}
    answer = await site.post(f"/api/v1/approvals/{gate['id']}/reject", "approver", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E_VALUE_TYPE")


async def test_arguments_for_a_secret_are_not_given_in_the_open(site: Site) -> None:
    """Neither with a rejection nor for a rerun: they would be kept and shown as they are."""
    run, _ = await at_the_gate(site, steps.offering_taken, key=CANARY)
    (gate,) = await site.engine.approvals()
    body = {"action": "regenerate", "parameters": {"key": NEW}}
    answer = await site.post(f"/api/v1/approvals/{gate['id']}/reject", "approver", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E_SECRET_PLACE")
    await site.engine.cancel(run)
    answer = await site.post(f"/api/v1/chains/{run}/rerun", "operator", json={"parameters": {"offered_taken.key": NEW}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E_SECRET_PLACE")
    assert NEW not in await recorded(site.engine, run)
