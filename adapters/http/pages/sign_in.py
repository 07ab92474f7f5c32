"""Pages for people without a session: the form for a key, and the page of an approval link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http import csrf
from towpath.adapters.http.access import engine_of, records_of
from towpath.adapters.http.errors import Refused, safe_text, status_of
from towpath.adapters.http.links import LINK_PATH
from towpath.adapters.http.reading import review_view
from towpath.errors import TowpathError

from .forms import path, sentence
from .rendering import render
from .reviewing import ReviewedOutput, policy_words, review_of

_STALE = "A file changed while you looked at it. Nothing was decided. Look at the latest versions, then decide again."


async def login(request: Request) -> Response:
    """The form for a key."""
    failed = "failed" in request.query_params
    return render(
        request,
        "login.html",
        refused="This key is unknown or revoked." if failed else "",
        csrf=csrf.token(request),
        onward=request.query_params.get("next", "/")[:2_000],  # the login checks that it is a page of this server
    )


async def link_page(request: Request, gate: Mapping[str, Any], problem: Refused | TowpathError | None) -> Response:
    """The gate of a link with a form to decide it, or the reason why it cannot be decided."""
    base = LINK_PATH.format(token=path(request, "token"))
    review = await review_of(engine_of(request).store.files, await review_view(records_of(request), gate["id"]))
    status = 200 if problem is None else problem.status_code if isinstance(problem, Refused) else status_of(problem)
    stale = problem is not None and problem.code == "E_ARTIFACT_SUPERSEDED"
    text = "" if problem is None else sentence(safe_text(problem.problem.message))
    return render(
        request,
        "link.html",
        status=status,
        headers={"Referrer-Policy": "no-referrer"},
        bare=True,
        review=replace(review, outputs=tuple(_under(output, base) for output in review.outputs)),
        base=base,
        problem=_STALE if stale else text,
        tone="wait" if stale else "bad",
        open=gate["status"] == "pending" and (problem is None or stale),
        policy=policy_words(gate),
        csrf=csrf.token(request),
    )


def _under(output: ReviewedOutput, base: str) -> ReviewedOutput:
    return replace(output, shown=replace(output.shown, file=output.file.under(base)), versions=())
