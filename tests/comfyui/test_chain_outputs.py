"""What comes home from servers, what is told of a failure, and workflows beside Python steps."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from tests.adapters.test_local import python
from tests.comfyui.chain_fixtures import *  # noqa: F403
from tests.comfyui.chain_fixtures import Farming
from tests.comfyui.chains import (
    SIZED,
    TOLD,
    made_of,
    pixels,
    prompts,
    row_of,
    table,
    views,
    write,
)
from tests.comfyui.graphs import EMPTY, inverted, node, painted
from tests.comfyui.running import ComfyServer
from tests.comfyui.server.contents import saved_digest
from tests.comfyui.server.nodes import render
from tests.conformance.adapter import FAILED, SKIPPED, settled
from towpath import ChainStatus, load_chain

pytestmark = pytest.mark.anyio

PICTURE = {"id": "picture", "workflow": "painted"}
EDIT = {
    "id": "edit",
    "workflow": "inverted",
    "depends_on": ["picture"],
    "parameters": {"1.image": "{{ picture.output.image }}"},
}


@pytest.fixture(autouse=True)
def graphs(workflows: Path) -> None:
    write(workflows, painted=painted(), inverted=inverted("none.png"))


# ---- what comes home


EVERYTHING = {
    "1": node("EmptyImage", **{**EMPTY, "batch_size": 2}),
    "2": node("SaveImage", images=["1", 0], filename_prefix="picture"),
    "3": node("CreateVideo", images=["1", 0], fps=8.0),
    "4": node("SaveVideo", video=["3", 0], filename_prefix="video/film", format="auto", codec="auto"),
    "5": node(
        "VHS_VideoCombine",
        images=["1", 0],
        frame_rate=8,
        loop_count=0,
        filename_prefix="combined",
        format="video/h264-mp4",
        pingpong=False,
        save_output=True,
    ),
    "6": node("EmptyAudio", duration=1.0),
    "7": node("SaveAudio", audio=["6", 0], filename_prefix="audio/sound"),
    "8": node("SaveText", text="some words", filename_prefix="words"),
    "9": node("Save3D", filename_prefix="mesh/thing"),
    "10": node("PreviewAny", source=["8", 0]),
}


async def test_S4_4_all_kinds_come_home(farming: Farming, one: ComfyServer, workflows: Path) -> None:
    """Pictures, videos, gifs' films, sounds, models and texts; a later step gets each by its kind."""
    write(workflows, everything=EVERYTHING)
    chain = made_of(
        {"id": "all", "workflow": "everything"},
        {
            "id": "seen",
            "python": TOLD,
            "depends_on": ["all"],
            "parameters": {
                "value": {
                    "words": "{{ all.output.text }}",
                    "count": "{{ all.output.count }}",
                    "preview": "{{ all.output['10'].text[0] }}",
                    "saved": "{{ all.output['8'].text }}",
                    "sound": "{{ all.output.audio }}",
                }
            },
        },
    )
    async with farming(table(one, "one")) as engine:
        run = await engine.run(chain)
        assert run.status is ChainStatus.COMPLETED, run.error
        assert {a.name: a.kind for a in run["all"].artifacts} == {
            "2.image[0]": "image",
            "2.image[1]": "image",
            "4.video[0]": "video",
            "5.video[0]": "video",
            "7.audio[0]": "audio",
            "8.file[0]": "text",
            "9.model[0]": "model",
        }
        for artifact in run["all"].artifacts:
            there = list((one.folder / "output").rglob(artifact.filename))
            assert await artifact.read_bytes() in [p.read_bytes() for p in there]
        assert run["all"].value["10"] == {"text": ["some words"]}
        seen = run["seen"].value
        assert seen["count"] == 7
        assert seen["preview"] == seen["words"] == "some words", "a node that answers with both gives the text"
        assert seen["saved"] == ["some words"], "and no file among its texts"
        assert seen["sound"].digest == next(a.digest for a in run["all"].artifacts if a.kind == "audio")


