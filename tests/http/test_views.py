"""Views are read as of one snapshot, and the API and the pages show the same view."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import pytest

from towpath.adapters.http import reading
from towpath.adapters.http.errors import Refused
from towpath.adapters.http.pages.run_picture import picture
from towpath.adapters.step_times import Work
from towpath.adapters.wording import duration
from towpath.store import approvals, artifacts

from .conftest import Site
from .steps import story

pytestmark = pytest.mark.anyio

Reader = Callable[..., Awaitable[Any]]


def interrupted(read: Reader, write: Callable[[], Awaitable[Any]]) -> Reader:
    """The reader, with another task that writes just before it reads."""

    async def reading_late(*args: Any, **options: Any) -> Any:
        async def written() -> None:
            await write()

        await asyncio.create_task(written(), context=Context())
        return await read(*args, **options)

    return reading_late


async def test_a_gate_and_its_files_are_of_one_snapshot(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit between both reads changes neither: the files are those that the gate lists."""
    await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    old = gate["artifact_ids"][0]
    records = site.app.state.records

    async def edit() -> None:
        await site.engine.edit(old, b"LOUDER", by="Ann")

    with monkeypatch.context() as patch:
        late = interrupted(artifacts.get_artifacts_by_workflow, edit)
        patch.setattr(artifacts, "get_artifacts_by_workflow", late)
        view = await reading.gate_view(records, gate["id"])
    assert [record["id"] for record in view.listed] == view.gate["artifact_ids"] == [old]
    assert {record["version"] for record in view.versions} == {1}
    after = await reading.gate_view(records, gate["id"])
    assert [record["version"] for record in after.listed] == [2]


async def test_a_run_and_its_gates_are_of_one_snapshot(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision between both reads: the step that waits still has its gate."""
    run = await site.engine.run(story)
    (gate,) = await site.engine.approvals()

    async def decide() -> None:
        await site.engine.approve(gate["id"], by="Ann")
        await run.resume()

    with monkeypatch.context() as patch:
        patch.setattr(approvals, "list_approvals", interrupted(approvals.list_approvals, decide))
        view = await reading.run_view(site.app.state.records, run.id)
    waiting = {row["id"] for row in view.steps if row["status"] == "waiting_approval"}
    asked = {row: [one["id"] for one in gates] for row, gates in view.gates.items()}
    assert asked == {row: [gate["id"]] for row in waiting}
    assert view.status == "paused"
    assert (await reading.run_view(site.app.state.records, run.id)).status == "completed"


async def test_the_time_of_a_step_is_the_time_in_which_it_worked(site: Site) -> None:
    """On the page of its run and on its own; the time at its gate is said apart."""
    run = await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    view = await reading.run_view(site.app.state.records, run.id)
    (row,) = (row for row in view.steps if row["id"] == gate["workflow_id"])
    work = Work(gate["requested_at"] - row["started_at"])
    assert [line.work for line in picture(view, {}).steps if line.approval] == [work]
    page = (await site.get(f"/runs/{run.id}/steps/{gate['step']}")).text
    assert f"<span>took {duration(work.done / 1e6)}</span>" in page
    assert " for a decision</span>" in page
    await site.engine.approve(gate, by="Ann")
    await run.resume()
    view = await reading.run_view(site.app.state.records, run.id)
    assert [line.work for line in picture(view, {}).steps if line.id == gate["step"]] == [work]


async def test_what_does_not_exist_is_refused(site: Site) -> None:
    for view in (reading.run_view, reading.step_view, reading.gate_view, reading.file_view, reading.review_view):
        with pytest.raises(Refused) as refused:
            await view(site.app.state.records, "nothing")
        assert refused.value.status_code == 404
