"""What the stand-in's files hold: real small PNGs, other kinds with a right beginning, all computed from their cause.

The same class, inputs and input files give the same bytes in every process, so a test can compute what it expects.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TILE = 8  # pixels; pictures repeat a tile of that size
BLOCK = 65536  # bytes between two marks in a file of `saved_bytes`
BEGINNINGS: dict[str, bytes] = {
    "mp4": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41",
    "webm": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82\x84webm",
    "mkv": b"\x1a\x45\xdf\xa3\x93\x42\x82\x88matroska\x42\x87\x81\x04",
    "webp": b"RIFF\x00\x04\x00\x00WEBPVP8L",
    "gif": b"GIF89a\x08\x00\x08\x00\x80\x00\x00",
    "jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01",
    "png": SIGNATURE,
    "wav": b"RIFF\x24\x04\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00",
    "flac": b"fLaC\x80\x00\x00\x22",
    "mp3": b"ID3\x04\x00\x00\x00\x00\x00\x00\xff\xfb\x90\x00",
    "glb": b"glTF\x02\x00\x00\x00\x00\x04\x00\x00",
    "latent": struct.pack("<Q", 2) + b"{}",
    "txt": b"",
}


def digest(data: bytes | str) -> str:
    """What a value counts as in pictures made from it: pictures count without their text, as pixels do."""
    plain = data.encode() if isinstance(data, str) else without_metadata(data)
    return hashlib.sha256(plain).hexdigest()


def fingerprint(class_type: str, inputs: Mapping[str, Any], sources: Sequence[str], index: int = 0) -> str:
    """The cause of a piece of content: a class, its literal inputs but `filename_prefix`, its sources' digests."""
    literal = {name: value for name, value in inputs.items() if name != "filename_prefix"}
    cause = [class_type, literal, list(sources), index]
    return json.dumps(cause, sort_keys=True, separators=(",", ":"))


def stream(cause: str, size: int) -> bytes:
    """`size` bytes that follow from a cause."""
    return hashlib.shake_256(cause.encode()).digest(size)


def image(cause: str, width: int, height: int) -> bytes:
    """A PNG of that size, RGB, whose pixels follow from its cause."""
    tile = stream(cause, TILE * TILE * 3)
    lines = [tile[row * TILE * 3 : (row + 1) * TILE * 3] * (width // TILE + 1) for row in range(TILE)]
    raw = b"".join(b"\x00" + lines[row % TILE][: width * 3] for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(raw, 1)) + _chunk(b"IEND", b"")


def movie(extension: str, cause: str, size: int = 1024) -> bytes:
    """A file of some kind with its magic number. Nothing can play it."""
    beginning = BEGINNINGS[extension]
    return beginning + stream(cause, size - len(beginning))


def saved_bytes(size: int, seed: int, extension: str) -> Iterator[tuple[int, bytes]]:
    """The pieces of a file of any size, with their places; what lies between them is zero.

    The first 64 KiB are all noise, then there is a mark every 64 KiB: a missing or misplaced part shows, and a
    gigabyte costs little.
    """
    cause = f"SaveBytes {seed}"
    first = (BEGINNINGS.get(extension, b"") + stream(cause, BLOCK))[: min(size, BLOCK)]
    yield 0, first
    for place in range(BLOCK, size, BLOCK):
        mark = struct.pack(">QQ", seed & (2**64 - 1), place)
        yield place, mark[: size - place]


def saved_digest(size: int, seed: int, extension: str) -> str:
    """The SHA-256 of such a file, hex."""
    total, place, zeros = hashlib.sha256(), 0, bytes(BLOCK)
    for start, data in saved_bytes(size, seed, extension):
        total.update(zeros[: start - place])
        total.update(data)
        place = start + len(data)
    total.update(zeros[: size - place])
    return total.hexdigest()


def is_picture(data: bytes) -> bool:
    """Whether a file can be opened as an image, judged by its beginning."""
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return webp or data.startswith((SIGNATURE, b"\xff\xd8\xff", b"GIF8"))


def dimensions(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG; a tile for anything else."""
    if not data.startswith(SIGNATURE) or len(data) < 24:
        return TILE, TILE
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def with_metadata(png: bytes, prompt: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> bytes:
    """A PNG with the text chunks that SaveImage adds: the prompt, and what is under `extra_pnginfo`."""
    after_head = len(SIGNATURE) + 25
    texts = {"prompt": prompt, **(extra or {})}
    chunks = b"".join(_chunk(b"tEXt", f"{key}\0{json.dumps(value)}".encode("latin-1")) for key, value in texts.items())
    return png[:after_head] + chunks + png[after_head:]


def without_metadata(data: bytes) -> bytes:
    """A PNG without text chunks; anything else as it is."""
    if not data.startswith(SIGNATURE):
        return data
    kept, place = [SIGNATURE], len(SIGNATURE)
    while place + 12 <= len(data):
        end = place + 12 + struct.unpack(">I", data[place : place + 4])[0]
        if data[place + 4 : place + 8] not in {b"tEXt", b"zTXt", b"iTXt"}:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