async def test_S5_1_a_large_file_is_a_stream(farming: Farming, one: ComfyServer, workflows: Path) -> None:
    """48 MiB come home with their digest; a file that cannot be had leaves no row and no partial file."""
    size = 48 << 20
    write(workflows, large={"1": node("SaveBytes", size=size, seed=7, filename_prefix="big", extension="mp4")})
    chain = made_of({"id": "large", "workflow": "large", "retry": {"attempts": 1}})
    async with farming(table(one, "one")) as engine:
        run = await engine.run(chain)
        assert (run["large"].artifact.size, run["large"].artifact.digest) == (size, saved_digest(size, 7, "mp4"))
        write(workflows, large={"1": node("SaveBytes", size=size, seed=8, filename_prefix="big", extension="mp4")})
        folder = engine.store.files.folder
        before, files = await engine.list_artifacts(), blobs(folder)
        one.control(view_cuts=100, view_cut_after=0)
        failed = await engine.run(chain, check=False)
        assert await settled(engine, failed) == {"large": FAILED}
        assert failed["large"].error is not None
        assert failed["large"].error.code == "E_DOWNLOAD_INCOMPLETE"
        assert await engine.list_artifacts() == before
        assert blobs(folder) == files


def blobs(folder: Path) -> set[Path]:
    """The files of a store, whole or partial, without logs of prompts."""
    return {path for path in folder.rglob("*") if path.is_file() and "prompts" not in path.parts}


def names(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["con.png", "-rf.png", "a b;c'd\"e.png", "ä" * 100 + ".png", ".hidden.png", "x:y.png"])
async def test_S5_6_odd_names_of_a_server(
    farming: Farming,
    one: ComfyServer,
    workflows: Path,
    store: Path,
    name: str,
) -> None:
    """A name that is no name for people is replaced; the bytes come home, nothing lies outside the store."""
    (one.folder / "output" / name).write_bytes(render("EmptyImage", EMPTY))
    items = json.dumps([{"filename": name, "subfolder": "", "type": "output"}])
    write(workflows, odd={"1": node("SaveOdd", key="images", items=items)})
    around = names(store.parent)
    async with farming(table(one, "one")) as engine:
        run = await engine.run(made_of({"id": "odd", "workflow": "odd"}))
        assert run.status is ChainStatus.COMPLETED, run.error
        assert await run["odd"].artifact.read_bytes() == render("EmptyImage", EMPTY)
        copy = await run["odd"].artifact.path()
        assert copy.resolve().is_relative_to(engine.store.files.folder.resolve())
    new = names(store.parent) - around
    assert new <= {"towpath.db", "towpath.db-wal", "towpath.db-shm", "towpath-store", "towpath.toml"}


@pytest.mark.parametrize("name", ["../../x.png", "...x.png", "/etc/passwd"])
async def test_S5_6_a_name_that_the_server_refuses_itself_fails_no_run(
    farming: Farming, one: ComfyServer, workflows: Path, name: str
) -> None:
    """It is left out with a word in the log; the other files of the step come home. Alone, it is no output."""
    (one.folder / "output" / "good.png").write_bytes(render("EmptyImage", EMPTY))
    bad, good = ({"filename": n, "subfolder": "", "type": "output"} for n in (name, "good.png"))
    write(
        workflows,
        both={"1": node("SaveOdd", key="images", items=json.dumps([bad, good]))},
        alone={"1": node("SaveOdd", key="images", items=json.dumps([bad]))},
    )
    async with farming(table(one, "one")) as engine:
        run = await engine.run(
            made_of({"id": "both", "workflow": "both"}, {"id": "alone", "workflow": "alone"}), check=False
        )
        assert [artifact.filename for artifact in run["both"].artifacts] == ["good.png"]
        assert run["alone"].error is not None
        assert run["alone"].error.code == "E_NO_OUTPUT"
        assert "left out" in "".join(log["text"] for log in await engine.store.logs(run.id))


# ---- failures


async def test_S7_3_a_failing_node_is_named(farming: Farming, one: ComfyServer, workflows: Path) -> None:
    """Node id, title, type and message; it is not tried again, and what depends on it is skipped."""
    write(
        workflows,
        failing={
            "1": node("EmptyImage", **EMPTY),
            "2": {
                **node("Fail", image=["1", 0], message="no such sampler", error="RuntimeError"),
                "_meta": {"title": "My node"},
            },
            "3": node("SaveImage", images=["2", 0], filename_prefix="x"),
        },
    )
    chain = made_of({"id": "picture", "workflow": "failing"}, EDIT)
    async with farming(table(one, "one")) as engine:
        run = await engine.run(chain, check=False)
        assert run.status is ChainStatus.FAILED
        assert await settled(engine, run) == {"picture": FAILED, "edit": SKIPPED}
        error = run["picture"].error
        assert error is not None
        assert error.code == "E_NODE_FAILED"
        for word in ("node 2", "My node", "Fail", "RuntimeError", "no such sampler"):
            assert word in error.message
        assert len(prompts(one)) == 1


