"""Chains of workflow steps over two servers: what flows where, in which order, and what is recorded of it."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui.chain_fixtures import *  # noqa: F403
from tests.comfyui.chain_fixtures import Farming
from tests.comfyui.chains import (
    TOLD,
    came_home,
    events,
    made_of,
    pixels,
    prompts,
    row_of,
    table,
    transfers,
    until,
    uploads,
    write,
)
from tests.comfyui.graphs import EMPTY, inverted, node, painted, slow
from tests.comfyui.running import ComfyServer
from tests.comfyui.server.nodes import render
from tests.conformance.adapter import DONE, FAILED, settled
from towpath import ChainStatus

pytestmark = pytest.mark.anyio

PICTURE = {"id": "picture", "workflow": "painted"}
EDIT = {
    "id": "edit",
    "workflow": "inverted",
    "depends_on": ["picture"],
    "parameters": {"1.image": "{{ picture.output.image }}"},
}
PAINTED = render("EmptyImage", EMPTY)
INVERTED = render("ImageInvert", {}, [PAINTED])


@pytest.fixture(autouse=True)
def graphs(workflows: Path) -> None:
    write(workflows, painted=painted(), inverted=inverted("none.png"), slow=slow(0.5))


# ---- the flow


async def test_F1_the_flow_of_a_chain(farming: Farming, one: ComfyServer, two: ComfyServer) -> None:
    """Chain record; per step: its row, the transfers, the prompt, the files, the status; then the chain's end."""
    chain = made_of(PICTURE, {**EDIT, "server": "two"})
    async with farming(table(one, "one"), table(two, "two")) as engine:
        run = await engine.run(chain)
        assert run.status is ChainStatus.COMPLETED, run.error
        await came_home(engine, run, one, two)
        trail = [(e["type"], e["data"].get("step", "")) for e in await events(engine, run) if e["type"] != "LogKept"]
        assert trail == [
            ("ChainCreated", ""),
            ("ChainStarted", ""),
            ("StepStarted", "picture"),
            ("PromptSent", "picture"),
            ("StepCompleted", "picture"),
            ("StepStarted", "edit"),
            ("TransferPending", "edit"),
            ("TransferUploading", "edit"),
            ("TransferCompleted", "edit"),
            ("PromptSent", "edit"),
            ("StepCompleted", "edit"),
            ("ChainEnded", ""),
        ]
        picture, edit = [await row_of(engine, run, each) for each in ("picture", "edit")]
        assert (edit.server_address, edit.prompt_id) == ("two", prompts(two)[-1]["prompt_id"])
        assert picture.latest_artifact_id == run["picture"].artifact.id
        assert (await engine.get_latest_artifact(edit.id)).id == run["edit"].artifact.id


async def test_F2_T5_the_source_server_may_be_gone(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
) -> None:
    """Step 2 gets its input from the store: the server of step 1 is switched off, and nobody asks it for anything."""
    chain = made_of(
        {**PICTURE, "server": "one"},
        {"id": "pause", "workflow": "slow", "server": "two", "depends_on": ["picture"]},
        {**EDIT, "server": "two", "depends_on": ["picture", "pause"]},
    )
    async with farming(table(one, "one"), table(two, "two")) as engine:
        handle = await engine.start(chain)

        async def running() -> bool:
            row = await row_of(engine, handle.id, "picture")
            return row is not None and row.status == DONE

        await until(running)
        one.stop()
        asked = len(one.log())
        run = await handle.result()
        assert run.status is ChainStatus.COMPLETED, run.error
        assert pixels(await run["edit"].artifact.read_bytes()) == INVERTED
        assert len(one.log()) == asked


async def test_F2_two_servers_make_the_same_names(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
    workflows: Path,
) -> None:
    """Both make ComfyUI_00001_.png, in two chains at the same time, and each goes to the other server: never mixed."""
    write(workflows, red=painted(color=0xFF0000), blue=painted(color=0x0000FF))

    def crossing(name: str, server: str, other: str) -> Any:
        return made_of({**PICTURE, "workflow": name, "server": server}, {**EDIT, "server": other}, name=name)

    async with farming(table(one, "one"), table(two, "two")) as engine:
        handles = [
            await engine.start(crossing("red", "one", "two")),
            await engine.start(crossing("blue", "two", "one")),
        ]
        runs = [await handle.result() for handle in handles]
        for run, color in zip(runs, (0xFF0000, 0x0000FF), strict=True):
            assert run.status is ChainStatus.COMPLETED, run.error
            assert run["picture"].artifact.filename == run["edit"].artifact.filename == "ComfyUI_00001_.png"
            source = render("EmptyImage", {**EMPTY, "color": color})
            assert pixels(await run["picture"].artifact.read_bytes()) == source
            assert pixels(await run["edit"].artifact.read_bytes()) == render("ImageInvert", {}, [source])
            await came_home(engine, run, one, two)


