"""The example chains, unchanged, over two servers. Files are compared with what their graphs make, byte for byte."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from tests.comfyui.chain_fixtures import *  # noqa: F403
from tests.comfyui.chain_fixtures import Farming
from tests.comfyui.chains import ROOT, WORKFLOWS, came_home, prompts, row_of, table, transfers
from tests.comfyui.running import ComfyServer
from tests.comfyui.server.contents import image, movie
from tests.conformance.adapter import DONE, settled
from towpath import Artifact, ChainInvalid, ChainStatus, Engine, Run, load_chain, step
from towpath.chain_file import ChainFile

pytestmark = pytest.mark.anyio

CHAINS = ROOT / "tests" / "chains"
FOLDER = {"workflows": WORKFLOWS}


def example(name: str, **more: Any) -> ChainFile:
    return load_chain(CHAINS / f"{name}.yaml", **more)


@pytest.fixture
def filmed(one: ComfyServer, two: ComfyServer) -> tuple[ComfyServer, ComfyServer]:
    """Both servers have the film that the chains begin with."""
    for server in (one, two):
        (server.folder / "input" / "input.mp4").write_bytes(movie("mp4", "a film"))
    return one, two


async def answered(engine: Engine, chain: ChainFile, **inputs: Any) -> Run:
    """Run a chain to its end; whatever it asks is approved as soon as it asks."""
    found: list[Run] = []

    async def go() -> None:
        found.append(await engine.run(chain, wait=True, inputs=inputs))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go)
        while not found:
            for gate in await engine.approvals():
                await engine.approve(gate.id, by="somebody")
            await anyio.sleep(0.05)
    return found[0]


async def one_artifact_per_file(engine: Engine, run: Run, count: int) -> None:
    """Every step made one file, and no version of it is there twice."""
    for each in run.steps:
        row = await row_of(engine, run, each.id)
        kept = await engine.get_artifacts_by_workflow(row.id, include_old_versions=True)
        assert len(kept) == 1, f"{each.id}: {[a.name for a in kept]}"
        assert each.artifact.id == kept[0].id == row.latest_artifact_id
        assert each.value["count"] == 1
    assert len(run.steps) == count


async def test_N2_parallel_video_generation(
    farming: Farming,
    filmed: tuple[ComfyServer, ComfyServer],
) -> None:
    """Three videos that need nothing of each other, spread over both servers."""
    one, two = filmed
    async with farming(table(one, "one"), table(two, "two"), **FOLDER) as engine:
        run = await engine.run(example("parallel-video-generation"))
        assert run.status is ChainStatus.COMPLETED, run.error
        await came_home(engine, run, one, two)
        await one_artifact_per_file(engine, run, 3)
        assert {prompt["prompt"]["93"]["inputs"]["text"] for s in filmed for prompt in prompts(s)} == {
            "A cat walking",
            "A dog running",
            "A bird flying",
        }
        assert len({each.artifact.digest for each in run.steps}) == 3
        assert [each.artifact.kind for each in run.steps] == ["video"] * 3
        assert prompts(one) and prompts(two)
        assert await transfers(engine, run) == []


async def test_N2_conditional_video_generation(
    farming: Farming,
    filmed: tuple[ComfyServer, ComfyServer],
) -> None:
    """The third video is made when the first two are there."""
    one, two = filmed
    async with farming(table(one, "one"), table(two, "two"), **FOLDER) as engine:
        run = await engine.run(example("conditional-video-generation"))
        assert run.status is ChainStatus.COMPLETED, run.error
        await came_home(engine, run, one, two)
        await one_artifact_per_file(engine, run, 3)
        assert await settled(engine, run) == dict.fromkeys(("video1", "video2", "video3"), DONE)


async def test_N2_image_edit_to_video(
    farming: Farming,
    filmed: tuple[ComfyServer, ComfyServer],
) -> None:
    """The pipeline that the replaced system really ran: two frames, two edits, a gate, a video between them."""
    one, two = filmed
    async with farming(table(one, "one"), table(two, "two"), **FOLDER) as engine:
        run = await answered(engine, example("image-edit-to-video"))
        assert run.status is ChainStatus.COMPLETED, run.error
        await came_home(engine, run, one, two)
        await one_artifact_per_file(engine, run, 5)
        assert await settled(engine, run) == {each.id: DONE for each in run.steps}
        moved = {(await row_of(engine, run, step_id)).id: step_id for step_id in (each.id for each in run.steps)}
        edges = sorted(
            (moved[t["source_workflow_id"]], moved[t["target_workflow_id"]]) for t in await transfers(engine, run)
        )
        assert edges == [
            ("edit_frame1", "create_video"),
            ("edit_frame2", "create_video"),
            ("extract_frame1", "edit_frame1"),
            ("extract_frame2", "edit_frame2"),
        ]
        graph = next(p["prompt"] for s in filmed for p in prompts(s) if "67" in p["prompt"])
        assert {key: graph["67"]["inputs"][key] for key in ("width", "height", "length")} == {
            "width": 640,
            "height": 640,
            "length": 81,
        }


async def test_N2_flux_to_qwen_edit(
    farming: Farming,
    filmed: tuple[ComfyServer, ComfyServer],
    tmp_path: Path,
) -> None:
    """A file of the chain's own goes to a server first; both steps ask; the second is pinned to a server."""
    one, two = filmed
    reference = image("a reference", 24, 16)
    (tmp_path / "flux.yaml").write_bytes((CHAINS / "flux-to-qwen-edit.yaml").read_bytes())
    (tmp_path / "reference.png").write_bytes(reference)
    async with farming(table(one, "gpu-0"), table(two, "gpu-1"), **FOLDER) as engine:
        run = await answered(engine, load_chain(tmp_path / "flux.yaml"))
        assert run.status is ChainStatus.COMPLETED, run.error
        await came_home(engine, run, one, two)
        await one_artifact_per_file(engine, run, 2)
        assert (await row_of(engine, run, "edit")).server_address == "gpu-1"
        graph = next(p["prompt"] for s in filmed for p in prompts(s) if "12" in p["prompt"])
        server = one if any("12" in p["prompt"] for p in prompts(one)) else two
        assert (server.folder / "input" / graph["12"]["inputs"]["image"]).read_bytes() == reference


