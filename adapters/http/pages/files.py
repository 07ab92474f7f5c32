"""The page of one file with its origin and versions, the form that replaces it, and the comparison of two versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.access import engine_of, id_of, principal_of, records_of
from towpath.adapters.http.reading import FileView, artifact_row, comparison_view, file_view
from towpath.adapters.http.responses import masked

from .contents import Branch, Content, Shown, content_of, tree_of
from .diff import DiffLine, compare, pretty_json
from .forms import REASON_LIMIT, form_of, path, word
from .gates import new_version
from .previews import Preview, preview_of_record
from .rendering import redirect, render_page
from .shown_arguments import shown_arguments


@dataclass(frozen=True, slots=True)
class Version:
    """A version in the list of versions: who made it, and why."""

    file: Preview
    by: str
    reason: str
    approved_by: str
    rejection: str


@dataclass(frozen=True, slots=True)
class SentPrompt:
    """The prompt that a ComfyUI server got: its graph with all values, and the files that were uploaded for it."""

    id: str
    node: str
    graph: Branch | None
    uploads: tuple[tuple[Preview, str], ...]


async def file(request: Request) -> Response:
    """One version of a file."""
    view = await file_view(records_of(request), id_of(request))
    record = view.artifact
    versions = [_version(row) for row in view.versions]
    by_id = {version.file.id: version for version in versions}
    before, following = ("" if one is None else f"/artifacts/{one}" for one in view.beside)
    return await render_page(
        request,
        "artifact.html",
        section="files",
        file=preview_of_record(record),
        content=await content_of(engine_of(request).store.files, artifact_row(record)),
        record=record,
        step=view.step,
        chain=view.chain,
        version=by_id[record["id"]],
        origin=by_id.get(record["parent_artifact_id"]),
        root=next((v for v in reversed(versions) if not v.by and v.file.version <= record["version"]), None),
        versions=versions,
        arguments=shown_arguments(view.parameters),
        inputs={artifact_id: preview_of_record(one) for artifact_id, one in view.inputs.items()},
        used_by=view.used_by,
        transfers=view.transfers,
        same_attempt=view.of_last_attempt,
        prompt=_prompt(view),
        waiting=view.waiting,
        before=before,
        following=following,
    )


def _version(row: Mapping[str, Any]) -> Version:
    more = row["extra_metadata"] if isinstance(row["extra_metadata"], dict) else {}
    return Version(
        preview_of_record(row),
        row["created_by"] or "",
        str(more.get("reason", "")),
        row["approved_by"] or "",
        row["rejection_reason"] or "",
    )


def _prompt(view: FileView) -> SentPrompt | None:
    """The prompt that made this file. The row of a step only keeps the prompt of its last attempt."""
    if view.step["prompt_id"] is None or not view.of_last_attempt:
        return None
    graph, node = view.step["workflow_definition"], view.artifact["node_id"] or ""
    named = graph.get(node) if isinstance(graph, dict) else None
    kind = str(named.get("class_type", "")) if isinstance(named, dict) else ""
    return SentPrompt(
        view.step["prompt_id"],
        f"{node} ({kind})" if kind else node,
        None if graph is None else tree_of(msgspec.json.encode(masked(graph))),
        tuple((preview_of_record(row), one["target_name"] or "") for row, one in view.sent if row is not None),
    )


async def replace_file(request: Request) -> Response:
    """Keep an edited version of a file that no gate waits for."""
    form = await form_of(request)
    artifact_id = id_of(request)
    new = await engine_of(request).edit(
        artifact_id,
        await new_version(request, form, artifact_id),
        by=principal_of(request).name,
        reason=word(form, "reason", REASON_LIMIT),
    )
    return redirect(f"/artifacts/{new['id']}", "version")


async def compared(request: Request) -> Response:
    """Two versions beside each other."""
    view = await comparison_view(records_of(request), id_of(request), path(request, "other"))
    store_files = engine_of(request).store.files
    sides = [Shown(preview_of_record(one), await content_of(store_files, artifact_row(one))) for one in view.sides]
    left, right = view.sides
    return await render_page(
        request,
        "compare.html",
        section="files",
        left=sides[0].file,
        right=sides[1].file,
        sides=sides,
        mode=_mode(sides),
        lines=_lines(sides),
        step=view.step,
        versions=[_version(row) for row in view.versions],
        both=[_version(record) for record in view.sides],
        same=left["sha256"] == right["sha256"],
        waiting=view.waiting,
    )


def _mode(sides: Sequence[Shown]) -> str:
    """How both sides can be compared: image, text, players or none."""
    if any(side.content.trouble for side in sides):
        return "none"
    shows = {side.file.show for side in sides}
    if shows <= {"text", "json"}:
        return "text"
    if shows == {"image"}:
        return "image"
    return "players" if len(shows) == 1 and shows <= {"video", "audio"} else "none"


def _lines(sides: Sequence[Shown]) -> list[DiffLine]:
    if _mode(sides) != "text":
        return []
    left, right = (_text(side.content) for side in sides)
    if all(side.file.show == "json" for side in sides):
        left, right = pretty_json(left), pretty_json(right)
    return compare(left, right)


def _text(content: Content) -> str:
    return content.whole if content.whole is not None else "\n".join(content.lines or ())
