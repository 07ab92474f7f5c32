"""Errors as HTTP responses: `{"error": {"code", "message", …}}` with a status.

A response holds no traceback, no absolute path of the server and no secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from towpath.errors import (
    ApprovalRefused,
    Problem,
    RunRefused,
    ServerFailed,
    StoreFailed,
    TowpathError,
    shown,
)
from towpath.logs import guarded_logger
from towpath.redaction import redacted

T = TypeVar("T")

_log = guarded_logger("towpath.http")

_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/'\",;:()\[\]]+/)+(?=[^\s/'\",;:()\[\]]+)")
_MISSING = {
    "run": "E_RUN_MISSING",
    "step": "E_STEP_MISSING",
    "item": "E_ITEM_MISSING",
    "workflow": "E_WORKFLOW_MISSING",
    "artifact": "E_ARTIFACT_MISSING",
    "approval": "E_APPROVAL_MISSING",
    "transfer": "E_TRANSFER_MISSING",
}
_BY_CODE = {
    "E_APPROVAL_MISSING": 404,
    "E_ARTIFACT_MISSING": 404,
    "E_RUN_MISSING": 404,
    "E_STEP_UNKNOWN": 404,
    "E_CURSOR": 400,
    "E_NAME_PATH": 400,
    "E_ARTIFACT_BUSY": 409,
    "E_DB_CONFLICT": 409,
    "E_TRANSITION": 409,
    "E_DB_REFERENCE": 409,
    "E_DISK_FULL": 507,
    "E_DB_BUSY": 503,
    "E_BLOB_SIZE": 413,
}


class Refused(HTTPException):
    """A request that is refused. Raise it anywhere behind a route."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        found: object = "",
        allowed: str = "",
        cure: str = "",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.problem = Problem(code, message, found=shown(found) if found != "" else "", allowed=allowed, cure=cure)
        self.more = more

    @property
    def code(self) -> str:
        """The stable `E_…` code."""
        return self.problem.code


def missing(what: str) -> Refused:
    """404 for a thing that does not exist: one of the keys of `_MISSING`."""
    return Refused(404, _MISSING[what], f"there is no such {what}")


def existing(row: T | None, what: str) -> T:
    """The row. Raises `missing` if there is none; the response does not say why."""
    if row is None:
        raise missing(what)
    return row


def status_of(error: TowpathError) -> int:
    """The HTTP status of an error."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    if isinstance(error, ApprovalRefused | RunRefused):
        return 409
    if isinstance(error, ServerFailed):
        return 502
    return 500 if isinstance(error, StoreFailed) else 422


def error_response(error: Refused | TowpathError, *, echo: bool = True) -> Response:
    """An error as JSON. Without `echo` the response repeats nothing of the request.

    A caller could guess secrets otherwise: a right guess would come back as `***`.
    """
    visible = _unchanged if echo else unechoed
    if isinstance(error, Refused):
        return problem_response(error.status_code, visible(error.problem), error.headers, **error.more)
    problem, status = visible(error.problem), status_of(error)
    if isinstance(error, StoreFailed) and status == 500:
        _log.error("%s", error)
        problem = Problem(problem.code, problem.message)
    more = {"problems": [clean(visible(p)) for p in error.problems]} if len(error.problems) > 1 else {}
    return problem_response(status, problem, None, **more)


def echoes(error: Refused | TowpathError) -> bool:
    """Does the response repeat a part of the request?"""
    if not isinstance(error, Refused) and len(error.problems) > 1:
        return True
    return bool(error.problem.found) or error.problem.code in _WITHOUT_NAMES


def unechoed(problem: Problem) -> Problem:
    """A problem that repeats nothing of the request."""
    return replace(problem, found="", message=_WITHOUT_NAMES.get(problem.code, problem.message))


def _unchanged(problem: Problem) -> Problem:
    return problem


# Messages that repeat a part of the request, and what replaces them.
_WITHOUT_NAMES = {"E_BODY_FIELD": "a field of the body is wrong or unknown"}


def problem_response(status: int, problem: Problem, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """A problem as JSON."""
    body = msgspec.json.encode({"error": {**clean(problem), **more}})
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def clean(problem: Problem) -> dict[str, object]:
    """A problem as data, without secrets and without folders of this machine."""
    return {
        key: safe_text(value) if isinstance(value, str) and key not in _VERBATIM else value
        for key, value in problem.as_json().items()
    }


_VERBATIM = ("code", "field")  # fixed words, even if a secret has the same text


def safe_text(text: str) -> str:
    """A text without secrets and folders: only the last part of an absolute path is kept.

    Half a surrogate pair cannot be encoded, and is shown as an escape.
    """
    short = _PATH.sub("…/", redacted(text))
    return short.encode("utf-8", "backslashreplace").decode()


def from_framework(error: HTTPException) -> Refused:
    """An error of the web framework, with a code of this API."""
    codes = {404: "E_NOT_FOUND", 405: "E_METHOD"}
    words = {404: "there is nothing at this address", 405: "this address does not support that method"}
    status = error.status_code
    code, sentence = codes.get(status, "E_BODY"), words.get(status, str(error.detail))
    return Refused(status, code, sentence, headers=error.headers)


def internal_error(request: Request, error: Exception) -> Refused:
    """An unexpected error: the log has the traceback, the response has not."""
    _log.error("%s %s failed", request.method, request.scope.get("route_path", "?"), exc_info=error)
    return Refused(500, "E_INTERNAL", "the server failed; its log has the details")
