"""The page of one file: what it is, what made it, its versions, where it went; replacing it; two versions compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.access import engine_of, records_of
from towpath.adapters.http.responses import masked
from towpath.store.listing import Condition, Page
from towpath.store.rows import artifact as artifact_row

from .contents import Branch, Content, Shown, content_of, tree_of
from .diff import Line, compare, pretty_json
from .forms import REASON_LIMIT, form_of, missing, path, word
from .gates import new_version
from .previews import Preview, preview_of_record
from .rendering import to
from .reviewing import inputs_of
from .showing import show
from .shown_arguments import given
from .visitor import visitor

MOST_VERSIONS = 200
MOST_UPLOADS = 50


@dataclass(frozen=True, slots=True)
class Version:
    """A version in the list of versions: who made it, and why."""

    file: Preview
    by: str
    reason: str
    approved_by: str
    rejection: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a ComfyUI server was sent to make a file: the graph with everything put in, and files ahead of it."""

    id: str
    node: str
    graph: Branch | None
    uploads: tuple[tuple[Preview, str], ...]


async def file(request: Request) -> Response:
    """One version of a file."""
    engine: Any = engine_of(request)
    artifact_id = path(request, "id")
    known = await records_of(request).lineage(artifact_id)
    if known is None:
        raise missing("artifact", artifact_id)
    record, step = known["artifact"], known["step"]
    versions = await _versions(request, record)
    before, following = await _beside(engine, record)
    made_by = await engine.get_workflow(record["workflow_id"])
    # What the step was called with in that try; an edited version was made from what the step had made.
    arguments = given(record["parameters"] if record["parameters"] is not None else made_by["parameters"])
    return await show(
        request,
        "artifact.html",
        section="files",
        file=preview_of_record(record),
        content=await content_of(engine.store.files, artifact_row(record)),
        record=record,
        step=step,
        chain=known["chain"],
        version=next(v for v in versions if v.file.id == artifact_id),
        origin=next((v for v in versions if v.file.id == record["parent_artifact_id"]), None),
        root=next((v for v in reversed(versions) if not v.by and v.file.version <= record["version"]), None),
        versions=versions,
        arguments=arguments,
        inputs=await inputs_of(engine, arguments),
        used_by=known["used_by"],
        transfers=known["transfers"],
        same_try=_same_try(record, made_by),
        prompt=await _prompt(request, record, made_by),
        waiting=await _waiting(request, record),
        before=before,
        following=following,
    )


async def _versions(request: Request, record: Mapping[str, Any]) -> list[Version]:
    """All versions of the same output, newest first."""
    conditions = [
        Condition("workflow_id", "eq", record["workflow_id"]),
        Condition("name", "eq", record["name"]),
    ]
    page = Page(conditions, sort="version", descending=True, limit=MOST_VERSIONS)
    rows = (await records_of(request).page("artifacts", page)).rows
    found = [_version(row) for row in rows]
    return found if any(v.file.id == record["id"] for v in found) else [*found, _version(record)]


def _version(row: Mapping[str, Any]) -> Version:
    more = row["extra_metadata"] if isinstance(row["extra_metadata"], dict) else {}
    return Version(
        preview_of_record(row),
        row["created_by"] or "",
        str(more.get("reason", "")),
        row["approved_by"] or "",
        row["rejection_reason"] or "",
    )


def _same_try(record: Mapping[str, Any], made_by: Mapping[str, Any]) -> bool:
    """Was it made by the try that the row tells of? Rows that no chain ran count none."""
    return bool(record["attempt"] == max(1, made_by["attempt"]))


