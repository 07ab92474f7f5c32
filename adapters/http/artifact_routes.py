"""Artifacts and their transfers over HTTP: look, download, edit, and where they came from."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from towpath.artifact import File
from towpath.errors import InputInvalid, RunRefused
from towpath.model import StepStatus
from towpath.store.rows import artifact as artifact_row

from .access import engine_of, records_of
from .answering import answer, listed, principal_of, there
from .bodies import check_text
from .downloads import artifact_answer
from .errors import Refused
from .principals import Role
from .query_parameters import flag, list_parameters
from .responses import (
    ArtifactRow,
    ChainPlace,
    Deleted,
    Lineage,
    Page,
    StepPlace,
    TransferRow,
    masked,
    page_type,
    shaped,
)
from .route_table import Parameter, Route
from .uploads import FORM, Upload, upload_of

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}", re.ASCII)


async def list_artifacts(request: Request) -> Response:
    return await listed(request, "artifacts", ArtifactRow)


async def get_artifact(request: Request) -> Response:
    return answer(shaped(ArtifactRow, await _artifact(request)))


async def get_bytes(request: Request) -> Response:
    attachment = flag(request.query_params, "download")
    return await artifact_answer(request, artifact_row(await _artifact(request)), attachment=attachment)


async def get_versions(request: Request) -> Response:
    found = await _artifact(request)
    rows = await engine_of(request).get_artifact_versions(found["id"])
    return answer(Page(rows=[shaped(ArtifactRow, row) for row in rows]))


async def get_lineage(request: Request) -> Response:
    found = await records_of(request).lineage((await _artifact(request))["id"])
    line = there(found, "E_ARTIFACT_MISSING", "artifact")
    place = {name: line["step"][name] for name in ("chain_id", "step_id", "item_index")}
    return answer(
        Lineage(
            artifact=shaped(ArtifactRow, {**line["artifact"], **place}),
            versions=[shaped(ArtifactRow, {**row, **place}) for row in line["versions"]],
            step=shaped(StepPlace, line["step"]),
            chain=None if line["chain"] is None else shaped(ChainPlace, line["chain"]),
            parameters=masked(line["parameters"]),
            inputs=[shaped(ArtifactRow, row) for row in line["inputs"]],
            used_by=[shaped(StepPlace, row) for row in line["used_by"]],
            transfers=[shaped(TransferRow, row) for row in line["transfers"]],
        )
    )


async def post_version(request: Request) -> Response:
    """A new version of an artifact: the body, or the file in a form."""
    old = await _artifact(request)
    upload = await upload_of(request)
    by, reason, approve = _said(request, upload)
    data = File(upload.chunks, filename=upload.filename)
    new = await engine_of(request).edit(old["id"], data, by=by, reason=reason, approve=approve)
    if approve:
        request.app.state.background.look()
    return answer(shaped(ArtifactRow, new), 201)


async def delete_artifact(request: Request) -> Response:
    """A version is deleted; one that a run still needs is not."""
    found = await _artifact(request)
    engine = engine_of(request)
    step = await engine.get_workflow(found["workflow_id"])
    if step is not None and not StepStatus(step["status"]).final:
        raise RunRefused("E_RUN_ACTIVE", f"step {step['step_id']} is {step['status']}, not over")
    chain = None if step is None or step["chain_id"] is None else await engine.get_chain(step["chain_id"])
    if chain is not None and chain["completed_at"] is None:
        raise RunRefused("E_RUN_ACTIVE", f"run {chain['id']} is {chain['status']}, not over", cure="cancel it first")
    run_id = None if chain is None else chain["id"]
    deleted = await records_of(request).delete_artifact(found, run_id, principal_of(request).name)
    return answer(Deleted(id=found["id"], deleted=deleted))


async def list_transfers(request: Request) -> Response:
    return await listed(request, "transfers", TransferRow)


async def get_transfer(request: Request) -> Response:
    row = await engine_of(request).get_transfer(request.path_params["id"])
    return answer(shaped(TransferRow, there(row, "E_TRANSFER_MISSING", "transfer")))


# ---- parts


async def _artifact(request: Request) -> dict[str, Any]:
    """The row of the artifact in the address. One that is no id is as unknown as any other."""
    text: str = request.path_params["id"]
    found = await engine_of(request).get_artifact(text) if _ID.fullmatch(text) else None
    row: dict[str, Any] = there(found, "E_ARTIFACT_MISSING", "artifact")
    return row


def _said(request: Request, upload: Upload) -> tuple[str, str, bool]:
    """Who edits, why, and whether it is approved at once: from the form's fields, else from the query."""
    unknown = upload.fields.keys() - {"by", "reason", "approve", "csrf"}
    if unknown:
        raise Refused(
            422, "E_BODY_FIELD", "the form has a field too many", found=min(unknown), allowed="by reason approve"
        )
    given = {**request.query_params, **upload.fields}
    by = principal_of(request).signed(check_text(given.get("by", ""), limit=200, name="by"))
    if not by:
        raise InputInvalid("E_APPROVAL_BY", "an edit needs the name of the person who makes it")
    return by, check_text(given.get("reason", ""), limit=10_000, name="reason"), flag(given, "approve")


