"""What kind of file some bytes are, and a name for people that is safe on every file system."""

from __future__ import annotations

import mimetypes
import re
from functools import cache
from pathlib import PurePath
from typing import Any

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_PAGE = re.compile(rb"\s*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
HEAD = 4096  # bytes that are enough to tell a type
UNKNOWN = "application/octet-stream"
_MORE = {  # types of ComfyUI's files that are not in every system's table
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".flac": "audio/flac",
    ".opus": "audio/ogg",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".obj": "model/obj",
    ".stl": "model/stl",
    ".ply": "model/ply",
    ".parquet": "application/vnd.apache.parquet",
    ".npy": "application/x-npy",
}

_EXTENSIONS = {
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "text/plain": ".txt",
    "application/json": ".json",
    "application/octet-stream": ".bin",
    "audio/x-wav": ".wav",
    "audio/wav": ".wav",
}

mimetypes.init()  # read the system's tables now, so that no event loop waits for it later


def media_type(filename: str | None, head: bytes) -> str:
    """The media type by the file's extension, else by its first bytes, else `application/octet-stream`."""
    return _told_by(filename or "") or media_of_bytes(head)


def media_of_name(filename: str) -> str:
    """The media type of a file's extension, `application/octet-stream` if it is unknown."""
    return _told_by(filename) or UNKNOWN


def _told_by(filename: str) -> str:
    return mimetypes.guess_type(filename, strict=False)[0] or _MORE.get(PurePath(filename).suffix.lower(), "")


def media_of_bytes(head: bytes) -> str:
    """The media type that a file's first bytes show, `application/octet-stream` if they tell nothing."""
    if not head:
        return UNKNOWN
    if _PAGE.match(head):
        return "text/html"
    found = _signed(head)
    if found:
        return found
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return UNKNOWN
        text = head[: error.start].decode("utf-8")
    return "text/plain" if text.isprintable() or "\n" in text else UNKNOWN


def _signed(head: bytes) -> str:
    """The media type of the longest signature in the bytes, as `puremagic.from_string` tells it; "" without one.

    puremagic compares the bytes with all its 1,400 signatures, one by one, which takes as long as hashing half a MiB.
    """
    from puremagic import from_string  # noqa: PLC0415 - only for files without a telling name
    from puremagic.main import multi_part_dict  # noqa: PLC0415

    found = []
    for offset, rows in _signatures():
        start = offset if offset >= 0 else offset + len(head)
        if 0 <= start < len(head):
            found += [one for one in rows.get(head[start], ()) if head.startswith(one[1].byte_match, start)]
    if any(row.byte_match in multi_part_dict for _, row in found):
        return str(from_string(head, mime=True))  # a signature that leads to further ones
    return "" if not found else str(max(found, key=lambda one: (len(one[1].byte_match), -one[0]))[1].mime_type)


@cache
def _signatures() -> list[tuple[int, dict[int, list[tuple[int, Any]]]]]:
    """The signatures by the place of their bytes, then by the first byte; each with its rank in puremagic's table."""
    from puremagic.main import magic_footer_array, magic_header_array  # noqa: PLC0415

    found: dict[int, dict[int, list[tuple[int, Any]]]] = {}
    for rank, row in enumerate((*magic_header_array, *magic_footer_array)):
        found.setdefault(row.offset, {}).setdefault(row.byte_match[0], []).append((rank, row))
    return list(found.items())


def extension(media: str) -> str:
    """The usual extension of a media type, with its dot."""
    return _EXTENSIONS.get(media) or mimetypes.guess_extension(media, strict=False) or ".bin"


def safe_filename(name: str, fallback: str = "file") -> str:
    """A file name for people that is one path component everywhere, at most 200 bytes long."""
    name = name if len(name) <= 500 else name[:300] + name[-200:]  # cutting below is one character at a time
    name = _FORBIDDEN.sub("_", name.encode("utf-8", "replace").decode("utf-8")).strip(" .")
    if not name or _RESERVED.fullmatch(name):
        name = f"{fallback}{name}" if name else fallback
    while len(name.encode()) > 200:
        stem, dot, suffix = name.rpartition(".")
        name = f"{stem[:-1]}{dot}{suffix}" if dot and len(stem) > 1 and len(suffix) < 20 else name[:-1]
    return name
