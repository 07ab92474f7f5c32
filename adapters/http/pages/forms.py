"""Forms that people send, with their token checked; and errors as pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
from towpath.adapters.http.route_table import Endpoint
from towpath.adapters.http.uploads import content_type
from towpath.errors import InputInvalid, StoreFailed, TowpathError

from .rendering import render

MOST_FIELDS = 400
FIELD_LIMIT = 1024 * 1024  # bytes of one text field, such as a text that was edited on the page
REASON_LIMIT = 10_000
CHUNK = 1024 * 1024
_TITLES = {
    400: "This request is not valid",
    401: "Please sign in",
    403: "This is not allowed",
    404: "There is no such page",
    409: "Something has changed",
    410: "This link has ended",
    413: "This file is too large",
    422: "This cannot be used",
    500: "The server failed",
    503: "The server is busy",
}


async def form_of(request: Request) -> FormData:
    """The form in the body. A large file in it is kept in a temporary file.

    Raises Refused: 400 E_BODY, 403 E_CSRF if it did not come from a page of this server, 413 E_BODY_SIZE.
    """
    settings = request.app.state.settings
    kind = content_type(request).partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        body = chunks_of(request, settings.max_upload, settings.idle_seconds)
        parser = MultiPartParser(request.headers, body, max_files=1, max_fields=MOST_FIELDS, max_part_size=FIELD_LIMIT)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise Refused(400, "E_BODY", "this form cannot be parsed") from error
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
    """The uploaded file, or None if no file was chosen."""
    value = form.get(name)
    return value if isinstance(value, UploadFile) and value.filename else None


async def chunks(upload: UploadFile) -> AsyncIterator[bytes]:
    """The bytes of an uploaded file as a stream."""
    while chunk := await upload.read(CHUNK):
        yield chunk


def error_page(request: Request, status: int, text: str, *, code: str = "", cure: str = "") -> Response:
    """An error as a page."""
    title = _TITLES.get(status, _TITLES[500] if status >= 500 else _TITLES[400])
    return render(request, "error.html", status=status, title=title, text=text, code=code, cure=cure)


def as_page(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with its errors as pages."""

    @wraps(endpoint)
    async def rendered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (TowpathError, HTTPException) as error:
            return refusal_page(request, error)

    return rendered


def refusal_page(request: Request, error: TowpathError | HTTPException) -> Response:
    """An error as a page. Of an error of the store, only the code is shown."""
    if isinstance(error, Refused):
        problem = error.problem
        text, cure = sentence(safe_text(problem.message)), sentence(safe_text(problem.cure))
        return error_page(request, error.status_code, text, code=problem.code, cure=cure)
    if isinstance(error, HTTPException):
        return error_page(request, error.status_code, sentence(str(error.detail)))
    if isinstance(error, StoreFailed):
        return error_page(
            request, status_of(error), "The store failed. The log of the server has the details.", code=error.code
        )
    problem = error.problem
    status = 404 if problem.code.endswith("_MISSING") else status_of(error)
    text, cure = sentence(safe_text(problem.message)), sentence(safe_text(problem.cure))
    return error_page(request, status, text, code=problem.code, cure=cure)


def sentence(text: str) -> str:
    """A message with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def path(request: Request, name: str) -> Any:
    """A part of the address, by name."""
    return request.path_params[name]


def number(text: str | None) -> int | None:
    """A number in an address; None for any other text."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None
