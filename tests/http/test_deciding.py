"""People in the loop over HTTP: decide, edit, audit (H4, H5, F3, N4), and steer runs."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

from towpath.adapters.http import unattended
from towpath.adapters.http.access import ServerRecords
from towpath.adapters.http.reading import unattended_runs

from .conftest import OpenSite, Site
from .serving import PATIENCE, eventually
from .steps import PIXELS, plain, story, two_gates

pytestmark = pytest.mark.anyio


async def waiting(site: Site, chain: Any = story) -> tuple[str, list[dict[str, Any]]]:
    """A run that waits, and its gates as the API shows them."""
    run = await site.engine.run(chain)
    rows = (await site.get("/api/v1/approvals", params={"status": "pending", "chain_id": run.id})).json()["rows"]
    return run.id, rows


async def test_F3_N4_an_uploaded_edit_is_what_the_next_step_gets(site: Site) -> None:
    """Upload, approve, resume: the bytes of the edit arrive, and the audit says who, when and why."""
    run_id, (gate,) = await waiting(site)
    old = gate["artifacts"][0]["id"]
    edit = await site.post(
        f"/api/v1/artifacts/{old}/versions",
        "approver",
        data={"by": "Ann", "reason": "it was too loud"},
        files={"file": ("quiet.txt", b"quietly edited")},
    )
    assert edit.status_code == 201, edit.text
    new = edit.json()
    assert (new["version"], new["parent_artifact_id"], new["approval_status"]) == (2, old, "edited")
    assert new["created_by"].startswith("Ann (key ")
    listed = (await site.get(f"/api/v1/approvals/{gate['id']}")).json()
    assert listed["artifact_ids"] == [new["id"]]
    done = await site.post(
        f"/api/v1/approvals/{gate['id']}/approve", "approver", json={"seen": [new["id"]], "by": "Bob"}
    )
    assert (done.status_code, done.json()["status"]) == (200, "approved")
    run = await site.engine.resume(run_id)
    assert run["measure"].value == {"length": 14, "text": "quietly edited"}
    told = {e["type"]: e["data"] for e in (await site.get(f"/api/v1/chains/{run_id}/events")).json()["rows"]}
    assert told["ArtifactEdited"]["reason"] == "it was too loud"
    assert told["ArtifactEdited"]["by"] == new["created_by"]
    assert told["DecisionRecorded"]["by"].startswith("Bob (key ")
    versions = (await site.get(f"/api/v1/artifacts/{old}/versions")).json()["rows"]
    assert [v["version"] for v in versions] == [1, 2]


async def test_the_body_itself_is_the_edit_and_approves(site: Site) -> None:
    """A program sends bytes, and decides in the same transaction."""
    run_id, (gate,) = await waiting(site)
    old = gate["artifacts"][0]["id"]
    answer = await site.post(
        f"/api/v1/artifacts/{old}/versions",
        "approver",
        params={"filename": "new.txt", "approve": "true", "reason": "better"},
        content=b"from a program",
        headers={"Content-Type": "application/octet-stream"},
    )
    assert answer.status_code == 201, answer.text
    assert (await site.get(f"/api/v1/approvals/{gate['id']}")).json()["status"] == "approved"
    assert (await site.engine.resume(run_id))["measure"].value["text"] == "from a program"


async def test_an_upload_is_streamed_and_limited(open_site: OpenSite) -> None:
    """More than the limit is refused, however it comes, and leaves no version and no bytes behind."""
    async with open_site(max_upload=100_000) as site:
        _, (gate,) = await waiting(site)
        path = f"/api/v1/artifacts/{gate['artifacts'][0]['id']}/versions"

        async def endless() -> Any:
            for _ in range(100):
                yield b"x" * 10_000

        for body in (b"x" * 100_001, endless()):
            answer = await site.post(
                path, "approver", content=body, headers={"Content-Type": "application/octet-stream"}
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "E_BODY_SIZE")
        assert len((await site.get(path.replace("/versions", "") + "/versions")).json()["rows"]) == 1
        fits = await site.post(path, "approver", content=b"y" * 90_000)
        assert fits.status_code == 201


@pytest.mark.parametrize(
    ("body", "step", "chain"),
    [
        ({"action": "stop"}, "failed", "failed"),
        ({"action": "skip"}, "skipped", "completed"),
        ({"action": "regenerate", "parameters": {"times": 2}}, "waiting_approval", "paused"),
        ({}, "waiting_approval", "paused"),
    ],
)
async def test_H4_rejections(site: Site, body: dict[str, Any], step: str, chain: str) -> None:
    """What a rejection comes to."""
    run_id, (gate,) = await waiting(site)
    answer = await site.post(f"/api/v1/approvals/{gate['id']}/reject", "approver", json={"reason": "no", **body})
    assert answer.status_code == 200, answer.text
    run = await site.engine.resume(run_id, check=False)
    assert (run["shout"].status, run.status) == (step, chain)
    if body.get("parameters"):
        (again,) = (await site.get("/api/v1/approvals", params={"status": "pending"})).json()["rows"]
        raw = await site.get(f"/api/v1/artifacts/{again['artifacts'][0]['id']}/raw")
        assert (raw.text, again["artifacts"][0]["version"]) == ("HELLOHELLO", 2)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"action": "explode"}, 422, "E_APPROVAL_ACTION"),
        ({"action": "stop", "parameters": {"times": 2}}, 422, "E_PARAMETER"),
        ({"action": "regenerate", "parameters": {"volume": 2}}, 422, "E_PARAMETER"),
        ({"unknown": 1}, 422, "E_BODY_FIELD"),
        ({"reason": 3}, 422, "E_BODY_FIELD"),
    ],
)
async def test_rejections_that_are_none(site: Site, body: dict[str, Any], status: int, code: str) -> None:
    """Nothing is decided by them."""
    _, (gate,) = await waiting(site)
    answer = await site.post(f"/api/v1/approvals/{gate['id']}/reject", "approver", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await site.get(f"/api/v1/approvals/{gate['id']}")).json()["status"] == "pending"


async def test_H5_two_gates_are_decided_apart_and_each_once(site: Site) -> None:
    """Independent decisions; sending one twice, or two at once, changes nothing."""
    run_id, (first, second) = await waiting(site, two_gates)
    path = f"/api/v1/approvals/{first['id']}"
    answers: list[httpx.Response] = []

    async def decide(what: str, body: dict[str, Any]) -> None:
        answers.append(await site.post(f"{path}/{what}", "approver", json=body))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(decide, "approve", {"seen": first["artifact_ids"]})
            tasks.start_soon(decide, "reject", {"action": "stop"})
    assert sorted(a.status_code for a in answers) == [200] + [409] * 5
    assert {a.json()["error"]["code"] for a in answers if a.status_code == 409} == {"E_APPROVAL_DECIDED"}
    assert (await site.get(f"/api/v1/approvals/{second['id']}")).json()["status"] == "pending"
    await site.post(f"/api/v1/approvals/{second['id']}/approve", "approver", json={"seen": second["artifact_ids"]})
    run = await site.engine.resume(run_id, check=False)
    won = next(a.json()["status"] for a in answers if a.status_code == 200)
    assert run.status == ("completed" if won == "approved" else "failed")


async def test_approving_needs_what_was_seen(site: Site) -> None:
    """An approval that does not say what was looked at is not one."""
    _, (gate,) = await waiting(site)
    answer = await site.post(f"/api/v1/approvals/{gate['id']}/approve", "approver", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E_BODY_FIELD")
    answer = await site.post(f"/api/v1/approvals/{gate['id']}/approve", "approver", json={"seen": []})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "E_APPROVAL_STALE")


async def test_H5_a_decision_wakes_a_server_that_executes(open_site: OpenSite) -> None:
    """A server that executes resumes the run by itself, without a call of `resume`."""
    async with open_site(execute=True) as site:
        run_id, (gate,) = await waiting(site)
        await site.post(f"/api/v1/approvals/{gate['id']}/approve", "approver", json={"seen": gate["artifact_ids"]})
        await until(site, run_id, "completed")


async def until(site: Site, run_id: str, status: str) -> None:
    with anyio.fail_after(PATIENCE):
        while (await site.get(f"/api/v1/chains/{run_id}")).json()["status"] != status:  # noqa: ASYNC110
            await anyio.sleep(0.05)


# ---- starting and steering

YAML = """
name: sent
inputs: { text: { type: string, default: hello } }
steps:
  - id: note
    python: tests.http.steps:write
    parameters: { text: "{{ inputs.text }}" }
  - id: loud
    python: tests.http.steps:shout
    depends_on: [note]
    parameters: { note: "{{ note.output.text }}" }
