"""The inbox of approvals, the page of one gate, and the forms that decide it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.access import engine_of, id_of, principal_of, records_of
from towpath.adapters.http.downloads import value_shown
from towpath.adapters.http.errors import status_of
from towpath.adapters.http.reading import (
    InboxView,
    artifact,
    artifact_row,
    artifact_rows,
    inbox_view,
    review_view,
)
from towpath.artifact import File
from towpath.errors import ApprovalRefused, InputInvalid, TowpathError
from towpath.model import ArtifactRow
from towpath.ports import Files

from .contents import with_peeks
from .forms import REASON_LIMIT, chunks, file_of, form_of, sentence, word, words
from .previews import preview_of_record
from .rendering import redirect, render_page
from .reviewing import policy_words, review_of
from .shown_arguments import changed_parameters

INBOX = 50  # gates on the page; it shows more when these are decided
THUMBS = 4

Notice = tuple[str, str, str]
"""Tone, title and text."""


async def inbox(request: Request) -> Response:
    """Gates that wait for a decision, oldest first."""
    records = records_of(request)
    view = await inbox_view(records, INBOX)
    first = [files[0] for files in map(_thumbs_first, view.gates) if files and not files[0].thumb]
    rows = await artifact_rows(records, [file.id for file in first])
    store_files = engine_of(request).store.files
    waiting = [await _summary(store_files, gate, view, rows) for gate in view.gates]
    return await render_page(request, "inbox.html", section="inbox", waiting=waiting, more=view.more, seq=view.event)


def _thumbs_first(gate: Mapping[str, Any]) -> list[Any]:
    files = [preview_of_record(one) for one in gate["artifacts"]]
    return sorted(files, key=lambda file: not file.thumb)


async def _summary(
    store_files: Files, gate: Mapping[str, Any], view: InboxView, rows: Mapping[str, ArtifactRow]
) -> dict[str, Any]:
    files = _thumbs_first(gate)
    thumbs = files[:THUMBS]
    if thumbs and not thumbs[0].thumb:
        thumbs = await with_peeks(store_files, [rows[thumbs[0].id]] if thumbs[0].id in rows else [])
    return {"gate": gate, "chain": view.names.get(gate["chain_id"], ""), "files": files, "thumbs": thumbs}


async def approval(request: Request) -> Response:
    """The page of a gate."""
    return await approval_page(request, id_of(request))


async def approval_page(request: Request, gate_id: str, *, status: int = 200, notice: Notice | None = None) -> Response:
    """The page of a gate, with a notice above it."""
    view = await review_view(records_of(request), gate_id)
    review = await review_of(engine_of(request).store.files, view)
    return await render_page(
        request,
        "approval.html",
        section="inbox",
        status=status,
        review=review,
        notice_=notice,
        policy=policy_words(review.gate),
        following=view.following,
    )


async def approve(request: Request) -> Response:
    """Approve the versions that the person saw."""
    form = await form_of(request)
    gate_id = id_of(request)
    by, reason = principal_of(request).name, word(form, "reason", REASON_LIMIT)
    try:
        await engine_of(request).approve(gate_id, by=by, seen=words(form, "seen"), reason=reason)
    except TowpathError as error:
        return await _refused(request, gate_id, error)
    request.app.state.unattended.wake()
    return redirect(_after_decision(form, gate_id), "approved")


async def reject(request: Request) -> Response:
    """Reject, with the action that the form names."""
    form = await form_of(request)
    gate_id = id_of(request)
    action = word(form, "action")
    try:
        decided = await engine_of(request).reject(
            gate_id,
            by=principal_of(request).name,
            reason=word(form, "reason", REASON_LIMIT),
            action=action or None,
            parameters=await _parameters(request, form) if action == "regenerate" else None,
        )
    except TowpathError as error:
        return await _refused(request, gate_id, error)
    request.app.state.unattended.wake()
    return redirect(_after_decision(form, gate_id), str(decided["action"] or "stop"))


def _after_decision(form: FormData, gate_id: str) -> str:
    return "/" if word(form, "from") == "inbox" else f"/approvals/{gate_id}"


async def _parameters(request: Request, form: FormData) -> dict[str, Any] | None:
    view = await review_view(records_of(request), id_of(request))
    changed, wrong = changed_parameters(view.step["parameters"], form)
    if wrong:
        raise InputInvalid("E_PARAMETER", f"the new value must be JSON, like the old one: {', '.join(wrong)}")
    return changed or None


async def replace(request: Request) -> Response:
    """Keep an edited version of an output, and approve the gate if the form says so."""
    form = await form_of(request)
    gate_id, engine = id_of(request), engine_of(request)
    by, reason = principal_of(request).name, word(form, "reason", REASON_LIMIT)
    artifact_id = word(form, "artifact")
    try:
        view = await review_view(records_of(request), gate_id)
        if artifact_id not in view.gate.gate["artifact_ids"]:
            raise ApprovalRefused("E_APPROVAL_STALE", "this version was replaced after you opened the page")
        new = await engine.edit(artifact_id, await new_version(request, form, artifact_id), by=by, reason=reason)
        if word(form, "approve"):
            # `seen` are the versions on the page, so that another edit in between refuses the approval.
            seen = [new["id"] if one == artifact_id else one for one in words(form, "seen")]
            await engine.approve(gate_id, by=by, seen=seen, reason=reason)
    except TowpathError as error:
        return await _refused(request, gate_id, error)
    request.app.state.unattended.wake()
    return redirect(f"/approvals/{gate_id}", "edited-approved" if word(form, "approve") else "edited")


async def new_version(request: Request, form: FormData, artifact_id: str) -> File:
    """The uploaded file of a form, or the text that was edited on the page. Raises InputInvalid (E_UPLOAD)."""
    upload = file_of(form, "file")
    if upload is not None:
        return File(chunks(upload), filename=upload.filename)
    text = form.get("text")
    if not isinstance(text, str):
        raise InputInvalid("E_UPLOAD", "no file was chosen", cure="choose the file that replaces this version")
    row = artifact_row(await artifact(records_of(request), artifact_id))
    text = text.replace("\r\n", "\n")
    data = (text.replace("\n", "\r\n") if form.get("line_ends") == "crlf" else text).encode()
    files = engine_of(request).store.files
    if data == (await value_shown(files, row) or await files.read_bytes(row)):
        raise InputInvalid("E_UPLOAD", "nothing was changed", cure="choose a file, or edit the text")
    return File(data, filename=row.filename)


async def _refused(request: Request, gate_id: str, error: TowpathError) -> Response:
    """The gate as it is now, and why the decision was refused."""
    if error.code == "E_APPROVAL_MISSING":
        raise error
    titles = {
        "E_APPROVAL_STALE": "A file changed while you looked at it.",
        "E_APPROVAL_DECIDED": "Another person decided first.",
        "E_APPROVAL_EXPIRED": "The time for this decision is over.",
    }
    stale = error.code == "E_APPROVAL_STALE"
    text = sentence(error.problem.message)
    if stale:
        text = "Nothing was decided. Below are the latest versions. Look at them, then decide again."
    notice = ("wait" if stale else "bad", titles.get(error.code, "That did not work."), text)
    return await approval_page(request, gate_id, status=status_of(error), notice=notice)