async def _prompt(request: Request, record: Mapping[str, Any], made_by: Mapping[str, Any]) -> Prompt | None:
    """What was sent to a server for this file, while it is recorded: the row keeps the prompt of its last try."""
    if made_by["prompt_id"] is None or not _same_try(record, made_by):
        return None
    graph, node = made_by["workflow_definition"], record["node_id"] or ""
    named = graph.get(node) if isinstance(graph, dict) else None
    kind = str(named.get("class_type", "")) if isinstance(named, dict) else ""
    page = Page((Condition("target_workflow_id", "eq", made_by["id"]),), descending=False, limit=MOST_UPLOADS)
    sent = (await records_of(request).page("transfers", page)).rows
    found = [(await engine_of(request).get_artifact(one["artifact_id"]), one) for one in sent]
    return Prompt(
        made_by["prompt_id"],
        f"{node} ({kind})" if kind else node,
        None if graph is None else tree_of(msgspec.json.encode(masked(graph))),
        tuple((preview_of_record(row), one["target_name"] or "") for row, one in found if row is not None),
    )


async def _waiting(request: Request, record: Mapping[str, Any]) -> str | None:
    """The gate that waits for this version, if one does."""
    conditions = [
        Condition("workflow_id", "eq", record["workflow_id"]),
        Condition("status", "eq", ("pending",)),
    ]
    found = (await records_of(request).page("approvals", Page(conditions, limit=1))).rows
    return found[0]["id"] if found and record["id"] in found[0]["artifact_ids"] else None


async def _beside(engine: Any, record: Mapping[str, Any]) -> tuple[str, str]:
    """The pages of the outputs before and after this one in the same step."""
    rows = await engine.get_artifacts_by_workflow(record["workflow_id"])
    names = [row["name"] for row in rows]
    if record["name"] not in names:
        return "", ""
    at = names.index(record["name"])
    pages = [f"/artifacts/{row['id']}" for row in rows]
    return (pages[at - 1] if at else ""), (pages[at + 1] if at + 1 < len(pages) else "")


async def replace_file(request: Request) -> Response:
    """Keep an edited version of a file that no gate waits for."""
    form = await form_of(request)
    engine: Any = engine_of(request)
    artifact_id = path(request, "id")
    new = await engine.edit(
        artifact_id,
        await new_version(engine, form, artifact_id),
        by=visitor(request).name,
        reason=word(form, "reason", REASON_LIMIT),
    )
    return to(f"/artifacts/{new['id']}", "version")


async def compared(request: Request) -> Response:
    """Two versions beside each other."""
    engine: Any = engine_of(request)
    records = [await engine.get_artifact(path(request, name)) for name in ("id", "other")]
    for record, name in zip(records, ("id", "other"), strict=True):
        if record is None:
            raise missing("artifact", path(request, name))
    sides = [
        Shown(preview_of_record(record), await content_of(engine.store.files, artifact_row(record)))
        for record in records
    ]
    workflow = await engine.get_workflow(records[0]["workflow_id"])
    return await show(
        request,
        "compare.html",
        section="files",
        left=sides[0].file,
        right=sides[1].file,
        sides=sides,
        mode=_mode(sides),
        lines=_lines(sides),
        step=workflow,
        versions=await _versions(request, records[0]),
        both=[_version(record) for record in records],
        same=records[0]["sha256"] == records[1]["sha256"],
        waiting=await _waiting(request, records[1]) or await _waiting(request, records[0]),
    )


def _mode(sides: Sequence[Shown]) -> str:
    """image, text, players or none: what both sides can be shown as."""
    if any(side.content.trouble for side in sides):
        return "none"
    shows = {side.file.show for side in sides}
    if shows <= {"text", "json"}:
        return "text"
    if shows == {"image"}:
        return "image"
    return "players" if len(shows) == 1 and shows <= {"video", "audio"} else "none"


def _lines(sides: Sequence[Shown]) -> list[Line]:
    if _mode(sides) != "text":
        return []
    left, right = (_text(side.content) for side in sides)
    if all(side.file.show == "json" for side in sides):
        left, right = pretty_json(left), pretty_json(right)
    return compare(left, right)


def _text(content: Content) -> str:
    return content.whole if content.whole is not None else "\n".join(content.lines or ())
