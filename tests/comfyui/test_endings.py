"""The end of a connection is no end of a file: where no length is told, the file is asked, or the server again."""

from __future__ import annotations

import io
import json
import struct
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.adapters import conftest as adapters
from tests.comfyui import farms
from tests.comfyui.farms import chain_of, code, farming
from tests.comfyui.graphs import painted
from tests.comfyui.scripted import PICTURE, PNG, Script, Talk, made, reply, scripted, sent
from towpath.adapters.comfyui.endings import Ended, Ending

pytestmark = pytest.mark.anyio
anyio_backend, folder = adapters.anyio_backend, farms.folder
OLD = b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n"


def _image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, kind)
    return file.getvalue()


def _sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(4000))
    return file.getvalue()


def _archive(comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "a" * 500)
        archive.comment = comment
    return file.getvalue()


def _box(kind: bytes, data: bytes, large: bool = False) -> bytes:
    if large:
        return struct.pack(">I4sQ", 1, kind, len(data) + 16) + data
    return struct.pack(">I4s", len(data) + 8, kind) + data


def _film() -> bytes:
    return _box(b"ftyp", b"isom\0\0\2\0") + _box(b"mdat", bytes(900), large=True) + _box(b"moov", bytes(300))


def _model() -> bytes:
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "U8", "shape": [600], "data_offsets": [0, 600]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(600)


KINDS: dict[str, Callable[[], bytes]] = {
    "png": lambda: _image("PNG"),
    "jpeg": lambda: _image("JPEG"),
    "gif": lambda: _image("GIF"),
    "webp": lambda: _image("WEBP"),
    "bmp": lambda: _image("BMP"),
    "wav": _sound,
    "zip": _archive,
    "zip with a comment": lambda: _archive(b"made by hand" * 20),
    "mp4": _film,
    "safetensors": _model,
    "pdf": lambda: b"%PDF-1.7\n" + b"x" * 500 + b"\ntrailer\nstartxref\n9\n%%EOF",
}


def _verdict(data: bytes, piece: int) -> Ended:
    ending = Ending()
    for begin in range(0, len(data), piece):
        ending.see(data[begin : begin + piece])
    return ending.verdict()


@pytest.mark.parametrize("kind", KINDS)
def test_a_format_tells_whether_its_file_is_whole(kind: str) -> None:
    """In chunks of any size; cut anywhere behind its first bytes it is not whole."""
    data = KINDS[kind]()
    for piece in (1, 7, 4096, len(data)):
        assert _verdict(data, piece) is Ended.WHOLE
    for left in (len(data) - 1, len(data) - 9, len(data) // 2, len(data) // 3 + 60):
        assert _verdict(data[:left], 512) is not Ended.WHOLE, left
        if kind != "safetensors" or left > 200:
            assert _verdict(data[:left], 512) is Ended.CUT, left


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"plain text", b"\x1aE\xdf\xa3" + bytes(50), b"fLaC" + bytes(50), b"RIFF\xff\xff\xff\xffWAVE", b"RIFF"],
    ids=["nothing", "a byte", "text", "webm", "flac", "a streamed wav", "too short to tell"],
)
def test_other_files_tell_nothing(data: bytes) -> None:
    """Then the server is asked again."""
    assert _verdict(data, 3) is Ended.UNKNOWN


# ---- from a server


def at_once(data: bytes, head: bytes = OLD) -> Script:
    """The bytes, and the end of the connection."""
    return sent(head + data, Talk.fin)


def ranges(data: bytes, part: int) -> Script:
    """A server that sends a part without a length, and knows ranges."""

    def play(talk: Talk) -> None:
        if "range" in talk.request.headers:
            begin = int(talk.request.headers["range"].removeprefix("bytes=").rstrip("-"))
            total = {"content_range": f"bytes */{len(data)}"}
            if begin >= len(data):
                reply(b"", 416, **total)(talk)
            else:
                more = f"bytes {begin}-{len(data) - 1}/{len(data)}"
                reply(data[begin:], 206, content_range=more)(talk)
        else:
            at_once(data[:part])(talk)

    return play


