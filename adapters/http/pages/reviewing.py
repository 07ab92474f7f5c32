"""What a person sees at a gate before deciding, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from towpath.adapters.http.reading import GateView, ReviewView, artifact_row
from towpath.adapters.wording import lasted, place
from towpath.model import GateAction
from towpath.ports import Files

from .contents import Content, Shown, content_of
from .previews import Preview, preview_of_record
from .shown_arguments import ShownArgument, shown_arguments

SHOWN_FILES = 24  # outputs that are shown with their content


@dataclass(frozen=True, slots=True)
class ReviewedOutput:
    """One output behind a gate: its listed version with its content, and all versions, newest first."""

    shown: Shown
    versions: tuple[Preview, ...]

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
    """A gate with the files, arguments and earlier decisions of its step."""

    gate: Mapping[str, Any]
    run: Mapping[str, Any]
    outputs: tuple[ReviewedOutput, ...]
    arguments: tuple[ShownArgument, ...]
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
        """What a rejection may do, with the default of the chain first."""
        left = self.regenerations_left
        words = {
            GateAction.STOP: "stop the chain",
            GateAction.SKIP: "skip this step and all steps that depend on it",
            GateAction.REGENERATE: f"run the step again ({left} left)",
        }
        allowed = [str(a) for a in words if a is not GateAction.REGENERATE or left > 0]
        chosen = self.gate["policy"].get("on_rejected", "stop")
        allowed.sort(key=lambda action: action != chosen)
        return [(action, words[GateAction(action)]) for action in allowed]


async def review_of(files: Files, view: ReviewView) -> Review:
    """A gate as its page shows it."""
    gate = view.gate.gate
    used = sum(other["action"] == GateAction.REGENERATE for other in view.rounds)
    return Review(
        gate,
        view.run,
        await _outputs(files, view.gate),
        tuple(shown_arguments(view.step["parameters"])),
        {artifact_id: preview_of_record(record) for artifact_id, record in view.inputs.items()},
        tuple(other for other in view.rounds if other["id"] != gate["id"]),
        max(0, gate["policy"].get("max_retries", 0) - used),
        view.step["server_address"] or "",
        view.step["attempt"],
    )


async def _outputs(files: Files, view: GateView) -> tuple[ReviewedOutput, ...]:
    outputs: list[ReviewedOutput] = []
    for record in view.listed:
        versions = tuple(preview_of_record(other) for other in view.versions if other["name"] == record["name"])
        content = Content() if len(outputs) >= SHOWN_FILES else await content_of(files, artifact_row(record))
        outputs.append(ReviewedOutput(Shown(preview_of_record(record), content), versions))
    return tuple(outputs)


def policy_words(gate: Mapping[str, Any]) -> str:
    """What happens without a decision."""
    policy = gate["policy"]
    if gate["expires_at"] is None:
        return "It waits until a person decides."
    then = "approved" if policy.get("timeout_action") == "auto_approve" else "rejected"
    return f"Without a decision it is {then} automatically after {lasted(gate['requested_at'], gate['expires_at'])}."
