"""Routes for artifacts and their transfers: list, download, edit, delete, lineage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from towpath.artifact import File
from towpath.errors import InputInvalid, RunRefused
from towpath.model import StepStatus

from . import reading
from .access import engine_of, id_of, principal_of, records_of
from .bodies import check_text
from .downloads import artifact_answer
from .errors import Refused, existing, missing
from .principals import Role
from .query_parameters import flag, list_parameters, list_response
from .responses import (
    ArtifactOut,
    ChainPlace,
    Deleted,
    Lineage,
    PageOut,
    StepPlace,
    TransferRow,
    json_response,
    masked,
    page_type,
    shaped,
)
from .route_table import ApiRoute, QueryParameter
from .uploads import FORM, IncomingFile, upload_of

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}", re.ASCII)


async def list_artifacts(request: Request) -> Response:
    return await list_response(request, "artifacts", ArtifactOut)


async def get_artifact(request: Request) -> Response:
    return json_response(shaped(ArtifactOut, await _artifact(request)))


async def get_bytes(request: Request) -> Response:
    attachment = flag(request.query_params, "download")
    return await artifact_answer(request, reading.artifact_row(await _artifact(request)), attachment=attachment)


async def get_versions(request: Request) -> Response:
    found = await _artifact(request)
    rows = await engine_of(request).get_artifact_versions(found["id"])
    return json_response(PageOut(rows=[shaped(ArtifactOut, row) for row in rows]))


async def get_lineage(request: Request) -> Response:
    known = existing(await records_of(request).lineage(_id(request)), "artifact")
    place = {name: known["step"][name] for name in ("chain_id", "step_id", "item_index")}
    return json_response(
        Lineage(
            artifact=shaped(ArtifactOut, {**known["artifact"], **place}),
            versions=[shaped(ArtifactOut, {**row, **place}) for row in known["versions"]],
            step=shaped(StepPlace, known["step"]),
            chain=None if known["chain"] is None else shaped(ChainPlace, known["chain"]),
            parameters=masked(known["parameters"]),
            inputs=[shaped(ArtifactOut, row) for row in known["inputs"]],
            used_by=[shaped(StepPlace, row) for row in known["used_by"]],
            transfers=[shaped(TransferRow, row) for row in known["transfers"]],
        )
    )


async def post_version(request: Request) -> Response:
    """A new version of an artifact: the body, or the file in a form."""
    old = await _artifact(request)
    upload = await upload_of(request)
    by, reason, approve = _edit_fields(request, upload)
    data = File(upload.chunks, filename=upload.filename)
    new = await engine_of(request).edit(old["id"], data, by=by, reason=reason, approve=approve)
    if approve:
        request.app.state.unattended.wake()
    return json_response(shaped(ArtifactOut, new), 201)


async def delete_artifact(request: Request) -> Response:
    """Delete a version. Raises RunRefused (E_RUN_ACTIVE) while a run needs it."""
    found = await _artifact(request)
    engine = engine_of(request)
    step = await engine.get_workflow(found["workflow_id"])
    if step is not None and not StepStatus(step["status"]).final:
        raise RunRefused("E_RUN_ACTIVE", f"step {step['step_id']} is {step['status']} and not over")
    chain = None if step is None or step["chain_id"] is None else await engine.get_chain(step["chain_id"])
    if chain is not None and chain["completed_at"] is None:
        raise RunRefused("E_RUN_ACTIVE", f"run {chain['id']} is {chain['status']} and not over", cure="cancel it first")
    run_id = None if chain is None else chain["id"]
    deleted = await records_of(request).delete_artifact(found, run_id, principal_of(request).name)
    return json_response(Deleted(id=found["id"], deleted=deleted))


async def list_transfers(request: Request) -> Response:
    return await list_response(request, "transfers", TransferRow)


async def get_transfer(request: Request) -> Response:
    row = await engine_of(request).get_transfer(request.path_params["id"])
    return json_response(shaped(TransferRow, existing(row, "transfer")))


# ---- parts


async def _artifact(request: Request) -> Mapping[str, Any]:
    """The row of the artifact in the address."""
    return await reading.artifact(records_of(request), _id(request))


def _id(request: Request) -> str:
    """The id in the address. Text that cannot be an id is refused like an unknown id."""
    text = id_of(request)
    if not _ID.fullmatch(text):
        raise missing("artifact")
    return text


def _edit_fields(request: Request, upload: IncomingFile) -> tuple[str, str, bool]:
    """Who edits, why, and whether to approve as well: from the form's fields, else from the query."""
    unknown = upload.fields.keys() - {"by", "reason", "approve", "csrf"}
    if unknown:
        raise Refused(
            422, "E_BODY_FIELD", "the form has an unknown field", found=min(unknown), allowed="by reason approve"
        )
    given = {**request.query_params, **upload.fields}
    by = principal_of(request).signed(check_text(given.get("by", ""), limit=200, name="by"))
    if not by:
        raise InputInvalid("E_APPROVAL_BY", "an edit needs the name of the person who makes it")
    return by, check_text(given.get("reason", ""), limit=10_000, name="reason"), flag(given, "approve")


