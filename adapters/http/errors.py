"""From errors to answers: `{"error": {"code", "message", …}}` with the right status, and nothing that is not theirs.

No traceback, no absolute path of the server and no secret leaves through here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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

_log = guarded_logger("towpath.http")

_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/'\",;:()\[\]]+/)+(?=[^\s/'\",;:()\[\]]+)")
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
    """An answer that is no. Raise it anywhere behind a route."""

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


def status_of(error: TowpathError) -> int:
    """The HTTP status that an error stands for."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    if isinstance(error, ApprovalRefused | RunRefused):
        return 409
    if isinstance(error, ServerFailed):
        return 502
    return 500 if isinstance(error, StoreFailed) else 422


def refusal(error: Refused | TowpathError, *, echo: bool = True) -> Response:
    """The answer for an error of ours. Without `echo` it repeats nothing that was sent: `***` in the place of a guess
    would tell that the guess is a secret.
    """
    told = _as_it_is if echo else unechoed
    if isinstance(error, Refused):
        return problem_answer(error.status_code, told(error.problem), error.headers, **error.more)
    problem, status = told(error.problem), status_of(error)
    if isinstance(error, StoreFailed) and status == 500:
        _log.error("%s", error)
        problem = Problem(problem.code, problem.message)
    more = {"problems": [clean(told(p)) for p in error.problems]} if len(error.problems) > 1 else {}
    return problem_answer(status, problem, None, **more)


def echoes(error: Refused | TowpathError) -> bool:
    """Does the answer repeat something that was sent?"""
    if not isinstance(error, Refused) and len(error.problems) > 1:
        return True
    return bool(error.problem.found) or error.problem.code in _WITHOUT_NAMES


def unechoed(problem: Problem) -> Problem:
    """A problem without what was found."""
    return replace(problem, found="", message=_WITHOUT_NAMES.get(problem.code, problem.message))


def _as_it_is(problem: Problem) -> Problem:
    return problem


# Sentences that name what was sent, and what is said instead.
_WITHOUT_NAMES = {"E_BODY_FIELD": "a field of the body is wrong, or there is one too many"}


def problem_answer(status: int, problem: Problem, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """A problem as JSON."""
    body = msgspec.json.encode({"error": {**clean(problem), **more}})
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def clean(problem: Problem) -> dict[str, object]:
    """A problem as data, without the folders of this machine and without secrets."""
    return {
        key: safe_text(value) if isinstance(value, str) and key not in _OURS else value
        for key, value in problem.as_json().items()
    }


_OURS = ("code", "field")  # words of ours, whatever a secret is


def safe_text(text: str) -> str:
    """A sentence without secrets and without folders: of an absolute path the last part is left.

    Half a surrogate pair, which no answer can hold, is shown as an escape.
    """
    short = _PATH.sub("…/", redacted(text))
    return short.encode("utf-8", "backslashreplace").decode()


def of_http(error: HTTPException) -> Refused:
    """What the framework refused, in our words."""
    codes = {404: "E_NOT_FOUND", 405: "E_METHOD"}
    words = {404: "there is nothing at this address", 405: "this address does not take that method"}
    status = error.status_code
    code, sentence = codes.get(status, "E_BODY"), words.get(status, str(error.detail))
    return Refused(status, code, sentence, headers=error.headers)


def internal(request: Request, error: Exception) -> Refused:
    """A fault of ours: it goes to the log, the answer only says so."""
    _log.error("%s %s failed", request.method, request.scope.get("route_path", "?"), exc_info=error)
    return Refused(500, "E_INTERNAL", "the server could not do that; its log says more")