async def test_N2_sequential_example_loads_and_is_refused(
    farming: Farming,
    filmed: tuple[ComfyServer, ComfyServer],
) -> None:
    """It names workflows that are not there and keys without a node: all of it is said, and nothing starts."""
    one, two = filmed
    chain = example("sequential-example")
    assert [planned.id for planned in chain.plan.steps] == ["generate", "upscale", "audio"]
    async with farming(table(one, "one"), table(two, "two"), **FOLDER) as engine:
        with pytest.raises(ChainInvalid) as refused:
            await engine.run(chain)
        found = {(p.code, p.place.step, p.found) for p in refused.value.problems}
        assert found == {
            ("E_WORKFLOW_FILE", "upscale", "video_upscale_4k"),
            ("E_WORKFLOW_FILE", "audio", "add_audio_track"),
            ("E_PARAMETER_UNKNOWN", "upscale", "input_video"),
            ("E_PARAMETER_UNKNOWN", "audio", "input_video"),
        }
        assert await engine.list_chains() == []
    assert prompts(one) == prompts(two) == []


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The module that `design.yaml` takes its function from; the titles that it was called with."""
    titles: list[str] = []

    async def report(photo: Artifact, title: str) -> str:
        titles.append(title)
        return f"{title}: {photo.size}"

    # Another test of this process may have a step of this name: each keeps its own.
    steps = import_module("towpath.steps")
    monkeypatch.setattr(steps, "_registry", dict(steps._registry))
    monkeypatch.setattr(steps, "_ambiguous", set(steps._ambiguous) - {"mypkg.steps:report"})
    steps._registry.pop("mypkg.steps:report", None)
    report.__module__, report.__qualname__ = "mypkg.steps", "report"
    package, module = ModuleType("mypkg"), ModuleType("mypkg.steps")
    module.report = step(report)  # type: ignore[attr-defined]
    package.steps = module  # type: ignore[attr-defined]
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "mypkg", package)
    monkeypatch.setitem(sys.modules, "mypkg.steps", module)
    return titles


async def test_N2_design(
    farming: Farming,
    filmed: tuple[ComfyServer, ComfyServer],
    reporting: list[str],
) -> None:
    """Workflows and a mapped Python step in one chain."""
    one, two = filmed
    async with farming(table(one, "gpu-0"), table(two, "gpu-1"), **FOLDER) as engine:
        run = await answered(engine, example("design"), prompt="more blue")
        assert run.status is ChainStatus.COMPLETED, run.error
        await came_home(engine, run, one, two)
        assert reporting == ["more blue"]
        assert run["report"].value == [f"more blue: {run['edit'].artifact.size}"]
        assert (await row_of(engine, run, "edit")).server_address == "gpu-1"