_UPLOAD = (
    Parameter("filename", {"type": "string", "maxLength": 255}, "name of the file, where the body is the file"),
    Parameter("by", {"type": "string", "maxLength": 200}, "who edits"),
    Parameter("reason", {"type": "string", "maxLength": 10_000}, "why"),
    Parameter("approve", {"type": "boolean", "default": False}, "approve the gate that waits for it, too"),
)

ROUTES = (
    Route(
        "GET",
        "/artifacts",
        Role.VIEWER,
        list_artifacts,
        "Artifacts, newest first.",
        answer=page_type(ArtifactRow),
        listing="artifacts",
        parameters=list_parameters("artifacts"),
    ),
    Route("GET", "/artifacts/{id}", Role.VIEWER, get_artifact, "An artifact.", answer=ArtifactRow, errors=(404,)),
    Route(
        "DELETE", "/artifacts/{id}", Role.ADMIN, delete_artifact, "Delete a version.", answer=Deleted, errors=(404, 409)
    ),
    Route(
        "GET",
        "/artifacts/{id}/raw",
        Role.VIEWER,
        get_bytes,
        "The bytes. `Range` gives a part, `ETag` is the SHA-256. Pictures, sound, video and text are shown inline.",
        answer_type="*/*",
        parameters=(Parameter("download", {"type": "boolean", "default": False}, "always as an attachment"),),
        errors=(404, 416),
    ),
    Route(
        "GET",
        "/artifacts/{id}/versions",
        Role.VIEWER,
        get_versions,
        "All versions of the same output, oldest first.",
        answer=page_type(ArtifactRow),
        errors=(404,),
    ),
    Route(
        "POST",
        "/artifacts/{id}/versions",
        Role.APPROVER,
        post_version,
        "Replace an artifact by a new version: the body, or the last part of a form.",
        body=bytes,
        body_types=("application/octet-stream", FORM),
        answer=ArtifactRow,
        status=201,
        parameters=_UPLOAD,
        errors=(404, 409, 413),
    ),
    Route(
        "GET",
        "/artifacts/{id}/lineage",
        Role.VIEWER,
        get_lineage,
        "Which step, which inputs and which parameters made it, and who got it.",
        answer=Lineage,
        errors=(404,),
    ),
    Route(
        "GET",
        "/transfers",
        Role.VIEWER,
        list_transfers,
        "Artifacts that were sent to servers.",
        answer=page_type(TransferRow),
        listing="transfers",
        parameters=list_parameters("transfers"),
    ),
    Route("GET", "/transfers/{id}", Role.VIEWER, get_transfer, "A transfer.", answer=TransferRow, errors=(404,)),
)
