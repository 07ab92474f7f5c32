"""H1, H2: the script of the first order, with a person at its gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.runs import DONE, OpenEngine, rows, settled
from towpath import chain


def edit_image(path: str) -> Path:
    """What a person does in another program: the original is read, the result is another file."""
    edited = Path(path).with_name("edited.png").parents[3] / "edited.txt"
    edited.write_bytes(b"a boat by hand\n" + Path(path).read_bytes())
    return edited


@chain
def reviewed(folder: str):
    picture = steps.paint(folder, "a boat").with_approval()
    return steps.first_line(picture), steps.describe(picture)


async def test_H1_the_seeds_script(open_engine: OpenEngine, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nearly verbatim: `await` and `engine.` are added, and the gate makes the chain wait."""
    async with open_engine() as engine:
        chain_run = await engine.run(reviewed, folder=folder)
        wf_123 = (await rows(engine, chain_run))["paint"].id

        # Step 1 completes
        workflow_1 = await engine.get_workflow(id=wf_123)
        artifact_1 = await engine.get_latest_artifact(workflow_1.id)

        # Pause chain execution
        # Human reviews artifact
        print(f"Review: {artifact_1.local_path}")

        # Human edits locally
        edited_file = edit_image(str(artifact_1.local_path))

        # Create new version
        artifact_2 = await engine.create_artifact(
            workflow_id=workflow_1.id,
            local_path=edited_file,
            parent_artifact_id=artifact_1.id,
            version=2,
            approval_status="approved",
        )
        # Automatically sets:
        # - artifact_1.is_latest = FALSE
        # - artifact_2.is_latest = TRUE
        # - workflow_1.latest_artifact_id = artifact_2.id
        old, new = await engine.get_artifact(artifact_1.id), await engine.get_artifact(artifact_2.id)
        assert (old.is_latest, new.is_latest) == (False, True)
        assert (await engine.get_workflow(workflow_1.id)).latest_artifact_id == artifact_2.id
        decided = (await engine.list_approvals(chain_id=chain_run.id))[0]
        assert (decided.status, decided.delivered, decided.artifact_ids) == ("approved", False, [artifact_2.id])

        # Resume chain - uses edited version
        done = await chain_run.resume()
        assert done["first_line"].value == "a boat by hand"
        assert (new.filename, new.file_type, new.approval_status, new.parent_artifact_id) == (
            "edited.txt",
            "text",
            "approved",
            artifact_1.id,
        )
        assert new.file_size == edited_file.stat().st_size
        assert chain_run.status == "paused", "a picture of the moment stays as it was"
        assert set((await settled(engine, done)).values()) == {DONE}
    assert "Review: /" in capsys.readouterr().out


async def test_H2_the_next_step_gets_the_edited_version(open_engine: OpenEngine, folder: str) -> None:
    """Its recorded arguments name version 2, and the bytes are those of the edit; the first version is still there."""
    async with open_engine() as engine:
        run = await engine.run(reviewed, folder=folder)
        first = run["paint"].artifact
        second = await engine.edit(first.id, b"a boat, edited\n", by="anna", reason="the sea was green", approve=True)
        run = await run.resume()
        assert run["first_line"].value == "a boat, edited"
        given = (await rows(engine, run))["first_line"].parameters["file"]
        assert (given["$artifact"], given["version"]) == (second.id, 2)
        assert (await first.read_bytes()).startswith(b"a boat plain")
        assert [v.id for v in await engine.get_artifact_versions(first.id)] == [first.id, second.id]
        assert set((await settled(engine, run)).values()) == {DONE}
