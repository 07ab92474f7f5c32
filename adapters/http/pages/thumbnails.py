"""Thumbnails of large images. They are made on request and kept in memory only."""

from __future__ import annotations

import io
from collections import OrderedDict

import anyio
from anyio.to_thread import run_sync

from towpath.artifact import ArtifactFiles
from towpath.errors import InputInvalid
from towpath.model import ArtifactRow

EDGE = 480  # pixels of the longer side
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "AVIF")
LARGEST = 64 * 1024 * 1024  # bytes of an image that is decoded here
MOST_PIXELS = 80_000_000  # Pillow warns above 89 million, and refuses above twice as many
KEPT = 24 * 1024 * 1024  # bytes of thumbnails kept
AT_ONCE = 2


class Thumbnails:
    """Makes thumbnails, a few at a time, and keeps them by the digest of their image."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._limiter: anyio.CapacityLimiter | None = None

    async def of(self, files: ArtifactFiles, row: ArtifactRow) -> bytes | None:
        """A WebP of at most 480 pixels; None if the file is not an image, or too large.

        Raises InputInvalid (E_IMAGE_PIXELS), StoreFailed (E_BLOB_…).
        """
        if row.digest in self._kept:
            self._kept.move_to_end(row.digest)
            return self._kept[row.digest]
        if row.size > LARGEST:
            return None
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(AT_ONCE)
        async with self._limiter:
            data = await files.read_bytes(row)
            thumbnail = await run_sync(shrink, data)
        if thumbnail is not None:
            self._keep(row.digest, thumbnail)
        return thumbnail

    def _keep(self, digest: str, thumbnail: bytes) -> None:
        if digest not in self._kept:
            self._kept[digest] = thumbnail
            self._size += len(thumbnail)
        while self._size > KEPT:
            self._size -= len(self._kept.popitem(last=False)[1])


def shrink(data: bytes) -> bytes | None:
    """A small WebP of an image in one of `FORMATS`; None for any other file, and without Pillow.

    Raises InputInvalid (E_IMAGE_PIXELS) for too many pixels, before the image is decoded.
    """
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _too_many(f"{image.width} x {image.height}")
            image.draft("RGB", (EDGE * 2, EDGE * 2))
            small = ImageOps.exif_transpose(image)
            small.thumbnail((EDGE, EDGE))
            out = io.BytesIO()
            small.convert("RGBA" if "A" in small.getbands() or "transparency" in small.info else "RGB").save(
                out, "WEBP", quality=78
            )
            return out.getvalue()
    except InputInvalid:
        raise
    except Image.DecompressionBombError:
        raise _too_many("") from None
    except Exception:
        return None


def _too_many(found: str) -> InputInvalid:
    return InputInvalid(
        "E_IMAGE_PIXELS",
        "this image has too many pixels for a thumbnail",
        found=found,
        allowed=f"{MOST_PIXELS:,} pixels",
    )
