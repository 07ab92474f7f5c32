"""What a gate shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from towpath.adapters.wiring import Engine

from .shapes import Seen, shaped


async def listed_files(engine: Engine, gate: Mapping[str, Any]) -> list[Seen]:
    """What a gate lists, in its order; versions that were deleted are left out."""
    rows = {a["id"]: a for a in await engine.get_artifacts_by_workflow(gate["workflow_id"], True)}
    return [shaped(Seen, rows[one], size=rows[one]["file_size"]) for one in gate["artifact_ids"] if one in rows]
