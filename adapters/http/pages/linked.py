"""The page behind an approval link: for somebody without a key, about one gate and nothing else."""

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
from towpath.errors import TowpathError

from .forms import path, sentence
from .rendering import render
from .reviewing import Output, policy_words, review_of


async def link_page(request: Request, gate: Mapping[str, Any], problem: Refused | TowpathError | None) -> Response:
    """What a link is about, and a form to decide it; or why it cannot be decided (any more)."""
    base = LINK_PATH.format(token=path(request, "token"))
    review = await review_of(engine_of(request), records_of(request), gate)
    status = 200 if problem is None else problem.status_code if isinstance(problem, Refused) else status_of(problem)
    stale = problem is not None and problem.code == "E_ARTIFACT_SUPERSEDED"
    text = "" if problem is None else sentence(safe_text(problem.problem.message))
    if stale:
        text = (
            "This changed while you looked at it. Nothing was decided; look at the latest versions, then decide again."
        )
    return render(
        request,
        "link.html",
        status=status,
        headers={"Referrer-Policy": "no-referrer"},
        bare=True,
        review=replace(review, outputs=tuple(_under(output, base) for output in review.outputs)),
        base=base,
        problem=text,
        tone="wait" if stale else "bad",
        open=gate["status"] == "pending" and (problem is None or stale),
        policy=policy_words(gate),
        csrf=csrf.token(request),
    )


def _under(output: Output, base: str) -> Output:
    return replace(output, shown=replace(output.shown, file=output.file.under(base)), versions=(), records=())