"""


async def test_a_chain_is_sent_started_and_done(open_site: OpenSite) -> None:
    """YAML in, files out. A run id that is taken is refused."""
    async with open_site(execute=True) as site:
        body = {"yaml": YAML, "inputs": {"text": "sent"}, "run_id": "my run"}
        answer = await site.post("/api/v1/chains", "operator", json=body)
        assert (answer.status_code, answer.json()["executing"]) == (202, True), answer.text
        await until(site, "my run", "completed")
        rows = (await site.get("/api/v1/artifacts", params={"chain_id": "my run", "step_id": "loud"})).json()["rows"]
        assert (await site.get(f"/api/v1/artifacts/{rows[0]['id']}/raw")).text == "SENT"
        again = await site.post("/api/v1/chains", "operator", json=body)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "E_RUN_EXISTS")


async def test_a_server_that_does_not_execute_records(open_site: OpenSite) -> None:
    """The run waits for a process that has its steps; what this server cannot do it says."""
    async with open_site() as site:
        started = (await site.post("/api/v1/chains", "operator", json={"yaml": YAML})).json()
        assert (started["status"], started["executing"]) == ("pending", False)
        answer = await site.post(f"/api/v1/chains/{started['id']}/resume", "operator")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "E_SERVE_IDLE")
    async with open_site(execute=True) as site:
        await until(site, started["id"], "completed")


async def test_chains_of_a_folder(open_site: OpenSite, tmp_path: Any) -> None:
    """By name, from the configured folder only; the problem of an invalid chain file is sent."""
    folder = tmp_path / "chains"
    folder.mkdir()
    (folder / "good.yaml").write_text(YAML)
    (folder / "bad.yaml").write_text("name: bad\nsteps: []\n")
    (tmp_path / "outside.yaml").write_text(YAML)
    async with open_site(execute=True, chains=folder) as site:
        rows = {r["chain"]: r for r in (await site.get("/api/v1/chain-files")).json()["rows"]}
        assert (rows["good.yaml"]["valid"], rows["good.yaml"]["inputs"][0]["name"]) == (True, "text")
        assert (rows["bad.yaml"]["valid"], "E_" in rows["bad.yaml"]["problem"]) == (False, True)
        answer = await site.post("/api/v1/chains", "operator", json={"chain": "good.yaml"})
        await until(site, answer.json()["id"], "completed")
        for name in ("../outside.yaml", str(tmp_path / "outside.yaml"), "missing.yaml"):
            answer = await site.post("/api/v1/chains", "operator", json={"chain": name})
            assert answer.status_code in (404, 422), name
            assert str(tmp_path) not in answer.text.replace(name, "")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (("tests.http.steps:write", "os:system"), "E_STEP_NOT_REGISTERED"),
        (("tests.http.steps:write", "antigravity:fly"), "E_STEP_NOT_REGISTERED"),
        (("type: string, default: hello", "type: file, source: ../towpath.db"), "E_INPUT_SOURCE"),
        (("depends_on: [note]", "depends_on: [nobody]"), "E_CHAIN_UNKNOWN_STEP"),
        (("name: sent", "name: sent\nfoo: 1"), "E_FIELD_UNKNOWN"),
    ],
)
async def test_chains_that_are_refused(site: Site, changed: tuple[str, str], code: str) -> None:
    """Nothing is imported, nothing is read, nothing is recorded."""
    import sys

    answer = await site.post("/api/v1/chains", "operator", json={"yaml": YAML.replace(*changed)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code), answer.text
    assert "antigravity" not in sys.modules
    assert (await site.get("/api/v1/chains")).json()["rows"] == []


FILES = """
name: of-files
inputs: { photo: { type: file } }
steps:
  - id: loud
    python: tests.http.steps:shout
    parameters: { note: "{{ inputs.photo }}" }
