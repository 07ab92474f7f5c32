"""What people send: forms with their token checked, and what a refusal looks like as a page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http import csrf
from towpath.adapters.http.bodies import check_text, chunks_of, fields_of
from towpath.adapters.http.errors import Refused, safe_text, status_of
from towpath.adapters.http.uploads import content_type
from towpath.errors import InputInvalid, StoreFailed, TowpathError

from .rendering import render

Endpoint = Callable[[Request], Awaitable[Response]]

MOST_FIELDS = 400
FIELD_LIMIT = 1024 * 1024  # bytes of one text field: a text that was edited on the page
REASON_LIMIT = 10_000
CHUNK = 1024 * 1024
_TITLES = {
    400: "That request made no sense",
    401: "Please sign in",
    403: "You may not do that",
    404: "There is no such page",
    409: "Something changed meanwhile",
    410: "This link is over",
    413: "That file is too large",
    422: "That cannot be used",
    500: "The server could not do that",
    503: "The server is busy",
}


async def form_of(request: Request) -> FormData:
    """The form that was sent. A file in it lies in a temporary file as soon as it is large.

    Raises Refused: 400 E_BODY, 403 E_CSRF if it was not sent from a page of ours, 413 E_BODY_SIZE.
    """
    settings = request.app.state.settings
    kind = content_type(request).partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        chunks_ = chunks_of(request, settings.max_upload, settings.idle_seconds)
        parser = MultiPartParser(
            request.headers, chunks_, max_files=1, max_fields=MOST_FIELDS, max_part_size=FIELD_LIMIT
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise Refused(400, "E_BODY", "this form cannot be read") from error
    else:
        form = await fields_of(request, settings.max_json, MOST_FIELDS)
    csrf.check(request, form)
    for _, text in form.multi_items():
        if isinstance(text, str):
            check_text(text)
    return form


def word(form: FormData, name: str, limit: int = 200) -> str:
    """A text field, without spaces around it. Raises InputInvalid (E_FIELD_SIZE)."""
    value = form.get(name, "")
    text = value.strip() if isinstance(value, str) else ""
    if len(text) > limit:
        raise InputInvalid("E_FIELD_SIZE", f"{name} is too long", allowed=f"{limit} characters")
    return text


def words(form: FormData, name: str) -> list[str]:
    """All values of a field that may occur several times."""
    return [value for value in form.getlist(name) if isinstance(value, str)]


def file_of(form: FormData, name: str) -> UploadFile | None:
    """The file that was sent, if one was chosen."""
    value = form.get(name)
    return value if isinstance(value, UploadFile) and value.filename else None


async def chunks(upload: UploadFile) -> AsyncIterator[bytes]:
    """The bytes of an uploaded file as a stream."""
    while chunk := await upload.read(CHUNK):
        yield chunk


def error_page(request: Request, status: int, text: str, *, code: str = "", cure: str = "") -> Response:
    """A refusal as a page."""
    title = _TITLES.get(status, _TITLES[500] if status >= 500 else _TITLES[400])
    return render(request, "error.html", status=status, title=title, text=text, code=code, cure=cure)


def as_page(endpoint: Endpoint) -> Endpoint:
    """An endpoint whose refusals are pages."""

    @wraps(endpoint)
    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (TowpathError, HTTPException) as error:
            return refusal_page(request, error)

    return answered


def refusal_page(request: Request, error: TowpathError | HTTPException) -> Response:
    """A refusal as a page; of trouble with the store it says no more than its code."""
    if isinstance(error, Refused):
        problem = error.problem
        text, cure = sentence(safe_text(problem.message)), sentence(safe_text(problem.cure))
        return error_page(request, error.status_code, text, code=problem.code, cure=cure)
    if isinstance(error, HTTPException):
        return error_page(request, error.status_code, sentence(str(error.detail)))
    if isinstance(error, StoreFailed):
        return error_page(
            request, status_of(error), "There is trouble with the store; its log says more.", code=error.code
        )
    problem = error.problem
    status = 404 if problem.code.endswith("_MISSING") else status_of(error)
    text, cure = sentence(safe_text(problem.message)), sentence(safe_text(problem.cure))
    return error_page(request, status, text, code=problem.code, cure=cure)


def missing(what: str, found: str) -> InputInvalid:
    """An error for a thing that is not there: 404."""
    return InputInvalid(f"E_{what.upper()}_MISSING", f"there is no such {what}", found=found)


def sentence(text: str) -> str:
    """A message with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def path(request: Request, name: str) -> Any:
    """A part of the address."""
    return request.path_params[name]


def number(text: str | None) -> int | None:
    """A number in an address, None for anything that is not one."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None