async def test_S7_3_a_refused_prompt_is_not_sent_again(
    farming: Farming,
    one: ComfyServer,
    workflows: Path,
) -> None:
    """A 400 of the server surfaces its node_errors."""
    write(
        workflows,
        refused={
            "1": node("EmptyImage", **{**EMPTY, "width": 100_000}),
            "2": node("SaveImage", images=["1", 0], filename_prefix="x"),
        },
    )
    async with farming(table(one, "one")) as engine:
        run = await engine.run(made_of({"id": "refused", "workflow": "refused"}), check=False)
        assert run.status is ChainStatus.FAILED
        error = run["refused"].error
        assert error is not None
        assert error.code == "E_PROMPT_INVALID"
        assert "node 1 (EmptyImage)" in error.message
        assert "width" in error.message
        assert [line["status"] for line in one.log("/prompt", "POST")] == [400]


async def test_S7_1_files_are_linked_to_their_step(
    farming: Farming,
    one: ComfyServer,
    workflows: Path,
) -> None:
    """Each file has a row of the step's, one latest version for each of the outputs."""
    write(workflows, painted=painted(batch_size=3))
    async with farming(table(one, "one")) as engine:
        run = await engine.run(made_of(PICTURE))
        row = await row_of(engine, run, "picture")
        kept = await engine.get_artifacts_by_workflow(row.id)
        assert sorted(a.name for a in kept) == ["2.image[0]", "2.image[1]", "2.image[2]"]
        assert all(a.is_latest and a.version == 1 and a.node_id == "2" for a in kept)
        assert len(views(one)) == 3


# ---- beside Python


async def test_D1_workflows_and_functions_in_one_chain(
    farming: Farming,
    one: ComfyServer,
    two: ComfyServer,
    workflows: Path,
) -> None:
    """A mapped workflow step per number, a function per file, in one chain without any service but the servers."""
    chain = made_of(
        {"id": "colors", "python": TOLD, "parameters": {"value": [1, 2, 3]}},
        {
            "id": "pictures",
            "workflow": "painted",
            "depends_on": ["colors"],
            "foreach": "{{ colors.output }}",
            "parameters": {"1.color": "{{ item }}"},
        },
        {
            "id": "sizes",
            "python": SIZED,
            "depends_on": ["pictures"],
            "foreach": "{{ pictures.output.files }}",
            "parameters": {"photo": "{{ item }}"},
        },
    )
    async with farming(table(one, "one"), table(two, "two")) as engine:
        run = await engine.run(chain)
        assert run.status is ChainStatus.COMPLETED, run.error
        made = [pixels(await item.artifact.read_bytes()) for item in run["pictures"].items]
        assert made == [render("EmptyImage", {**EMPTY, "color": color}) for color in (1, 2, 3)]
        assert run["sizes"].value == [item.artifact.size for item in run["pictures"].items]
        assert len(prompts(one)) + len(prompts(two)) == 3


async def test_D1_a_script_needs_a_server_address_and_nothing_else(
    tmp_path: Path, one: ComfyServer, workflows: Path
) -> None:
    """The whole of it as a script of its own process."""
    (tmp_path / "c.yaml").write_text("name: c\nsteps:\n  - {id: picture, workflow: painted}\n")
    script = """
        import asyncio, os, sys
        from towpath import load_chain, open_engine
        async def main(folder, url):
            os.chdir(folder)
            async with open_engine(servers=[url]) as engine:
                run = await engine.run(load_chain("c.yaml"))
                print(run.status, run["picture"].artifact.filename)
        asyncio.run(main(*sys.argv[1:]))
    """
    assert await python(textwrap.dedent(script), str(tmp_path), one.url) == "completed ComfyUI_00001_.png\n"
    assert load_chain(tmp_path / "c.yaml").plan.name == "c"
    assert len(prompts(one)) == 1
    assert (tmp_path / "towpath.db").exists()
