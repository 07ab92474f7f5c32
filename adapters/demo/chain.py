"""The demo's chain: four levels, and two fan-outs over a list that is known only at run time."""

from __future__ import annotations

import json
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
def thumbnail(photo: Artifact, width: int) -> File:
    """A small copy of a photograph."""
    small = pictures.thumbnail_jpeg(photo.bytes(), width)
    return File(small, filename=f"{Path(photo.filename).stem}-{width}.jpg")


@step(retries=1)
def palette(photo: Artifact) -> dict[str, Any]:
    """The colours of a photograph, as data and as a strip."""
    colours = pictures.palette(photo.bytes())
    strip = pictures.palette_strip_png(colours)
    stem = Path(photo.filename).stem
    return {"name": photo.filename, "colours": colours, "strip": File(strip, filename=f"{stem}-palette.png")}


@step
def sheet(thumbnails: list[bytes], palettes: list[dict[str, Any]]) -> File:
    """All thumbnails with their palettes on one page."""
    cells = [(p["name"], small, p["colours"]) for small, p in zip(thumbnails, palettes, strict=True)]
    columns = min(len(cells), max(4, math.ceil(math.sqrt(len(cells)))))
    return File(pictures.contact_sheet_jpeg(cells, columns, "contact sheet"), filename="contact-sheet.jpg")


@step
def sources(photos: list[Artifact], page: Artifact) -> File:
    """The sources of the sheet as JSON."""
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