"""


async def test_file_inputs_are_artifacts_or_come_along(open_site: OpenSite) -> None:
    """An artifact by its id, or a few bytes; a path of this machine is no input."""
    async with open_site(execute=True) as site:
        made = (await site.engine.run(plain, text="abc"))["write"].artifact
        for given, wanted in (({"artifact": made.id}, "ABC"), ({"base64": "eHl6", "filename": "x.txt"}, "XYZ")):
            answer = await site.post("/api/v1/chains", "operator", json={"yaml": FILES, "inputs": {"photo": given}})
            assert answer.status_code == 202, answer.text
            await until(site, answer.json()["id"], "completed")
            run = await site.engine.snapshot(answer.json()["id"])
            assert await run["loud"].artifact.read_bytes() == wanted.encode()
        wrong: list[Any] = ["/etc/passwd", {"artifact": "x"}, {"base64": "?"}, {"path": "/etc/passwd"}, 3, []]
        for photo in wrong:
            answer = await site.post("/api/v1/chains", "operator", json={"yaml": FILES, "inputs": {"photo": photo}})
            assert answer.status_code in (404, 422), photo


async def test_cancel_pause_rerun_delete(open_site: OpenSite) -> None:
    """The life of a run, steered from outside."""
    async with open_site(execute=True) as site:
        run_id, _ = await waiting(site)
        refused = await site.client("admin").delete(f"/api/v1/chains/{run_id}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "E_RUN_ACTIVE")
        answer = await site.post(f"/api/v1/chains/{run_id}/cancel", "operator")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        again = await site.post(f"/api/v1/chains/{run_id}/cancel", "operator")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "E_RUN_OVER")
        rerun = await site.post(f"/api/v1/chains/{run_id}/rerun", "operator", json={"inputs": {"text": "again"}})
        assert rerun.status_code == 202, rerun.text
        await until(site, rerun.json()["id"], "paused")
        gone = await site.client("admin").delete(f"/api/v1/chains/{run_id}")
        assert gone.json() == {"id": run_id, "deleted": True, "steps": 2, "files": 2, "bytes": 10}
        assert (await site.get(f"/api/v1/chains/{run_id}")).status_code == 404


async def test_pause_and_resume(open_site: OpenSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused run starts no other step, also after a decision, until it is resumed."""
    polls = 0

    async def counted(records: ServerRecords) -> list[str]:
        nonlocal polls
        found = await unattended_runs(records)
        polls += 1
        return found

    monkeypatch.setattr(unattended, "unattended_runs", counted)
    monkeypatch.setattr(unattended, "POLL", 0.02)
    async with open_site(execute=True) as site:
        run_id, (gate,) = await waiting(site)
        answer = await site.post(f"/api/v1/chains/{run_id}/pause", "operator")
        assert (answer.status_code, answer.json()["status"]) == (202, "paused")
        await site.post(f"/api/v1/approvals/{gate['id']}/approve", "approver", json={"seen": gate["artifact_ids"]})
        polls = 0
        await eventually(lambda: polls >= 3)  # the server has seen the decision
        assert (await site.get(f"/api/v1/chains/{run_id}")).json()["status"] == "paused"
        assert (await site.post(f"/api/v1/chains/{run_id}/resume", "operator")).status_code == 202
        await until(site, run_id, "completed")
        again = await site.post(f"/api/v1/chains/{run_id}/resume", "operator")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "E_RUN_OVER")