def chunks(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n"


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
PART = b"HTTP/1.1 206 Partial Content\r\nContent-Type: image/png\r\nContent-Range: bytes 0-211/%s\r\n\r\n"
TEXT = b"nobody knows where this ends " * 20
CUT, SHORT, PROTOCOL = "E_DOWNLOAD_UNVERIFIED", "E_DOWNLOAD_INCOMPLETE", "E_DOWNLOAD_PROTOCOL"

FROM_A_SERVER: dict[str, tuple[str, list[Script], str, bytes]] = {
    "a whole picture": ("a.png", [at_once(PNG)], "", PNG),
    "a picture cut short": ("a.png", [at_once(PNG[:212])], CUT, b""),
    "a photo cut short": ("a.jpg", [at_once(_image("JPEG")[:300])], CUT, b""),
    "a film cut short": ("a.mp4", [at_once(_film()[:1000])], CUT, b""),
    "a model cut short": ("a.safetensors", [at_once(_model()[:-5])], CUT, b""),
    "an archive cut short": ("a.zip", [at_once(_archive()[:-30])], CUT, b""),
    "a proxy that ends chunks early": ("a.png", [sent(CHUNKED + chunks(PNG[:200]))], CUT, b""),
    "chunks that end well": ("a.png", [sent(CHUNKED + chunks(PNG))], "", PNG),
    "a text, twice the same": ("a.txt", [at_once(TEXT)], "", TEXT),
    "a text, longer the second time": ("a.txt", [at_once(TEXT[:90]), at_once(TEXT)], CUT, b""),
    "a text, shorter the second time": ("a.txt", [at_once(TEXT), at_once(TEXT[:90])], CUT, b""),
    "a text, other the second time": ("a.txt", [at_once(TEXT), at_once(TEXT.upper())], CUT, b""),
    "a server that knows ranges": ("a.txt", [ranges(TEXT, len(TEXT))], "", TEXT),
    "a server that has more": ("a.txt", [ranges(TEXT, 100)], CUT, b""),
    "a part that nobody asked for": ("a.png", [at_once(PNG[:212], PART % b"*")], CUT, b""),
    "a whole file as a part": ("a.png", [at_once(PNG, PART.replace(b"211", b"%d" % (len(PNG) - 1)) % b"*")], "", PNG),
    "a part of a known length": ("a.png", [at_once(PNG[:212], PART % b"%d" % len(PNG))], PROTOCOL, b""),
    "a length too long": ("a.txt", [at_once(TEXT, OLD[:-2] + b"Content-Length: 9000\r\n\r\n")], SHORT, b""),
    "a reset instead of an end": ("a.txt", [sent(OLD + TEXT, Talk.rst)], SHORT, b""),
    "thousands of cookies": (
        "a.png",
        [at_once(PNG, OLD[:-2] + b"Set-Cookie: a=b\r\n" * 2000 + b"\r\n")],
        PROTOCOL,
        b"",
    ),
}


@pytest.mark.parametrize("case", FROM_A_SERVER)
async def test_a_file_is_taken_for_whole_only_if_it_is(folder: Path, case: str) -> None:
    """A step gets the whole file or fails with a code that says why; nothing of a part is kept."""
    name, scripts, expected, data = FROM_A_SERVER[case]
    with scripted() as server:
        server.on("GET /history", made(server, {"2": {"images": [{**PICTURE, "filename": name}]}}))
        server.on("GET /view", *scripts)
        async with farming(folder, [server.url]) as engine:
            run = await engine.run(chain_of(folder, painted()), check=False)
            assert code(run) == expected
            assert [await a.read_bytes() for a in run["picture"].artifacts] == ([data] if data else [])


@pytest.mark.parametrize(
    "where", ["outputs", "status", "images", "filename", "prompt id", "a name of nobody's"], ids=lambda w: w
)
async def test_a_key_that_stands_twice_in_a_record_is_one_clear_error(folder: Path, where: str) -> None:
    """Whichever of the two a reader takes, it may be the wrong one."""

    def twice(talk: Talk) -> None:
        prompt = talk.request.path.rpartition("/")[2]
        record = json.dumps(talk.server.history(prompt, {"2": {"images": [PICTURE]}}))
        key = prompt if where == "prompt id" else where
        found = f'"{key}": '
        at = record.index(found) if found in record else record.index('"outputs": ')
        doubled = record[:at] + f"{found}null, {'' if found in record else found + '1, '}" + record[at:]
        reply(doubled.encode())(talk)

    with scripted() as server:
        server.on("GET /history", twice)
        async with farming(folder, [server.url]) as engine:
            run = await engine.run(chain_of(folder, painted()), check=False)
            assert code(run) == "E_REPLY_JSON"
            assert "twice" in str(run["picture"].error)
