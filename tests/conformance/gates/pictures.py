"""The chain behind most gates of this suite, and what tests ask about a gate."""

from __future__ import annotations

from typing import Any

from tests.conformance import chain_steps as steps
from tests.conformance.runs import rows
from towpath import Chain, Engine, chain


def painted(*, beside: bool = False, **policy: Any) -> Chain[..., Any]:
    """A picture behind a gate, a step that reads it, one that looks at what became of it, and one `beside` them."""

    @chain
    def pictures(folder: str, text: str = "a boat"):
        picture = steps.paint(folder, text).with_approval(**policy)
        if beside:
            steps.hold(folder, "beside")
        steps.number(7).after(picture).when("paint.status != 'failed'").named("after")
        return steps.first_line(picture)

    return pictures


async def versions_of(engine: Engine, run_id: str, step: str) -> list[tuple[int, str, bool]]:
    """(version, what people said, is it the latest) of the only output of a step, oldest first."""
    row = (await rows(engine, run_id))[step]
    kept = await engine.get_artifacts_by_workflow(row.id, include_old_versions=True)
    return sorted((a.version, a.approval_status, a.is_latest) for a in kept)


async def facts_about(engine: Engine, run_id: str, *kinds: str) -> list[dict[str, Any]]:
    """What the audit trail says of these kinds, in order."""
    return [event["data"] for event in await engine.store.events(run_id) if event["type"] in kinds]