_UPLOAD = (
    QueryParameter("filename", {"type": "string", "maxLength": 255}, "name of the file, if the body is the file"),
    QueryParameter("by", {"type": "string", "maxLength": 200}, "who edits"),
    QueryParameter("reason", {"type": "string", "maxLength": 10_000}, "why"),
    QueryParameter("approve", {"type": "boolean", "default": False}, "also approve the gate that waits for it"),
)

ROUTES = (
    ApiRoute(
        "GET",
        "/artifacts",
        Role.VIEWER,
        list_artifacts,
        "Artifacts, newest first.",
        answer=page_type(ArtifactOut),
        listing="artifacts",
        parameters=list_parameters("artifacts"),
    ),
    ApiRoute("GET", "/artifacts/{id}", Role.VIEWER, get_artifact, "An artifact.", answer=ArtifactOut, errors=(404,)),
    ApiRoute(
        "DELETE", "/artifacts/{id}", Role.ADMIN, delete_artifact, "Delete a version.", answer=Deleted, errors=(404, 409)
    ),
    ApiRoute(
        "GET",
        "/artifacts/{id}/raw",
        Role.VIEWER,
        get_bytes,
        "The bytes. `Range` gives a part, `ETag` is the SHA-256. Images, audio, video and text are sent inline.",
        answer_type="*/*",
        parameters=(QueryParameter("download", {"type": "boolean", "default": False}, "always as an attachment"),),
        errors=(404, 416),
    ),
    ApiRoute(
        "GET",
        "/artifacts/{id}/versions",
        Role.VIEWER,
        get_versions,
        "All versions of the same output, oldest first.",
        answer=page_type(ArtifactOut),
        errors=(404,),
    ),
    ApiRoute(
        "POST",
        "/artifacts/{id}/versions",
        Role.APPROVER,
        post_version,
        "Replace an artifact by a new version: the body, or the last part of a form.",
        body=bytes,
        body_types=("application/octet-stream", FORM),
        answer=ArtifactOut,
        status=201,
        parameters=_UPLOAD,
        errors=(404, 409, 413),
    ),
    ApiRoute(
        "GET",
        "/artifacts/{id}/lineage",
        Role.VIEWER,
        get_lineage,
        "The step, inputs and parameters that made it, and the steps and servers that got it.",
        answer=Lineage,
        errors=(404,),
    ),
    ApiRoute(
        "GET",
        "/transfers",
        Role.VIEWER,
        list_transfers,
        "Artifacts that were sent to servers.",
        answer=page_type(TransferRow),
        listing="transfers",
        parameters=list_parameters("transfers"),
    ),
    ApiRoute("GET", "/transfers/{id}", Role.VIEWER, get_transfer, "A transfer.", answer=TransferRow, errors=(404,)),
)
