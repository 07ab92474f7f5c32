"""Files as a gallery: of everything, or of one run; a page at a time, never all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.access import engine_of, records_of
from towpath.adapters.http.errors import Refused
from towpath.store.listing import Condition, Page
from towpath.store.rows import artifact as artifact_row

from .contents import with_peeks
from .cursors import cursor_text, read_cursor
from .filters import place, run_url
from .forms import missing, path
from .previews import Preview
from .rendering import HEADERS
from .showing import show
from .thumbnails import Thumbnails

TILES = 60
KINDS = ("image", "video", "audio", "text", "model", "file")
_thumbnails = Thumbnails()


async def files(request: Request) -> Response:
    """Files of all runs, newest first."""
    return await _gallery(request, None)


async def files_of_run(request: Request) -> Response:
    """Files of one run, in the order they were made."""
    run_id = path(request, "id")
    chain = await engine_of(request).get_chain(run_id)
    if chain is None:
        raise missing("run", run_id)
    return await _gallery(request, chain)


async def _gallery(request: Request, chain: Mapping[str, Any] | None) -> Response:
    query = request.query_params
    asked = {
        "kind": query.get("kind", "") if query.get("kind") in KINDS else "",
        "step": query.get("step", "")[:200] if chain is not None else "",
        "versions": "all" if query.get("versions") == "all" else "",
    }
    after = read_cursor(query.get("after", ""))
    conditions = [Condition("chain_id", "eq", chain["id"])] if chain is not None else []
    for name, field in (("kind", "file_type"), ("step", "step_id")):
        if asked[name]:
            conditions.append(Condition(field, "eq", asked[name]))
    if not asked["versions"]:
        conditions.append(Condition("is_latest", "eq", True))
    page = Page(conditions, descending=chain is None, after=after, limit=TILES)
    found = await records_of(request).page("artifacts", page)
    here = "/artifacts" if chain is None else f"{run_url(chain['id'])}/artifacts"
    kept = {name: value for name, value in asked.items() if value}
    more = cursor_text(found.next)
    return await show(
        request,
        "gallery.html",
        section="files" if chain is None else "runs",
        chain=chain,
        here=here,
        asked=asked,
        kinds=KINDS,
        steps=await _steps(request, chain),
        tiles=await _tiles(request, found.rows),
        after=after is not None,
        start=f"{here}?{urlencode(kept)}" if kept else here,
        more=f"{here}?{urlencode({**kept, 'after': more})}" if more else "",
    )


async def _steps(request: Request, chain: Mapping[str, Any] | None) -> list[str]:
    """The steps of a run, for its filter."""
    definition = chain["chain_definition"] if chain is not None else None
    return [str(step["id"]) for step in definition.get("steps", ())] if isinstance(definition, dict) else []


async def _tiles(request: Request, rows: list[Any]) -> list[tuple[Preview, str]]:
    files = await with_peeks(engine_of(request).store.files, [artifact_row(row) for row in rows])
    return [(file, place(row["step_id"], row["item_index"])) for file, row in zip(files, rows, strict=True)]


async def thumbnail(request: Request) -> Response:
    """A small picture of a large image. Where none can be made the answer is a refusal with its code, as JSON."""
    engine: Any = engine_of(request)
    record = await engine.get_artifact(path(request, "id"))
    if record is None:
        raise missing("artifact", path(request, "id"))
    tag = f'"{record["sha256"]}-thumb"'
    headers = {**HEADERS, "Cache-Control": "private, max-age=86400", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    made = await _thumbnails.of(engine.store.files, artifact_row(record))
    if made is None:
        raise Refused(404, "E_IMAGE_KIND", "there is no small picture of this file")
    return Response(made, headers=headers, media_type="image/webp")
