"""Files as a gallery, of all runs or of one run, in pages; and thumbnails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http.access import engine_of, id_of, records_of
from towpath.adapters.http.errors import Refused
from towpath.adapters.http.query_parameters import cursor_from, next_cursor
from towpath.adapters.http.reading import GalleryQuery, artifact, artifact_row, gallery_view
from towpath.adapters.wording import place

from .contents import with_peeks
from .filters import run_url
from .previews import Preview
from .rendering import HEADERS, render_page
from .thumbnails import Thumbnails

TILES = 60
KINDS = ("image", "video", "audio", "text", "model", "file")
_thumbnails = Thumbnails()


async def files(request: Request) -> Response:
    """Files of all runs, newest first."""
    return await _gallery(request, None)


async def files_of_run(request: Request) -> Response:
    """Files of one run, oldest first."""
    return await _gallery(request, id_of(request))


async def _gallery(request: Request, run_id: str | None) -> Response:
    query = request.query_params
    wanted = GalleryQuery(
        run_id,
        query.get("kind", "") if query.get("kind") in KINDS else "",
        query.get("step", "")[:200] if run_id is not None else "",
        query.get("versions") == "all",
    )
    cursor = f"gallery of {run_id or 'all runs'}"
    after = cursor_from(request, cursor)
    view = await gallery_view(records_of(request), wanted, after, TILES)
    here = "/artifacts" if run_id is None else f"{run_url(run_id)}/artifacts"
    fields = {"kind": wanted.kind, "step": wanted.step, "versions": "all" if wanted.all_versions else ""}
    kept = {name: value for name, value in fields.items() if value}
    more = next_cursor(request, cursor, view.files.next)
    return await render_page(
        request,
        "gallery.html",
        section="files" if run_id is None else "runs",
        chain=view.chain,
        here=here,
        wanted=fields,
        kinds=KINDS,
        steps=_steps(view.chain),
        tiles=await _tiles(request, view.files.rows),
        after=after is not None,
        start=f"{here}?{urlencode(kept)}" if kept else here,
        more=f"{here}?{urlencode({**kept, 'after': more})}" if more else "",
    )


def _steps(chain: Mapping[str, Any] | None) -> list[str]:
    """The steps of a run, for its filter."""
    definition = chain["chain_definition"] if chain is not None else None
    return [str(step["id"]) for step in definition.get("steps", ())] if isinstance(definition, dict) else []


async def _tiles(request: Request, rows: list[Any]) -> list[tuple[Preview, str]]:
    files = await with_peeks(engine_of(request).store.files, [artifact_row(row) for row in rows])
    return [(file, place(row["step_id"], row["item_index"])) for file, row in zip(files, rows, strict=True)]


async def thumbnail(request: Request) -> Response:
    """A small picture of a large image, or an error as JSON if there is none."""
    row = artifact_row(await artifact(records_of(request), id_of(request)))
    tag = f'"{row.digest}-thumb"'
    headers = {**HEADERS, "Cache-Control": "private, max-age=86400", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    picture = await _thumbnails.of(engine_of(request).store.files, row)
    if picture is None:
        raise Refused(404, "E_IMAGE_KIND", "this file has no thumbnail")
    return Response(picture, headers=headers, media_type="image/webp")