async def test_S5_5_same_names_to_one_server(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
    workflows: Path,
) -> None:
    """Artifacts with one name, sent to one server by parallel chains and by one chain, are distinct files there."""
    write(workflows, red=painted(color=0xFF0000), blue=painted(color=0x0000FF))
    merged = {
        "1": node("LoadImage", image="none.png"),
        "2": node("LoadImage", image="none.png"),
        "3": node("Merge", left=["1", 0], right=["2", 0]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="ComfyUI"),
    }
    write(workflows, merged=merged)
    chain = made_of(
        {"id": "red", "workflow": "red", "server": "one"},
        {"id": "blue", "workflow": "blue", "server": "one"},
        {
            "id": "merged",
            "workflow": "merged",
            "server": "two",
            "depends_on": ["red", "blue"],
            "parameters": {"1.image": "{{ red.output.image }}", "2.image": "{{ blue.output.image }}"},
        },
    )
    async with farming(table(one, "one"), table(two, "two")) as engine:
        runs = [await (await engine.start(chain)).result() for _ in range(2)]
        both_runs = [await engine.start(chain) for _ in range(2)]
        runs += [await handle.result() for handle in both_runs]
        for run in runs:
            assert run.status is ChainStatus.COMPLETED, run.error
            await came_home(engine, run, one, two)
        sides = [prompt["prompt"] for prompt in prompts(two)]
        assert all(side["1"]["inputs"]["image"] != side["2"]["inputs"]["image"] for side in sides)


# ---- rows


async def test_T1_to_T8_what_is_recorded(farming: Farming, one: ComfyServer, store: Path) -> None:
    """Every row of a chain: statuses with times in order, files equal to the server's, transfers from the store."""
    seen: list[tuple[str, str]] = []
    chain = made_of(PICTURE, EDIT)
    async with farming(table(one, "one"), listener=lambda _, fact: seen.append((type(fact).__name__, ""))) as engine:
        assert store.exists()  # noqa: ASYNC240 - T1
        run = await engine.run(chain)
        assert run.status is ChainStatus.COMPLETED, run.error
        row = await engine.get_chain(run.id)
        assert (row.status, row.current_level) == ("completed", 1)  # T2, T7
        rows = await engine.get_workflows_by_chain(run.id)
        assert sorted(str(r.step_id) for r in rows) == ["edit", "picture"]  # T3
        for each in rows:  # T8
            assert each.created_at <= each.queued_at <= each["started_at"] <= each["completed_at"]
            assert each.workflow_definition == next(
                p["prompt"] for p in prompts(one) if p["prompt_id"] == each.prompt_id
            )
        for step_id in ("picture", "edit"):  # T4
            kept = run[step_id].artifact
            own = (await row_of(engine, run, step_id)).prompt_id.replace("-", "")[:16]
            there = (one.folder / "output" / "towpath" / own / kept.filename).read_bytes()
            assert await kept.read_bytes() == there
            assert kept.digest == hashlib.sha256(there).hexdigest()
            recorded = await engine.get_artifact(kept.id)
            assert (recorded.subfolder, recorded.comfy_folder_type) == (f"towpath/{own}", "output")
        (transfer,) = await transfers(engine, run)  # T6
        picture, edit = [await row_of(engine, run, each) for each in ("picture", "edit")]
        assert (transfer["source_workflow_id"], transfer["target_workflow_id"]) == (picture.id, edit.id)
        assert (transfer["status"], transfer["target_server"], transfer["attempt"]) == (DONE, "one", 1)
        assert transfer["bytes"] == run["picture"].artifact.size
        assert transfer["duration_us"] > 0
        assert transfer["created_at"] <= transfer["uploaded_at"] <= edit.completed_at
    told = [name for name, _ in seen]
    assert [told.count(name) for name in ("LevelReached", "PromptSent", "TransferMade", "ChainEnded")] == [2, 2, 3, 1]