async def test_a_version_is_deleted_when_its_run_is_over(site: Site) -> None:
    """N1: delete. The number is not given again, the version before it is the latest."""
    run_id, (gate,) = await waiting(site)
    old = gate["artifacts"][0]["id"]
    new = (await site.engine.edit(old, PIXELS, by="Ann")).id
    async with site.client("admin") as admin:
        assert (await admin.delete(f"/api/v1/artifacts/{new}")).status_code == 409
        await site.engine.cancel(run_id)
        assert (await admin.delete(f"/api/v1/artifacts/{new}")).json() == {"id": new, "deleted": True}
        assert (await admin.get(f"/api/v1/artifacts/{new}")).status_code == 404
        assert (await admin.get(f"/api/v1/artifacts/{old}")).json()["is_latest"]


async def test_keys_over_http(site: Site) -> None:
    """Made, shown once, used, revoked."""
    async with site.client("admin") as admin:
        made = (await admin.post("/api/v1/keys", json={"name": "robot", "role": "operator"})).json()
        twice = await admin.post("/api/v1/keys", json={"name": "robot", "role": "viewer"})
        assert (twice.status_code, twice.json()["error"]["code"]) == (422, "E_KEY_NAME")
        assert "key" not in (await admin.get("/api/v1/keys")).json()["rows"][-1]
        header = {"Authorization": f"Bearer {made['key']}"}
        assert (await site.get("/api/v1/me", None, headers=header)).json()["role"] == "operator"
        assert (await admin.delete("/api/v1/keys/robot")).json()["deleted"]
        assert (await site.get("/api/v1/me", None, headers=header)).status_code == 401
        assert (await admin.delete("/api/v1/keys/robot")).status_code == 404
        for body in (
            {"name": " x", "role": "viewer"},
            {"name": "x\n", "role": "viewer"},
            {"name": "x", "role": "root"},
        ):
            assert (await admin.post("/api/v1/keys", json=body)).status_code in (400, 422)
