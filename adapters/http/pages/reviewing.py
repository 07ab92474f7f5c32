"""All that a person needs to see at a gate before deciding: read from the store, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from towpath.adapters.http.access import Records
from towpath.model import GateAction
from towpath.store import Record
from towpath.store.listing import Condition, Page
from towpath.store.rows import artifact as artifact_row

from .contents import Content, Shown, content_of
from .filters import lasted, place
from .previews import Preview, preview_of_record
from .shown_arguments import MOST_INPUTS, Given, given

MOST_ROUNDS = 200
SHOWN_FILES = 24  # outputs that are shown with their content


@dataclass(frozen=True, slots=True)
class Output:
    """One output behind a gate: its listed version with its content, and all versions, newest first."""

    shown: Shown
    versions: tuple[Preview, ...]
    records: tuple[Mapping[str, Any], ...]

    @property
    def file(self) -> Preview:
        return self.shown.file

    @property
    def before(self) -> Preview | None:
        """The version that this one replaced."""
        older = [v for v in self.versions if v.version < self.file.version]
        return next((v for v in older if v.id == self.file.parent), older[0] if older else None)


@dataclass(frozen=True, slots=True)
class Review:
    """A gate with what waits behind it."""

    gate: Mapping[str, Any]
    run: Mapping[str, Any]
    outputs: tuple[Output, ...]
    arguments: tuple[Given, ...]
    inputs: Mapping[str, Preview]
    rounds: tuple[Mapping[str, Any], ...]
    regenerations_left: int
    server: str = ""
    attempt: int = 0

    @property
    def where(self) -> str:
        return place(self.gate["step_id"], self.gate["item_index"])

    @property
    def pending(self) -> bool:
        return bool(self.gate["status"] == "pending")

    @property
    def actions(self) -> list[tuple[str, str]]:
        """What a rejection may do, the policy's own choice first."""
        left = self.regenerations_left
        words = {
            GateAction.STOP: "stop the chain",
            GateAction.SKIP: "skip this step and what depends on it",
            GateAction.REGENERATE: f"make it again ({left} left)",
        }
        allowed = [str(a) for a in words if a is not GateAction.REGENERATE or left > 0]
        chosen = self.gate["policy"].get("on_rejected", "stop")
        allowed.sort(key=lambda action: action != chosen)
        return [(action, words[GateAction(action)]) for action in allowed]


async def review_of(engine: Any, records: Records, gate: Mapping[str, Any]) -> Review:
    """Everything about a gate."""
    row = await engine.get_workflow(gate["workflow_id"])
    run = await engine.get_chain(gate["chain_id"])
    versions = await engine.get_artifacts_by_workflow(row["id"], include_old_versions=True)
    arguments = given(row["parameters"])
    gates = await gates_of(records, row["id"])
    rounds = tuple(g for g in gates if g["id"] != gate["id"])
    spent = sum(g["action"] == GateAction.REGENERATE for g in gates)
    return Review(
        gate,
        run,
        await _outputs(engine, gate["artifact_ids"], versions),
        tuple(arguments),
        await inputs_of(engine, arguments),
        rounds,
        max(0, gate["policy"].get("max_retries", 0) - spent),
        row["server_address"] or "",
        row["attempt"],
    )


async def gates_of(records: Records, workflow_id: str) -> list[Record]:
    """All gates behind a workflow, oldest first."""
    asked = Page((Condition("workflow_id", "eq", workflow_id),), limit=MOST_ROUNDS)
    return (await records.page("approvals", asked)).rows


async def _outputs(engine: Any, listed: Sequence[str], records: Sequence[Mapping[str, Any]]) -> tuple[Output, ...]:
    by_id = {record["id"]: record for record in records}
    outputs: list[Output] = []
    for artifact_id in listed:
        record = by_id.get(artifact_id)
        if record is None:
            continue  # deleted since it was listed
        same = tuple(r for r in records if r["name"] == record["name"])
        content = (
            Content() if len(outputs) >= SHOWN_FILES else await content_of(engine.store.files, artifact_row(record))
        )
        outputs.append(
            Output(Shown(preview_of_record(record), content), tuple(preview_of_record(r) for r in same), same)
        )
    return tuple(outputs)


async def inputs_of(engine: Any, arguments: Sequence[Given]) -> dict[str, Preview]:
    """The files that a step was given, by id, the first few of them."""
    ids = list(dict.fromkeys(file for one in arguments for file in one.files))
    found = [await engine.get_artifact(artifact_id) for artifact_id in ids[:MOST_INPUTS]]
    return {record["id"]: preview_of_record(record) for record in found if record is not None}


def policy_words(gate: Mapping[str, Any]) -> str:
    """What happens if nobody decides."""
    policy = gate["policy"]
    if gate["expires_at"] is None:
        return "It waits until somebody decides."
    then = "approved" if policy.get("timeout_action") == "auto_approve" else "rejected"
    return f"After {lasted(gate['requested_at'], gate['expires_at'])} without a decision it is {then} by itself."
