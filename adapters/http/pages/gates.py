"""The inbox of approvals, the page of one, and what people decide there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.downloads import value_shown
from towpath.adapters.http.records import engine_of, records_of
from towpath.adapters.http.refusals import status_of
from towpath.artifact import File
from towpath.errors import ApprovalRefused, InputInvalid, TowpathError
from towpath.store.rows import artifact as artifact_row

from .arguments import changed_parameters
from .contents import with_peeks
from .forms import REASON_LIMIT, chunks, file_of, form_of, missing, path, sentence, word, words
from .previews import preview_of_record
from .rendering import to
from .reviewing import policy_words, review_of
from .showing import show
from .visitor import visitor

INBOX = 50  # gates on the page; the rest follows when these are decided
THUMBS = 4


async def inbox(request: Request) -> Response:
    """What waits for a person, oldest first."""
    engine = engine_of(request)
    names: dict[str, str] = {}
    async with engine.store.one_moment():
        seq = await records_of(request).last_event()
        gates = await engine.get_pending_approvals(None, INBOX + 1)
        for gate in gates[:INBOX]:
            run_id = gate["chain_id"]
            if run_id is not None and run_id not in names:
                run = await engine.get_chain(run_id)
                names[run_id] = "" if run is None else run.name
    waiting = [await _summary(engine, gate, names) for gate in gates[:INBOX]]
    return await show(request, "inbox.html", section="inbox", waiting=waiting, more=len(gates) > INBOX, seq=seq)


async def _summary(engine: Any, gate: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    files = [preview_of_record(artifact) for artifact in gate["artifacts"]]
    files.sort(key=lambda file: not file.thumb)
    thumbs = files[:THUMBS]
    if thumbs and not thumbs[0].thumb:
        thumbs = await with_peeks(engine.store.files, [artifact_row(await engine.get_artifact(thumbs[0].id))])
    return {"gate": gate, "chain": names.get(gate["chain_id"], ""), "files": files, "thumbs": thumbs}


async def approval(request: Request) -> Response:
    """One gate with everything behind it."""
    return await approval_page(request, path(request, "id"))


async def approval_page(
    request: Request, gate_id: str, *, status: int = 200, notice: tuple[str, str, str] | None = None
) -> Response:
    """The page of a gate, with a notice above it if something has to be said."""
    engine = engine_of(request)
    async with engine.store.one_moment():
        review = await review_of(engine, records_of(request), await _gate(engine, gate_id))
        waiting = await engine.get_pending_approvals(None, 2)
    return await show(
        request,
        "approval.html",
        section="inbox",
        status=status,
        review=review,
        notice_=notice,
        policy=policy_words(review.gate),
        following=next((gate for gate in waiting if gate["id"] != gate_id), None),
    )


async def approve(request: Request) -> Response:
    """Approve the versions that the person saw."""
    form = await form_of(request)
    gate_id = path(request, "id")
    try:
        await engine_of(request).approve(
            gate_id, by=visitor(request).name, seen=words(form, "seen"), reason=word(form, "reason", REASON_LIMIT)
        )
    except TowpathError as error:
        return await _told(request, gate_id, error)
    _go_on(request)
    return to("/" if word(form, "from") == "inbox" else f"/approvals/{gate_id}", "approved")


async def reject(request: Request) -> Response:
    """Reject, with what the form says should happen then."""
    form = await form_of(request)
    gate_id, engine = path(request, "id"), engine_of(request)
    action = word(form, "action")
    try:
        parameters = await _parameters(engine, gate_id, form) if action == "regenerate" else None
        decided = await engine.reject(
            gate_id,
            by=visitor(request).name,
            reason=word(form, "reason", REASON_LIMIT),
            action=action or None,
            parameters=parameters,
        )
    except TowpathError as error:
        return await _told(request, gate_id, error)
    _go_on(request)
    said = str(decided["action"] or "stop")
    return to("/" if word(form, "from") == "inbox" else f"/approvals/{gate_id}", said)


async def _parameters(engine: Any, gate_id: str, form: Any) -> dict[str, Any] | None:
    gate = await _gate(engine, gate_id)
    row = await engine.get_workflow(gate["workflow_id"])
    changed, wrong = changed_parameters(row["parameters"], form)
    if wrong:
        raise InputInvalid("E_PARAMETER", f"what was entered is not JSON, as it was before: {', '.join(wrong)}")
    return changed or None


async def replace(request: Request) -> Response:
    """Keep an edited version of an output, and approve it if the form says so."""
    form = await form_of(request)
    gate_id, engine = path(request, "id"), engine_of(request)
    by, reason = visitor(request).name, word(form, "reason", REASON_LIMIT)
    artifact_id = word(form, "artifact")
    try:
        gate = await _gate(engine, gate_id)
        if artifact_id not in gate["artifact_ids"]:
            raise ApprovalRefused("E_APPROVAL_STALE", "this version was replaced since you looked at it")
        new = await engine.edit(artifact_id, await new_version(engine, form, artifact_id), by=by, reason=reason)
        if word(form, "approve"):
            # Bound to what the person saw beside the new version; another edit in between is told, not overrun.
            seen = [new["id"] if one == artifact_id else one for one in words(form, "seen")]
            await engine.approve(gate_id, by=by, seen=seen, reason=reason)
    except TowpathError as error:
        return await _told(request, gate_id, error)
    _go_on(request)
    return to(f"/approvals/{gate_id}", "edited-approved" if word(form, "approve") else "edited")


async def new_version(engine: Any, form: Any, artifact_id: str) -> File:
    """The file, or the text written on the page, that a form brings. Raises InputInvalid (E_UPLOAD)."""
    upload = file_of(form, "file")
    if upload is not None:
        return File(chunks(upload), filename=upload.filename)
    text, old = form.get("text"), await engine.get_artifact(artifact_id)
    if not isinstance(text, str) or old is None:
        raise InputInvalid("E_UPLOAD", "no file was chosen", cure="choose the file that replaces this version")
    before = form.get("line_ends")
    text = text.replace("\r\n", "\n")
    data = (text.replace("\n", "\r\n") if before == "crlf" else text).encode()
    files, row = engine.store.files, artifact_row(old)
    if data == (await value_shown(files, row) or await files.read_bytes(row)):
        raise InputInvalid("E_UPLOAD", "nothing was changed", cure="choose a file, or edit the text")
    return File(data, filename=old["filename"])


def _go_on(request: Request) -> None:
    """Let a server that executes see at once that somebody decided."""
    request.app.state.background.look()


async def _told(request: Request, gate_id: str, error: TowpathError) -> Response:
    """The gate as it is now, and why the decision does not count."""
    if error.code == "E_APPROVAL_MISSING":
        raise error
    titles = {
        "E_APPROVAL_STALE": "This changed while you looked at it.",
        "E_APPROVAL_DECIDED": "Somebody was faster.",
        "E_APPROVAL_EXPIRED": "The time for this decision is over.",
    }
    stale = error.code == "E_APPROVAL_STALE"
    text = sentence(error.problem.message)
    if stale:
        text = "Nothing was decided. Below are the latest versions; look at them and decide again."
    notice = ("wait" if stale else "bad", titles.get(error.code, "That did not work."), text)
    return await approval_page(request, gate_id, status=status_of(error), notice=notice)


async def _gate(engine: Any, gate_id: str) -> Mapping[str, Any]:
    gate: Mapping[str, Any] | None = await engine.get_approval(gate_id)
    if gate is None or gate["chain_id"] is None:
        raise missing("approval", gate_id)
    return gate
