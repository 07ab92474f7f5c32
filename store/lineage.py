"""Where a file came from and where it went: the step, inputs and parameters that made it, and who used it."""

from __future__ import annotations

from typing import Any

from towpath.values import REFERENCE

from .artifacts import get_artifact, get_artifact_versions
from .core import sa, t
from .rows import Record, record
from .session import Session, of_one_moment

_AT_ONCE = 1_000  # ids in one query
_STEP = ("id", "chain_id", "step_id", "item_index", "workflow_name", "status", "attempt", "server_address", "prompt_id")


@of_one_moment
async def lineage_of(session: Session, artifact_id: str) -> Record | None:
    """All that is known about the making and the use of an artifact, or None without such an artifact.

    `artifact`; `versions` (the same output, oldest first); `step` and `chain` that made it; `parameters` of that
    attempt; `inputs`: the artifacts among them; `used_by`: steps of the run that got it; `transfers` to servers.
    Six queries, and one more for every thousand inputs.
    """
    made = await get_artifact(session, artifact_id)
    if made is None:
        return None
    columns = [t.workflows.c[name] for name in _STEP]
    step = await session.fetch_one(sa.select(*columns).where(t.workflows.c.id == made["workflow_id"]))
    assert step is not None, "its artifact refers to it"
    query = sa.select(t.chains.c.id, t.chains.c.name, t.chains.c.status).where(t.chains.c.id == step["chain_id"])
    chain = await session.fetch_one(query)
    return Record(
        artifact=made,
        versions=await get_artifact_versions(session, artifact_id),
        step=Record(step),
        chain=None if chain is None else Record(chain),
        parameters=made["parameters"],
        inputs=await _listed(session, references(made["parameters"])),
        used_by=await _users(session, artifact_id, step["chain_id"]),
        transfers=await _transfers(session, artifact_id),
    )


def references(value: Any) -> list[str]:
    """The ids of the artifacts that recorded parameters hold, each once, in their order."""
    found: dict[str, None] = {}
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            named = part.get(REFERENCE)
            if isinstance(named, str):
                found[named] = None
            else:
                left.extend(reversed(list(part.values())))
        elif isinstance(part, list):
            left.extend(reversed(part))
    return list(found)


async def _listed(session: Session, ids: list[str]) -> list[Record]:
    rows: dict[str, Record] = {}
    for begin in range(0, len(ids), _AT_ONCE):
        query = sa.select(t.artifacts).where(t.artifacts.c.id.in_(ids[begin : begin + _AT_ONCE]))
        rows.update({row["id"]: record(row) for row in await session.fetch_all(query)})
    return [rows[one] for one in ids if one in rows]


async def _users(session: Session, artifact_id: str, chain_id: str | None) -> list[Record]:
    if chain_id is None:
        return []
    query = sa.select(*(t.workflows.c[name] for name in _STEP)).where(
        t.workflows.c.chain_id == chain_id, t.workflows.c.parameters.contains(artifact_id, autoescape=True)
    )
    return [Record(row) for row in await session.fetch_all(query.order_by(t.workflows.c.queued_at, t.workflows.c.id))]


async def _transfers(session: Session, artifact_id: str) -> list[Record]:
    query = sa.select(t.artifact_transfers).where(t.artifact_transfers.c.artifact_id == artifact_id)
    return [record(row) for row in await session.fetch_all(query.order_by(t.artifact_transfers.c.id))]