async def test_a_secret_parameter_is_sent_and_recorded_masked(
    farming: Farming, one: ComfyServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server needs it; the row, the recorded workflow and the prompt's log do not. Nor a variable's value."""
    monkeypatch.setenv("UPSTREAM_KEY", "canary-of-comfyui")
    secret = {"id": "picture", "workflow": "painted", "parameters": {"1.color": "{{ inputs.color }}"}}
    chain = made_of(secret, inputs={"color": {"type": "integer", "secret": True}})
    async with farming(table(one, "one")) as engine:
        run = await engine.run(chain, inputs={"color": 7654321})
        assert run.status is ChainStatus.COMPLETED, run.error
        row = await row_of(engine, run, "picture")
    (sent,) = prompts(one)
    assert sent["prompt"]["1"]["inputs"]["color"] == 7654321
    assert row.workflow_definition["1"]["inputs"]["color"] == "***"
    assert list(row.parameters["1.color"]["$secret"]) == ["sealed"]
    told = [file for file in store.parent.rglob("*.jsonl") if file.is_file()]
    assert told
    assert not any(b"7654321" in file.read_bytes() for file in told)
    with closing(sqlite3.connect(store)) as database:  # the picture itself tells its workflow, as pictures do
        for name in ("chains", "workflows", "artifacts", "events", "definitions"):
            assert "7654321" not in str(database.execute(f"SELECT * FROM {name}").fetchall())


async def test_S6_4_prompt_and_server_are_recorded_before_the_server_hears_of_them(
    farming: Farming,
    one: ComfyServer,
    store: Path,
) -> None:
    """While the server has not even looked at the prompt, the row names it."""
    one.control(only_path="/prompt", answer_delay=1.0)
    async with farming(table(one, "one")) as engine:
        handle = await engine.start(made_of(PICTURE))

        def named() -> bool:
            with closing(sqlite3.connect(store)) as database:
                found = database.execute("SELECT prompt_id FROM workflows WHERE prompt_id IS NOT NULL").fetchall()
            return bool(found) and not prompts(one)

        await until(named)
        row = await row_of(engine, handle.id, "picture")
        assert (row.status, row.server_address) == ("executing", "one")
        run = await handle.result()
        assert [p["prompt_id"] for p in prompts(one)] == [row.prompt_id]
        assert run.status is ChainStatus.COMPLETED


# ---- transfers


async def test_S6_5_inputs_are_sent_together_and_once(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
    workflows: Path,
) -> None:
    """Four inputs go at the same time; the next step on that server finds them there."""
    write(workflows, **{f"p{n}": painted(color=n) for n in range(4)})
    merged = {
        **{f"1{n}": node("LoadImage", image="none.png") for n in range(4)},
        "3": node("Merge", **{f"image{n}": [f"1{n}", 0] for n in range(4)}),
        "4": node("SaveImage", images=["3", 0], filename_prefix="ComfyUI"),
    }
    write(workflows, merged=merged)
    makers = [{"id": f"p{n}", "workflow": f"p{n}", "server": "one"} for n in range(4)]
    merging = {
        "workflow": "merged",
        "server": "two",
        "depends_on": [f"p{n}" for n in range(4)],
        "parameters": {f"1{n}.image": f"{{{{ p{n}.output.image }}}}" for n in range(4)},
    }
    chain = made_of(
        *makers,
        {"id": "first", **merging},
        {"id": "second", **merging, "depends_on": [f"p{n}" for n in range(4)] + ["first"]},
    )
    async with farming(table(one, "one"), table(two, "two")) as engine:
        two.control(only_path="/upload", answer_delay=0.4)
        run = await engine.run(chain)
        assert run.status is ChainStatus.COMPLETED, run.error
        await came_home(engine, run, one, two)
        assert len(uploads(two)) == 4
        found = await transfers(engine, run)
        first, second = [await row_of(engine, run, each) for each in ("first", "second")]
        sent, known = [[t for t in found if t["target_workflow_id"] == row.id] for row in (first, second)]
        assert [t["status"] for t in found] == [DONE] * 8
        assert {t["source_workflow_id"] for t in sent} == {(await row_of(engine, run, f"p{n}")).id for n in range(4)}
        assert all(t["bytes"] > 0 for t in sent)
        assert [t["bytes"] for t in known] == [0] * 4
        assert {t["target_name"] for t in sent} == {t["target_name"] for t in known}
        times = [(t["uploaded_at"] - t["duration_us"], t["uploaded_at"]) for t in sent]
        assert max(start for start, _ in times) < min(end for _, end in times), "they were sent one after another"


async def test_S5_4_the_step_gets_the_name_that_the_server_gave(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """The server keeps the upload under another name, in a subfolder: the prompt says exactly that."""
    one.control(upload_rename=True)
    async with farming(table(one, "one")) as engine:
        run = await engine.run(made_of(PICTURE, EDIT))
        assert run.status is ChainStatus.COMPLETED, run.error
        (transfer,) = await transfers(engine, run)
        name = prompts(one)[-1]["prompt"]["1"]["inputs"]["image"]
        assert name == transfer["target_name"]
        assert name.startswith("towpath/")
        assert (one.folder / "input" / name).read_bytes() == await run["picture"].artifact.read_bytes()


async def test_S5_4_R24_a_damaged_file_is_not_sent(
    farming: Farming,
    one: ComfyServer,
    store: Path,
    workflows: Path,
) -> None:
    """The checksum is looked at before the first byte goes: the step fails, the server hears nothing."""
    large = {"1": node("SaveBytes", size=300_000, filename_prefix="big", extension="mp4")}
    write(
        workflows,
        large=large,
        film={"1": node("LoadVideo", video="x.mp4"), "2": node("SaveImage", images=["1", 0], filename_prefix="x")},
    )
    chain = made_of(
        {"id": "large", "workflow": "large"},
        {"id": "hold", "python": TOLD, "depends_on": ["large"], "parameters": {"value": 1}, "requires_approval": True},
        {
            "id": "film",
            "workflow": "film",
            "depends_on": ["large", "hold"],
            "parameters": {"1.video": "{{ large.output.video }}"},
        },
    )
    async with farming(table(one, "one")) as engine:
        run = await engine.run(chain)
        assert run.status is ChainStatus.PAUSED
        digest = run["large"].artifact.digest
        (blob,) = [p for p in store.parent.rglob(f"*{digest}*") if p.is_file()]
        whole = blob.read_bytes()
        blob.chmod(0o644)
        blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (gate,) = await engine.approvals(run.id)
        await engine.approve(gate.id, by="somebody")
        run = await engine.resume(run.id, check=False)
        assert await settled(engine, run) == {"large": DONE, "hold": DONE, "film": FAILED}
        assert run["film"].error is not None
        assert run["film"].error.code == "E_BLOB_CORRUPT"
        assert one.log("/upload", "POST") == []
        assert [t["status"] for t in await transfers(engine, run)] == [FAILED]
        blob.write_bytes(whole)


async def test_H6_a_rejected_artifact_is_sent_nowhere(
    farming: Farming,
    one: ComfyServer,
) -> None:
    """Somebody rejects a file after its step was done: the step that would get it fails, no server hears of it."""
    held = {"id": "hold", "workflow": "slow", "depends_on": ["picture"]}
    chain = made_of(PICTURE, held, {**EDIT, "depends_on": ["picture", "hold"]})
    async with farming(table(one, "one")) as engine:
        handle = await engine.start(chain)

        async def made() -> bool:
            row = await row_of(engine, handle.id, "picture")
            return row is not None and row.latest_artifact_id is not None

        await until(made)
        row = await row_of(engine, handle.id, "picture")
        await engine.reject_artifact(row.latest_artifact_id, "somebody", "ugly")
        run = await handle.result(check=False)
        assert await settled(engine, run) == {"picture": DONE, "hold": DONE, "edit": FAILED}
        assert run["edit"].error is not None
        assert run["edit"].error.code == "E_ARTIFACT_REJECTED"
        assert run["edit"].attempt == 1
        assert one.log("/upload", "POST") == []
        assert await transfers(engine, run) == []


@pytest.mark.parametrize("form", ["file://{}", "{}", "file:{}", "~{}", "../../{}", '{{"$artifact": "{}"}}'])
async def test_text_in_a_parameter_stays_text(
    farming: Farming, one: ComfyServer, tmp_path: Path, store: Path, form: str
) -> None:
    """Whatever it names, nothing of this machine is opened or sent; the server gets the text and judges it."""
    canary = tmp_path / "outside.txt"
    canary.write_text("canary-77c1")
    told = form.format(canary)
    chain = made_of({"id": "edit", "workflow": "inverted", "parameters": {"1.image": told}})
    async with farming(table(one, "one")) as engine:
        run = await engine.run(chain, check=False)
        assert run["edit"].status == FAILED
        assert (await transfers(engine, run), uploads(one)) == ([], [])
        row = (await engine.get_workflows_by_chain(run.id))[0]
        assert row.parameters["1.image"] == told
    assert all(b"canary-77c1" not in path.read_bytes() for path in store.parent.glob("towpath.db*"))
