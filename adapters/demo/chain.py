"""The demo's chain: four levels, and two fan-outs over a list that is known only at run time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from towpath import Artifact, File, chain, context, step

from . import pictures

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def photographs() -> Path:
    """The folder of photographs in the package; LICENSES.md in it names their authors."""
    return Path(__file__).parent / "photos"


@step
def list_photos(folder: str) -> list[File]:
    """Store every picture of a folder, so that later steps do not need the folder."""
    found = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    context().logger.info("%d pictures in %s", len(found), folder)
    if not found:
        raise ValueError(f"no pictures in {folder}; looked for {' '.join(sorted(SUFFIXES))}")
    return [File(path, filename=path.name) for path in found]


@step(retries=1)
async def thumbnail(photo: Artifact, width: int) -> File:
    """A small copy of a photograph."""
    import anyio.to_thread  # noqa: PLC0415

    small = await anyio.to_thread.run_sync(pictures.thumbnail_jpeg, await photo.read_bytes(), width)
    return File(small, filename=f"{Path(photo.filename).stem}-{width}.jpg")


@step(retries=1)
async def palette(photo: Artifact) -> dict[str, Any]:
    """The colours of a photograph, as data and as a strip."""
    import anyio.to_thread  # noqa: PLC0415

    colours = await anyio.to_thread.run_sync(pictures.palette, await photo.read_bytes())
    strip = await anyio.to_thread.run_sync(pictures.palette_strip_png, colours)
    stem = Path(photo.filename).stem
    return {"name": photo.filename, "colours": colours, "strip": File(strip, filename=f"{stem}-palette.png")}


@step
async def sheet(thumbnails: list[Artifact], palettes: list[dict[str, Any]]) -> File:
    """All thumbnails with their palettes on one page."""
    import anyio.to_thread  # noqa: PLC0415

    cells = [(p["name"], await small.read_bytes(), p["colours"]) for small, p in zip(thumbnails, palettes, strict=True)]
    columns = min(len(cells), max(4, math.ceil(math.sqrt(len(cells)))))
    made = await anyio.to_thread.run_sync(pictures.contact_sheet_jpeg, cells, columns, "contact sheet")
    return File(made, filename="contact-sheet.jpg")


@step
def sources(photos: list[Artifact], page: Artifact) -> File:
    """The sources of the sheet as JSON."""
    import json  # noqa: PLC0415

    listed = [{"file": p.filename, "sha256": p.digest, "bytes": p.size} for p in photos]
    text = json.dumps({"sheet": page.digest, "sources": listed}, indent=2)
    return File(text.encode(), filename="sources.json")


@chain
def contact_sheet(folder: str, width: int = 256) -> Any:
    """Thumbnails, palettes and a contact sheet of the photographs in a folder."""
    photos = list_photos(folder)
    small = thumbnail.map(photos, width=width)
    colours = palette.map(photos)
    page = sheet(small, colours)
    sources(photos, page)
    return page
