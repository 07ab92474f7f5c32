"""Whether a file is complete, by its format. For downloads whose length the server did not send."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

HEAD = 1024 * 1024  # bytes of the beginning that are kept: the header of a safetensors file is in them
TAIL = 66_000  # bytes of the end: the end record of a ZIP file with the longest comment is in them
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class Ended(StrEnum):
    """`unknown`: the format does not show its end, or is not one of those below."""

    WHOLE = "whole"
    CUT = "cut short"
    UNKNOWN = "unknown"


class Ending:
    """Reads the chunks of one file as they pass; `verdict` after the last one."""

    def __init__(self) -> None:
        self.size = 0
        self._head = bytearray()
        self._tail = bytearray()
        self._boxes: list[bytes] = []  # kinds of an MP4 file's outermost boxes
        self._next = 0  # where the next of them begins; -1 if that is not known
        self._box = bytearray()

    def see(self, chunk: bytes) -> None:
        """The next bytes of the file."""
        if len(self._head) < HEAD:
            self._head += chunk[: HEAD - len(self._head)]
        self._tail = (self._tail + chunk)[-TAIL:]
        self._follow_boxes(chunk)
        self.size += len(chunk)

    def verdict(self) -> Ended:
        """Whether the file is complete, for common formats of images, videos, sounds, archives and models."""
        head, tail = bytes(self._head), bytes(self._tail)
        if head[4:8] == b"ftyp":
            return self._film()
        if head.startswith(b"RIFF") and len(head) >= 12:
            size = int.from_bytes(head[4:8], "little")
            return Ended.UNKNOWN if size in (0, 0xFFFFFFFF) else _ended(self.size >= size + 8)
        if head.startswith(b"BM") and len(head) >= 14 and head[6:10] == bytes(4):
            return _ended(self.size >= int.from_bytes(head[2:6], "little"))
        for begin, ends in _TRAILERS:
            if head.startswith(begin):
                return _ended(ends(tail))
        return self._model(head)

    def _follow_boxes(self, chunk: bytes) -> None:
        """Read the headers of the outermost boxes of an MP4 file; a header may be split over two chunks."""
        end = self.size + len(chunk)
        while 0 <= self._next < end:
            at = max(self._next + len(self._box) - self.size, 0)
            self._box += chunk[at : at + 16 - len(self._box)]
            if len(self._box) < 8:
                return
            size, kind = int.from_bytes(self._box[:4], "big"), bytes(self._box[4:8])
            if not self._boxes and kind != b"ftyp":
                self._next = -1  # not an MP4 file
                return
            if size == 1:
                if len(self._box) < 16:
                    return
                size = int.from_bytes(self._box[8:16], "big")
            self._boxes.append(kind)
            self._box.clear()
            self._next = self._next + size if size >= 8 else -1
            if len(self._boxes) > 10_000:
                self._next = -1

    def _film(self) -> Ended:
        if self._next < 0:
            return Ended.UNKNOWN
        return _ended(self._next == self.size and not self._box and bool({b"moov", b"meta", b"moof"} & {*self._boxes}))

    def _model(self, head: bytes) -> Ended:
        """A safetensors file: the length of its header, the header in JSON, the bytes that the header lists."""
        length = int.from_bytes(head[:8], "little")
        if head[8:9] != b"{" or not 2 <= length <= HEAD - 8:
            return Ended.UNKNOWN
        if self.size < 8 + length:
            return Ended.UNKNOWN
        try:
            header = msgspec.json.decode(head[8 : 8 + length])
            ends = [part["data_offsets"][1] for name, part in header.items() if name != "__metadata__"]
            return _ended(self.size >= 8 + length + max(ends, default=0))
        except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, LookupError, TypeError):
            return Ended.UNKNOWN


def _ended(whole: bool) -> Ended:
    return Ended.WHOLE if whole else Ended.CUT


def _ends_as_zip(tail: bytes) -> bool:
    at = tail.rfind(b"PK\5\6")
    return at >= 0 and len(tail) >= at + 22 and len(tail) >= at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little")


_TRAILERS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], bool]], ...] = (
    (b"\x89PNG\r\n\x1a\n", lambda tail: _PNG_END in tail),
    (b"\xff\xd8\xff", lambda tail: tail.rstrip(b"\0").endswith(b"\xff\xd9")),
    ((b"GIF87a", b"GIF89a"), lambda tail: tail.rstrip(b"\0").endswith(b"\x3b")),
    (b"PK\3\4", _ends_as_zip),
    (b"%PDF-", lambda tail: b"%%EOF" in tail[-1024:]),
)
